"""Windows a second: variants take turns, round by round, so that a noisy machine does not favour one."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slidesampler.cache import CacheStore
from slidesampler.cache.fingerprint import source_assets
from slidesampler.errors import CacheMissError
from slidesampler.geometry import Window
from slidesampler.measure.page_cache import can_drop, drop_files
from slidesampler.measure.results import CacheVariant, MeasuredPart, Spread
from slidesampler.measure.windows import Place, shuffled
from slidesampler.models import LabelSpec
from slidesampler.rng import Draws
from slidesampler.sampler import Sampler

__all__ = ["Contender", "cached_contender", "run_round", "source_contender"]

#: Names of the passes of a round, in their order: cold first, then the same windows again.
PASSES = ("cold_one", "warm_one", "cold_all", "warm_all")
#: A cold read that begins with more of a file in memory than this is none.
COLD_SHARE = 0.1
#: After so many of them no more is tried.
MAX_REFUSALS = 2


@dataclass(slots=True)
class Contender:
    """A variant that can be read, and what was found of it so far.

    Parameters
    ----------
    variant : CacheVariant
    sampler : Sampler
    parts : tuple of MeasuredPart
    offset : bool
        Whether its images are the user's own, of which the parts are crops.
    files : tuple of str or None
        Everything that is read; None where that is not local files alone.
    rates : dict of str to list of float
        Windows a second by the name of the pass, a figure a round.
    left_in_memory : float or None
        The largest share of the files that was there when a cold read began.
    stayed : float or None
        The largest share that was there when none was begun for that reason.
    refusals : int
        How often that was.
    failure : str
        Why it cannot be read; empty where it can.
    """

    variant: CacheVariant
    sampler: Sampler
    parts: tuple[MeasuredPart, ...]
    offset: bool
    files: tuple[str, ...] | None
    rates: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in PASSES})
    left_in_memory: float | None = None
    stayed: float | None = None
    refusals: int = 0
    failure: str = ""

    def spread(self, name: str) -> Spread | None:
        """Return the rates of a pass; None where it was never made."""
        return Spread.of(self.rates[name]) if self.rates[name] else None

    def target(self, part: int, window: Window) -> dict[str, Any]:
        """Return the target of a window of a part."""
        of = self.parts[part]
        moved = window.shift(of.y, of.x) if self.offset else window
        return {"image_id": of.image_id, "window": moved}


def source_contender(sampler: Sampler, parts: Sequence[MeasuredPart]) -> Contender:
    """Return the user's images where they lie as a contender."""
    paths = [
        asset.path for part in parts for asset in source_assets(sampler.image_record(part.image_id), "labels")
    ]
    local = all(Path(path).is_file() for path in paths)
    files = tuple(dict.fromkeys(paths)) if local else None
    return Contender(CacheVariant("in-place"), sampler, tuple(parts), True, files)


def cached_contender(
    variant: CacheVariant, sampler: Sampler, store: CacheStore, parts: Sequence[MeasuredPart]
) -> Contender:
    """Return a variant that was built as a contender.

    Raises
    ------
    CacheError
        If it was not.
    """
    files: list[str] = []
    for part in parts:
        record = sampler.image_record(part.image_id)
        codec, tile = (variant.codec, variant.tile) if variant.backend == "cog" else (None, None)
        files += store.find_image(record, variant.backend, codec=codec, tile=tile).files.values()
        try:
            shape = sampler.image_shape(part.image_id)[:2]
            files += store.find_labels(sampler.manifest, record, shape, LabelSpec()).files.values()
        except CacheMissError:
            continue  # masks were not asked for
    return Contender(variant, sampler, tuple(parts), variant.in_place, tuple(files))


def run_round(
    contenders: Sequence[Contender],
    places: Sequence[Place],
    window: tuple[int, int],
    *,
    threads: int,
    batch: int,
    with_mask: bool,
    draws: Draws,
    advance: Callable[[str], None],
) -> None:
    """Read the same windows from every contender, in a random order of them, and note the rates.

    Each reads them by one thread and by all; cold, and right after that again.

    Parameters
    ----------
    contenders : sequence of Contender
    places : sequence of Place
    window : (int, int)
        ``(height, width)``.
    threads : int
        How many "all" are.
    batch : int
        Windows a call.
    with_mask : bool
    draws : Draws
        Of the order.
    advance : callable
        Told the name of each contender before it is read.
    """
    for contender in shuffled(contenders, draws):
        if contender.failure:
            continue
        advance(contender.variant.name)
        for name in PASSES:
            workers = threads if name.endswith("all") else 1
            try:
                calls = _calls(contender, places, window, batch, _open(contender, with_mask=with_mask))
                if name.startswith("cold") and not _dropped(contender):
                    continue
                begin = time.perf_counter()
                for call in calls:
                    contender.sampler.load_batch(call, threads=workers, with_mask=with_mask)
                contender.rates[name].append(len(places) / (time.perf_counter() - begin))
            except Exception as error:  # one that cannot be read must not end the others
                contender.failure = f"{type(error).__name__}: {error}"
                break
        contender.sampler.close()


def _open(contender: Contender, *, with_mask: bool) -> list[tuple[int, str]]:
    """Open the files anew, by reading a pixel of each image: training opens a file once and reads it for days.

    They were closed, so that nobody remembers tiles that were decoded, and no page is mapped and so kept.

    Returns
    -------
    list of (int, str)
        Number of channels and dtype of each part.
    """
    contender.sampler.close()
    kinds = []
    for number in range(len(contender.parts)):
        image = contender.sampler.load_sample(
            contender.target(number, Window(0, 0, 1, 1)), with_mask=with_mask
        ).image
        kinds.append((image.shape[-1], image.dtype.name))
    return kinds


def _calls(
    contender: Contender,
    places: Sequence[Place],
    window: tuple[int, int],
    batch: int,
    kinds: Sequence[tuple[int, str]],
) -> list[list[dict[str, Any]]]:
    """Return the targets of each call: at most ``batch``, all of one kind, so that they stack."""
    alike: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for place in places:
        target = contender.target(place.part, Window(place.y, place.x, *window))
        alike.setdefault(kinds[place.part], []).append(target)
    return [group[at : at + batch] for group in alike.values() for at in range(0, len(group), batch)]


def _dropped(contender: Contender) -> bool:
    """Drop the files from the page cache; return whether what is read now is read from the disk."""
    if contender.files is None or not can_drop() or contender.refusals == MAX_REFUSALS:
        return False
    left = drop_files(contender.files)
    if left is not None and left > COLD_SHARE:
        contender.refusals += 1
        contender.stayed = max(left, contender.stayed or 0.0)
        return False
    if left is not None:
        contender.left_in_memory = max(left, contender.left_in_memory or 0.0)
    return True
