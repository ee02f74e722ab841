"""What ``import slidesampler`` gives, and what it does not need for that."""

from __future__ import annotations

import ast
import builtins
import importlib
import pickle
import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

import slidesampler
from slidesampler import errors

ROOT = Path(__file__).resolve().parents[1]

#: The public surface. A change here is a change for users: it belongs in the changelog.
PUBLIC = [
    "Annots",
    "BalancedSource",
    "Batch",
    "BuildError",
    "BuildSpec",
    "CacheEntry",
    "CacheError",
    "CacheMissError",
    "ClassMap",
    "CodecError",
    "CorruptEntryError",
    "CoverageSource",
    "FixedSource",
    "GridSource",
    "ImageMajorTiles",
    "ImageRecord",
    "LabelSpec",
    "Manifest",
    "ManifestError",
    "MissingDependencyError",
    "MixtureSource",
    "NegativeSource",
    "NegativesExhaustedError",
    "Padding",
    "PositiveSource",
    "RandomTilePerImage",
    "ReadError",
    "RejectionSource",
    "RestrictedSource",
    "Sample",
    "SampleLog",
    "Sampler",
    "SamplingError",
    "SlideSamplerError",
    "SourceMissingError",
    "StaleEntryError",
    "Target",
    "TargetError",
    "TileMajorTiles",
    "TileRule",
    "UnknownKeyError",
    "UnsupportedSourceError",
    "WeightedSource",
    "Window",
    "__version__",
    "check_split",
    "dataset_statistics",
    "freeze",
    "k_folds",
    "read_log",
    "rng_for",
    "save_maps",
    "split_as_given",
    "split_by_class",
    "split_by_group",
    "split_by_region",
]

ERRORS = [getattr(errors, name) for name in errors.__all__]


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_all_is_the_sorted_public_surface() -> None:
    assert slidesampler.__all__ == sorted(slidesampler.__all__)
    assert slidesampler.__all__ == PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    value = getattr(slidesampler, name)
    if name != "__version__":
        assert value.__doc__
        assert value.__module__.startswith("slidesampler.")


def test_names_are_imported_once_and_listed() -> None:
    assert slidesampler.Window is slidesampler.Window
    assert set(PUBLIC) | {"torch", "testing", "doctor"} <= set(dir(slidesampler))


def test_type_checkers_see_the_names_that_users_get() -> None:
    tree = ast.parse((ROOT / "slidesampler" / "__init__.py").read_text(encoding="utf-8"))
    guard = next(node for node in tree.body if isinstance(node, ast.If))
    homes = {
        alias.name: node.module
        for node in guard.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert set(homes) == set(PUBLIC) - {"__version__"}
    for name, home in homes.items():
        assert getattr(importlib.import_module(str(home)), name) is getattr(slidesampler, name)


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Smapler'"):
        _ = slidesampler.Smapler
    assert not hasattr(slidesampler, "cv2")


def test_version_is_the_installed_one() -> None:
    assert version("slidesampler") == slidesampler.__version__
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["dynamic"] == ["version"]


BLOCK = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocked())
"""


def test_importing_needs_neither_gdal_nor_torch_nor_openslide() -> None:
    blocked = {"torch", "osgeo", "openslide", "kwcoco", "kwimage", "shapely", "typer", "rich", "cv2", "dask"}
    result = run_python(
        BLOCK.format(names=blocked)
        + "import slidesampler\n"
        + "print(slidesampler.Window(0, 0, 2, 2), slidesampler.Target(image_id=1).image_id)\n"
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("Window(y=0")


def test_importing_imports_nothing_heavy() -> None:
    result = run_python("import sys, slidesampler; print(*sorted(sys.modules))")
    loaded = set(result.stdout.split())
    assert "slidesampler" in loaded
    assert not loaded & {"torch", "osgeo", "openslide", "numpy", "kwcoco", "typer", "rich", "matplotlib"}


@pytest.mark.parametrize("package", ["osgeo", "openslide", "torch"])
def test_the_main_class_imports_without(package: str) -> None:
    result = run_python(
        BLOCK.format(names={package}) + "import slidesampler; print(slidesampler.Sampler.__name__)"
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == "Sampler\n"


def test_the_torch_room_is_reached_as_an_attribute() -> None:
    assert slidesampler.torch.__name__ == "slidesampler.torch"


def test_without_torch_its_room_says_how_to_get_it() -> None:
    result = run_python(
        BLOCK.format(names={"torch"})
        + "import slidesampler\n"
        + "try:\n    slidesampler.torch.WindowDataset\n"
        + "except slidesampler.MissingDependencyError as error:\n    print(error)\n"
    )
    assert result.returncode == 0, result.stderr
    assert re.search(r"pip install .*torch", result.stdout)


@pytest.mark.parametrize("cls", ERRORS, ids=lambda cls: cls.__name__)
def test_every_error_is_ours_and_a_builtin(cls: type[Exception]) -> None:
    assert issubclass(cls, errors.SlideSamplerError)
    if cls is not errors.SlideSamplerError:
        foreign = [
            base
            for base in cls.__mro__
            if base.__module__ == "builtins" and base not in (object, BaseException, Exception)
        ]
        assert foreign
        assert all(getattr(builtins, base.__name__) is base for base in foreign)


@pytest.mark.parametrize("cls", ERRORS, ids=lambda cls: cls.__name__)
def test_every_error_survives_pickling_with_its_attributes(cls: type[Exception]) -> None:
    error = cls("asked, found, do this")
    attributes = {name: index + 1 for index, name in enumerate(vars(error))}
    vars(error).update(attributes)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is cls
    assert str(again) == str(error) == "asked, found, do this"
    assert again.args == error.args
    assert vars(again) == attributes


def test_the_error_tree_in_the_docstring_is_the_real_one() -> None:
    drawn = re.findall(r"(\w+Error)\b(?: +\((\w+)\))?", (errors.__doc__ or "").partition("::")[2])
    assert {name for name, _ in drawn} == set(errors.__all__)
    for name, builtin in drawn:
        if builtin:
            assert issubclass(getattr(errors, name), getattr(builtins, builtin))
