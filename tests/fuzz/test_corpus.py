"""What the fuzzer found worth keeping, through the extension and through the decoder under the sanitizers."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import make_seeds
import numpy as np
import pytest
from fuzz_input import JPEG, PACKED, SWAP, YCBCR, FuzzInput, unpack

from slidesampler import _native
from slidesampler.readers.tile_index import TiledLevel
from slidesampler.readers.tile_read import TileJob, read_jobs

HERE = Path(__file__).parent
CORPUS = sorted((HERE / "corpus").iterdir())
NATIVE = HERE.parents[1] / "slidesampler" / "_native"
#: Columns of tiles: the one in question, another one, one that was never written.
TILES = 3

needs_extension = pytest.mark.skipif(_native.tiles is None, reason=f"not compiled: {_native.missing_because}")


def level_of(asked: FuzzInput, path: Path) -> TiledLevel:
    path.write_bytes(asked.other + asked.data)
    height, width = asked.tile
    dtype = np.dtype(f"u{asked.itemsize}")
    level = _native.tiles.Level(
        _native.tiles.File(str(path)),
        np.array([asked.offset, 0, 0], np.uint64),
        np.array([asked.count, len(asked.other), 0], np.uint64),
        asked.tables,
        height,
        TILES * width,
        height,
        width,
        asked.samples,
        asked.itemsize,
        asked.codec,
        asked.predictor,
        bool(asked.flags & YCBCR),
        bool(asked.flags & SWAP),
        bool(asked.flags & PACKED),
        np.full(1, 9, dtype),
    )
    return TiledLevel(level, dtype, asked.samples, (1, TILES))


def read(level: TiledLevel, asked: FuzzInput, before: int, threads: int):
    """Return the area of the tile, and of the one that was never written, or what is wrong."""
    y0, y1, x0, x1 = asked.area
    height, width = y1 - y0, x1 - x0
    out = np.full((2, height, width, asked.samples), before, level.dtype)
    boxes = np.array(
        [[0, slot, y0, x0 + column * asked.tile[1], height, width] for slot, column in enumerate((0, 2))],
        np.int64,
    )
    failed = read_jobs([TileJob([level], boxes, tuple(range(asked.samples)), out)], threads)
    return failed or out


@needs_extension
def test_seeds_are_read_or_refused_with_the_tile_named(seeds, tmp_path):
    read_whole = 0
    for path in seeds:
        asked = unpack(path.read_bytes())
        assert asked is not None
        if asked.predictor == 3 and asked.itemsize == 1:
            continue
        level = level_of(asked, tmp_path / path.name)
        first, again = read(level, asked, 0, 1), read(level, asked, 0xA5, 2)
        if isinstance(first, tuple):
            assert again == first
            assert first[2].startswith("tile (0, 0): ")
        else:
            np.testing.assert_array_equal(again, first)
            read_whole += 1
    assert len(seeds) // 4 < read_whole < len(seeds) * 3 // 4


@needs_extension
@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_an_error_that_names_the_tile_or_the_same_pixels_each_time(path, tmp_path):
    asked = unpack(path.read_bytes())
    if asked is None:
        return
    if asked.predictor == 3 and asked.itemsize == 1:
        with pytest.raises(ValueError, match="not what a tiled image can have"):
            level_of(asked, tmp_path / "a.tiles")
        return
    level = level_of(asked, tmp_path / "a.tiles")
    first = read(level, asked, 0, 1)
    for before, threads in ((0xA5, 1), (0x5A, 2)):
        again = read(level, asked, before, threads)
        if isinstance(first, tuple):
            assert again == first
            assert first[:2] == (0, 0)
            assert first[2].startswith("tile (0, 0): ")
        else:
            np.testing.assert_array_equal(again, first)
    if not isinstance(first, tuple):
        np.testing.assert_array_equal(first[1], 9)


_HEADERS = ("stdio.h", "jpeglib.h", "libdeflate.h", "zstd.h")


@pytest.fixture(scope="module")
def compile_sanitized(tmp_path_factory):
    """Return what compiles C sources to a program under AddressSanitizer and UBSan."""
    folder = tmp_path_factory.mktemp("harness")
    includes = "".join(f"#include <{header}>\n" for header in _HEADERS)
    (folder / "probe.c").write_text(f"{includes}int main(void) {{ return 0; }}\n")

    def build(compiler: str, *sources: Path) -> subprocess.CompletedProcess[str]:
        options = (
            "-g",
            "-O1",
            "-std=c11",
            "-D_GNU_SOURCE",
            "-fsanitize=address,undefined",
            "-fno-sanitize-recover=all",
        )
        return subprocess.run(
            [
                compiler,
                *options,
                "-o",
                folder / "program",
                *sources,
                "-ljpeg",
                "-ldeflate",
                "-lzstd",
                "-lpthread",
            ],
            capture_output=True,
            text=True,
            check=False,
        )

    for compiler in filter(None, map(shutil.which, ("gcc", "clang"))):
        if build(compiler, folder / "probe.c").returncode == 0:
            break
    else:
        pytest.skip("no compiler with AddressSanitizer, or no headers of libjpeg-turbo, libdeflate and libzstd")

    def program(*sources: Path) -> Path:
        built = build(compiler, *sources)
        assert built.returncode == 0, built.stderr
        return folder / "program"

    return program


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    """Return real tiles of every kind, whole, cut off and taken for others: what the fuzzer starts from."""
    folder = tmp_path_factory.mktemp("seeds")
    make_seeds.main(folder)
    return sorted(folder.iterdir())


@pytest.mark.parametrize(
    "sources",
    [
        (HERE / "fuzz_decode.c",),
        (HERE / "fuzz_threads.c", NATIVE / "batch.c", NATIVE / "decode.c", NATIVE / "excerpt.c"),
    ],
    ids=["tile by tile", "in batches, on many threads"],
)
def test_corpus_and_seeds_under_the_sanitizers(compile_sanitized, seeds, sources):
    program = compile_sanitized(*sources, HERE / "replay.c")
    # Nothing of a sanitizer that this very process may run under.
    inputs = [*CORPUS, *seeds]
    replayed = subprocess.run([program, *inputs], capture_output=True, text=True, check=False, env={})
    assert replayed.returncode == 0, replayed.stderr[-3000:]
    assert f"{len(inputs)} replayed" in replayed.stdout


def test_the_corpus_is_small_and_of_every_codec():
    sizes = [path.stat().st_size for path in CORPUS]
    assert max(sizes) <= 4096
    assert sum(sizes) <= 300_000
    asked = [unpack(path.read_bytes()) for path in CORPUS]
    assert {one.codec for one in asked if one is not None} == set(range(JPEG + 1))
