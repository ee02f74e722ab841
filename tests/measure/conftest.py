"""Small slides."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from slidesampler.manifest import Manifest

HEIGHT, WIDTH = 300, 400


@pytest.fixture
def manifest_path(tmp_path: Path) -> Path:
    """Two images of 300 x 400: glass, with one patch of noise each."""
    rng = np.random.default_rng(0)
    images = []
    for number, name in enumerate(("a", "b"), 1):
        pixels = np.full((HEIGHT, WIDTH, 3), 240, np.uint8)
        pixels[200:280, 280:380] = rng.integers(0, 256, (80, 100, 3))
        np.save(tmp_path / f"{name}.npy", pixels)
        images.append({"id": number, "file_name": f"{name}.npy", "height": HEIGHT, "width": WIDTH})
    data = {
        "images": images,
        "categories": [{"id": 4, "name": "tumour"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 4, "bbox": [290, 210, 40, 30]}],
    }
    path = tmp_path / "slides.kwcoco.json"
    path.write_text(json.dumps(data))
    return path


@pytest.fixture
def manifest(manifest_path: Path) -> Manifest:
    return Manifest.load(manifest_path)
