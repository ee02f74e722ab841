"""What is said of files that no library opens."""

from __future__ import annotations

import os

import pytest

from slidesampler.errors import ReadError, UnsupportedSourceError
from slidesampler.readers import ReaderSpec, open_reader


def reason(path) -> str:
    with pytest.raises(ReadError) as caught:
        open_reader(ReaderSpec("auto", str(path)))
    assert str(caught.value).startswith(str(path))
    return str(caught.value)


def test_an_empty_file_is_called_empty(tmp_path):
    (tmp_path / "a.tif").touch()
    assert "is empty" in reason(tmp_path / "a.tif")


def test_a_folder_is_called_a_folder(tmp_path):
    (tmp_path / "a.tif").mkdir()
    assert "is a folder" in reason(tmp_path / "a.tif")


def test_a_file_of_somebody_else_is_not_taken_for_a_strange_format(tmp_path, monkeypatch):
    (tmp_path / "a.tif").write_bytes(b"no image")
    assert "no reader opens it" in reason(tmp_path / "a.tif")
    # Root may read everything.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    found = reason(tmp_path / "a.tif")
    assert "may not read it" in found
    assert "conda" not in found


def test_names_that_are_not_of_files_are_left_to_gdal(tmp_path):
    with pytest.raises(UnsupportedSourceError, match="no reader opens it"):
        open_reader(ReaderSpec("auto", f"/vsizip/{tmp_path}/a.zip/a.tif"))
