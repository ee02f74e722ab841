"""How many functions Python calls for a window, which is what a window costs besides its pixels.

Not timed: the calls are counted, a second time, when everything is open. The bounds leave room for a function
or two, not for another layer.
"""

from __future__ import annotations

import gc
import sys

import numpy as np
import pytest

from slidesampler import Sampler, Target, Window, _native

pytestmark = pytest.mark.skipif(_native.tiles is None, reason="without it windows go another way")

WINDOWS = [Window(y, x, 32, 32) for y in (0, 8, 64, 96) for x in (0, 30, 60, 90)]


@pytest.fixture
def sampler(tmp_path):
    """A .npy slide with a label layer."""
    pixels = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
    np.save(tmp_path / "slide.npy", pixels)
    manifest = {
        "categories": [{"id": 1, "name": "tumour"}],
        "images": [{"id": 1, "file_name": str(tmp_path / "slide.npy")}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 20, 60, 70]}],
    }
    sampler = Sampler(manifest, workdir=tmp_path / "cache", backend="npy")
    assert not sampler.build().failed
    return sampler


def calls(work) -> int:
    """Return how many Python functions the second call of ``work`` calls, itself not counted."""
    work()
    found = []

    def note(frame, event, _argument):
        if event == "call":
            found.append(frame.f_code.co_name)

    gc.disable()
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
        gc.enable()
    return len(found) - 1


def targets(windows):
    return [Target(image_id=1, window=window) for window in windows]


def test_a_sample(sampler):
    (target,) = targets(WINDOWS[5:6])
    assert calls(lambda: sampler.load_sample(target, with_annots=False, with_mask=False)) <= 40


def test_a_sample_with_its_mask(sampler):
    (target,) = targets(WINDOWS[5:6])
    assert calls(lambda: sampler.load_sample(target, with_annots=False)) <= 60


def test_a_window_given_as_a_mapping(sampler):
    """As code that reads windows of its own choice does."""
    mapping = {"image_id": 1, "cx": 40, "cy": 50, "width": 32, "height": 32}
    assert calls(lambda: sampler.load_sample(mapping, with_annots=False, with_mask=False)) <= 82


@pytest.mark.parametrize(("with_mask", "bound"), [(False, 130), (True, 165)])
def test_a_batch(sampler, with_mask, bound):
    """A window more costs little, whatever it costs to begin."""
    few, many = (
        calls(lambda some=some: sampler.load_batch(some, threads=1, with_mask=with_mask))
        for some in (targets(WINDOWS[:4]), targets(WINDOWS))
    )
    assert (many - few) / 12 <= 12
    assert few <= bound
