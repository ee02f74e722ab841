"""A painted slide or two, windows on them, and a summary counted pixel by pixel."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from slidesampler.geometry import Window
from slidesampler.sampler import Sampler
from slidesampler.sampling.statistics import (
    ClassServed,
    Coverage,
    ImageServed,
    KindServed,
    Region,
    SampleSummary,
)
from slidesampler.target import Target

CELL = 64


def count_coverage(windows, size, cell=CELL):
    """Count how often each pixel is in a window, one by one, and return the mean of each cell."""
    height, width = size
    seen = np.zeros(size, np.int64)
    for window in windows:
        inside = window.intersect(Window(0, 0, height, width))
        if inside is not None:
            seen[inside.as_slices()] += 1
    rows, columns = -(-height // cell), -(-width // cell)
    return np.array(
        [
            [seen[r * cell : (r + 1) * cell, c * cell : (c + 1) * cell].mean() for c in range(columns)]
            for r in range(rows)
        ],
        np.float32,
    )


def make_coverage(windows, size, interest=None, under=(), over=()):
    seen = count_coverage(windows, size)
    interest = np.ones(seen.shape, np.float32) if interest is None else interest
    mean = np.float32((seen * interest).sum() / max(interest.sum(), 1e-9))
    return Coverage(CELL, seen, interest, np.where(interest > 0, mean, 0).astype(np.float32), under, over)


def count_summary(sampler, targets, asked=None, tries=()):
    """Return a summary of targets, counted by brute force."""
    asked = asked or {}
    n = max(len(targets), 1)
    names = sampler.class_map.names
    kinds = Counter(target.kind or "" for target in targets)
    chosen = Counter(
        sampler.class_map.index_of(target.category_id) for target in targets if target.category_id is not None
    )
    images = []
    for image_id in sampler.image_ids:
        mine = [target for target in targets if target.image_id == image_id]
        size = sampler.image_shape(image_id)[:2]
        under = (Region(Window(0, 0, 64, 64), 1, 0.1, 1.0),) if mine else ()
        images.append(
            ImageServed(
                image_id,
                sampler.image_record(image_id).name,
                *size,
                len(mine),
                len(mine) / n,
                asked.get(image_id),
                1 / len(sampler.image_ids),
                Counter(target.kind or "" for target in mine),
                Counter(
                    sampler.class_map.index_of(target.category_id)
                    for target in mine
                    if target.category_id is not None
                ),
                0.5 if mine else 0.0,
                make_coverage([target.window for target in mine], size, under=under) if mine else None,
                1 / len(sampler.image_ids),
            )
        )
    return SampleSummary(
        len(targets),
        tuple(KindServed(kind, count, count / n, asked.get(kind)) for kind, count in kinds.most_common()),
        tuple(
            ClassServed(
                index,
                names[index],
                chosen[index],
                chosen[index] / max(chosen.total(), 1),
                asked.get(names[index]),
                None,
                None,
                None,
                None,
                0.5,
            )
            for index in range(1, len(names))
        ),
        tuple(images),
        tuple(tries),
        0,
        seed=3,
        epochs=(0,),
    )


def make_sampler(names=("a", "b"), categories=("tumour", "necrosis"), size=(400, 600), prefix="report"):
    """Return a sampler of pink slides in memory, each with a square of each category."""
    arrays, images, annotations = {}, [], []
    for number, name in enumerate(names, start=1):
        pixels = np.zeros((*size, 3), np.uint8)
        pixels[:] = (230, 120 + 10 * number % 90, 200)
        pixels[:, : size[1] // 2, 2] = 150
        arrays[f"{prefix}-{number}"] = pixels
        images.append(
            {
                "id": number,
                "name": name,
                "file_name": f"array://{prefix}-{number}",
                "height": size[0],
                "width": size[1],
            }
        )
        for at in range(len(categories)):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": at + 1,
                    "bbox": [40 + 150 * at, 60, 100, 120],
                }
            )
    return Sampler(
        {
            "categories": [{"id": at + 1, "name": name} for at, name in enumerate(categories)],
            "images": images,
            "annotations": annotations,
        },
        arrays=arrays,
    )


def make_targets(sampler, n=60, size=100, seed=0):
    """Return windows at random places, a third of them called positive."""
    rng = np.random.default_rng(seed)
    targets = []
    for index in range(n):
        image_id = int(rng.choice(sampler.image_ids))
        height, width = sampler.image_shape(image_id)[:2]
        y, x = int(rng.integers(height - size + 1)), int(rng.integers(width - size + 1))
        positive = index % 3 == 0
        targets.append(
            Target(
                image_id=image_id,
                window=Window(y, x, size, size),
                kind="positive" if positive else "negative",
                category_id=1 + index % 2 if positive else None,
                index=index,
            )
        )
    return targets


@pytest.fixture(scope="session")
def brute():
    """What the tests count by."""

    class Brute:
        coverage = staticmethod(make_coverage)
        seen = staticmethod(count_coverage)
        summary = staticmethod(count_summary)
        sampler = staticmethod(make_sampler)
        targets = staticmethod(make_targets)

    return Brute
