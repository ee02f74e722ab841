"""What this machine has of what slidesampler needs, and how to mend what is missing.

Each library is looked at in a process of its own: one that crashes while it is imported, which is how a GDAL
and a libgdal that do not match show themselves, is a finding here and not the end of the report. Nothing here
needs GDAL, OpenSlide or torch to be installed.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from slidesampler import __version__

__all__ = ["Finding", "diagnose", "is_fit"]

Status = Literal["ok", "missing", "wrong"]

#: A library that has not answered by then hangs. torch on a cold network disk takes tens of seconds.
PROBE_SECONDS = 120
#: Less free disk than this does not hold the cache of one large slide.
LOW_DISK_BYTES = 2 * 2**30
#: A sampler keeps up to 32 images open a process, each of up to a dozen files; macOS starts with 256.
LOW_OPEN_FILES = 1024

#: All of these install a folder named cv2, the last one over the others.
OPENCV = (
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
    "opencv-python",
    "opencv-python-headless",
)

MEND_TORCH = "pip install 'slidesampler[torch]'"
MEND_GDAL_CONDA = "conda install -c conda-forge gdal"


@dataclass(frozen=True, slots=True)
class Finding:
    """One fact about this machine.

    Parameters
    ----------
    name : str
        What was looked at.
    status : {"ok", "missing", "wrong"}
    value : str
        What was found: a version, a path, or what is wrong with it.
    mend : str
        The command or step that puts it right; empty where nothing has to be.
    needed : bool
        Whether slidesampler's main job stops without it. torch, for example, only some people need.
    """

    name: str
    status: Status
    value: str
    mend: str = ""
    needed: bool = True


def diagnose(workdir: str | os.PathLike[str] | None = None) -> list[Finding]:
    """Return what this machine has, in the order in which a person would look for a fault.

    Parameters
    ----------
    workdir : path, optional
        A cache whose disk is looked at too.

    Examples
    --------
    >>> [finding.name for finding in diagnose()][:3]
    ['Python', 'slidesampler', 'dependencies']
    """
    return [
        _python(),
        Finding("slidesampler", "ok", f"{__version__} in {Path(__file__).parent}"),
        _dependencies(),
        *_gdal(),
        _openslide(),
        _opencv(),
        *_torch(),
        _compiled_core(),
        *_disk(workdir),
        _open_files(),
    ]


def is_fit(findings: list[Finding]) -> bool:
    """Return whether everything that the main job needs is there and works."""
    return all(finding.status == "ok" for finding in findings if finding.needed)


def _python() -> Finding:
    value = f"{platform.python_version()} in {sys.prefix} ({platform.system()} {platform.machine()})"
    return Finding("Python", "ok", value)


def _dependencies() -> Finding:
    try:
        lines = importlib.metadata.requires("slidesampler") or []
    except importlib.metadata.PackageNotFoundError:
        return Finding(
            "dependencies",
            "wrong",
            "slidesampler is imported from a folder and not installed",
            _pip("slidesampler"),
        )
    names = [re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in lines if "extra ==" not in line]
    absent = [name for name in names if _version(name) is None]
    if absent:
        return Finding("dependencies", "missing", ", ".join(absent), _pip(*absent))
    shown = ("numpy", "kwcoco", "kwimage", "shapely", "tifffile")
    return Finding("dependencies", "ok", ", ".join(f"{name} {_version(name)}" for name in shown))


# GDAL -------------------------------------------------------------------------------------------------------

_GDAL_PROBE = """
from osgeo import gdal
facts["binding"] = gdal.__version__
facts["library"] = gdal.VersionInfo("RELEASE_NAME")
try:
    import numpy
    from osgeo import gdal_array
    pixels = numpy.arange(6, dtype="u1").reshape(2, 3)
    same = numpy.array_equal(gdal_array.OpenArray(pixels).ReadAsArray(), pixels)
    facts["arrays"] = "" if same else "it does not return the pixels it was given"
except ImportError as error:
    facts["arrays"] = str(error)
else:
    from slidesampler.cache.codecs import cog_codecs
    facts["codecs"] = list(cog_codecs())
