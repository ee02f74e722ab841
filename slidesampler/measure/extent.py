"""Which images stand for a manifest, and how large all of it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from slidesampler.errors import ReadError, SlideSamplerError
from slidesampler.manifest import Manifest
from slidesampler.measure.results import MeasuredPart
from slidesampler.measure.specimen import choose_part

__all__ = ["Extent", "extent_of", "pick_parts", "spread_evenly"]

#: Images that cannot be read before the search for ones that can is given up.
_MAX_FAILURES = 10


class Extent(NamedTuple):
    """All of a manifest."""

    #: Level 0, in millions.
    megapixels: float
    #: Of the files of the images, where they are local.
    source_bytes: float


def spread_evenly(count: int, wanted: int) -> Iterator[int]:
    """Yield ``wanted`` numbers below ``count``, evenly spread, then all the others in order.

    Examples
    --------
    >>> list(spread_evenly(6, 2))
    [1, 4, 0, 2, 3, 5]
    """
    wanted = min(wanted, count)
    first = [(2 * number + 1) * count // (2 * wanted) for number in range(wanted)]
    yield from first
    yield from (number for number in range(count) if number not in first)


def pick_parts(
    manifest: Manifest,
    count: int,
    only_images: Sequence[int] | None,
    window: tuple[int, int],
    side: int | None,
    advance: Callable[[str], None],
) -> tuple[tuple[MeasuredPart, ...], list[str]]:
    """Return the parts to measure, and a note for each image that had to be passed over.

    Parameters
    ----------
    manifest : Manifest
    count : int
        Images.
    only_images : sequence of int, optional
        Their ids; ``count`` is of no meaning then.
    window : (int, int)
        ``(height, width)``: a part holds at least one.
    side : int or None
        Of a part; whole images where None.
    advance : callable
        Told the name of each image before it is looked at.

    Raises
    ------
    ReadError
        If there is no image that can be read and holds a window.
    TargetError
        If the manifest has no image of an id.
    """
    if only_images is not None:
        candidates = [manifest.record(image_id).image_id for image_id in dict.fromkeys(only_images)]
        count = len(candidates)
    else:
        ids = manifest.image_ids
        candidates = [int(ids[number]) for number in spread_evenly(len(ids), count)]
    parts: list[MeasuredPart] = []
    notes: list[str] = []
    for image_id in candidates:
        if len(parts) == count or len(notes) == _MAX_FAILURES:
            break
        name = manifest.record(image_id).name
        advance(name)
        try:
            part = choose_part(manifest, image_id, side)
        except (SlideSamplerError, OSError) as error:
            notes.append(f"Image {image_id} ({name}) was passed over: {error}")
            continue
        if part.height < window[0] or part.width < window[1]:
            notes.append(
                f"Image {image_id} ({name}) was passed over: {part.height} x {part.width} pixels hold no "
                f"window of {window[0]} x {window[1]}."
            )
            continue
        parts.append(part)
    if not parts:
        raise ReadError(
            "there is nothing to measure: " + (" ".join(notes) if notes else "the manifest has no images")
        )
    return tuple(parts), notes


def extent_of(manifest: Manifest, parts: Sequence[MeasuredPart]) -> Extent:
    """Return how large all images of a manifest are together.

    Images whose size neither the manifest nor a part says count as the mean of the others.
    """
    taken = {part.image_id: part.image_height * part.image_width / 1e6 for part in parts}
    known, unknown, source_bytes = [], 0, 0
    for record in manifest.records():
        if record.image_id in taken:
            known.append(taken[record.image_id])
        elif record.height is None or record.width is None:
            unknown += 1
        else:
            known.append(record.height * record.width / 1e6)
        for asset in record.assets:
            path = Path(asset.path)
            source_bytes += path.stat().st_size if path.is_file() else 0
    return Extent(sum(known) * (1 + unknown / len(known)), source_bytes)
