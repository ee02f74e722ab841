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
    assert (tmp_path / "report" / "report.html").stat().st_size > 100_000
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


def test_own_slides_are_sampled_where_there_is_tissue(tmp_path):
    """Of a slide that is mostly glass, with a black border."""
    pixels = np.full((2000, 3000, 3), 240, np.uint8)
    pixels[800:1400, 1500:2200] = (160, 90, 200)
    pixels[:100] = 0
    cv2.imwrite(str(tmp_path / "slide.png"), pixels)
    done = run_demo("--out", tmp_path / "out", tmp_path / "slide.png")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "out" / "report" / "report.html").read_text()
    assert "40 windows" in page
    picture = cv2.imread(str(tmp_path / "out" / "contact_sheet.png")).astype(int)
    stained = (np.abs(picture - (160, 90, 200)).max(axis=2) < 12).mean()
    # Windows that begin inside the tissue's rectangle show more of it than of anything else.
    assert stained > 0.4
