"""What is a negative and which images can have one, against counting pixels at every place."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from slidesampler.errors import SamplingError, TargetError
from slidesampler.foreground import ForegroundIndex, IndexColumns, TissueMask, index_image
from slidesampler.geometry import Window
from slidesampler.models import ClassMap
from slidesampler.sampling.negative import NegativeSource
from slidesampler.sampling.negative_images import prove_impossible
from slidesampler.sampling.negative_rule import NegativeJudge, NegativeLimits
from slidesampler.testing.source_contract import RectangleSampler

IGNORE = 255


class LabelSampler(RectangleSampler):
    """Images that are nothing but labels, and maybe a tissue mask in blocks of 4 pixels."""

    def __init__(self, labels, tissue=None):
        super().__init__(images=len(labels))
        self.labels, self.tissue = labels, tissue or [None] * len(labels)
        self.reads = 0
        images = [
            index_image(
                lambda window, one=one: one[window.as_slices()],
                one.shape,
                4,
                IGNORE,
                None if blocks is None else TissueMask(blocks, 4),
            )
            for one, blocks in zip(self.labels, self.tissue, strict=True)
        ]
        self.index = ForegroundIndex(IndexColumns.join(self.image_ids, images))

    @property
    def foreground(self):
        return self.index

    @property
    def _sizes(self):
        return np.array([one.shape for one in self.labels])

    def load_mask(self, image_id, window, size=None):
        self.reads += 1
        labels = self.labels[self._position(image_id)]
        reach = max(window.shape) + max(map(abs, (window.y, window.x)))
        padded = np.pad(labels, reach, constant_values=IGNORE)
        cut = padded[window.shift(reach, reach).as_slices()]
        if size is None:
            return cut
        ys, xs = (np.arange(n) * length // n for n, length in zip(size, window.shape, strict=True))
        return cut[np.ix_(ys, xs)]

    def tissue_of(self, position):
        """Bool, the shape of the labels."""
        labels, blocks = self.labels[position], self.tissue[position]
        valid = labels != IGNORE
        if blocks is None:
            return valid
        return valid & np.kron(blocks, np.ones((4, 4), bool))[: labels.shape[0], : labels.shape[1]]


def sums(values, extent):
    """Sum of ``values`` under every window of an extent, by its start; windows overhang by up to an extent."""
    padded = np.pad(values.astype(np.int64), [(e, e) for e in extent])
    table = np.pad(padded.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    h, w = extent
    return table[h:, w:] - table[:-h, w:] - table[h:, :-w] + table[:-h, :-w]


def negatives(sampler, position, extent, limits, allow_border):
    """How many tissue pixels lead to each window that is a negative, by its start plus its extent."""
    labels, tissue = sampler.labels[position], sampler.tissue_of(position)
    ys, xs = np.nonzero(tissue)
    starts = [ys - extent[0] // 2, xs - extent[1] // 2]
    if not allow_border:
        for axis in (0, 1):
            slack = labels.shape[axis] - extent[axis]
            starts[axis] = np.clip(starts[axis], min(slack, 0), max(slack, 0))
    centres = np.zeros([length + extent[axis] + 1 for axis, length in enumerate(labels.shape)], int)
    np.add.at(centres, (starts[0] + extent[0], starts[1] + extent[1]), 1)
    area = extent[0] * extent[1]
    foreground = sums(np.isin(labels, limits.classes), extent)
    valid = sums(labels != IGNORE, extent)
    good = (foreground <= limits.max_foreground * valid + 1e-9) & (valid >= limits.min_valid * area - 1e-9)
    good &= sums(tissue, extent) >= limits.min_tissue * area - 1e-9
    return centres * good


def distance_to_foreground(labels, classes, window):
    """Least distance between the centres of a pixel of foreground and of a pixel of the window."""
    ys, xs = np.nonzero(np.isin(labels, classes))
    dy = np.clip(ys, window.y, window.y1 - 1) - ys
    dx = np.clip(xs, window.x, window.x1 - 1) - xs
    return np.hypot(dy, dx).min(initial=np.inf)


@st.composite
def label_images(draw):
    """Labels of up to 150 pixels a side: rectangles, sometimes noise in a half, sometimes mostly class 1."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = draw(st.integers(20, 150)), draw(st.integers(20, 150))
    labels = np.full(shape, draw(st.sampled_from([0, 0, 0, 1])), np.uint8)
    for _ in range(draw(st.integers(0, 12))):
        y, x = (rng.integers(length) for length in shape)
        h, w = rng.integers(1, 60, 2)
        labels[y : y + h, x : x + w] = rng.choice([0, 0, 1, 2, 3, IGNORE])
    if draw(st.integers(0, 3)) == 0:
        labels[: shape[0] // 2] = rng.choice(
            [0, 1, 2, IGNORE], (shape[0] // 2, shape[1]), p=[0.8, 0.1, 0.05, 0.05]
        )
    blocks = None
    if draw(st.booleans()):
        blocks = np.zeros([-(-length // 4) for length in shape], bool)
        y, x = (rng.integers(length) for length in blocks.shape)
        blocks[y : y + 20, x : x + 20] = True
    return labels, blocks


LIMITS = st.builds(
    NegativeLimits,
    st.sampled_from([(1, 2, 3), (1, 2, 3), (2,), ()]),
    st.sampled_from([0.0, 0.0, 0.1, 0.29, 1.0]),
    st.sampled_from([0.0, 0.5, 1.0]),
    st.sampled_from([0.0, 0.0, 0.3]),
)
EXTENTS = st.tuples(st.integers(1, 90), st.integers(1, 90))


@given(label_images(), LIMITS, EXTENTS, st.booleans())
@settings(max_examples=60)
def test_windows_are_refused_as_pixels_say(image, limits, extent, allow_border):
    labels, blocks = image
    sampler = LabelSampler([labels], [blocks])
    judge = NegativeJudge(sampler, sampler.foreground, limits)
    truth = negatives(sampler, 0, extent, limits, allow_border)
    columns = sampler.foreground.columns
    noisy = bool((columns.rect_areas[columns.rect_ends - 1] != columns.counts).any())
    ys, xs = np.nonzero(sampler.tissue_of(0))
    for at in range(0, len(ys), max(len(ys) // 25, 1)):
        start = [int(ys[at]) - extent[0] // 2, int(xs[at]) - extent[1] // 2]
        if not allow_border:
            for axis in (0, 1):
                slack = labels.shape[axis] - extent[axis]
                start[axis] = min(max(start[axis], min(slack, 0)), max(slack, 0))
        window = Window(*start, *extent)
        reason = judge.refuse(0, 3, window)
        expected = truth[start[0] + extent[0], start[1] + extent[1]] > 0
        if reason == "tissue" and noisy:
            continue  # tissue like noise: only what is certain counts
        assert (reason is None) == expected
    assert noisy or not sampler.reads


@given(label_images(), st.floats(0, 60), EXTENTS, st.integers(0, 2**32))
@settings(max_examples=60)
@example((np.pad(np.ones((1, 1), np.uint8), 50), None), 5.0, (10, 10), 0)
def test_distance_is_euclidean_and_exact(image, distance, extent, seed):
    labels, _ = image
    sampler = LabelSampler([labels])
    limits = NegativeLimits((1, 3), min_valid=0, min_distance_px=distance)
    judge = NegativeJudge(sampler, sampler.foreground, limits)
    rng = np.random.default_rng(seed)
    for _ in range(20):
        y, x = (int(rng.integers(-5, length)) for length in labels.shape)
        window = Window(y, x, *extent)
        nearest = distance_to_foreground(labels, limits.classes, window)
        reason = judge.refuse(0, 3, window)
        expected = "foreground" if nearest == 0 else "distance" if nearest < distance else None
        assert reason == expected


@pytest.mark.parametrize(
    ("distance", "expected"), [(1, True), (5, True), (5.001, False), (4.999, True), (50, False)]
)
def test_distance_to_a_corner(distance, expected):
    """The pixel is 3 rows above and 4 columns left of the window's corner pixel: exactly 5 away."""
    labels = np.zeros((100, 100), np.uint8)
    labels[47, 46] = 2
    sampler = LabelSampler([labels])
    judge = NegativeJudge(sampler, sampler.foreground, NegativeLimits((1, 2, 3), min_distance_px=distance))
    window = Window(50, 50, 8, 8)
    assert (judge.refuse(0, 3, window) is None) == expected


def test_shares_are_as_exact_as_they_are_written():
    """29 pixels of 100 are 29 percent, though 0.29 * 100 is less than 29 in floating point."""
    labels = np.zeros((10, 10), np.uint8)
    labels.flat[:29] = 1
    sampler = LabelSampler([labels])
    window = Window(0, 0, 10, 10)
    for share, reason in ((0.29, None), (0.28, "foreground")):
        judge = NegativeJudge(sampler, sampler.foreground, NegativeLimits((1,), share))
        assert judge.refuse(0, 3, window) == reason
    labels[labels == 1] = IGNORE
    sampler = LabelSampler([labels])
    for share, reason in ((0.71, None), (0.72, "unknown")):
        judge = NegativeJudge(sampler, sampler.foreground, NegativeLimits((1,), 0, share))
        assert judge.refuse(0, 3, window) == reason


@given(label_images(), LIMITS, EXTENTS, st.booleans())
@settings(max_examples=150)
def test_an_image_called_impossible_has_no_negative(image, limits, extent, allow_border):
    labels, blocks = image
    sampler = LabelSampler([labels], [blocks])
    reasons = prove_impossible(
        sampler.foreground, np.array([0]), np.array([extent]), limits, allow_border=allow_border
    )
    possible = negatives(sampler, 0, extent, limits, allow_border).any()
    assert not (reasons and possible)


def rim(width, shape=(300, 420)):
    labels = np.ones(shape, np.uint8)
    inner = (slice(width, -width),) * 2
    labels[inner] = 0
    return (1 - labels).astype(np.uint8)


def spots(step, shape=(1500, 1500)):
    """Squares of 30 pixels, one every ``step``."""
    labels = np.zeros(shape, np.uint8)
    for y in range(0, shape[0], step):
        for x in range(0, shape[1], step):
            labels[y : y + 30, x : x + 30] = 2
    return labels


@pytest.mark.parametrize(
    ("labels", "options", "reason"),
    [
        (np.ones((200, 200), np.uint8), {}, "40000 of its 40000 valid pixels are foreground"),
        (np.ones((200, 200), np.uint8), {"min_valid": 0}, "40000 of its 40000"),
        (np.ones((200, 200), np.uint8), {"max_foreground": 0.99}, "40000 of its 40000"),
        (np.full((200, 200), IGNORE, np.uint8), {}, "no tissue"),
        (np.zeros((20, 200), np.uint8), {}, "too small: 20 x 200"),
        (
            np.pad(np.zeros((30, 30), np.uint8), 99, constant_values=IGNORE),
            {},
            "900 valid pixels, fewer than 50%",
        ),
        # More background than a window needs, but nowhere near each other.
        (rim(9), {}, "wherever a window lies"),
        (rim(9), {"allow_border": True, "min_valid": 1}, "wherever a window lies"),
        (spots(64), {"size": 200}, "wherever a window lies"),
    ],
)
def test_images_that_cannot_have_a_negative(labels, options, reason):
    options = {"size": 64, **options}
    sampler = LabelSampler([labels, np.zeros((300, 300), np.uint8)])
    source = NegativeSource(sampler, n=20, **options)
    assert list(source.impossible) == [3]
    assert reason in source.impossible[3]
    assert {source.target(0, index).image_id for index in range(20)} == {10}
    with pytest.raises(SamplingError, match=r"none of 1 images can have a negative window of .*image 3: "):
        NegativeSource(sampler, n=20, image_ids=[3], **options)


@pytest.mark.parametrize(
    ("labels", "options"),
    [
        (np.ones((200, 200), np.uint8), {"max_foreground": 1}),
        (rim(70), {}),
        (spots(300), {"size": 200}),
        (np.zeros((20, 200), np.uint8), {"min_valid": 0.3}),
    ],
)
def test_images_that_can(labels, options):
    sampler = LabelSampler([labels])
    source = NegativeSource(sampler, n=3, **{"size": 64, **options})
    assert source.impossible == {}
    assert source.target(0, 0).image_id == 3


def test_weights_that_leave_only_impossible_images():
    sampler = LabelSampler([np.ones((99, 99), np.uint8), np.zeros((99, 99), np.uint8)])
    with pytest.raises(SamplingError, match="slide_weights is 0 for each of the 1 images that can"):
        NegativeSource(sampler, 16, n=1, slide_weights={3: 1, 10: 0})


def test_negative_categories():
    """A window in the stroma is a negative when stroma is said to be one; in tumour never."""
    labels = np.full((100, 300), 2, np.uint8)
    labels[:, :100] = 1
    sampler = LabelSampler([labels])
    with pytest.raises(SamplingError, match="none of 1 images"):
        NegativeSource(sampler, 16, n=1)
    for words in ("stroma", 20, ["stroma", "necrosis"]):
        source = NegativeSource(sampler, 16, n=50, negative_categories=words)
        assert {source.target(0, index).window.x >= 100 for index in range(50)} == {True}
    everything = NegativeSource(sampler, 16, n=50, negative_categories="tissue")
    assert {everything.target(0, index).window.x >= 100 for index in range(50)} == {False, True}


def test_negative_category_that_shares_a_class():
    class Merged(LabelSampler):
        class_map = ClassMap(("background", "tumour"), {10: 1, 20: 1, 30: 0, 40: 1}, {})

    sampler = Merged([np.zeros((99, 99), np.uint8)])
    with pytest.raises(TargetError, match="masks cannot tell them apart"):
        NegativeSource(sampler, 16, n=1, negative_categories="stroma")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"max_foreground": 1.1}, ValueError, "max_foreground is the share .* got 1.1"),
        ({"max_foreground": float("nan")}, ValueError, "max_foreground"),
        ({"min_tissue": -0.1}, ValueError, "min_tissue is the share .* got -0.1"),
        ({"min_distance_px": -1}, ValueError, "min_distance_px is a number of pixels, at least 0, got -1"),
        ({"min_distance_px": 2, "max_foreground": 0.1}, ValueError, "give one of them"),
        ({"negative_categories": "tumor"}, TargetError, "did you mean 'tumour'"),
        ({"negative_categories": "glass"}, TargetError, "stands for the background"),
        ({"slide_weights": "volume"}, TargetError, "slide_weights must be one of"),
        ({"balance_by": "slide"}, TargetError, "balance_by must be 'group'"),
        ({"balance_by": "group"}, SamplingError, "needs the group of every image"),
        ({"max_tries": 1.5}, TypeError, "integer"),
    ],
)
def test_impossible_requests(options, error, message):
    with pytest.raises(error, match=message):
        NegativeSource(RectangleSampler(images=9), 8, n=1, **options)


def test_the_search_for_proofs_is_bounded(monkeypatch):
    """With cells for one image only, the one with the most foreground is looked at; totals cost nothing."""
    monkeypatch.setattr("slidesampler.sampling.negative_images._CELLS", 4100)
    sampler = LabelSampler([rim(9), rim(8), np.ones((200, 200), np.uint8), np.zeros((99, 99), np.uint8)])
    assert list(NegativeSource(sampler, 64, n=1).impossible) == [10, 17]
    monkeypatch.undo()
    assert list(NegativeSource(sampler, 64, n=1).impossible) == [3, 10, 17]
