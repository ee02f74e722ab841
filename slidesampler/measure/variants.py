"""Which variants are measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from slidesampler.cache.spec import DEFAULT_QUALITY, TILES
from slidesampler.errors import MissingDependencyError
from slidesampler.measure.results import CacheVariant

__all__ = ["BACKENDS", "choose_variants"]

#: In the order of the rows.
BACKENDS = ("in-place", "auto", "npy", "cog")
#: Codecs of COGs that are measured where none are named: the others are slower *and* larger than one of these
#: (see :mod:`slidesampler.cache.codecs`).
_CODECS = ("auto", "none", "jpeg")


def choose_variants(
    backends: Sequence[str] | None = None,
    codecs: Sequence[str] | None = None,
    tiles: Sequence[int] | None = None,
    *,
    lossy: bool = True,
) -> tuple[CacheVariant, ...]:
    """Return the variants of these backends, codecs and tile sizes; of each all where none are named.

    Parameters
    ----------
    backends : sequence of {"in-place", "auto", "npy", "cog"}, optional
    codecs : sequence of str, optional
        Of COGs; ``"auto"``, ``"none"`` and ``"jpeg"`` where none are named.
    tiles : sequence of int, optional
        Of COGs; 128, 256 and 512 where none are named.
    lossy : bool
        Whether lossy ones are among them.

    Raises
    ------
    ValueError
        For a backend or tile size that there is not (``CodecError`` for such a codec), or if nothing is left.

    Examples
    --------
    >>> [variant.name for variant in choose_variants(["npy", "cog"], ["jpeg"], [256])]
    ['npy', 'cog jpeg q90 256']
    """
    unknown = [name for name in backends or () if name not in BACKENDS]
    if unknown:
        raise ValueError(f"backends are {', '.join(BACKENDS)}, got {unknown[0]!r}")
    wanted = backends or BACKENDS
    plain: tuple[Literal["in-place", "auto", "npy"], ...] = ("in-place", "auto", "npy")
    found = [CacheVariant(name) for name in plain if name in wanted]
    cogs = [
        CacheVariant("cog", codec, DEFAULT_QUALITY.get(codec), tile)
        for codec in dict.fromkeys(_named(codec) for codec in codecs or _CODECS)
        for tile in tiles or TILES
    ]
    for variant in cogs:
        variant.build_spec(labels=False)  # says what is wrong with it
    found += cogs if "cog" in wanted else []
    kept = tuple(dict.fromkeys(variant for variant in found if lossy or variant.lossless))
    if not kept:
        raise ValueError("no variant is left to measure: those that were named are lossy, which was ruled out")
    return kept


def _named(codec: str) -> str:
    """Return the codec that ``"auto"`` stands for on this machine."""
    if codec != "auto":
        return codec
    try:
        # Imported here: it needs GDAL.
        from slidesampler.cache.codecs import auto_codec

        return auto_codec()
    except MissingDependencyError:
        # Its row will say so.
        return "zstd"