"""


def _gdal() -> list[Finding]:
    facts, problem = _probe(_GDAL_PROBE)
    if "binding" not in facts:
        status: Status = "missing" if importlib.util.find_spec("osgeo") is None else "wrong"
        return [Finding("GDAL", status, problem, _mend_gdal())]
    binding, library = facts["binding"], facts["library"]
    if binding.split(".")[:2] != library.split(".")[:2]:
        value = f"the binding is {binding}, libgdal is {library}"
        return [Finding("GDAL", "wrong", value, _mend_gdal())]
    found = [Finding("GDAL", "ok", f"{binding} (libgdal {library})")]
    if facts.get("arrays", problem):
        return [*found, Finding("gdal_array", "wrong", facts.get("arrays", problem), _mend_gdal())]
    found.append(Finding("gdal_array", "ok", "exchanges arrays with numpy"))
    codecs = facts.get("codecs")
    if codecs is None:
        return [*found, Finding("COG codecs", "wrong", problem, _mend_gdal())]
    if not codecs:
        value = "this GDAL has no COG driver"
        return [*found, Finding("COG codecs", "missing", value, f"use GDAL 3.4 or newer: {MEND_GDAL_CONDA}")]
    return [*found, Finding("COG codecs", "ok", ", ".join(codecs))]


def _mend_gdal() -> str:
    """Return what gets a working GDAL on this machine."""
    if (Path(sys.prefix) / "conda-meta").is_dir():
        return MEND_GDAL_CONDA
    config = shutil.which("gdal-config")
    if config is None:
        if shutil.which("apt-get"):
            return "scripts/setup in a checkout, or: apt-get install libgdal-dev, and slidesampler doctor again"
        return MEND_GDAL_CONDA
    version = subprocess.run([config, "--version"], capture_output=True, text=True, check=False).stdout.strip()  # noqa: S603
    # As scripts/setup does it; the reasons for each option are there.
    options = "--no-build-isolation --no-cache-dir --no-binary GDAL --no-deps --force-reinstall"
    return f"{_pip('setuptools', 'wheel', 'numpy')} && {_pip()} {options} 'GDAL=={version}.*'"


# Other libraries --------------------------------------------------------------------------------------------


def _openslide() -> Finding:
    facts, problem = _probe(
        "import openslide\n"
        "facts['python'] = openslide.__version__\n"
        "facts['library'] = openslide.__library_version__\n"
    )
    if "library" not in facts:
        absent = importlib.util.find_spec("openslide") is None
        mend = _pip("openslide-python", "openslide-bin")
        return Finding("OpenSlide", "missing" if absent else "wrong", problem, mend)
    return Finding("OpenSlide", "ok", f"{facts['library']} (openslide-python {facts['python']})")


def _opencv() -> Finding:
    found = [name for name in OPENCV if _version(name) is not None]
    if len(found) > 1:
        value = f"{' and '.join(found)} overwrite each other's files"
        python = shlex.quote(sys.executable)
        mend = f"{python} -m pip uninstall -y {' '.join(found)} && {_pip('opencv-python-headless')}"
        return Finding("OpenCV", "wrong", value, mend)
    if not found:
        return Finding("OpenCV", "missing", "no OpenCV is installed", _pip("opencv-python-headless"))
    return Finding("OpenCV", "ok", f"{_version(found[0])} ({found[0]})")


def _torch() -> list[Finding]:
    if importlib.util.find_spec("torch") is None:
        value = "not installed; only slidesampler.torch needs it"
        return [Finding("torch", "missing", value, MEND_TORCH, needed=False)]
    facts, problem = _probe(
        # GDAL and torch both bring a C++ runtime; the order that works is this one.
        "try:\n    from osgeo import gdal\nexcept ImportError:\n    pass\n"
        "import torch\n"
        "facts['version'] = torch.__version__\n"
        "facts['cuda'] = torch.version.cuda\n"
        "facts['devices'] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]\n"
    )
    if "version" not in facts:
        return [Finding("torch", "wrong", problem, MEND_TORCH, needed=False)]
    found = [Finding("torch", "ok", facts["version"], needed=False)]
    devices = facts.get("devices", [])
    if devices:
        return [*found, Finding("CUDA", "ok", f"{facts['cuda']}: {', '.join(devices)}", needed=False)]
    if shutil.which("nvidia-smi"):
        value = f"there is an NVIDIA driver, and torch (built for {facts.get('cuda') or 'CPU'}) sees no device"
        mend = "install a torch that matches the driver: https://pytorch.org/get-started/locally"
        return [*found, Finding("CUDA", "wrong", value, mend, needed=False)]
    return [*found, Finding("CUDA", "missing", "no NVIDIA driver; torch uses the CPU", needed=False)]


def _compiled_core() -> Finding:
    facts, problem = _probe("import slidesampler._native as it\nfacts['missing'] = it.missing_because\n")
    if problem:
        mend = "build it again: scripts/setup --force"
        return Finding("compiled core", "wrong", problem, mend, needed=False)
    if facts["missing"]:
        # Slower, and as right as ever.
        value = f"{facts['missing']}; reads go through GDAL"
        mend = "install libjpeg, libdeflate and libzstd with their headers, then slidesampler again"
        return Finding("compiled core", "missing", value, mend, needed=False)
    return Finding("compiled core", "ok", "compiled", needed=False)


# Disk and limits --------------------------------------------------------------------------------------------


def _disk(workdir: str | os.PathLike[str] | None) -> list[Finding]:
    # Where manifests of 100,000 annotations lie for worker processes to map; the caches themselves lie where
    # each --workdir says.
    base = os.environ.get("XDG_CACHE_HOME")
    user = (Path(base) if base else Path.home() / ".cache") / "slidesampler"
    found = [_place("cache location", user, "set XDG_CACHE_HOME")]
    if workdir is not None:
        found.append(_place("workdir", Path(workdir).absolute(), "choose another --workdir"))
    return found


def _place(name: str, folder: Path, elsewhere: str) -> Finding:
    there = folder
    while not there.exists():
        there = there.parent
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return Finding(name, "wrong", f"{folder}: {there} cannot be written", elsewhere)
    free = shutil.disk_usage(there).free
    value = f"{folder} ({free / 2**30:.1f} GiB free)"
    if free < LOW_DISK_BYTES:
        return Finding(name, "wrong", value, f"make room, or {elsewhere}", needed=False)
    return Finding(name, "ok", value)


def _open_files() -> Finding:
    try:
        import resource
    except ImportError:  # pragma: no cover  (Windows has no such limit)
        return Finding("open files", "ok", "no limit", needed=False)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < LOW_OPEN_FILES:
        enough = hard == resource.RLIM_INFINITY or hard >= LOW_OPEN_FILES
        wanted = LOW_OPEN_FILES if enough else hard
        return Finding("open files", "wrong", f"at most {soft}", f"ulimit -n {wanted}", needed=False)
    return Finding("open files", "ok", "no limit" if soft == resource.RLIM_INFINITY else f"at most {soft}")


# Looking from outside ---------------------------------------------------------------------------------------


def _probe(code: str) -> tuple[dict[str, Any], str]:
    """Run code that fills ``facts`` in another interpreter; return the facts and what went wrong, if anything.

    Facts that were found before something went wrong are returned too.
    """
    program = (
        "import json, sys\n"
        "sys.path[:] = json.loads(sys.argv[1])\n"
        "facts = {}\n"
        "try:\n" + "".join(f"    {line}\n" for line in code.strip().splitlines()) + "finally:\n"
        "    print('\\nfacts:' + json.dumps(facts), flush=True)\n"
    )
    command = [sys.executable, "-c", program, json.dumps([path for path in sys.path if isinstance(path, str)])]
    try:
        done = subprocess.run(  # noqa: S603  (our own interpreter and code)
            command, capture_output=True, text=True, errors="replace", timeout=PROBE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return {}, f"importing it did not end within {PROBE_SECONDS} s"
    facts: dict[str, Any] = {}
    for line in done.stdout.splitlines():
        if line.startswith("facts:"):
            facts = json.loads(line.removeprefix("facts:"))
    if done.returncode < 0:
        return facts, f"importing it ended the process with {signal.Signals(-done.returncode).name}"
    if done.returncode > 0:
        words = done.stderr.strip().splitlines()
        return facts, words[-1] if words else f"importing it failed with exit code {done.returncode}"
    return facts, ""


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _pip(*packages: str) -> str:
    return " ".join([shlex.quote(sys.executable), "-m pip install", *packages])
