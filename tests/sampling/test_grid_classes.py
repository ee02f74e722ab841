"""Positive, negative, ignored: windows of a grid against the mask of every one of them."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slidesampler.errors import SamplingError, TargetError
from slidesampler.geometry import Window
from slidesampler.sampler import Sampler
from slidesampler.sampling import grid
from slidesampler.sampling.grid import GridSource
from slidesampler.sampling.grid_rule import KINDS, TileRule
from slidesampler.testing.source_contract import RectangleSampler


class LabelSampler(RectangleSampler):
    """Images whose labels are given as arrays; counts how often labels are read."""

    def __init__(self, *labels):
        super().__init__(images=len(labels))
        self.labels = labels
        self.reads = 0
        self.made = None

    def __getstate__(self):
        return {**super().__getstate__(), "labels": self.labels, "reads": 0, "made": None}

    @property
    def _sizes(self):
        return np.array([labels.shape for labels in self.labels])

    def tissue_mask(self, image_id):
        return None

    def load_mask(self, image_id, window, size=None):
        assert size is None
        self.reads += 1
        labels = self.labels[self._position(image_id)]
        out = np.full(window.shape, 255, np.uint8)
        inside = window.intersect(Window(0, 0, *labels.shape))
        if inside is not None:
            out[inside.shift(-window.y, -window.x).as_slices()] = labels[inside.as_slices()]
        return out

    @property
    def foreground(self):
        if self.made is None:
            self.made = self.index_masks()
            self.reads = 0
        return self.made


def expected_kind(mask, rule, classes):
    """Return what the rule's words say of the mask of one window."""
    foreground, valid = np.isin(mask, classes).mean(), (mask != 255).mean()
    if valid < rule.min_valid - 1e-12:
        return "ignored"
    if foreground * mask.size >= max(rule.min_pixels, 1) - 1e-9 and foreground >= rule.min_foreground - 1e-12:
        return "positive"
    return "negative" if foreground <= rule.max_foreground + 1e-12 else "ignored"


