"""The pictures of the docs: there, small, and each made by the script."""

import importlib.util
import re
from pathlib import Path

import cv2
import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "sampling"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("draw_sources", ROOT / "scripts" / "draw_sources.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_picture_is_made_by_the_script(script):
    assert {path.stem for path in (FOLDER / "img").glob("*.png")} == set(script.PICTURES)


def test_pictures_are_small_and_can_be_read(script):
    for path in sorted((FOLDER / "img").glob("*.png")):
        assert path.stat().st_size <= script.LIMIT, path.name
        assert cv2.imread(str(path)).shape[1] <= 1200, path.name


def test_pages_name_pictures_that_are_there():
    for page in sorted(FOLDER.glob("*.md")):
        for name in re.findall(r"\]\((img/[^)]+)\)", page.read_text(encoding="utf-8")):
            assert (FOLDER / name).is_file(), f"{page.name}: {name}"


def test_an_unknown_picture_is_refused(script, capsys):
    with pytest.raises(SystemExit) as stopped:
        script.main(["lottery"])
    assert stopped.value.code == 2
    assert "lottery" in capsys.readouterr().err
