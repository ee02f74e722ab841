"""The foreground index of a label layer: made from the finished layer, written beside it, and checked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from slidesampler.errors import BuildError, CorruptEntryError
from slidesampler.foreground import (
    INDEX_FILE,
    ForegroundIndex,
    ImageIndex,
    IndexColumns,
    TissueMask,
    index_image,
    load_index,
    save_index,
)
from slidesampler.geometry import Window
from slidesampler.models import CacheEntry, ClassMap
from slidesampler.readers.base import Reader
from slidesampler.rng import rng_for

__all__ = ["INDEX_ROLE", "check_index", "index_layer", "write_index"]

#: What the file is called in the record of an entry.
INDEX_ROLE = "index"
#: Rows of a layer that are read at once, those of a tile: cells are lower than tiles in small images.
_STRIP_ROWS = 256
#: Cells that are counted again, besides those in the corners.
_RANDOM_CELLS = 8


def write_index(folder: Path, layer: Reader, class_map: ClassMap, tissue: TissueMask | None) -> str:
    """Write the index of a finished label layer, and return the name of the file.

    It is read back and compared with the layer.

    Parameters
    ----------
    folder : Path
    layer : Reader
        ``labels.tif``, opened anew.
    class_map : ClassMap
    tissue : TissueMask or None

    Raises
    ------
    BuildError
        If the file does not say what the layer holds.
    OSError
        If it cannot be written.
    """
    save_index(folder / INDEX_FILE, index_layer(layer, class_map, tissue))
    _verify(load_index(folder / INDEX_FILE), layer, class_map, tissue)
    return INDEX_FILE


def index_layer(layer: Reader, class_map: ClassMap, tissue: TissueMask | None) -> ImageIndex:
    """Return the index of a label layer; its strips are read once each."""
    shape = layer.shape[:2]
    return index_image(_strips_of(layer), shape, len(class_map.names), class_map.ignore, tissue)


def _strips_of(layer: Reader) -> Callable[[Window], NDArray[Any]]:
    """Return a way to read windows downwards, of which those in the same strip of tiles read it once."""
    height, _, _ = layer.shape
    held: list[tuple[Window, NDArray[Any]]] = []

    def read(window: Window) -> NDArray[Any]:
        y = window.y // _STRIP_ROWS * _STRIP_ROWS
        if window.y1 > y + _STRIP_ROWS or window.y1 > height:
            return layer.read(window)[:, :, 0]
        if not held or held[0][0] != Window(y, window.x, held[0][0].height, window.width):
            strip = Window(y, window.x, min(_STRIP_ROWS, height - y), window.width)
            held[:] = [(strip, layer.read(strip)[:, :, 0])]
        return held[0][1][window.y - y : window.y1 - y]

    return read


def _verify(index: ImageIndex, layer: Reader, class_map: ClassMap, tissue: TissueMask | None) -> None:
    """Count some cells again, in the layer: those in the corners, those of most entries, and random ones."""
    rows, columns = index.grid
    cell, (height, width, _) = index.cell_px, layer.shape
    if (index.height, index.width) != (height, width):
        raise BuildError(
            f"{layer.name}: its index is of {index.height} x {index.width} pixels, the layer {height} x {width}"
        )
    rng = rng_for(0, stream="verify index")
    last = rows * columns - 1
    chosen = {0, columns - 1, last - columns + 1, last}
    chosen |= {int(number) for number in rng.integers(rows * columns, size=_RANDOM_CELLS)}
    if len(index.keys):
        some = rng.integers(len(index.keys), size=_RANDOM_CELLS)
        chosen |= {int(key) for key in index.keys[some] % (rows * columns)}
    counted = ForegroundIndex(IndexColumns.join([0], [index]))
    slots = range(index.n_classes + 1)
    for number in sorted(chosen):
        y, x = number // columns * cell, number % columns * cell
        window = Window(y, x, min(cell, height - y), min(cell, width - x))
        labels = layer.read(window)[:, :, 0]
        valid = labels != class_map.ignore
        wanted = [int(valid.sum())]
        wanted += [int((labels == slot).sum()) for slot in range(1, index.n_classes)]
        wanted.append(wanted[0] if tissue is None else int((valid & tissue.pixels(window)).sum()))
        found, most = counted.bounds(0, slots, window)
        if found != wanted or most != wanted:
            raise BuildError(
                f"{layer.name}: its index counts {found} pixels of each class in {window}, the layer holds "
                f"{wanted}; build it again, and check the disk if that fails too"
            )


def check_index(entry: CacheEntry) -> ImageIndex:
    """Return the index of a label layer's entry.

    Raises
    ------
    CorruptEntryError
        If it is damaged, or of an image of another size.
    FileNotFoundError
        If it is not there.
    """
    index = load_index(Path(entry.files[INDEX_ROLE]))
    if (index.height, index.width) != entry.shape[:2]:
        raise CorruptEntryError(
            f"{entry.files[INDEX_ROLE]} is of {index.height} x {index.width} pixels, the layer "
            f"{entry.shape[0]} x {entry.shape[1]}; build it again"
        )
    return index
