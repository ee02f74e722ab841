"""What importing the torch room does to a fresh process."""

from __future__ import annotations

import subprocess
import sys

import pytest


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_gdal_is_loaded_before_torch():
    pytest.importorskip("osgeo")
    code = """
import sys
import slidesampler.torch
names = list(sys.modules)
print(names.index("osgeo") < names.index("torch"), sys.modules["torch"].__file__ != slidesampler.torch.__file__)
"""
    assert run(code) == ["True", "True"]


def test_works_without_gdal():
    code = """
import sys
sys.modules["osgeo"] = None
import slidesampler.torch
print(slidesampler.torch.WindowDataset.__name__)
"""
    assert run(code) == ["WindowDataset"]


def test_without_torch_the_error_is_the_command_that_installs_it():
    code = """
import sys
sys.modules["torch"] = None
import slidesampler
try:
    slidesampler.torch
except slidesampler.MissingDependencyError as error:
    print("slidesampler[torch]" in str(error), isinstance(error, ImportError))
"""
    assert run(code) == ["True", "True"]


def test_sources_need_no_torch():
    code = """
import sys
sys.modules["torch"] = None
from slidesampler.sampling import FixedSource
print(len(FixedSource([{"image_id": 1}])))
"""
    assert run(code) == ["1"]
