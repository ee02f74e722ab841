"""Reads any raster that GDAL opens, as a person would see it.

What is done to the stored values, unless they are asked for raw:

=====================  ==================================================================================
palette                expanded to r, g, b (one grey channel if it has no colour); a colour of alpha 0 is
                       not valid
1 to 7 bits            stretched over 0 to 255
MinIsWhite             inverted (unsigned integers)
=====================  ==================================================================================

And always, raw or not:

=====================  ==================================================================================
orientation            TIFF's tag and the EXIF block of TIFF, JPEG, PNG and WebP; windows are mapped, the
                       image is never turned as a whole
alpha band             not a channel: a pixel is valid where it is above 0, however little. Colours are
                       left as stored, also those that were multiplied by alpha
mask band, nodata      a pixel is not valid where the mask is 0, or where *every* band is its nodata value
=====================  ==================================================================================

CMYK and CIELAB TIFF, and YCbCr, come out of GDAL as RGB. Of a file of several pages the first is read; other
pages, and the members of containers such as netCDF or HDF5, have names of their own (``gdalinfo`` lists them).

Data that are missing or do not decode are an error. Damage that still decodes cannot be noticed here (plain
pixels, and ZSTD and WebP, which carry no checksum): the cache has checksums for that.
"""

from __future__ import annotations

import os
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidesampler.errors import ReadError, UnsupportedSourceError
from slidesampler.geometry import Window
from slidesampler.readers._gdal_facts import channel_names, pixel_size_um
from slidesampler.readers._gdal_io import GDAL_CODES, byte_reader, gdal
from slidesampler.readers._gdal_levels import LevelDatasets
from slidesampler.readers._gdal_tiles import tile_facts
from slidesampler.readers._gdal_valid import ValidMask, split_alpha
from slidesampler.readers.base import check_channels, check_window, output_array
from slidesampler.readers.forking import check_process
from slidesampler.readers.headers import HeaderFacts, read_header
from slidesampler.readers.orientation import UPRIGHT
from slidesampler.readers.presentation import Presentation, palette_presentation, scale_presentation
from slidesampler.readers.tile_survey import TileFacts

__all__ = ["GdalReader", "stored_dtype"]

#: The formats whose orientation GDAL leaves to the reader.
_ORIENTED = ("GTiff", "JPEG", "PNG", "WEBP")
_PAGE = re.compile(r"^GTIFF_DIR:(off:)?(\d+):(.+)$", re.DOTALL)


