"""Samplers with a few images of chosen boxes, and how counts are compared with what is expected."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

import numpy as np

from slidesampler.shapes import Shapes
from slidesampler.testing.source_contract import RectangleSampler

#: Probability of a false alarm: the seeds are fixed, so a test either always passes or never.
CRITICAL_SIGMA = 4.0


class BoxSampler(RectangleSampler):
    """One image per list of (category, box), ids 3, 10, 17 ...; annotation ids count up from 1000.

    Images are 400 x 500 pixels unless ``sizes`` says otherwise, and of no group unless ``groups`` does.
    """

    def __init__(self, *images, sizes=None, groups=None):
        super().__init__(images=len(images))
        self.boxes = images
        self.sizes = sizes or [(400, 500)] * len(images)
        self.groups = groups or [None] * len(images)

    def __getstate__(self):
        return {name: value for name, value in vars(self).items() if name != "foreground"}

    @cached_property
    def foreground(self):
        return self.index_masks()

    def image_record(self, image_id):
        return replace(super().image_record(image_id), group=self.groups[self._position(image_id)])

    @property
    def _sizes(self):
        return np.array(self.sizes)

    @property
    def _stops(self):
        return np.cumsum([len(boxes) for boxes in self.boxes])

    @property
    def _shapes(self):
        flat = [annot for boxes in self.boxes for annot in boxes]
        n = len(flat)
        return replace(
            Shapes.empty(),
            annot_ids=1000 + np.arange(n),
            category_ids=np.array([category for category, _ in flat], np.int64),
            kinds=np.full(n, 2, np.uint8),
            boxes_xyxy=np.array([box for _, box in flat], float).reshape(n, 4),
            areas=np.ones(n),
            rle_heights=np.zeros(n, np.int64),
            **{name: np.zeros(n + 1, np.int64) for name in ("annot_parts", "annot_runs", "annot_keypoints")},
        )


def targets_of(source, epochs=(0,)):
    return [source.target(epoch, index) for epoch in epochs for index in range(len(source))]


def chi_square(counts, expected):
    counts, expected = np.asarray(counts, float), np.asarray(expected, float)
    return float(((counts - expected) ** 2 / expected).sum())


def is_plausible(counts, expected):
    """Whether chi-square is within 4 sigma of its mean (mean k - 1, variance 2 (k - 1))."""
    freedom = len(counts) - 1
    return chi_square(counts, expected) <= freedom + CRITICAL_SIGMA * (2 * freedom) ** 0.5


def follows(drawn, shares):
    """Whether things were drawn in proportion to ``shares``, and nothing else was."""
    drawn = list(drawn)
    total = sum(shares.values())
    if not set(drawn) <= {key for key, share in shares.items() if share}:
        return False
    counts = {key: drawn.count(key) for key, share in shares.items() if share}
    return is_plausible(list(counts.values()), [len(drawn) * shares[key] / total for key in counts])
