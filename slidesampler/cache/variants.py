"""The variants of an image in the cache: folders of one backend, codec and tile each."""

from __future__ import annotations

import os

from slidesampler.models import CacheEntry

__all__ = ["asked_for", "stored_as", "variants_in"]


def variants_in(folder: str | os.PathLike[str], backend: str) -> list[str]:
    """Return the names of the folders of a backend, sorted; none where the image has none."""
    try:
        names = os.listdir(folder)  # noqa: PTH208 - on the way to the first window of a slide, as is all of this
    except OSError:
        return []
    return sorted(name for name in names if name.startswith(f"{backend}-") and name.count("-") >= 3)


def asked_for(name: str, codec: str | None, tile: int | None) -> bool:
    """Return whether a variant's folder is that of a build that was asked for this."""
    words = name.split("-")
    return codec in (None, words[1]) and (tile is None or str(tile) == words[-2])


def stored_as(entry: CacheEntry, codec: str | None, tile: int | None) -> bool:
    """Return whether an entry has this codec and tile, whatever was asked of its build."""
    return codec in (None, entry.codec) and tile in (None, entry.tile)
