"""What to build, from what was measured: pure functions of figures."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from slidesampler.measure.results import Alternative, CacheVariant, Recommendation, VariantMeasurement

__all__ = ["build_words", "expected_rate", "recommend"]

#: A variant as fast as this share of the fastest is as good; of those the smallest is taken. What is measured
#: on a machine that others use is not more certain.
AS_GOOD = 0.9
#: A cache is much smaller than another from this share of its size down.
MUCH_SMALLER = 0.7
#: Share of the memory that the page cache may have: the rest is the training's.
PAGE_CACHE_SHARE = 0.5
#: Share of the free disk that a cache may fill.
DISK_SHARE = 0.9


def expected_rate(row: VariantMeasurement, read_bytes: float, memory_bytes: float) -> float:
    """Return the windows a second to expect in training, by all threads.

    As many windows are warm as the page cache can hold of what is read; it is given half of the memory. With a
    share ``h`` of them warm the rate is ``1 / (h / warm + (1 - h) / cold)``. Where cold could not be measured,
    the rate is that of warm reads.

    Parameters
    ----------
    row : VariantMeasurement
        A measured one.
    read_bytes : float
        Of all files that training reads pixels from.
    memory_bytes : float
    """
    assert row.warm_all is not None
    warm = row.warm_all.median
    if row.cold_all is None:
        return warm
    held = warm_share(read_bytes, memory_bytes)
    return 1 / (held / warm + (1 - held) / row.cold_all.median)


def warm_share(read_bytes: float, memory_bytes: float) -> float:
    """Return which share of what is read the page cache can hold, 0 to 1."""
    return min(1.0, PAGE_CACHE_SHARE * memory_bytes / read_bytes) if read_bytes else 1.0


def recommend(
    rows: Sequence[VariantMeasurement],
    *,
    free_bytes: float,
    memory_bytes: float,
    source_bytes: float,
    command: Sequence[str],
    copy_sources: bool = False,
) -> Recommendation:
    """Return what to build: of the fast variants without loss that fit on the disk, the smallest.

    Fast is what is about as fast as the fastest of them.

    Parameters
    ----------
    rows : sequence of VariantMeasurement
    free_bytes, memory_bytes : float
        Of the disk that the cache is for, and of the machine.
    source_bytes : float
        Of the sources, which are what is read in place.
    command : sequence of str
        Words of the shell command that the words of the variant are added to.
    copy_sources : bool
        Whether the sources would be used in place instead of built, unless ``--force`` is given.
    """
    rates = {
        row.variant: expected_rate(row, _read_bytes(row, source_bytes), memory_bytes)
        for row in rows
        if row.status == "measured"
    }
    found = [row for row in rows if row.variant in rates]
    if not found:
        return Recommendation(None, 0.0, ("Nothing could be measured; the rows say why.",))
    room = DISK_SHARE * free_bytes
    lossless = [row for row in found if row.variant.lossless]
    fitting = [row for row in lossless if row.total_bytes <= room]
    if not fitting:
        return _nothing_fits(lossless, free_bytes, found, rates)
    fastest = max(fitting, key=lambda row: rates[row.variant])
    good = [row for row in fitting if rates[row.variant] >= AS_GOOD * rates[fastest.variant]]
    best = min(good, key=lambda row: (row.total_bytes, -rates[row.variant]))
    reasons = [_first_reason(best, fastest, rates)]
    reasons += _about_size(best, fitting, rates, free_bytes)
    reasons += _about_memory(best, _read_bytes(best, source_bytes), memory_bytes)
    too_large = [row.variant.name for row in lossless if row not in fitting]
    if too_large:
        reasons.append(
            f"{', '.join(too_large)}: would need more than {DISK_SHARE:.0%} of the {_size(free_bytes)} that "
            "are free."
        )
    alternatives = [
        Alternative(
            when,
            row.variant,
            rates[row.variant],
            _compared(row, best, rates),
            build_words(row.variant, command, copy_sources),
        )
        for when, row in (
            ("Smaller without loss", _smaller(best, fitting, rates)),
            ("If loss is acceptable", _lossy(found, rates, room)),
        )
        if row is not None
    ]
    return Recommendation(
        best.variant,
        rates[best.variant],
        tuple(reasons),
        build_words(best.variant, command, copy_sources),
        tuple(alternatives),
    )


def build_words(variant: CacheVariant, command: Sequence[str], copy_sources: bool = False) -> str:
    """Return the shell command that builds a variant; empty for sources in place.

    Examples
    --------
    >>> build_words(CacheVariant("cog", "jpeg", 90, 256), ["slidesampler", "build", "a b.json"])
    "slidesampler build 'a b.json' --backend cog --codec jpeg --quality 90 --tile 256"
    """
    if variant.backend == "in-place":
        return ""
    words = [*command, "--backend", variant.backend]
    if variant.backend == "cog":
        words += ["--codec", variant.codec]
        if variant.quality is not None:
            words += ["--quality", str(variant.quality)]
        words += ["--tile", str(variant.tile)]
        if copy_sources:
            words.append("--force")
    return shlex.join(words)


def _read_bytes(row: VariantMeasurement, source_bytes: float) -> float:
    return source_bytes if row.variant.in_place else row.total_bytes


def _nothing_fits(
    lossless: Sequence[VariantMeasurement],
    free_bytes: float,
    found: Sequence[VariantMeasurement],
    rates: dict[CacheVariant, float],
) -> Recommendation:
    if not lossless:
        row = max(found, key=lambda one: rates[one.variant])
        reason = f"Only lossy variants were measured, {row.variant.name} the fastest; none is chosen for you."
        return Recommendation(None, 0.0, (reason,))
    smallest = min(lossless, key=lambda row: row.total_bytes)
    return Recommendation(
        None,
        0.0,
        (
            f"No lossless cache of the whole manifest fits: {_size(free_bytes)} are free, and the smallest "
            f"that was measured, {smallest.variant.name}, needs about {_size(smallest.total_bytes)}.",
        ),
    )


def _first_reason(
    best: VariantMeasurement, fastest: VariantMeasurement, rates: dict[CacheVariant, float]
) -> str:
    rate = rates[best.variant]
    if best is fastest:
        return f"{best.variant.name} is the fastest without loss: {rate:,.0f} windows a second to expect."
    slower = 1 - rate / rates[fastest.variant]
    how = f"{slower:.0%} slower than" if slower >= 0.01 else "as fast as"
    return (
        f"{best.variant.name} gives {rate:,.0f} windows a second to expect, {how} the fastest without loss "
        f"({fastest.variant.name}), and is smaller."
    )


def _about_size(
    best: VariantMeasurement,
    fitting: Sequence[VariantMeasurement],
    rates: dict[CacheVariant, float],
    free_bytes: float,
) -> list[str]:
    if best.variant.backend == "in-place":
        return ["It needs no disk and no build: Sampler(manifest) reads the slides where they lie."]
    if best.variant.backend == "auto":
        return ["It copies no pixels: slides are read where they lie, by tables of their tiles."]
    said = [
        f"The whole manifest needs about {_size(best.total_bytes)} of the {_size(free_bytes)} that are free."
    ]
    in_place = next((row for row in fitting if row.variant.backend == "in-place"), None)
    if in_place is not None:
        gain = rates[best.variant] / rates[in_place.variant]
        said.append(f"That is {gain:.1f} times as fast as the slides where they lie.")
    return said


def _about_memory(best: VariantMeasurement, read_bytes: float, memory_bytes: float) -> list[str]:
    if best.cold_all is None:
        return ["Reads from a cold disk were not measured: the expectation is that of files in memory."]
    held = warm_share(read_bytes, memory_bytes)
    memory = f"half of the memory ({_size(memory_bytes)})"
    if held >= 1:
        return [f"From the second epoch on {memory} holds all that is read: warm figures count."]
    return [f"In training {held:.0%} of what is read fits into {memory}: cold figures count for the rest."]


def _smaller(
    best: VariantMeasurement, fitting: Sequence[VariantMeasurement], rates: dict[CacheVariant, float]
) -> VariantMeasurement | None:
    """Return the fastest of the lossless caches that are much smaller than the best."""
    caches = [row for row in fitting if not row.variant.in_place]
    smaller = [row for row in caches if row.total_bytes <= MUCH_SMALLER * best.total_bytes]
    return max(smaller, key=lambda row: rates[row.variant], default=None)


def _lossy(
    found: Sequence[VariantMeasurement], rates: dict[CacheVariant, float], room: float
) -> VariantMeasurement | None:
    """Return the smallest of the lossy variants that are about as fast as the fastest of them."""
    lossy = [row for row in found if not row.variant.lossless and row.total_bytes <= room]
    fastest = max((rates[row.variant] for row in lossy), default=0.0)
    good = [row for row in lossy if rates[row.variant] >= AS_GOOD * fastest]
    return min(good, key=lambda row: row.total_bytes, default=None)


def _compared(other: VariantMeasurement, best: VariantMeasurement, rates: dict[CacheVariant, float]) -> str:
    size = f"about {_size(other.total_bytes)}"
    if best.total_bytes and not best.variant.in_place:
        size = f"{other.total_bytes / best.total_bytes:.0%} of the size ({size})"
    speed = rates[other.variant] / rates[best.variant]
    loss = "" if other.variant.lossless else " Pixels change, so it is never chosen for you."
    return (
        f"{other.variant.name} needs {size} and gives {speed:.2g} times the windows a second "
        f"({rates[other.variant]:,.0f}).{loss}"
    )


def _size(size_bytes: float) -> str:
    for unit, scale in (("TiB", 2**40), ("GiB", 2**30)):
        if size_bytes >= scale:
            return f"{size_bytes / scale:.1f} {unit}"
    return f"{size_bytes / 2**20:.1f} MiB"
