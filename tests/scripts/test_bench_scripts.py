"""The benchmarks still run, with whatever peers there are; what they measure is nobody's promise here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def run_bench(name, *arguments):
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / name), *map(str, arguments)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_reading_windows(tmp_path):
    sizes = ("--size", 1024, "--windows", 4, "--rounds", 1, "--disk-rounds", 1)
    printed = run_bench("bench_read.py", *sizes, "--only", "jpeg,npy", "--out", tmp_path)
    found = json.loads((tmp_path / "bench_read.json").read_text())
    reads = {(row["file"], row["read"]): row for row in found["rows"]}
    assert {file for file, _ in reads} == {"npy", "cog jpeg", "cog jpeg of GDAL"}
    for file in ("npy", "cog jpeg", "cog jpeg of GDAL"):
        for read in ("load_sample", "load_batch", "load_batch, NCHW", "load_batch + mask"):
            assert reads[file, read]["pixels"] == "same"
            assert f"| {read} |" in printed
    assert all(row["warm us"] > 0 for row in found["rows"])
    assert all(("disk us" in row) == (row["file"] != "npy") for row in found["rows"])
    two = next(row for row in found["claims"] if row["first"] == "load_batch" and row["bound"] == 1.7)
    assert two["warm"] > 0


@pytest.mark.slow
def test_threads_and_processes(tmp_path):
    printed = run_bench("bench_threads.py", "--size", 1024, "--rounds", 1, "--seconds", 0.2, "--out", tmp_path)
    for name in ("1 thread", "2 threads", "2 processes"):
        (line,) = (line for line in printed.splitlines() if line.startswith(f"| {name} |"))
        assert float(line.split("|")[2]) > 0


@pytest.mark.slow
def test_loaders(tmp_path):
    run_bench("bench_loader.py", "--size", 1024, "--windows", 64, "--rounds", 1, "--out", tmp_path)
    rows = json.loads((tmp_path / "bench_loader.json").read_text())["rows"]
    ours = [row for row in rows if row["loader"].startswith("WindowDataset")]
    assert len(ours) == 4
    assert all(row["windows/s"] > 0 for row in rows)
