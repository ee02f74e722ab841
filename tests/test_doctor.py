"""What the doctor says of machines that lack something; the lack is made by stand-ins in front of sys.path."""

from __future__ import annotations

import importlib.metadata
import resource
import shutil
import subprocess
import sys
from collections import namedtuple

import numpy as np
import pytest

from slidesampler import _native, doctor
from slidesampler.doctor import Finding, diagnose, is_fit

NAMES = [
    "Python",
    "slidesampler",
    "dependencies",
    "GDAL",
    "gdal_array",
    "COG codecs",
    "OpenSlide",
    "OpenCV",
    "torch",
    "CUDA",
    "compiled core",
    "cache location",
    "open files",
]


@pytest.fixture
def shadow(tmp_path, monkeypatch):
    """Put a package in front of the real one."""
    folder = tmp_path / "shadow"
    monkeypatch.syspath_prepend(folder)

    def put(package, files):
        place = folder / package
        place.mkdir(parents=True)
        for name, text in ({"__init__": ""} | files).items():
            (place / f"{name}.py").write_text(text)

    return put


@pytest.fixture
def absent(monkeypatch):
    """Make packages impossible to find, here and in the doctor's child processes."""

    def hide(*packages):
        real = doctor.importlib.util.find_spec
        monkeypatch.setattr(
            doctor.importlib.util, "find_spec", lambda name: None if name in packages else real(name)
        )

    return hide


def found(findings, name):
    (finding,) = [finding for finding in findings if finding.name == name]
    return finding


def test_this_machine_is_fit_and_every_fact_is_there():
    findings = diagnose()
    assert [finding.name for finding in findings] == NAMES
    assert is_fit(findings)
    from osgeo import gdal

    assert gdal.__version__ in found(findings, "GDAL").value
    assert "deflate" in found(findings, "COG codecs").value
    assert np.__version__ in found(findings, "dependencies").value
    assert importlib.metadata.version("torch") == found(findings, "torch").value
    assert (found(findings, "compiled core").value == "compiled") == (_native.tiles is not None)


def test_without_the_compiled_core_reads_go_through_gdal(monkeypatch):
    monkeypatch.setenv("SLIDESAMPLER_NO_NATIVE", "1")
    finding = doctor._compiled_core()
    assert (finding.status, finding.needed) == ("missing", False)
    assert finding.value == "SLIDESAMPLER_NO_NATIVE is set; reads go through GDAL"
    assert "libdeflate" in finding.mend
    assert is_fit([finding])


def test_every_finding_that_is_not_ok_and_needed_has_a_mend(shadow, monkeypatch):
    shadow("osgeo", {"__init__": "raise ImportError('libgdal.so.99: cannot open shared object file')"})
    shadow("openslide", {"__init__": "raise ImportError('libopenslide')"})
    for finding in diagnose():
        assert finding.status == "ok" or finding.mend or not finding.needed


def test_gdal_whose_library_is_gone(shadow):
    shadow("osgeo", {"__init__": "raise ImportError('libgdal.so.99: cannot open shared object file')"})
    (finding,) = doctor._gdal()
    assert finding.status == "wrong"
    assert "libgdal.so.99" in finding.value
    assert finding.needed
    assert not is_fit([finding])


def test_gdal_that_crashes_does_not_take_the_doctor_with_it(shadow):
    shadow("osgeo", {"__init__": "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"})
    (finding,) = doctor._gdal()
    assert finding.status == "wrong"
    assert "SIGSEGV" in finding.value


def test_gdal_without_arrays(shadow):
    gdal = "__version__ = '3.6.2'\ndef VersionInfo(what): return '3.6.2'"
    shadow("osgeo", {"gdal": gdal, "gdal_array": "from osgeo import _gdal_array"})
    gdal_finding, arrays = doctor._gdal()
    assert gdal_finding.status == "ok"
    assert (arrays.name, arrays.status) == ("gdal_array", "wrong")
    assert "_gdal_array" in arrays.value
    assert "--no-build-isolation --no-cache-dir" in arrays.mend or "conda" in arrays.mend


def test_gdal_of_another_version_than_its_library(shadow):
    shadow("osgeo", {"gdal": "__version__ = '3.9.0'\ndef VersionInfo(what): return '3.6.2'"})
    (finding,) = doctor._gdal()
    assert finding.status == "wrong"
    assert "the binding is 3.9.0, libgdal is 3.6.2" in finding.value


def test_no_gdal_at_all(absent, shadow):
    shadow("osgeo", {"__init__": "raise ModuleNotFoundError(\"No module named 'osgeo'\")"})
    absent("osgeo")
    (finding,) = doctor._gdal()
    assert finding.status == "missing"


