import cv2
import numpy as np
import pytest

from slidesampler.geometry import Window
from slidesampler.models import ClassMap, Sample
from slidesampler.report import contact_sheet
from slidesampler.report.contact_sheet import class_colors, mask_edges
from slidesampler.target import Target

CLASSES = ClassMap(("background", "tumour", "nucleus"), {1: 1, 2: 2})


def make_sample(mask, image=None, valid=None, **target):
    size = mask.shape
    if image is None:
        image = np.full((*size, 3), 200, np.uint8)
    target = Target(image_id=3, window=Window(-4, 7, *size), **target)
    valid = np.ones(size, bool) if valid is None else valid
    return Sample(image, mask, valid, None, target, np.eye(3))


def brute_force_edges(mask):
    """Every unit edge between two pixels of different classes."""
    found = set()
    height, width = mask.shape
    for y in range(height):
        for x in range(width):
            if y + 1 < height and mask[y, x] != mask[y + 1, x]:
                found.add((x, y + 1, x + 1, y + 1, int(max(mask[y, x], mask[y + 1, x]))))
            if x + 1 < width and mask[y, x] != mask[y, x + 1]:
                found.add((x + 1, y, x + 1, y + 1, int(max(mask[y, x], mask[y, x + 1]))))
    return found


def cut(segments, classes):
    found = set()
    for ((x0, y0), (x1, y1)), label in zip(segments.astype(int).tolist(), classes.tolist(), strict=True):
        steps = max(abs(x1 - x0), abs(y1 - y0))
        dx, dy = (x1 - x0) // steps, (y1 - y0) // steps
        for step in range(steps):
            x, y = x0 + dx * step, y0 + dy * step
            assert (x, y, x + dx, y + dy, label) not in found
            found.add((x, y, x + dx, y + dy, label))
    return found


@pytest.mark.parametrize("seed", range(5))
def test_edges_are_those_between_classes(seed):
    mask = np.random.default_rng(seed).integers(0, 3, (9, 13)).astype(np.uint8)
    assert cut(*mask_edges(mask)) == brute_force_edges(mask)


def test_straight_edges_are_one_segment():
    mask = np.zeros((10, 12), np.uint8)
    mask[2:6, 3:9] = 1
    segments, classes = mask_edges(mask)
    assert len(segments) == 4
    assert classes.tolist() == [1] * 4


def test_nothing_to_outline():
    segments, classes = mask_edges(np.zeros((4, 4), np.uint8))
    assert segments.shape == (0, 2, 2)
    assert classes.shape == (0,)


def rgb(color):
    return np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)])


def count_near(picture, color):
    return int((np.abs(picture.astype(int) - rgb(color)).max(axis=2) < 12).sum())


def test_sheet_shows_the_classes_in_their_colours(tmp_path):
    mask = np.zeros((64, 64), np.uint8)
    empty = contact_sheet([make_sample(mask)] * 5, tmp_path / "empty.png", CLASSES, columns=3)
    mask[10:50, 10:50] = 1
    mask[20:30, 20:30] = 2
    path = contact_sheet(
        [make_sample(mask, kind="positive")] * 5, tmp_path / "sheet.png", CLASSES, columns=3, title="t"
    )
    assert path == tmp_path / "sheet.png"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty.png", "sheet.png"]
    picture, bare = (cv2.imread(str(p))[..., ::-1] for p in (path, empty))
    for index in (1, 2):
        assert count_near(picture, class_colors(CLASSES)[index]) > 200
        assert count_near(bare, class_colors(CLASSES)[index]) == 0
    # Three columns, two rows.
    assert picture.shape[1] > picture.shape[0]


def test_ignored_pixels_are_greyed(tmp_path):
    mask = np.zeros((64, 64), np.uint8)
    mask[:32] = CLASSES.ignore
    valid = mask == 0
    path = contact_sheet([make_sample(mask, valid=valid)], tmp_path / "sheet.png", CLASSES)
    picture = cv2.imread(str(path)).astype(int)
    middle = picture[:, picture.shape[1] // 2].mean(axis=1)
    greyed, plain = (np.abs(middle - v) < 3 for v in (0.45 * 200 + 0.55 * 153, 200))
    assert 80 < greyed.sum() < 160
    assert 80 < plain.sum() < 160


@pytest.mark.parametrize(("channels", "dtype"), [(1, np.uint8), (2, np.uint16), (5, np.int16), (3, np.float32)])
def test_other_kinds_of_pixels_are_shown(tmp_path, channels, dtype):
    image = np.zeros((40, 40, channels), dtype)
    image[:, 20:] = 100
    if dtype == np.float32:
        image[0, 0] = np.nan
    sample = make_sample(np.zeros((40, 40), np.uint8), image)
    picture = cv2.imread(str(contact_sheet([sample], tmp_path / "sheet.png", CLASSES))).astype(int)
    row = picture[picture.shape[0] // 2].mean(axis=1)
    assert row[30] == 0
    assert row[-30] == (100 if dtype == np.uint8 else 255)


def test_frames_of_a_sequence_are_panels(tmp_path):
    frames = np.stack([np.full((30, 30, 3), value, np.uint8) for value in (50, 150)])
    target = Target(image_ids=(4, 5), window=Window(0, 0, 30, 30))
    masks = np.zeros((2, 30, 30), np.uint8)
    sample = Sample(frames, masks, masks == 0, None, target, np.eye(3))
    picture = cv2.imread(str(contact_sheet([sample], tmp_path / "sheet.png", CLASSES))).astype(int)
    row = picture[picture.shape[0] // 2].mean(axis=1)
    assert (row[len(row) // 4], row[3 * len(row) // 4]) == (50, 150)


def test_sample_without_mask(tmp_path):
    sample = make_sample(np.zeros((20, 20), np.uint8))
    sample = Sample(sample.image, None, sample.valid, None, sample.target, sample.rel_to_abs)
    assert contact_sheet([sample], tmp_path / "sheet.png", CLASSES).stat().st_size > 1000


def test_bad_arguments(tmp_path):
    with pytest.raises(ValueError, match="at least one sample"):
        contact_sheet([], tmp_path / "sheet.png", CLASSES)
    with pytest.raises(ValueError, match="columns"):
        contact_sheet([make_sample(np.zeros((4, 4), np.uint8))], tmp_path / "sheet.png", CLASSES, columns=0)
    assert list(tmp_path.iterdir()) == []
