"""The questions that scripts/setup asks of an interpreter."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

PROBE = Path(__file__).resolve().parents[2] / "scripts" / "_probe.py"


@pytest.fixture
def probe():
    spec = importlib.util.spec_from_file_location("setup_probe", PROBE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def ask(*question, path=None):
    environment = {} if path is None else {"PYTHONPATH": str(path)}
    return subprocess.run(
        [sys.executable, str(PROBE), *question], env=environment, capture_output=True, text=True, check=False
    )


def test_this_gdal_works():
    result = ask("gdal")
    assert result.returncode == 0, result.stderr
    assert result.stdout[0].isdigit()


def test_a_gdal_without_arrays_does_not(tmp_path):
    # What an isolated build leaves behind: the binding, without the extension that knows numpy.
    osgeo = tmp_path / "osgeo"
    osgeo.mkdir()
    (osgeo / "__init__.py").touch()
    (osgeo / "gdal.py").write_text("__version__ = '3.6.2'\n")
    (osgeo / "gdal_array.py").write_text("from osgeo import _gdal_array\n")
    result = ask("gdal", path=tmp_path)
    assert result.returncode == 1
    assert "_gdal_array" in result.stderr


def test_a_gdal_whose_arrays_are_wrong_does_not(tmp_path):
    osgeo = tmp_path / "osgeo"
    osgeo.mkdir()
    (osgeo / "__init__.py").touch()
    (osgeo / "gdal.py").write_text("__version__ = '3.6.2'\n")
    (osgeo / "gdal_array.py").write_text(
        "class OpenArray:\n"
        "    def __init__(self, array): self.array = array\n"
        "    def ReadAsArray(self): return self.array * 0\n"
    )
    result = ask("gdal", path=tmp_path)
    assert result.returncode == 1
    assert "pixels" in result.stderr


@pytest.mark.parametrize(
    ("version", "requires", "answer"),
    [
        ("2.13.0+cpu", ["filelock"], 0),
        ("2.13.0", ["filelock", "sympy"], 0),
        ("2.13.0", ["filelock", 'nvidia-cublas-cu12==12.8; platform_system == "Linux"'], 1),
        ("2.13.0", ["cuda-toolkit==13.0"], 1),
        ("2.13.0+cu130", ["filelock"], 1),
    ],
)
def test_cpu_builds_are_told_from_cuda_builds(tmp_path, version, requires, answer):
    report = tmp_path / "report.json"
    metadata = {"name": "torch", "version": version, "requires_dist": requires}
    report.write_text(json.dumps({"install": [{"metadata": metadata}]}))
    assert ask("cpu-build", str(report)).returncode == answer


def test_two_opencvs_are_found(probe, monkeypatch):
    monkeypatch.setattr(probe, "_version", {"opencv-python": "4", "opencv-python-headless": "4"}.get)
    answer = probe.opencv()
    assert "opencv-python and opencv-python-headless" in answer
    assert "pip uninstall -y opencv-python opencv-python-headless" in answer


def test_one_opencv_is_well(probe, monkeypatch):
    monkeypatch.setattr(probe, "_version", {"opencv-python-headless": "4"}.get)
    assert probe.opencv() == ""


@pytest.mark.parametrize(("found", "well"), [("2.13.0", True), ("2.13.0+cpu", True), ("2.12.1", False)])
def test_torch_is_the_pinned_one_whatever_its_build(probe, monkeypatch, found, well):
    monkeypatch.setattr(probe, "_version", {"torch": found}.get)
    assert (probe.torch_is("torch==2.13.0") == "") is well


def test_this_environment_imports():
    result = ask("imports")
    assert result.returncode == 0, result.stderr
