"""Questions that scripts/setup asks of an interpreter: ``python scripts/_probe.py QUESTION``.

Exit status 0 means yes; a no says why on standard error. Standard library only, because it also runs in an
interpreter that has nothing installed yet.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import platform
import shlex
import sys
import sysconfig
from pathlib import Path

OPENCV = (
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
)
#: What the package imports, in an order that works: osgeo before torch, since both bring a libstdc++.
IMPORTS = (
    "osgeo.gdal_array",
    "numpy",
    "shapely",
    "cv2",
    "openslide",
    "tifffile",
    "filelock",
    "typer",
    "kwimage",
    "kwcoco",
    "torch",
    "pytest",
    "hypothesis",
    "xdist",
)


def gdal() -> str:
    """Whether osgeo is there and can hand over arrays, which a binding built without numpy cannot."""
    try:
        from osgeo import gdal, gdal_array
    except ImportError as error:
        return f"from osgeo import gdal_array: {error}"
    import numpy

    pixels = numpy.arange(6, dtype="u1").reshape(2, 3)
    # A real exchange in both directions: an extension built for another numpy imports and then fails.
    if not numpy.array_equal(gdal_array.OpenArray(pixels).ReadAsArray(), pixels):
        return "gdal_array does not return the pixels it was given"
    print(gdal.__version__)
    return ""


def header() -> str:
    """Whether the C headers of this interpreter are there."""
    path = Path(sysconfig.get_path("include")) / "Python.h"
    return "" if path.is_file() else f"{path} is not there"


def venv() -> str:
    """Whether this interpreter can make virtual environments with pip in them."""
    try:
        importlib.import_module("venv")
        importlib.import_module("ensurepip")
    except ImportError as error:
        return str(error)
    return ""


def describe() -> str:
    """Print what distinguishes this interpreter from another one."""
    print(platform.python_version(), sys.implementation.cache_tag, platform.machine(), sys.base_prefix)
    return ""


def versions() -> str:
    """Print the versions that matter, in one line."""
    names = ("slidesampler", "GDAL", "numpy", "torch")
    print(", ".join(f"{name} {_version(name)}" for name in names), f"(Python {platform.python_version()})")
    return ""


def opencv() -> str:
    """Whether at most one OpenCV is installed: two share the folder cv2 and break each other."""
    found = [name for name in OPENCV if _version(name)]
    if len(found) < 2:
        return ""
    python = shlex.quote(sys.executable)
    return (
        f"{' and '.join(found)} are all installed and overwrite each other's files; run\n"
        f"  {python} -m pip uninstall -y {' '.join(found)}\n"
        f"  {python} -m pip install opencv-python-headless"
    )


def imports() -> str:
    """Whether everything imports, and the package from this checkout."""
    for name in IMPORTS:
        try:
            importlib.import_module(name)
        except ImportError as error:
            return f"import {name}: {error}"
    package = importlib.import_module("slidesampler")
    root = Path(__file__).resolve().parent.parent
    if not Path(str(package.__file__)).resolve().is_relative_to(root):
        return f"slidesampler is imported from {package.__file__}, not from {root}"
    return ""


def torch_is(pin: str) -> str:
    """Whether torch of the pinned version is installed, whatever its build (2.13.0+cpu is 2.13.0)."""
    found = _version("torch")
    wanted = pin.partition("==")[2]
    if found is not None and found.partition("+")[0] == wanted:
        return ""
    return f"torch {found or 'is not installed'}, wanted {wanted}"


def cpu_build(report: str) -> str:
    """Whether the torch of a ``pip install --dry-run --report`` file is a build without CUDA."""
    for item in json.loads(Path(report).read_text(encoding="utf-8"))["install"]:
        metadata = item["metadata"]
        if metadata["name"] != "torch":
            continue
        # A build says what it is for in its version; one of the public index only by what it needs.
        cuda = ("nvidia", "cuda", "triton")
        needs = [line for line in metadata.get("requires_dist", []) if line.startswith(cuda)]
        local = metadata["version"].partition("+")[2]
        if local == "cpu" or (not local and not needs):
            return ""
        return f"torch {metadata['version']} brings CUDA"
    return f"{report}: pip would install no torch"


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def main(argv: list[str]) -> int:
    """Answer one question."""
    questions = {
        "gdal": gdal,
        "header": header,
        "venv": venv,
        "describe": describe,
        "versions": versions,
        "opencv": opencv,
        "imports": imports,
        "torch-is": torch_is,
        "cpu-build": cpu_build,
    }
    answer = questions[argv[0]](*argv[1:])
    if answer:
        print(answer, file=sys.stderr)
    return 1 if answer else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
