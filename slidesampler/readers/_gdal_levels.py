"""The levels of a GDAL raster: which of its overviews are plain reductions, and a dataset for each."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from slidesampler.errors import UnsupportedSourceError
from slidesampler.geometry import Window
from slidesampler.models import Level
from slidesampler.readers._gdal_io import gdal, open_dataset, quietly, read_band, read_bands
from slidesampler.readers.orientation import UPRIGHT, Orientation

__all__ = ["LevelDatasets", "is_reduction"]

#: The reductions that libjpeg computes while decoding. Any other "overview" of a JPEG is the thumbnail in its
#: EXIF block, which cameras and editors let grow stale.
_JPEG_RATIOS = (2, 4, 8)


def is_reduction(full: tuple[int, int], reduced: tuple[int, int]) -> bool:
    """Whether an image of size ``reduced`` may show the same area as one of size ``full``, only coarser.

    There must be one ratio, the same for both axes and above 1, from which both sizes follow when rounded up or
    down. The label and the macro photograph, which GDAL takes for overviews of an SVS, fail this.

    Parameters
    ----------
    full, reduced : (int, int)
        Height and width, pixels.

    Examples
    --------
    >>> is_reduction((2967, 2220), (1484, 1110)), is_reduction((2967, 2220), (463, 387))
    (True, False)
    """
    if min(reduced) < 1 or reduced[0] > full[0] or reduced[1] > full[1] or reduced == full:
        return False
    # A size r comes from n pixels at ratio q when |n / q - r| < 1, so n / (r + 1) < q < n / (r - 1).
    low = max(n / (r + 1) for n, r in zip(full, reduced, strict=True))
    high = min(n / (r - 1) if r > 1 else float("inf") for n, r in zip(full, reduced, strict=True))
    return low < high and high > 1


class LevelDatasets:
    """An open raster and, opened when first asked for, the datasets of its overviews.

    Parameters
    ----------
    path : str
    drivers : sequence of str
        GDAL drivers that may open it; all where empty.
    orientation : Orientation
        Turns the sizes of the levels as the image is turned.

    Attributes
    ----------
    base : gdal.Dataset
    driver : str
        GDAL's short name of the format.
    levels : tuple of Level
        As displayed.
    """

    def __init__(self, path: str, drivers: tuple[str, ...] = (), orientation: Orientation = UPRIGHT) -> None:
        self._path = path
        self._drivers = drivers
        self._options: tuple[str, ...] = ()
        self.base = open_dataset(path, drivers=drivers)
        self.driver = str(self.base.GetDriver().ShortName)
        if self.driver == "GTiff" and gdal.GetConfigOption("GDAL_NUM_THREADS"):
            # The threads of GDAL's decoder are not there after a fork, and a child would wait for them for
            # ever.
            self._options = ("NUM_THREADS=1",)
            self.base = open_dataset(path, self._options, drivers)
        self._datasets: dict[int, Any] = {0: self.base}
        self._overviews: tuple[int, ...] = ()
        self.levels: tuple[Level, ...] = ()
        self.set_orientation(orientation)

    def set_orientation(self, orientation: Orientation) -> None:
        """State the levels as displayed under an orientation, which is known only after the file is open."""
        size = (self.base.RasterYSize, self.base.RasterXSize)
        try:
            found = _overviews(self.base, size, self.driver) if self.base.RasterCount else {}
        except RuntimeError as error:
            # The directories of a TIFF behind the first are looked at only now.
            raise UnsupportedSourceError(f"{self._path}: GDAL cannot read its overviews: {error}") from error
        self._overviews = tuple(found.values())
        shown = orientation.shape(*size)
        self.levels = (Level(*shown), *(Level.of(shown, orientation.shape(*reduced)) for reduced in found))

    def dataset(self, level: int) -> Any:
        """Return the dataset whose bands are the pixels of a level."""
        dataset = self._datasets.get(level)
        if dataset is None:
            dataset = self._datasets[level] = self._open(self._overviews[level - 1])
        return dataset

    def _open(self, overview: int) -> Any:
        if self.driver == "GTiff":
            # The dataset of a TIFF's overview shares the file of the base: no second handle, no parsing.
            with quietly():
                dataset = self.base.GetRasterBand(1).GetOverview(overview).GetDataset()
            if dataset is not None and dataset.RasterCount == self.base.RasterCount:
                return dataset
        return open_dataset(self._path, (*self._options, f"OVERVIEW_LEVEL={overview}"), self._drivers)

    def read(
        self, level: int, name: str, window: Window, out: NDArray[Any], bands: list[int], code: int
    ) -> None:
        """Read bands of a level into ``out``; parameters and errors as :func:`._gdal_io.read_bands`."""
        dataset = self.dataset(level)
        if level == 0 or self.driver != "VRT":
            read_bands(dataset, name, window, out, bands, code)
            return
        # An overview of a VRT names a dataset and a band for each of its bands, and GDAL, asked for all at
        # once, takes those of the first dataset in the order in which they are there.
        for i, band in enumerate(bands):
            read_band(dataset.GetRasterBand(band), name, window, out[..., i], code)

    def mask_is_reduced(self, level: int) -> bool:
        """Whether the mask of the dataset has an overview of the size of this level."""
        if level == 0:
            return True
        dataset = self.dataset(level)
        mask = self.base.GetRasterBand(1).GetMaskBand()
        sizes = [mask.GetOverview(i) for i in range(mask.GetOverviewCount())]
        return (dataset.RasterXSize, dataset.RasterYSize) in [(item.XSize, item.YSize) for item in sizes]

    def close(self) -> None:
        """Let go of every dataset; overviews before the base that they belong to."""
        with quietly():
            for level in sorted(self._datasets, reverse=True):
                del self._datasets[level]
            self.base = None


def _overviews(base: Any, size: tuple[int, int], driver: str) -> dict[tuple[int, int], int]:
    """Return ``(height, width) -> overview index`` of the plain reductions, finest first."""
    found: dict[tuple[int, int], int] = {}
    bands = [base.GetRasterBand(i + 1) for i in range(base.RasterCount)]
    with quietly():
        for index in range(min(band.GetOverviewCount() for band in bands)):
            views = [band.GetOverview(index) for band in bands]
            if any(view is None for view in views):
                continue
            sizes = {(view.YSize, view.XSize) for view in views}
            if len(sizes) != 1:
                continue
            (reduced,) = sizes
            if not is_reduction(size, reduced) or reduced in found:
                continue
            if driver == "JPEG" and not any(-(-size[1] // ratio) == reduced[1] for ratio in _JPEG_RATIOS):
                continue
            # A 1-bit image averaged to grey has overviews of another kind than itself.
            if all(_kind(view) == _kind(band) for view, band in zip(views, bands, strict=True)):
                found[reduced] = index
    return dict(sorted(found.items(), reverse=True))


def _kind(band: Any) -> tuple[Any, ...]:
    nbits = band.GetMetadataItem("NBITS", "IMAGE_STRUCTURE")
    return band.DataType, nbits, band.GetColorTable() is not None