class GdalReader:
    """A raster through GDAL, presented as the module describes.

    Parameters
    ----------
    path : str
        A file or any name GDAL understands (``/vsi...``, ``GTIFF_DIR:2:pages.tif``).
    raw : bool
        Whether the values come as stored: for label rasters, whose values are not shades.
    drivers : tuple of str
        GDAL's formats that may open it; all where empty.
    channels : tuple of str
        Names of the channels, where the caller knows better than the file.
    mpp : (float, float), optional
        Likewise for micrometres per pixel.

    Raises
    ------
    UnsupportedSourceError
        If GDAL cannot open the file, if it is a container of several rasters (the message names them), or if
        its values are complex numbers.

    Notes
    -----
    After a read that failed the file is opened again for the next one, because GDAL keeps the blocks that it
    could not decode in its cache and would hand them out without complaint.
    """

    def __init__(
        self,
        path: str,
        *,
        raw: bool = False,
        drivers: tuple[str, ...] = (),
        channels: tuple[str, ...] = (),
        mpp: tuple[float, float] | None = None,
    ) -> None:
        self.name = path
        self._pid = os.getpid()
        self._closed = False
        self._drivers = drivers
        source = LevelDatasets(path, drivers)
        self._source: LevelDatasets | None = source
        _refuse_container(path, source.base)
        header = _header(path) if source.driver in _ORIENTED else HeaderFacts()
        self._orientation = header.orientation
        self._upright = self._orientation == UPRIGHT
        if not self._upright:
            _refuse_converted(path, source.base)
            source.set_orientation(self._orientation)
        self._bands, _ = split_alpha(source.base)
        self._stored = stored_dtype(path, source.base, self._bands)
        # Before GDAL 3.7 int8 is a Byte with a remark: the same bytes, read through a view.
        self._transfer = self._stored if self._stored in GDAL_CODES else np.dtype(np.uint8)
        self._code = GDAL_CODES[self._transfer]
        self._show = None if raw else _presentation(source.base, self._bands, self._stored, header)
        self._valid = ValidMask(source, path)

        table = self._show.table if self._show is not None else None
        expanded = table is not None and table.ndim == 2
        count = table.shape[1] if table is not None and expanded else len(self._bands)
        self.dtype = np.dtype(np.uint8) if table is not None else self._stored
        self.levels = source.levels
        self.shape = (source.levels[0].height, source.levels[0].width, count)
        size = mpp or pixel_size_um(source.base)
        if size is not None and mpp is None and self._orientation.transpose:
            size = size[::-1]
        self.mpp = size
        self.channels = channels or self._own_names(source.base, expanded)
        if len(self.channels) not in (0, count):
            raise ReadError(
                f"{path}: {len(self.channels)} channel names were given, but it has {count} channels"
            )
        self.has_valid = self._valid.present or self._transparent is not None

    @property
    def _transparent(self) -> NDArray[np.bool_] | None:
        return self._show.visible if self._show is not None else None

    def _own_names(self, base: Any, expanded: bool) -> tuple[str, ...]:
        if expanded:
            return "r", "g", "b"
        if self._show is not None and len(self._bands) == 1:
            return ("gray",)
        return channel_names(base, self._bands)

    def _open(self) -> LevelDatasets:
        if self._closed:
            raise ReadError(f"{self.name}: the reader is closed")
        check_process(self.name, self._pid)
        if self._source is None:
            # Opened again after a failed read.
            self._source = LevelDatasets(self.name, self._drivers, self._orientation)
            self._valid = ValidMask(self._source, self.name)
        return self._source

    def read(
        self,
        window: Window,
        level: int = 0,
        *,
        channels: tuple[int, ...] | None = None,
        out: NDArray[Any] | None = None,
    ) -> NDArray[Any]:
        """Return pixels ``(h, w, C)`` of a window inside a level, as :class:`.base.Reader` has it.

        Only the bands that are asked for are read.

        Raises
        ------
        ReadError
            As the protocol says; also for damaged data of which GDAL only warns.
        """
        source = self._open()
        check_window(self.name, self.levels, window, level)
        if channels is not None:
            check_channels(self.name, self.shape[2], channels)
        count = self.shape[2] if channels is None else len(channels)
        out = output_array(out, (window.height, window.width, count), self.dtype, self.name)
        show = self._show
        if show is None:
            bands = self._bands if channels is None else [self._bands[i] for i in channels]
            self._read_stored(source, window, level, bands, out)
            return out
        if show.expands or channels is None:
            bands = self._bands
        else:
            bands = [self._bands[i] for i in channels]
        stored = np.empty((window.height, window.width, len(bands)), self._stored)
        self._read_stored(source, window, level, bands, stored)
        return show.apply(stored, channels, out)

    def _read_stored(
        self, source: LevelDatasets, window: Window, level: int, bands: list[int], out: NDArray[Any]
    ) -> None:
        here = self.levels[level]
        if self._transfer != self._stored:
            out = out.view(self._transfer)
        if not self._upright:
            window = self._orientation.stored_window(window, here.height, here.width)
            out = self._orientation.stored_view(out)
        try:
            source.read(level, self.name, window, out, bands, self._code)
        except ReadError:
            self._drop()
            raise

    def read_valid(self, window: Window, level: int = 0) -> NDArray[np.bool_]:
        """Return which pixels of a window are valid, bool ``(h, w)``."""
        source = self._open()
        check_window(self.name, self.levels, window, level)
        valid = np.ones(window.shape, dtype=bool)
        if self._valid.present:
            here = self.levels[level]
            stored = self._orientation.stored_window(window, here.height, here.width)
            try:
                self._orientation.stored_view(valid)[...] = self._valid.read(stored, level)
            except ReadError:
                self._drop()
                raise
        if self._transparent is not None:
            index = np.empty((*window.shape, 1), self._stored)
            self._read_stored(source, window, level, self._bands, index)
            valid &= self._transparent[index[..., 0]]
        return valid

    def tile_facts(self, *, valid: bool = True) -> TileFacts:
        """Return what must be known besides its directories to read the file tile by tile.

        Parameters
        ----------
        valid : bool
            Whether that is to include which pixels are valid; all where not.

        Raises
        ------
        UnsupportedSourceError
            If the pixels are not those that the file stores; says what is done to them.
        """
        source = self._open()
        if self._show is not None or not self._upright:
            raise UnsupportedSourceError(
                f"{self.name}: its pixels are presented: palette, depth or orientation"
            )
        return tile_facts(source, self.name, valid=valid)

    def _drop(self) -> None:
        if self._source is not None:
            self._source.close()
            self._source = None

    def close(self) -> None:
        """Release the file. Closing twice does nothing."""
        self._closed = True
        # In a forked child the handles are the parent's: they are left alone.
        if self._pid == os.getpid():
            self._drop()


