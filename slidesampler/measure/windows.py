"""Windows at random places of which no two share a tile, as windows of a large training set do not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from slidesampler.measure.results import MeasuredPart
from slidesampler.rng import Draws

__all__ = ["Place", "random_places", "shuffled"]

Item = TypeVar("Item")

#: Failed draws in a row after which a part counts as full.
_PATIENCE = 64


class Place(NamedTuple):
    """Top-left pixel of a window within a part."""

    part: int
    y: int
    x: int


def random_places(
    parts: Sequence[MeasuredPart], window: tuple[int, int], count: int, block: int, draws: Draws
) -> list[Place]:
    """Return places of windows, no two of which touch the same block of pixels.

    A window that shares a tile with an earlier one finds it in the page cache: a few hundred windows of a small
    part would look faster than the same number out of a whole data set.

    Parameters
    ----------
    parts : sequence of MeasuredPart
        Each at least as large as the window.
    window : (int, int)
        ``(height, width)``.
    count : int
        At most so many; fewer where no more fit.
    block : int
        Side of the largest tile, pixels: blocks lie on its grid.
    draws : Draws

    Returns
    -------
    list of Place
        In the order drawn. At least one a part, if ``count`` allows.
    """
    taken: list[set[tuple[int, int]]] = [set() for _ in parts]
    failures = [0] * len(parts)
    places: list[Place] = []
    while len(places) < count:
        open_parts = [number for number, failed in enumerate(failures) if failed < _PATIENCE]
        if not open_parts:
            break
        # The part with fewest windows for its size comes next, so that parts count by their area.
        number = min(open_parts, key=lambda n: (len(taken[n]) / parts[n].megapixels, n))
        y = draws.between(0, parts[number].height - window[0])
        x = draws.between(0, parts[number].width - window[1])
        touched = _blocks(y, x, window, block)
        if touched & taken[number]:
            failures[number] += 1
            continue
        failures[number] = 0
        taken[number] |= touched
        places.append(Place(number, y, x))
    return shuffled(places, draws)


def _blocks(y: int, x: int, window: tuple[int, int], block: int) -> set[tuple[int, int]]:
    rows = range(y // block, (y + window[0] - 1) // block + 1)
    columns = range(x // block, (x + window[1] - 1) // block + 1)
    return {(row, column) for row in rows for column in columns}


def shuffled(items: Sequence[Item], draws: Draws) -> list[Item]:
    """Return items in a random order, each as likely."""
    found = list(items)
    for last in range(len(found) - 1, 0, -1):
        other = draws.between(0, last)
        found[last], found[other] = found[other], found[last]
    return found
