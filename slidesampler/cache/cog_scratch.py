"""A COG by GDAL: what the compiled encoder does not write, copied from a scratch file.

A COG holds its smallest overview first, so it cannot be written while the image streams by. GDAL's COG driver
copies one from a dataset that has everything; this is that dataset: a tiled GTiff in the folder of the COG,
with overviews and mask of our own making, because GDAL's average drifts by up to half a pixel on odd sizes.
Scratch and COG are on the disk together for a while: about twice the room of the finished file with a
lossless codec, and the room of a lossless file on top with a lossy one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidesampler.cache.codecs import cog_options, scratch_options
from slidesampler.cache.cog_layout import CogLayout
from slidesampler.cache.gdal_write import close_dataset, gdal, gdal_array, gdal_config, gdal_errors
from slidesampler.cache.write_failure import remove_files, write_failure
from slidesampler.errors import BuildError, ReadError

__all__ = ["CogScratch"]

#: The dtypes that are written, and nothing else: GDAL would widen or narrow others.
_GDAL_TYPES = {"uint8": "Byte", "uint16": "UInt16", "int16": "Int16", "uint32": "UInt32", "float32": "Float32"}

#: What libtiff and GDAL call a write that failed; reading never does.
_WRITING = re.compile("_tiffWriteProc|TIFFWrite|WriteEncoded|Write error")


class CogScratch:
    """A COG in the making by way of a scratch file; see :class:`slidesampler.cache.cog_layout.CogTarget`.

    Parameters
    ----------
    layout : CogLayout
    threads : int
        Threads that compress.

    Raises
    ------
    BuildError
        From every method, when GDAL could not do it.
    """

    def __init__(self, layout: CogLayout, threads: int = 1) -> None:
        self._path, self._levels, self._channels = layout.path, layout.levels, layout.channels
        self._scratch = layout.path.with_suffix(".scratch.tif")
        self._finished = False
        self._options = cog_options(
            layout.codec, layout.quality, tile=layout.tile, threads=threads, sparse=layout.sparse
        )
        options = scratch_options(tile=layout.tile, threads=threads, sparse=layout.sparse)
        # Told, not guessed: GDAL takes the fourth of four uint8 channels for alpha.
        options += [f"PHOTOMETRIC={'RGB' if layout.rgb else 'MINISBLACK'}", "ALPHA=NO"]
        kind = getattr(gdal, f"GDT_{_GDAL_TYPES[layout.dtype.name]}")
        base = layout.levels[0]
        self._dataset: Any = None
        try:
            with gdal_errors(self._scratch):
                driver = gdal.GetDriverByName("GTiff")
                self._dataset = driver.Create(
                    str(self._scratch), base.width, base.height, layout.channels, kind, options=options
                )
            self._describe(layout.names, layout.mpp)
            # GDAL crashes where it builds overviews on a header that could not be written.
            self.flush()
            self._build_overviews()
            self.flush()
        except BaseException:
            self._release()
            raise

    def __enter__(self) -> CogScratch:
        return self

    def __exit__(self, *_: object) -> None:
        self._release()

    def _release(self) -> None:
        with suppress(BuildError), gdal_errors(self._scratch):
            # What closing the scratch file has to say is of no interest: it goes.
            close_dataset(self._dataset)
        self._dataset = None
        remove_files(self._path.parent, f"{self._scratch.name}*")
        if not self._finished:
            # GDAL may have put files of its own beside the COG: .aux.xml, .ovr.tmp, .msk.
            remove_files(self._path.parent, f"{self._path.name}*")

    def _describe(self, names: tuple[str, ...], mpp: tuple[float, float] | None) -> None:
        with gdal_errors(self._scratch):
            for number, name in enumerate(names, 1):
                self._dataset.GetRasterBand(number).SetDescription(name)
            if mpp is not None:
                # Pixels per centimetre, as every slide format has it.
                self._dataset.SetMetadataItem("TIFFTAG_YRESOLUTION", repr(10_000 / mpp[0]))
                self._dataset.SetMetadataItem("TIFFTAG_XRESOLUTION", repr(10_000 / mpp[1]))
                self._dataset.SetMetadataItem("TIFFTAG_RESOLUTIONUNIT", "3")

    def _build_overviews(self) -> None:
        if len(self._levels) == 1:
            return
        factors = [int(level.downsample[0]) for level in self._levels[1:]]
        with gdal_errors(self._scratch), gdal_config(GDAL_TIFF_INTERNAL_MASK="YES"):
            self._dataset.BuildOverviews("NONE", factors)
            band = self._dataset.GetRasterBand(1)
            overviews = [band.GetOverview(number) for number in range(band.GetOverviewCount())]
        sizes = [(overview.YSize, overview.XSize) for overview in overviews]
        wanted = [(level.height, level.width) for level in self._levels[1:]]
        if sizes != wanted:
            raise BuildError(f"{self._scratch}: GDAL made overviews of {sizes}, {wanted} were asked for")

    def flush(self) -> None:
        """Write what GDAL still holds in its cache; a disk that is full shows here at the latest."""
        with gdal_errors(self._scratch):
            self._dataset.FlushCache()

    @contextmanager
    def blamed_for_reads(self) -> Iterator[None]:
        """Run code that reads a source, and tell a full disk from a damaged source.

        GDAL's cache is shared: a read may have to write a tile of the scratch file to make room, and fails
        with it.
        """
        try:
            yield
        except ReadError as error:
            # If the disk is still full this says so, with the reason.
            self.flush()
            if _WRITING.search(str(error)):
                raise write_failure(self._scratch, str(error)) from error
            raise

    def start_mask(self) -> None:
        """Add a mask to all levels; nothing is valid until it is written so."""
        with gdal_errors(self._scratch), gdal_config(GDAL_TIFF_INTERNAL_MASK="YES"):
            self._dataset.CreateMaskBand(gdal.GMF_PER_DATASET)
        self.flush()
        # Existing overviews get a mask of their own by being built again; this keeps their pixels.
        self._build_overviews()

    def write(self, level: int, y: int, x: int, pixels: NDArray[Any]) -> None:
        """Write ``(h, w, C)`` pixels at ``(y, x)`` of a level."""
        with gdal_errors(self._scratch):
            if level == 0 and self._channels > 1:
                gdal_array.DatasetWriteArray(self._dataset, pixels, x, y, interleave="pixel")
                return
            for number in range(self._channels):
                band = self._dataset.GetRasterBand(number + 1)
                if level:
                    band = band.GetOverview(level - 1)
                band.WriteArray(pixels[:, :, number], x, y)

    def write_mask(self, level: int, y: int, x: int, valid: NDArray[np.bool_]) -> None:
        """Write ``(h, w)`` of the mask at ``(y, x)`` of a level."""
        with gdal_errors(self._scratch):
            mask = self._dataset.GetRasterBand(1).GetMaskBand()
            if level:
                mask = mask.GetOverview(level - 1)
            mask.WriteArray(valid.astype(np.uint8) * 255, x, y)

    def finish(self, advance: Callable[[float], None]) -> None:
        """Copy everything into the COG.

        Parameters
        ----------
        advance : callable
            Told the share that is done, 0 to 1, now and then. An exception of its own (a KeyboardInterrupt, for
            example) ends the copy and is raised.
        """
        raised: list[BaseException] = []

        def progress(share: float, _message: str, _data: object) -> int:
            try:
                advance(share)
            except BaseException as error:  # GDAL's C code would swallow it
                raised.append(error)
                return 0
            return 1

        self.flush()
        try:
            with gdal_errors(self._path), gdal_config(GDAL_TIFF_INTERNAL_MASK="YES"):
                driver = gdal.GetDriverByName("COG")
                copy = driver.CreateCopy(
                    str(self._path), self._dataset, options=self._options, callback=progress
                )
                # Closing writes what is left, and may say so only in GDAL's log.
                close_dataset(copy)
        finally:
            # GDAL may or may not call a copy that was ended an error.
            if raised:
                raise raised[0]
        if not self._path.is_file():
            raise BuildError(f"{self._path}: GDAL's COG driver reported success and left no file")
        self._finished = True
