"""The contract of readers, run over each of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image
from raster_files import halve, noise, spec_by_table, write_cog, write_pyramid, write_tiff

from slidesampler.readers import ReaderSpec, open_reader, register_array, unregister_array
from slidesampler.readers.array import ArrayReader
from slidesampler.testing.contracts import ReaderCase, ReaderContract


class FromSpec(ReaderContract):
    """Cases that are opened from a spec."""

    def case_of(self, spec, image, valid=None, levels=()):
        return ReaderCase(open_reader(spec), image, valid, spec, levels)


class TestGdalRgb(FromSpec):
    def make(self, folder: Path) -> ReaderCase:
        image = noise(320, 256)
        path = write_tiff(folder / "a.tif", image, factors=(2, 4))
        return self.case_of(ReaderSpec("gdal", str(path)), image, levels=(halve(image), halve(halve(image))))


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32", "uint32", "float64"])
class TestGdalDtypes(FromSpec):
    @pytest.fixture(autouse=True)
    def _dtype(self, dtype: str) -> None:
        self.dtype = dtype

    def make(self, folder: Path) -> ReaderCase:
        image = noise(70, 90, 5, self.dtype)
        path = write_tiff(folder / "a.tif", image)
        return self.case_of(ReaderSpec("gdal", str(path)), image)


class TestGdalOriented(FromSpec):
    """A TIFF stored lying on its side, with an internal mask and overviews that turn with it."""

    def make(self, folder: Path) -> ReaderCase:
        stored = noise(128, 192)
        levels = (stored, halve(stored))
        with tifffile.TiffWriter(folder / "a.tif") as tiff:
            for k, level in enumerate(levels):
                tag = [(274, "H", 1, 6, True)]
                tiff.write(level, tile=(64, 64), photometric="rgb", extratags=tag, subfiletype=int(k > 0))
        shown = [np.rot90(level, -1) for level in levels]
        return self.case_of(ReaderSpec("gdal", str(folder / "a.tif")), shown[0], levels=(shown[1],))


class TestGdalPalette(FromSpec):
    """An indexed PNG, one of whose colours is transparent."""

    def make(self, folder: Path) -> ReaderCase:
        index = noise(60, 40, 1)[..., 0] % 5
        colours = noise(1, 5, 3, seed=1)[0]
        picture = Image.fromarray(index).convert("P")
        picture.putpalette(colours.ravel().tolist())
        picture.save(folder / "a.png", transparency=3)
        return self.case_of(ReaderSpec("gdal", str(folder / "a.png")), colours[index], index != 3)


class TestGdalAlpha(FromSpec):
    def make(self, folder: Path) -> ReaderCase:
        image, alpha = noise(80, 96), noise(80, 96, 1, seed=2)[..., 0] // 128 * 90
        path = write_tiff(folder / "a.tif", image, alpha=alpha, factors=(2,))
        return self.case_of(ReaderSpec("gdal", str(path)), image, alpha > 0, (halve(image),))


class TestOpenSlide(FromSpec):
    def make(self, folder: Path) -> ReaderCase:
        image = noise(320, 256)
        path = write_pyramid(folder / "a.tif", image, (halve(image),))
        return self.case_of(ReaderSpec("openslide", str(path)), image, levels=(halve(image),))


@pytest.fixture(scope="module")
def real_pixels(real_slide: Path) -> np.ndarray:
    with openslide.OpenSlide(real_slide) as slide:
        return np.asarray(slide.read_region((0, 0), 0, slide.dimensions))[..., :3]


class TestOpenSlideRealSlide(FromSpec):
    @pytest.fixture(autouse=True)
    def _slide(self, real_slide: Path, real_pixels: np.ndarray) -> None:
        self.slide, self.pixels = real_slide, real_pixels

    def make(self, folder: Path) -> ReaderCase:
        return self.case_of(ReaderSpec("openslide", str(self.slide)), self.pixels)


class TestNpy(FromSpec):
    def make(self, folder: Path) -> ReaderCase:
        image = noise(200, 120)
        np.save(folder / "image.npy", image)
        np.save(folder / "image.level1.npy", halve(image))
        files = {"image": str(folder / "image.npy"), "level1": str(folder / "image.level1.npy")}
        spec = ReaderSpec("npy", files["image"], tuple(files.items()))
        return self.case_of(spec, image, levels=(halve(image),))


class TestNpyForeign(FromSpec):
    """Fortran order and big-endian numbers, two axes, a mask."""

    def make(self, folder: Path) -> ReaderCase:
        image = noise(50, 40, 1, "int16")
        valid = noise(50, 40, 1, seed=3)[..., 0] > 100
        np.save(folder / "image.npy", np.asfortranarray(image[..., 0].astype(">i2")))
        np.save(folder / "valid.npy", valid)
        files = {"image": str(folder / "image.npy"), "valid": str(folder / "valid.npy")}
        return self.case_of(ReaderSpec("npy", files["image"], tuple(files.items())), image, valid)


class TestCog(FromSpec):
    def make(self, folder: Path) -> ReaderCase:
        image = noise(256, 320)
        path = write_cog(folder / "a.tif", image, factors=(2, 4))
        return self.case_of(ReaderSpec("cog", str(path)), image, levels=(halve(image), halve(halve(image))))


class TestCogMasked(FromSpec):
    def make(self, folder: Path) -> ReaderCase:
        image, valid = noise(128, 192, 2, "uint16"), noise(128, 192, 1, seed=4)[..., 0] > 60
        path = write_cog(folder / "a.tif", image, mask=valid, factors=(2,))
        return self.case_of(ReaderSpec("cog", str(path)), image, valid, (halve(image),))


class TestTiled(FromSpec):
    def make(self, folder: Path) -> ReaderCase:
        image = noise(256, 320)
        path = write_cog(folder / "a.tif", image, factors=(2, 4))
        return self.case_of(spec_by_table(path), image, levels=(halve(image), halve(halve(image))))


class TestTiledMasked(FromSpec):
    def make(self, folder: Path) -> ReaderCase:
        image, valid = noise(128, 192, 2, "uint16"), noise(128, 192, 1, seed=4)[..., 0] > 60
        path = write_cog(folder / "a.tif", image, mask=valid, factors=(2,))
        return self.case_of(spec_by_table(path), image, valid, (halve(image),))


class TestTiledAlpha(FromSpec):
    def make(self, folder: Path) -> ReaderCase:
        image, alpha = noise(80, 96), noise(80, 96, 1, seed=2)[..., 0] // 128 * 90
        path = write_tiff(folder / "a.tif", image, alpha=alpha, factors=(2,))
        return self.case_of(spec_by_table(path), image, alpha > 0, (halve(image),))


class TestTiledNodata(FromSpec):
    """A pixel is valid where any of its channels is."""

    def make(self, folder: Path) -> ReaderCase:
        image = noise(80, 96, 2, "int16") % 4 - 3
        path = write_tiff(folder / "a.tif", image, nodata=(-3, -3), factors=(2,))
        return self.case_of(spec_by_table(path), image, (image != -3).any(-1), (halve(image),))


class TestArray(ReaderContract):
    @pytest.fixture(autouse=True)
    def _forget(self):
        yield
        unregister_array("contract")

    def make(self, folder: Path) -> ReaderCase:
        image = noise(90, 70)
        spec = ReaderSpec("auto", register_array("contract", image))
        return ReaderCase(open_reader(spec), image, spec=spec)


class TestArrayUnregistered(ReaderContract):
    """A two-axis, strided array that nobody registered."""

    def make(self, folder: Path) -> ReaderCase:
        image = noise(90, 70, 1, "float32")
        return ReaderCase(ArrayReader(np.repeat(image[..., 0], 2, axis=1)[:, ::2]), image)


class TestStack(FromSpec):
    """Three files of different kinds and dtypes as channels, one of them with a mask."""

    def make(self, folder: Path) -> ReaderCase:
        red, green, blue = noise(64, 96, 2), noise(64, 96, 1, "int16", seed=1), noise(64, 96, 1, seed=2)
        valid = noise(64, 96, 1, seed=5)[..., 0] > 99
        paths = [str(folder / name) for name in ("r.tif", "g.npy", "b.tif")]
        write_tiff(Path(paths[0]), red, factors=(2,))
        np.save(paths[1], green)
        write_tiff(Path(paths[2]), blue, mask=valid)
        spec = ReaderSpec("stack", parts=tuple(ReaderSpec("auto", path) for path in paths))
        image = np.concatenate([red.astype("int16"), green, blue.astype("int16")], axis=2)
        return self.case_of(spec, image, valid)


class TestStackOfOneWithMask(FromSpec):
    """One file, and a mask from another file."""

    def make(self, folder: Path) -> ReaderCase:
        image, valid = noise(96, 64), noise(96, 64, 1, seed=6)[..., 0] > 150
        path = write_tiff(folder / "a.tif", image, factors=(2,))
        Image.fromarray(valid.astype(np.uint8) * 7).save(folder / "valid.png")
        spec = ReaderSpec("auto", str(path), valid_path=str(folder / "valid.png"))
        return self.case_of(spec, image, valid, (halve(image),))
