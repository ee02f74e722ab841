"""The foreground index against counting pixels."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slidesampler.errors import CorruptEntryError, TargetError
from slidesampler.foreground import (
    ForegroundIndex,
    ImageIndex,
    IndexColumns,
    TissueMask,
    index_image,
    load_index,
    save_index,
)
from slidesampler.foreground.cells import MAX_CELLS, cell_size
from slidesampler.geometry import Window

CLASSES, IGNORE = 4, 255
TISSUE = CLASSES


def random_labels(rng, height, width, *, noise=False, ignore=False):
    labels = np.zeros((height, width), np.uint8)
    for _ in range(12):
        y, x = rng.integers(height), rng.integers(width)
        h, w = rng.integers(1, 200, 2)
        labels[y : y + h, x : x + w] = rng.integers(0, CLASSES)
    if noise:
        part = labels[: min(80, height), : min(80, width)]
        part[...] = rng.integers(0, CLASSES, part.shape)
    if ignore:
        for _ in range(3):
            y, x = rng.integers(height), rng.integers(width)
            h, w = rng.integers(1, 150, 2)
            labels[y : y + h, x : x + w] = IGNORE
    return labels


def random_tissue(rng, height, width):
    step = int(rng.choice([1, 2, 8, cell_size(height, width)]))
    # In blocks of 16 pixels: single ones would be noise.
    block = max(1, 16 // step)
    coarse = rng.random((height // step // block + 1, width // step // block + 1)) < 0.4
    mask = np.kron(coarse, np.ones((block, block), bool))
    return TissueMask(mask[: -(-height // step), : -(-width // step)].astype(bool), step)


def index_of(labels, tissue=None) -> ImageIndex:
    return index_image(lambda window: labels[window.as_slices()], labels.shape, CLASSES, IGNORE, tissue)


def masks_of(labels, tissue=None):
    """Which pixels each slot holds, by plain comparison."""
    valid = labels != IGNORE
    masks = [valid, *(labels == one for one in range(1, CLASSES)), valid]
    if tissue is not None:
        full = np.kron(tissue.mask, np.ones((tissue.downsample,) * 2, bool))
        masks[TISSUE] = valid & full[: labels.shape[0], : labels.shape[1]]
    return masks


def joined(*images):
    return ForegroundIndex(IndexColumns.join(range(10, 10 + len(images)), images))


@st.composite
def cases(draw, noise=None):
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    height, width = draw(st.integers(1, 500)), draw(st.integers(1, 500))
    labels = random_labels(
        rng, height, width, noise=draw(st.booleans() if noise is None else noise), ignore=draw(st.booleans())
    )
    tissue = random_tissue(rng, height, width) if draw(st.booleans()) else None
    return rng, labels, tissue


def counted(masks, slots, window, shape):
    inside = window.intersect(Window(0, 0, *shape))
    return [int(masks[slot][inside.as_slices()].sum()) if inside else 0 for slot in slots]


def random_window(rng, height, width):
    y, x = int(rng.integers(-100, height + 50)), int(rng.integers(-100, width + 50))
    return Window(y, x, int(rng.integers(1, 400)), int(rng.integers(1, 400)))


@settings(max_examples=40)
@given(cases())
def test_pixels_of_every_slot(case):
    _, labels, tissue = case
    index = joined(index_of(labels, tissue))
    assert index.pixels[0].tolist() == [int(mask.sum()) for mask in masks_of(labels, tissue)]
    assert index.tissue_slot == TISSUE
    assert index.n_classes == CLASSES


@settings(max_examples=40)
@given(cases(noise=st.just(False)))
def test_count_is_exact_and_bounds_bracket_it(case):
    rng, labels, tissue = case
    # Behind another image, so that positions in the columns are not those of the image.
    other = index_of(random_labels(rng, 70, 130, ignore=True))
    index = joined(other, index_of(labels, tissue))
    masks, slots = masks_of(labels, tissue), [3, 0, TISSUE, 1]
    for _ in range(12):
        window = random_window(rng, *labels.shape)
        wanted = counted(masks, slots, window, labels.shape)
        assert index.count(1, slots, window) == wanted
        low, high = index.bounds(1, slots, window)
        assert all(a <= b <= c for a, b, c in zip(low, wanted, high, strict=True))
        for some in (slots, slots[:1], slots[3:]):
            held = index.holds(1, some, window)
            assert held in (None, any(counted(masks, some, window, labels.shape)))
            # It knows whatever the bounds know.
            low, high = index.bounds(1, some, window)
            assert (held is None) == (not any(low) and any(high))
    whole = Window(-3, -3, labels.shape[0] + 6, labels.shape[1] + 6)
    exact = counted(masks, slots, whole, labels.shape)
    assert index.bounds(1, slots, whole) == (exact, exact)


@settings(max_examples=40)
@given(cases(noise=st.just(True)))
def test_in_noise_it_says_that_it_does_not_know(case):
    rng, labels, tissue = case
    index = joined(index_of(labels, tissue))
    masks, slots = masks_of(labels, tissue), [1, 2, 3, 0, TISSUE]
    for _ in range(8):
        window = random_window(rng, *labels.shape)
        wanted = counted(masks, slots, window, labels.shape)
        assert index.count(0, slots, window) in (None, wanted)
        low, high = index.bounds(0, slots, window)
        assert all(a <= b <= c for a, b, c in zip(low, wanted, high, strict=True))


@settings(max_examples=40)
@given(cases(noise=st.just(False)))
def test_every_pixel_of_a_slot_has_one_number(case):
    _, labels, tissue = case
    small, cut = labels[:90, :90], None
    if tissue is not None:
        rows = -(-small.shape[0] // tissue.downsample), -(-small.shape[1] // tissue.downsample)
        cut = TissueMask(tissue.mask[: rows[0], : rows[1]], tissue.downsample)
        if 64 % tissue.downsample:
            cut = None
    index = joined(index_of(small, cut))
    for slot, mask in enumerate(masks_of(small, cut)):
        count = int(index.pixels[0, slot])
        places = [index.place(0, slot, rank) for rank in range(count)]
        assert len(set(places)) == count
        assert all(mask[place] for place in places)


def test_places_in_noise_are_of_the_class():
    labels = np.random.default_rng(0).integers(0, CLASSES, (200, 150)).astype(np.uint8)
    index = joined(index_of(labels))
    found = {index.place(0, 2, rank) for rank in range(0, int(index.pixels[0, 2]), 3)}
    assert {int(labels[place]) for place in found} == {2}
    # A part of the rectangles is kept, spread over the cell: not the first ones alone.
    in_first_cell = {place for place in found if place[0] < 64 and place[1] < 64}
    assert max(y for y, _ in in_first_cell) > 55
    assert index.count(0, [2], Window(0, 0, 32, 32)) is None


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (64, 64), (65, 129), (64 * MAX_CELLS + 1, 3)])
def test_sizes_at_the_edges_of_cells(shape):
    labels = np.arange(shape[0] * shape[1]).reshape(shape) // 97 % CLASSES
    labels = labels.astype(np.uint8)
    index = joined(index_of(labels))
    masks = masks_of(labels)
    assert index.pixels[0].tolist() == [int(mask.sum()) for mask in masks]
    window = Window(shape[0] // 3, shape[1] // 3, shape[0], shape[1])
    assert index.count(0, range(CLASSES), window) == counted(masks, range(CLASSES), window, shape)
    rank = int(index.pixels[0, 1]) - 1
    assert rank < 0 or masks[1][index.place(0, 1, rank)]


def test_windows_over_many_cells():
    """The three ways of going through the cells of a window give the same."""
    rng = np.random.default_rng(5)
    labels = np.zeros((3000, 2600), np.uint8)
    for _ in range(3000):
        y, x = rng.integers(2980), rng.integers(2580)
        labels[y : y + 15, x : x + 11] = rng.integers(0, CLASSES)
    labels[1000:1400, 200:1900] = 2
    labels[2500:2520] = IGNORE
    tissue = TissueMask(rng.random((375, 325)) < 0.5, 8)
    index = joined(index_of(labels), index_of(labels, tissue))
    slots = range(CLASSES + 1)
    for side in (20, 64, 200, 700, 1500, 2900):
        for _ in range(6):
            window = Window(int(rng.integers(-50, 2900)), int(rng.integers(-50, 2500)), side, side + 3)
            for row, masks in enumerate((masks_of(labels), masks_of(labels, tissue))):
                wanted = counted(masks, slots, window, labels.shape)
                assert index.count(row, slots, window) == wanted
                low, high = index.bounds(row, slots, window)
                assert all(a <= b <= c for a, b, c in zip(low, wanted, high, strict=True))


def test_blocks_do_not_show():
    """An image wider than what is looked at in one go, and read with offsets."""
    labels = np.zeros((130, 70_000), np.uint8)
    labels[50:100, 65_000:66_000] = 3
    labels[:, 65_530:65_540] = 1
    index = joined(index_of(labels))
    assert index.pixels[0].tolist() == [labels.size, 1300, 0, 50 * 990, labels.size]
    window = Window(40, 65_500, 30, 100)
    assert index.count(0, [1, 3], window) == [300, 20 * 90]


def test_a_rank_that_is_none():
    index = joined(index_of(np.ones((10, 10), np.uint8)))
    for rank in (-1, 100):
        with pytest.raises(IndexError, match="of 100 was asked for"):
            index.place(0, 1, rank)
    with pytest.raises(IndexError, match="of 0"):
        index.place(0, 2, 0)


def test_rows_and_ids():
    index = joined(index_of(np.ones((5, 6), np.uint8)), index_of(np.zeros((7, 8), np.uint8)))
    assert len(index) == 2
    assert [index.row(10), index.row(11)] == [0, 1]
    assert index.sizes.tolist() == [[5, 6], [7, 8]]
    with pytest.raises(TargetError, match="no image 9"):
        index.row(9)


def test_joining_images_of_different_classes():
    labels = np.zeros((5, 5), np.uint8)
    other = index_image(lambda window: labels[window.as_slices()], (5, 5), 7, IGNORE)
    with pytest.raises(ValueError, match="different numbers of classes"):
        IndexColumns.join([1, 2], [index_of(labels), other])


def test_a_pickle_is_the_same_index():
    labels = random_labels(np.random.default_rng(1), 300, 200)
    index = joined(index_of(labels))
    again = pickle.loads(pickle.dumps(index))
    window = Window(10, 20, 100, 90)
    assert again.count(0, [1, 2, 3], window) == index.count(0, [1, 2, 3], window)


def test_tissue_of_another_size_is_refused():
    with pytest.raises(ValueError, match="does not fit an image of 100 x 100"):
        index_of(np.zeros((100, 100), np.uint8), TissueMask(np.ones((10, 10), bool), 8))
    with pytest.raises(ValueError, match="does not fit"):
        index_of(np.zeros((100, 100), np.uint8), TissueMask(np.ones((34, 34), bool), 3))


# On disk ------------------------------------------------------------------------------------------------------


def test_a_file_gives_the_index_back(tmp_path):
    rng = np.random.default_rng(2)
    image = index_of(random_labels(rng, 333, 222, ignore=True), random_tissue(rng, 333, 222))
    save_index(tmp_path / "index.npz", image)
    again = load_index(tmp_path / "index.npz")
    for name, array in image.to_arrays().items():
        found = again.to_arrays()[name]
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("damage", ["empty", "cut", "other", "order", "missing"])
def test_a_damaged_file_is_no_index(tmp_path, damage):
    path = tmp_path / "index.npz"
    image = index_of(random_labels(np.random.default_rng(3), 300, 300))
    save_index(path, image)
    if damage == "empty":
        path.write_bytes(b"")
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "other":
        np.savez(path, a=np.zeros(3))
    elif damage == "order":
        arrays = image.to_arrays()
        np.savez(path, **{**arrays, "keys": arrays["keys"][::-1]})
    else:
        path.unlink()
    expected = FileNotFoundError if damage == "missing" else CorruptEntryError
    with pytest.raises(expected):
        load_index(path)
