"""A disk that says no: the reason arrives as an error, and nothing is left behind.

A limit on the size of files stands for the full disk: the system call fails in the same place. It holds for a
process and everything it writes, so every case runs in a fork of one process that has all imported.
"""

import errno
import json
import os
import subprocess
import sys
from contextlib import suppress

import numpy as np
import pytest
import tifffile
from osgeo import gdal

from slidesampler.cache.gdal_write import gdal_errors
from slidesampler.errors import BuildError

CASES_SCRIPT = """
import json, os, resource, signal, sys, tempfile
from pathlib import Path
import numpy as np
sys.path.insert(0, sys.argv[1])
from conftest import MemoryReader
from slidesampler import _native
from slidesampler.cache import gdal_write
from slidesampler.cache.spec import BuildSpec
from slidesampler.cache.write import write_image
from slidesampler.cache.write_labels import write_labels
from slidesampler.errors import BuildError
from slidesampler.models import ClassMap, LabelSpec
from slidesampler.readers.gdal import GdalReader
from slidesampler.shapes import Shapes

rng = np.random.default_rng(0)
NOISE = rng.integers(0, 256, (2000, 900, 3), dtype=np.uint8)
BITS = NOISE // 128
LATE = np.ones((2000, 900), bool)
LATE[1500:, 300:] = rng.random((500, 600)) < 0.5

def image(folder, backend, codec, threads=1, masked=False, pixels=NOISE):
    reader = MemoryReader(pixels, LATE if masked else None)
    write_image(reader, folder, BuildSpec(backend=backend, codec=codec), threads=threads)

def labels(folder, instances):
    classes = ClassMap(tuple("abcdefgh"), {i: i for i in range(1, 8)})
    base = MemoryReader(NOISE[:, :, :1] % 8)
    write_labels(folder, (2000, 900), Shapes.empty(), classes, LabelSpec(), base=base, instances=instances)

def by_gdal(call, *arguments, **options):
    _native.encode = None
    call(*arguments, **options)

def from_gdal(folder, source):
    # So small a cache that reading the source has to make room by writing tiles of the scratch file.
    gdal_write.BUILD_CACHE_BYTES = 1_000_000
    write_image(GdalReader(source), folder, BuildSpec(codec="deflate"))

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for name, limit, call in json.loads(sys.argv[2]):
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        message = "no error"
        with tempfile.TemporaryDirectory() as folder:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            try:
                eval(call)
            except BuildError as error:
                message = f"BuildError {error}"
            left = sorted(os.listdir(folder))
        os.write(1, (json.dumps([name, message, left]) + "\\n").encode())
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    if status:
        os.write(1, (json.dumps([name, f"died with status {status}", []]) + "\\n").encode())
"""

