"""The few calls into GDAL that every GDAL-based reader shares: open, read, and turn complaints into errors.

Importing this module sets three things of GDAL for the whole process, once:

* ``gdal.UseExceptions()``;
* the block cache to 128 MiB, unless ``GDAL_CACHEMAX`` is set: GDAL's own 5 % of the machine's memory in each of
  many worker processes is not flat memory;
* ``VRT_SHARED_SOURCE=NO``, unless it is set: VRTs that share their sources may not be used by several threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidesampler.errors import MissingDependencyError, ReadError, UnsupportedSourceError
from slidesampler.geometry import Window
from slidesampler.readers.forking import FORK_GATE

try:
    from osgeo import gdal, gdal_array
except ImportError as error:
    raise MissingDependencyError(
        f"GDAL with numpy support (osgeo.gdal_array) is needed here and cannot be imported: {error}. Run "
        "scripts/setup of a checkout, or: conda install -c conda-forge gdal, or, with libgdal-dev there: "
        'pip install --no-build-isolation --no-cache-dir "GDAL[numpy]==$(gdal-config --version).*"'
    ) from error

__all__ = [
    "GDAL_CODES",
    "byte_reader",
    "gdal",
    "open_dataset",
    "quietly",
    "read_band",
    "read_bands",
]

#: GDAL's block cache, bytes, unless the user set GDAL_CACHEMAX.
BLOCK_CACHE_BYTES = 128 * 2**20

#: Warnings of a read that do not mean that pixels are missing. All others are taken to mean just that: a JPEG
#: that ends early is only a *warning* of libjpeg, which then makes up the rest.
HARMLESS = ("extraneous bytes before marker",)

_NAMES = {
    "uint8": "GDT_Byte",
    "int8": "GDT_Int8",
    "uint16": "GDT_UInt16",
    "int16": "GDT_Int16",
    "uint32": "GDT_UInt32",
    "int32": "GDT_Int32",
    "uint64": "GDT_UInt64",
    "int64": "GDT_Int64",
    "float16": "GDT_Float16",
    "float32": "GDT_Float32",
    "float64": "GDT_Float64",
}
#: numpy dtype -> GDAL's number for it, for the types that this GDAL has.
GDAL_CODES: dict[np.dtype[Any], int] = {
    np.dtype(name): getattr(gdal, code) for name, code in _NAMES.items() if hasattr(gdal, code)
}


def _configure() -> None:
    gdal.UseExceptions()
    if gdal.GetConfigOption("GDAL_CACHEMAX") is None:
        gdal.SetCacheMax(BLOCK_CACHE_BYTES)
    if gdal.GetConfigOption("VRT_SHARED_SOURCE") is None:
        gdal.SetConfigOption("VRT_SHARED_SOURCE", "NO")


_configure()


@contextmanager
def quietly() -> Iterator[None]:
    """Keep GDAL from printing in this thread, and a fork from happening, for the body of a ``with`` block."""
    gdal.ErrorReset()
    gdal.PushErrorHandler("CPLQuietErrorHandler")
    try:
        with FORK_GATE:
            yield
    finally:
        gdal.PopErrorHandler()


def open_dataset(path: str, options: Sequence[str] = (), drivers: Sequence[str] = ()) -> Any:
    """Open a raster read-only and return the ``gdal.Dataset``.

    Parameters
    ----------
    path : str
        A file or any name GDAL understands.
    options : sequence of str
        Open options, ``"KEY=VALUE"``.
    drivers : sequence of str
        Short names of the drivers that may try; all where empty.

    Raises
    ------
    UnsupportedSourceError
        If GDAL cannot open it; the message holds GDAL's own.
    """
    why = ""
    dataset = None
    with quietly():
        try:
            dataset = gdal.OpenEx(
                path,
                gdal.OF_RASTER | gdal.OF_READONLY | gdal.OF_VERBOSE_ERROR,
                open_options=list(options),
                allowed_drivers=list(drivers),
            )
        except RuntimeError as error:
            why = str(error)
        why = why or gdal.GetLastErrorMsg()
    if dataset is None:
        raise UnsupportedSourceError(f"{path}: GDAL cannot open it: {why or 'no driver knows the format'}")
    return dataset


def read_bands(dataset: Any, name: str, window: Window, out: NDArray[Any], bands: list[int], code: int) -> None:
    """Read bands of a dataset into ``out``.

    Parameters
    ----------
    dataset : gdal.Dataset
    name : str
        For error messages.
    window : Window
        Inside the dataset.
    out : ndarray, shape (h, w, len(bands))
        Any strides, negative ones too: GDAL takes one spacing an axis.
    bands : list of int
        From 1.
    code : int
        GDAL's number for the dtype of ``out``.

    Raises
    ------
    ReadError
        If GDAL fails, or warns that the data are not what they should be.
    """
    # Not `with quietly()`: a generator costs more than the rest of this function, and this is the hot path.
    gdal.ErrorReset()
    gdal.PushErrorHandler("CPLQuietErrorHandler")
    try:
        with FORK_GATE:
            failed = gdal_array.DatasetIONumPy(
                dataset,
                0,
                window.x,
                window.y,
                window.width,
                window.height,
                out,
                code,
                gdal.GRIORA_NearestNeighbour,
                None,
                None,
                False,
                bands,
            )
        # Before the handler is popped, which clears the last error.
        if failed or gdal.GetLastErrorType() >= gdal.CE_Warning:
            _complain(name, window, failed, gdal.GetLastErrorMsg())
    except RuntimeError as error:
        _complain(name, window, 1, str(error))
    finally:
        gdal.PopErrorHandler()


def read_band(band: Any, name: str, window: Window, out: NDArray[Any], code: int) -> None:
    """Read one band (a mask band, which belongs to no dataset) into ``out`` of shape (h, w), any strides."""
    with quietly():
        try:
            failed = gdal_array.BandRasterIONumPy(
                band,
                0,
                window.x,
                window.y,
                window.width,
                window.height,
                out,
                code,
                gdal.GRIORA_NearestNeighbour,
                None,
                None,
            )
            if failed or gdal.GetLastErrorType() >= gdal.CE_Warning:
                _complain(name, window, failed, gdal.GetLastErrorMsg())
        except RuntimeError as error:
            _complain(name, window, 1, str(error))


def _complain(name: str, window: Window, failed: int, why: str) -> None:
    """Raise ReadError, unless nothing failed and the warning is a harmless one."""
    if failed or not any(text in why for text in HARMLESS):
        why = why.rstrip(".") or "GDAL gives no reason"
        raise ReadError(
            f"{name}: {window} cannot be read: {why}. The file is damaged or incomplete; copy it again from "
            "where it came from"
        )


@contextmanager
def byte_reader(path: str) -> Iterator[Callable[[int, int], bytes]]:
    """Give a function ``(offset, size) -> bytes`` over a file, also one in GDAL's virtual file systems.

    It returns fewer bytes at the end of the file, and none where there is no such file.
    """
    with quietly():
        try:
            handle = gdal.VSIFOpenL(path, "rb")
        except RuntimeError:
            handle = None

        def read_at(offset: int, size: int) -> bytes:
            if handle is None or size <= 0:
                return b""
            gdal.VSIFSeekL(handle, offset, 0)
            return bytes(gdal.VSIFReadL(1, size, handle) or b"")

        try:
            yield read_at
        finally:
            if handle is not None:
                gdal.VSIFCloseL(handle)