@pytest.mark.parametrize(
    ("there", "mend"),
    [
        ((), "conda install -c conda-forge gdal"),
        (("apt-get",), "apt-get install libgdal-dev"),
        (("gdal-config",), "'GDAL==3.4.1.*'"),
    ],
)
def test_the_mend_for_gdal_is_one_that_this_machine_can_carry_out(tmp_path, monkeypatch, there, mend):
    for name in there:
        (tmp_path / name).write_text("#!/bin/sh\necho 3.4.1\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda name: str(tmp_path / name) if name in there else None)
    assert mend in doctor._mend_gdal()


def test_no_openslide(absent, shadow):
    shadow("openslide", {"__init__": "raise ModuleNotFoundError(\"No module named 'openslide'\")"})
    absent("openslide")
    finding = doctor._openslide()
    assert finding.status == "missing"
    assert "openslide-bin" in finding.mend
    assert finding.needed


def test_no_torch_is_no_fault(absent):
    absent("torch")
    (finding,) = doctor._torch()
    assert finding.status == "missing"
    assert finding.mend == "pip install 'slidesampler[torch]'"
    assert not finding.needed
    assert is_fit([finding])


def test_torch_that_does_not_import(shadow):
    shadow("torch", {"__init__": "raise ImportError('libtorch.so')"})
    (finding,) = doctor._torch()
    assert (finding.status, finding.value) == ("wrong", "ImportError: libtorch.so")


TORCH = """
__version__ = '2.13.0'
class version: cuda = {cuda!r}
class cuda:
    device_count = staticmethod(lambda: {count})
    get_device_name = staticmethod(lambda i: 'H200')
"""


def test_a_gpu_is_named(shadow):
    shadow("torch", {"__init__": TORCH.format(cuda="13.0", count=2)})
    assert doctor._torch()[1] == Finding("CUDA", "ok", "13.0: H200, H200", needed=False)


def test_a_gpu_that_torch_does_not_see(shadow, monkeypatch):
    shadow("torch", {"__init__": TORCH.format(cuda=None, count=0)})
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    cuda = doctor._torch()[1]
    assert cuda.status == "wrong"
    assert "built for CPU" in cuda.value
    assert cuda.mend


def test_two_opencvs(monkeypatch):
    versions = {"opencv-python": "4.1", "opencv-python-headless": "4.1"}
    monkeypatch.setattr(doctor, "_version", versions.get)
    finding = doctor._opencv()
    assert finding.status == "wrong"
    assert "pip uninstall -y opencv-python opencv-python-headless" in finding.mend


def test_no_opencv(monkeypatch):
    monkeypatch.setattr(doctor, "_version", lambda name: None)
    assert doctor._opencv().status == "missing"


def test_a_missing_dependency_is_named(monkeypatch):
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "shapely" else "1")
    finding = doctor._dependencies()
    assert (finding.status, finding.value) == ("missing", "shapely")
    assert finding.mend.endswith("pip install shapely")


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    finding = doctor._place("workdir", tmp_path / "file" / "cache", "choose another")
    assert finding.status == "wrong"
    assert "cannot be written" in finding.value
    assert finding.mend == "choose another"


def test_a_disk_that_is_nearly_full(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 9, 2**20))
    finding = doctor._place("workdir", tmp_path / "new" / "cache", "choose another")
    assert finding.status == "wrong"
    assert "0.0 GiB free" in finding.value
    assert not finding.needed


def test_the_workdir_is_looked_at_too(tmp_path):
    names = [finding.name for finding in doctor._disk(tmp_path / "cache")]
    assert names == ["cache location", "workdir"]
    assert not (tmp_path / "cache").exists()


def test_a_low_limit_of_open_files(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda which: (256, resource.RLIM_INFINITY))
    finding = doctor._open_files()
    assert (finding.status, finding.mend) == ("wrong", "ulimit -n 1024")


def test_a_probe_that_hangs_is_ended(monkeypatch):
    monkeypatch.setattr(doctor, "PROBE_SECONDS", 0.2)
    assert doctor._probe("import time; time.sleep(60)\n") == ({}, "importing it did not end within 0.2 s")


def test_a_probe_keeps_what_it_found_before_it_failed():
    facts, problem = doctor._probe("facts['a'] = 1\nraise ValueError('b')\n")
    assert facts == {"a": 1}
    assert problem == "ValueError: b"


def test_nothing_heavy_is_imported_by_looking():
    code = "import sys, slidesampler.doctor as d; d.diagnose(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "osgeo", "openslide"} & set(done.stdout.split())