def blobs(shape, seed, ignored=True):
    """Return labels of rectangles of all classes, with or without pixels that are not valid."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.uint8)
    for _ in range(rng.integers(0, 9)):
        (y, x), (h, w) = rng.integers(0, shape), rng.integers(1, (shape[0] + 3) // 2 + 1, 2)
        labels[y : y + h, x : x + w] = rng.choice([0, 1, 2, 3, 255] if ignored else [0, 1, 2, 3])
    return labels


RULES = st.builds(
    lambda least, share, pixels, valid, categories: TileRule(least, least * share, pixels, valid, categories),
    st.sampled_from([0, 0.01, 0.1, 0.25, 0.5, 1]),
    st.sampled_from([0, 0.3, 1]),
    st.sampled_from([1, 7]),
    st.sampled_from([0, 0.2, 0.5, 1]),
    st.sampled_from([None, "tumour", (20, "necrosis"), "tissue"]),
)
CLASSES = {None: [1, 2, 3], "tumour": [1], (20, "necrosis"): [2, 3], "tissue": [1, 2]}


@settings(max_examples=50)
@given(
    shapes=st.lists(st.tuples(st.integers(1, 150), st.integers(1, 150)), min_size=1, max_size=2),
    seed=st.integers(0, 2**32 - 1),
    size=st.tuples(st.integers(5, 60), st.integers(5, 60)),
    overlap=st.floats(0, 0.6),
    edge=st.sampled_from(["shift", "pad", "even"]),
    scale=st.sampled_from([1, 1.4]),
    rule=RULES,
)
def test_every_window_is_what_its_mask_says(shapes, seed, size, overlap, edge, scale, rule):
    sampler = LabelSampler(*(blobs(shape, seed + i, seed % 2) for i, shape in enumerate(shapes)))
    stride = tuple(max(1, round(side * (1 - overlap))) for side in size)
    options = {"edge": edge, "downsample": scale}
    full = GridSource(sampler, size, stride, classify=rule, **options)
    expected = {}
    for i in range(len(full)):
        target = full.target(0, i)
        mask = sampler.load_mask(target.image_id, target.window)
        expected[full.locate(i)] = expected_kind(mask, rule, CLASSES[rule.categories])
        assert target.kind == f"grid-{expected[full.locate(i)]}"
    for image_id in full.image_ids:
        states = full.kinds_of(image_id)
        assert {(image_id, *place): KINDS[state] for place, state in np.ndenumerate(states)} == {
            place: kind for place, kind in expected.items() if place[0] == image_id
        }
    for kind in KINDS:
        places = [place for place, found in expected.items() if found == kind]
        if not places:
            with pytest.raises(SamplingError, match="only left 0"):
                GridSource(sampler, size, stride, classify=rule, only=kind, **options)
            continue
        source = GridSource(sampler, size, stride, classify=rule, only=kind, **options)
        assert [source.locate(i) for i in range(len(source))] == places
        assert {source.target(0, i).kind for i in range(len(source))} == {f"grid-{kind}"}
        whole = [full.target(0, full.index_of(*place)) for place in places]
        assert [source.target(0, i).owned for i in range(len(source))] == [target.owned for target in whole]


@pytest.mark.parametrize("order", ["forward", "backward", "shuffled"])
def test_the_order_of_asking_changes_nothing(order):
    sampler = LabelSampler(*(blobs((170, 160), seed) for seed in range(3)))
    source = GridSource(sampler, 20, classify=True)
    indices = list(range(len(source)))
    if order == "backward":
        indices.reverse()
    if order == "shuffled":
        np.random.default_rng(0).shuffle(indices)
    for i in indices:
        image_id, row, column = source.locate(i)
        expected = KINDS[source.kinds_of(image_id)[row, column]]
        assert source.target(0, i).kind == f"grid-{expected}"
    assert len(source._row_states) == sum(source.grid_shape(image_id)[0] for image_id in source.image_ids)
    assert source.__getstate__()["_row_states"] == {}


def test_few_rows_are_remembered(monkeypatch):
    monkeypatch.setattr(grid, "MAX_ROWS", 3)
    source = GridSource(LabelSampler(blobs((170, 160), 0)), 20, classify=True)
    states = source.kinds_of(3).reshape(-1)
    for i in [*range(len(source)), *range(0, len(source), 3)]:
        assert source.target(0, i).kind == f"grid-{KINDS[states[i]]}"
        assert len(source._row_states) <= 3


def test_several_kinds():
    sampler = LabelSampler(blobs((200, 200), 3))
    rule = TileRule(0.3, 0.05, min_valid=0.9)
    full = GridSource(sampler, 16, classify=rule)
    states = full.kinds_of(3).reshape(-1)
    assert set(states) == {0, 1, 2}
    some = GridSource(sampler, 16, classify=rule, only=["positive", "negative"])
    assert [some.target(0, i).kind for i in range(len(some))] == [f"grid-{KINDS[s]}" for s in states if s]
    copy = pickle.loads(pickle.dumps(some))
    assert [copy.target(0, i) for i in range(len(copy))] == [some.target(0, i) for i in range(len(some))]


def test_no_label_is_read_but_in_noise():
    rng = np.random.default_rng(0)
    smooth = blobs((300, 300), 5)
    sampler = LabelSampler(smooth)
    sampler.foreground  # noqa: B018
    source = GridSource(sampler, 16, 8, only="positive")
    assert len(source) > 0
    assert sampler.reads == 0
    # Noise in one corner, of classes and of what is valid: its cells are read once for each slot, not once a
    # window.
    noisy = smooth.copy()
    noisy[:100, :90] = rng.choice([0, 1, 2, 255], (100, 90))
    sampler = LabelSampler(noisy)
    assert sampler.foreground.count(0, [1], Window(3, 3, 20, 20)) is None
    rule = TileRule(0.4, 0.1, min_valid=0.7)
    source = GridSource(sampler, 16, 2, classify=rule, only=KINDS)
    cells = 4
    assert 0 < sampler.reads <= cells * len([0, 1, 2, 3])
    assert len(source) > 20_000
    for i in range(0, len(source), 211):
        target = source.target(0, i)
        mask = sampler.load_mask(3, target.window)
        kind = expected_kind(mask, rule, [1, 2, 3])
        _, row, column = source.locate(i)
        assert (target.kind, KINDS[source.kinds_of(3)[row, column]]) == (f"grid-{kind}", kind)


def test_with_a_region():
    sampler = LabelSampler(blobs((200, 200), 3))
    mask = np.zeros((2, 2), bool)
    mask[1, 1] = True
    both = GridSource(sampler, 16, where={3: mask}, only="positive")
    alone = GridSource(sampler, 16, only="positive")
    inside = GridSource(sampler, 16, where={3: mask})
    places = [{source.locate(i) for i in range(len(source))} for source in (both, alone, inside)]
    assert places[0] == places[1] & places[2]
    assert 0 < len(both) < min(len(alone), len(inside))


def test_over_a_real_sampler():
    """Polygons with a hole, an annotation without category, and a full-slide annotation."""
    outline = [[(20, 20), (140, 30), (120, 150), (30, 130)], [(60, 60), (60, 100), (100, 100), (100, 60)]]
    part = {"exterior": outline[0], "interiors": outline[1:]}
    manifest = {
        "images": [
            {"id": 1, "file_name": "array://blob", "height": 180, "width": 170},
            {"id": 2, "file_name": "array://full", "height": 50, "width": 60},
        ],
        "categories": [{"id": 1, "name": "tumour"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [part], "bbox": [20, 20, 120, 130]},
            {"id": 2, "image_id": 1, "category_id": None, "bbox": [120, 120, 50, 60]},
            {"id": 3, "image_id": 2, "category_id": 1, "bbox": [0, 0, 60, 50]},
        ],
    }
    arrays = {"blob": np.zeros((180, 170), np.uint8), "full": np.zeros((50, 60), np.uint8)}
    sampler = Sampler(manifest, arrays=arrays)
    rule = TileRule(0.2, 0, min_valid=0.75)
    source = GridSource(sampler, 20, overlap=5, classify=rule)
    found = {}
    for i in range(len(source)):
        target = source.target(0, i)
        mask = sampler.load_mask(target.image_id, target.window)
        assert target.kind == f"grid-{expected_kind(mask, rule, [1])}"
        found.setdefault(target.image_id, set()).add(target.kind)
        if target.window == Window(75, 75, 20, 20):
            assert target.kind == "grid-negative"  # in the hole
    assert found == {1: {"grid-positive", "grid-negative", "grid-ignored"}, 2: {"grid-positive"}}


def test_thresholds_are_met_exactly():
    rule = TileRule(min_foreground=0.07, max_foreground=0.03, min_valid=0.5)
    kinds = {n: rule.kind_of(n, 100, 100) for n in (0, 3, 4, 6, 7, 100)}
    assert kinds == {0: "negative", 3: "negative", 4: "ignored", 6: "ignored", 7: "positive", 100: "positive"}
    assert [rule.kind_of(50, valid, 100) for valid in (49, 50)] == ["ignored", "positive"]
    assert [TileRule().kind_of(n, 100, 100) for n in (0, 1)] == ["negative", "positive"]
    assert [TileRule(min_pixels=3).kind_of(n, 100, 100) for n in (0, 2, 3)] == [
        "negative",
        "ignored",
        "positive",
    ]
    counts = np.arange(101)
    states = rule.states(counts, np.full(101, 100), 100)
    assert [KINDS[state] for state in states] == [rule.kind_of(n, 100, 100) for n in counts.tolist()]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"min_foreground": 1.1}, "min_foreground is a share, 0 to 1, got 1.1"),
        ({"max_foreground": -1}, "max_foreground is a share"),
        ({"min_valid": "all"}, "min_valid is a share"),
        ({"min_foreground": 0.1, "max_foreground": 0.2}, "would be positive and negative"),
        ({"min_pixels": 0}, "min_pixels must be a whole number of at least 1, got 0"),
        ({"min_pixels": 1.5}, "min_pixels"),
    ],
)
def test_impossible_rules(values, message):
    with pytest.raises(TargetError, match=message):
        TileRule(**values)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"only": "tumour"}, "only must be one or several of positive, negative, ignored, got 'tumour'"),
        ({"only": []}, "only must be"),
        ({"classify": TileRule(categories="tumor")}, "did you mean 'tumour'"),
        ({"classify": TileRule(categories="background")}, "background"),
    ],
)
def test_impossible_choices(options, message):
    with pytest.raises(TargetError, match=message):
        GridSource(RectangleSampler(images=2), 32, **options)


def test_kinds_need_a_rule():
    with pytest.raises(TargetError, match="make it with classify"):
        GridSource(RectangleSampler(images=2), 32).kinds_of(3)
    assert GridSource(RectangleSampler(images=2), 32, classify=False).target(0, 0).kind == "grid"