IMAGES = {
    # 5.4 MB of pixels: at the start, in the middle, and in the last bytes of level 0.
    "npy header": (100, "image(Path(folder), 'npy', 'none')"),
    "npy middle": (3_000_000, "image(Path(folder), 'npy', 'none')"),
    "npy end": (5_400_000, "image(Path(folder), 'npy', 'none', masked=True)"),
    "cog first tile": (100, "image(Path(folder), 'cog', 'zstd')"),
    "cog tiles": (2_000_000, "image(Path(folder), 'cog', 'deflate')"),
    "cog tiles, threads": (2_000_000, "image(Path(folder), 'cog', 'jpeg', threads=2)"),
    "cog mask": (200, "image(Path(folder), 'cog', 'zstd', masked=True, pixels=NOISE * 0)"),
    # Into GDAL's scratch file. With threads it only logs some of it; without a header it crashes later on.
    "gdal's empty file": (1, "by_gdal(image, Path(folder), 'cog', 'deflate')"),
    "gdal's header": (100, "by_gdal(image, Path(folder), 'cog', 'deflate')"),
    "gdal's overview headers": (1000, "by_gdal(image, Path(folder), 'cog', 'deflate')"),
    "gdal's tiles": (2_000_000, "by_gdal(image, Path(folder), 'cog', 'deflate')"),
    "gdal's tiles, threads": (2_000_000, "by_gdal(image, Path(folder), 'cog', 'deflate', threads=2)"),
    "gdal's mask": (5_000_000, "by_gdal(image, Path(folder), 'cog', 'deflate', masked=True)"),
}
#: The scratch file, of one level or compressed, fits; the COG, of all levels, stored plain, does not.
COPIES = {
    f"copy {limit} {threads}": (
        limit,
        f"by_gdal(image, Path(folder), 'cog', 'none', threads={threads}, pixels=BITS)",
    )
    for limit in (2_500_000, 6_000_000, 7_000_000)
    for threads in (1, 2)
} | {f"own copy {limit}": (limit, "image(Path(folder), 'cog', 'none')") for limit in (7_000_000, 8_300_000)}
LABELS = {
    "gdal's labels": (300_000, "by_gdal(labels, Path(folder), True)"),
    "labels header": (100, "labels(Path(folder), False)"),
    "labels tiles": (300_000, "labels(Path(folder), False)"),
    "labels, then instances": (300_000, "labels(Path(folder), True)"),
}
#: The second and third are met by GDAL 3.6 while it reads the source, the first while it writes.
FROM_GDAL = {
    f"gdal {limit}": (limit, "by_gdal(from_gdal, Path(folder), {source!r})")
    for limit in (500_000, 1_300_000, 2_740_000)
}
ENOUGH = {"enough": (10**9, "image(Path(folder), 'cog', 'deflate', threads=2, masked=True)")}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory, request):
    """Name of the case -> (message, files that were left)."""
    source = tmp_path_factory.mktemp("source") / "source.tif"
    pixels = np.random.default_rng(0).integers(0, 256, (4000, 400, 3), dtype=np.uint8)
    tifffile.imwrite(source, pixels, tile=(256, 256), photometric="rgb")
    cases = [
        (name, limit, call.replace("{source!r}", repr(str(source))))
        for group in (IMAGES, COPIES, LABELS, FROM_GDAL, ENOUGH)
        for name, (limit, call) in group.items()
    ]
    result = subprocess.run(
        [sys.executable, "-c", CASES_SCRIPT, str(request.path.parent), json.dumps(cases)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    # Nothing is printed past the error: no "Exception ignored", no log of GDAL's.
    assert result.stderr == ""
    return {name: (message, left) for name, message, left in map(json.loads, result.stdout.splitlines())}


@pytest.mark.parametrize("name", [*IMAGES, *LABELS])
def test_the_reason_is_told_and_nothing_is_left(outcomes, name):
    message, left = outcomes[name]
    assert message.startswith("BuildError")
    assert "File too large" in message
    assert "GB free" in message
    assert left == []


@pytest.mark.parametrize("name", COPIES)
def test_a_copy_that_does_not_fit_is_removed_with_its_scratch_file(outcomes, name):
    message, left = outcomes[name]
    assert message.startswith("BuildError")
    assert "image.tif could not be written" in message
    assert left == []


@pytest.mark.parametrize("name", FROM_GDAL)
def test_a_full_disk_is_not_taken_for_a_damaged_source(outcomes, name):
    message, left = outcomes[name]
    assert message.startswith("BuildError")
    assert "scratch.tif could not be written" in message
    assert left == []


def test_what_gdal_only_logs_is_an_error_too(tmp_path):
    reason = pytest.raises(BuildError, match=r"a\.tif could not be written: No space.*make room.*GB free")
    with reason, gdal_errors(tmp_path / "a.tif"), suppress(RuntimeError):
        gdal.Error(gdal.CE_Failure, 1, os.strerror(errno.ENOSPC))
    with gdal_errors(tmp_path / "a.tif"):
        gdal.Error(gdal.CE_Warning, 1, "this is nothing")
    # What is not GDAL's passes unchanged.
    with pytest.raises(KeyError), gdal_errors(tmp_path / "a.tif"):
        raise KeyError("x")


def test_a_limit_that_is_not_reached_is_no_error(outcomes):
    assert outcomes["enough"] == ("no error", ["image.tif"])
