import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from slidesampler.testing import make_slide

DEMO = Path(__file__).resolve().parents[2] / "scripts" / "demo.py"


def run_demo(*arguments):
    return subprocess.run(
        [sys.executable, str(DEMO), "--jobs", "1", "--windows", "40", *map(str, arguments)],
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_synthetic_slides(tmp_path):
    done = run_demo("--out", tmp_path, "--size", 1100)
    assert done.returncode == 0, done.stderr
    assert "40 of 40 windows are equal" in done.stdout
    for backend in ("source", "cog", "npy"):
        assert any(line.startswith(backend) and "windows/s" in line for line in done.stdout.splitlines())
    picture = cv2.imread(str(tmp_path / "contact_sheet.png"))
    assert min(picture.shape[:2]) > 1000
    # Outlines of the first two classes are there, in colours that no tissue has.
    for blue, green, red in ((0, 225, 255), (46, 255, 49)):
        assert (np.abs(picture.astype(int) - (blue, green, red)).max(axis=2) < 12).sum() > 300
    assert not list(tmp_path.rglob("*.partial*"))


@pytest.mark.slow
def test_own_slides_of_any_kind(tmp_path):
    large = make_slide(tmp_path / "large.tif", 700, 900).path
    small, bad = tmp_path / "small.png", tmp_path / "bad.svs"
    cv2.imwrite(str(small), np.full((90, 80), 130, np.uint8))
    bad.write_text("no slide")
    done = run_demo("--out", tmp_path / "out", large, small, bad)
    # The bad one is reported, the others are sampled.
    assert done.returncode == 1, done.stderr
    assert str(bad) in done.stderr
    assert "40 of 40 windows are equal" in done.stdout
    assert (tmp_path / "out" / "contact_sheet.png").stat().st_size > 10_000


def test_a_missing_slide_is_said(tmp_path):
    done = run_demo("--out", tmp_path, tmp_path / "nowhere.svs")
    assert done.returncode == 2
    assert "nowhere.svs" in done.stderr
    assert "Traceback" not in done.stderr


def test_windows_are_drawn_where_there_is_tissue(tmp_path):
    import importlib.util

    spec = importlib.util.spec_from_file_location("demo", DEMO)
    demo = importlib.util.module_from_spec(spec)
    sys.modules["demo"] = demo
    try:
        spec.loader.exec_module(demo)
        pixels = np.full((2000, 3000, 3), 240, np.uint8)
        pixels[800:1400, 1500:2200] = (200, 90, 160)
        pixels[:100] = 0  # a black border is no tissue
        sampler = demo.Sampler({"images": [{"id": 7, "file_name": "array://demo"}]}, arrays={"demo": pixels})
        targets = demo.tissue_targets(sampler, [7], 50)
    finally:
        del sys.modules["demo"]
    assert len(targets) == 50
    for target in targets:
        assert target.window.shape == (256, 256)
        cy, cx = target.window.center
        assert 795 <= cy <= 1405
        assert 1495 <= cx <= 2205
