"""Small slides and the command line run in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner, Result

from slidesampler.cli.app import app


@pytest.fixture
def run() -> Callable[..., Result]:
    """Run a command; standard output and standard error are kept apart."""
    runner = CliRunner()

    def call(*arguments: object, env: dict[str, str] | None = None) -> Result:
        return runner.invoke(app, [str(argument) for argument in arguments], env=env)

    return call


@pytest.fixture
def slides(tmp_path: Path) -> Path:
    """A manifest of three images, a to c; b has no size in it, c no annotations. None is a COG already."""
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        pixels = rng.integers(0, 256, (300, 400, 3), dtype=np.uint8)
        tifffile.imwrite(tmp_path / f"{name}.tif", pixels, photometric="rgb")
    manifest = {
        "info": [],
        "categories": [{"id": 1, "name": "tumour"}],
        "images": [
            {"id": 1, "file_name": "a.tif", "height": 300, "width": 400},
            {"id": 2, "file_name": "b.tif"},
            {"id": -3, "file_name": "c.tif", "height": 300, "width": 400},
        ],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 20, 30, 40]},
            {"id": 2, "image_id": 2, "category_id": 1, "bbox": [0, 0, 5, 5]},
        ],
    }
    path = tmp_path / "slides.kwcoco.json"
    path.write_text(json.dumps(manifest))
    return path