def stored_dtype(name: str, dataset: Any, bands: list[int]) -> np.dtype[Any]:
    """Return the numpy dtype that holds the values of all bands.

    Raises
    ------
    UnsupportedSourceError
        If the values are complex, or of a type that numpy has not got.
    """
    known = {code: dtype for dtype, code in GDAL_CODES.items()}
    found = []
    for index in bands:
        band = dataset.GetRasterBand(index)
        if band.DataType not in known:
            kind = gdal.GetDataTypeName(band.DataType)
            raise UnsupportedSourceError(
                f"{name}: band {index} holds values of type {kind}, which are not pixels; convert the file to "
                "real numbers (its magnitude, say) first"
            )
        signed = band.GetMetadataItem("PIXELTYPE", "IMAGE_STRUCTURE") == "SIGNEDBYTE"
        found.append(np.dtype(np.int8) if signed else known[band.DataType])
    common = np.result_type(*found)
    # Bytes of which some are signed share no transfer type before GDAL 3.7.
    if np.dtype(np.int8) in found and common != np.int8 and np.dtype(np.int8) not in GDAL_CODES:
        raise UnsupportedSourceError(f"{name}: its bands mix signed bytes with other types; convert the file")
    return common


def _refuse_container(name: str, dataset: Any) -> None:
    members = [path for path, _ in dataset.GetSubDatasets()]
    if dataset.RasterCount == 0:
        found = (
            f"it holds {len(members)} rasters: {', '.join(members)}; name one of them" if members else "none"
        )
        raise UnsupportedSourceError(f"{name}: one raster was asked for, but {found}")


def _refuse_converted(name: str, dataset: Any) -> None:
    space = dataset.GetMetadataItem("SOURCE_COLOR_SPACE", "IMAGE_STRUCTURE")
    if dataset.GetDriver().ShortName == "GTiff" and space in ("CMYK", "CIELAB"):
        # libtiff turns the strips of these itself, each on its own, and makes a jumble of the image.
        raise UnsupportedSourceError(
            f"{name}: a {space} TIFF with an orientation tag cannot be read right; convert it to RGB"
        )


def _header(path: str) -> HeaderFacts:
    page = _PAGE.match(path)
    with byte_reader(page[3] if page else path) as read_at:
        if page is None:
            return read_header(read_at)
        if page[1]:
            return read_header(read_at, offset=int(page[2]))
        return read_header(read_at, directory=int(page[2]) - 1)


def _presentation(
    dataset: Any, bands: list[int], dtype: np.dtype[Any], header: HeaderFacts
) -> Presentation | None:
    """Return how the bands are shown, or None for as they are."""
    first = dataset.GetRasterBand(bands[0])
    white_is_zero = dataset.GetMetadataItem("MINISWHITE", "IMAGE_STRUCTURE") == "YES"
    table = first.GetColorTable()
    # GDAL states MinIsWhite as a palette too, of 8-bit greys even for 16-bit values.
    if table is not None and len(bands) == 1 and not white_is_zero and dtype in (np.uint8, np.uint16):
        colours = np.array([table.GetColorEntry(i) for i in range(table.GetCount())], dtype=np.uint8)
        if header.colormap is not None and len(header.colormap) == len(colours):
            colours[:, :3] = header.colormap
        return palette_presentation(colours, 2 ** (8 * dtype.itemsize))
    depths = {dataset.GetRasterBand(i).GetMetadataItem("NBITS", "IMAGE_STRUCTURE") for i in bands}
    depth = depths.pop() if len(depths) == 1 else None
    return scale_presentation(int(depth or 8 * dtype.itemsize), white_is_zero, dtype)
