#!/usr/bin/env python
"""Draw the pictures of docs/sampling: what each source chooses on a synthetic slide, with the code itself.

python scripts/draw_sources.py                     # all of them, into docs/sampling/img
python scripts/draw_sources.py grid negative       # these two
python scripts/draw_sources.py --work /tmp/slides  # keep the slides for the next time
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke
from PIL import Image

from slidesampler.geometry import Window
from slidesampler.models import LabelSpec
from slidesampler.report.balance import cell_balance
from slidesampler.report.contact_sheet import draw_segments, mask_edges
from slidesampler.report.figures import draw_slide
from slidesampler.report.png import DPI, to_small_png
from slidesampler.report.thumbnails import Thumbnail, read_thumbnail
from slidesampler.sampler import Sampler
from slidesampler.sampling.balanced import BalancedSource
from slidesampler.sampling.coverage import CoverageSource
from slidesampler.sampling.fixed import FixedSource
from slidesampler.sampling.grid import GridSource
from slidesampler.sampling.log import SampleLog
from slidesampler.sampling.log_columns import read_log
from slidesampler.sampling.negative import NegativeSource
from slidesampler.sampling.positive import PositiveSource
from slidesampler.sampling.regions import RestrictedSource, split_by_region
from slidesampler.sampling.rejection import RejectionSource
from slidesampler.sampling.statistics import SampleSummary
from slidesampler.sampling.summary import summarize
from slidesampler.sampling.tiles import ImageMajorTiles, RandomTilePerImage, TileMajorTiles
from slidesampler.sampling.weighted import WeightedSource
from slidesampler.target import Target
from slidesampler.testing import make_dataset

OUT = Path(__file__).resolve().parents[1] / "docs" / "sampling" / "img"
SLIDES, HEIGHT, WIDTH, SEED, SIZE = 3, 2400, 3200, 6, 256
#: Bytes of a picture, at most.
LIMIT = 150_000
#: Of a picture. Tissue in fewer shades takes half the bytes.
COLORS = 72
#: Told apart by those who see few colours, and on pink: positive, negative, other, left out, background.
BLUE, ORANGE, GREEN = "#0a4fa8", "#e06c00", "#007a4d"
RED, GREY, DARK = "#b3001b", "#6b6b6b", "#111111"
CLASS_COLORS = {1: "#ffe100", 2: "#00e5ff", 3: "#31ff2e"}


class Picture:
    """Panels side by side, each a slide, with one legend below."""

    def __init__(self, sampler: Sampler, panels: int = 1) -> None:
        self.sampler = sampler
        width = {1: 5.6, 2: 4.3, 3: 3.3}[panels]
        self._height = width * HEIGHT / WIDTH + 0.72
        self._figure = Figure(figsize=(panels * (width + 0.1), self._height), dpi=DPI, facecolor="white")
        sides = {"bottom": 0.42 / self._height, "top": 1 - 0.3 / self._height, "left": 0.005, "right": 0.995}
        self.axes: list[Axes] = list(
            self._figure.subplots(1, panels, squeeze=False, gridspec_kw={**sides, "wspace": 0.03})[0]
        )
        self._handles: dict[str, Patch] = {}

    def slide(self, axes: Axes, image_id: int, title: str) -> None:
        """Draw a slide, paler than it is, and the outlines of tumours and necroses."""
        found = thumbnail(self.sampler, image_id)
        axes.imshow(255 - (255 - found.image.astype(int)) * 6 // 10, extent=(0, WIDTH, HEIGHT, 0))
        axes.set(xlim=(0, WIDTH), ylim=(HEIGHT, 0), xticks=[], yticks=[], aspect="equal")
        axes.set_title(title, fontsize=10, pad=4)
        # Nuclei lie in tumours; outlined they would hide what they are in.
        mask = np.where(found.mask == 3, 1, found.mask)
        edges, classes = mask_edges(np.where(mask == self.sampler.class_map.ignore, 0, mask))
        edges = edges * (WIDTH / mask.shape[1], HEIGHT / mask.shape[0])
        draw_segments(axes, edges, "#000000", 2.2)
        for index in np.unique(classes).tolist():
            draw_segments(axes, edges[classes == index], CLASS_COLORS[index], 1.2)
            self.explain(CLASS_COLORS[index], self.sampler.class_map.names[index], filled=False)

    def windows(
        self,
        axes: Axes,
        windows: Iterable[Window],
        color: str,
        label: str,
        *,
        numbers: Iterable[object] | None = None,
        fill: float = 0.14,
        dashed: bool = False,
    ) -> None:
        """Draw windows as rectangles, with a number in each where there are any."""
        marks = iter(numbers) if numbers is not None else None
        for window in windows:
            corner, size = (window.x, window.y), (window.width, window.height)
            # Below the outlines, which keep their colours so.
            axes.add_patch(Rectangle(corner, *size, facecolor=color, alpha=fill, linewidth=0, zorder=0.5))
            style = "--" if dashed else "-"
            axes.add_patch(
                Rectangle(corner, *size, fill=False, edgecolor=color, linewidth=1.6, linestyle=style)
            )
            if marks is not None:
                y, x = window.center
                # A white edge keeps it legible on outlines.
                axes.text(
                    x,
                    y,
                    str(next(marks)),
                    ha="center",
                    va="center",
                    fontsize=9,
                    color=color,
                    weight="bold",
                    path_effects=[withStroke(linewidth=2.5, foreground="white")],
                )
        self.explain(color, label)

    def explain(self, color: str, label: str, *, filled: bool = True) -> None:
        """Add a line to the legend."""
        if label and label not in self._handles:
            face = color if filled else "none"
            self._handles[label] = Patch(facecolor=face, edgecolor=color if filled else DARK, label=label)
            if not filled:
                self._handles[label].set(facecolor=color, edgecolor=DARK, linewidth=0.8)

    def png(self) -> bytes:
        """Return the picture."""
        self._figure.legend(
            handles=list(self._handles.values()),
            loc="lower center",
            ncols=max(len(self._handles), 1),
            fontsize=9,
            frameon=False,
            handlelength=1.2,
            columnspacing=1.4,
        )
        exact = [BLUE, ORANGE, GREEN, RED, GREY, DARK, "#ffffff", *CLASS_COLORS.values()]
        return to_small_png(self._figure, exact, COLORS)


class Drawn(Picture):
    """A figure that the package has drawn itself."""

    def __init__(self, png: bytes) -> None:
        self._png = png

    def png(self) -> bytes:
        """Return the picture, in few colours."""
        flat = Image.open(io.BytesIO(self._png))
        if flat.mode != "P":
            flat = flat.quantize(256, method=Image.Quantize.FASTOCTREE)
        stream = io.BytesIO()
        flat.save(stream, "PNG")
        return stream.getvalue()


_thumbnails: dict[int, Thumbnail] = {}


def thumbnail(sampler: Sampler, image_id: int) -> Thumbnail:
    if image_id not in _thumbnails:
        _thumbnails[image_id] = read_thumbnail(sampler, image_id, 640)
    return _thumbnails[image_id]


def drawn(source: Any, image_id: int = 1, epoch: int = 0) -> list[Target]:
    """Return the targets of an epoch that are on one slide."""
    targets = [
        source.sampler.resolve(t) if hasattr(source, "sampler") else t for t in targets_of(source, epoch)
    ]
    return [target for target in targets if target.image_id == image_id]


def targets_of(source: Any, epoch: int = 0) -> list[Target]:
    return [source.target(epoch, index) for index in range(len(source))]


def windows_of(targets: Iterable[Target]) -> list[Window]:
    return [target.window for target in targets if target.window is not None]


def foreground(sampler: Sampler, window: Window) -> int:
    """Return how many pixels of a window on slide 1 have a class."""
    mask = sampler.load_mask(1, window)
    return np.count_nonzero((mask != 0) & (mask != sampler.class_map.ignore))


# --- one function a picture --------------------------------------------------------------------------------


def draw_positive(sampler: Sampler) -> Picture:
    picture = Picture(sampler, 3)
    around, pixel, equal = picture.axes
    words = {"image_ids": [1], "seed": 1}
    classes = ["tumour", "necrosis"]
    picture.slide(around, 1, 'choose="annotation"')
    source = PositiveSource(sampler, SIZE, categories=classes, **words)
    picture.windows(around, windows_of(drawn(source)), BLUE, "windows of PositiveSource")
    picture.slide(pixel, 1, 'choose="pixel", categories="tumour"')
    source = PositiveSource(sampler, SIZE, 8, choose="pixel", categories="tumour", **words)
    picture.windows(pixel, windows_of(drawn(source)), BLUE, "windows of PositiveSource")
    picture.slide(equal, 1, 'choose="pixel", class_weights="uniform"')
    source = PositiveSource(sampler, SIZE, 8, choose="pixel", class_weights="uniform", **words)
    picture.windows(equal, windows_of(drawn(source)), BLUE, "windows of PositiveSource")
    return picture


def draw_negative(sampler: Sampler) -> Picture:
    picture = Picture(sampler, 2)
    plain, far = picture.axes
    picture.slide(plain, 1, "proposed anywhere on tissue; no pixel of foreground allowed")
    proposed = windows_of(drawn(WeightedSource(sampler, SIZE, "tissue", 20, 1, image_ids=[1])))
    refused = [window for window in proposed if foreground(sampler, window)]
    accepted = [window for window in proposed if window not in refused]
    picture.windows(plain, refused, RED, "refused", dashed=True, fill=0.05)
    picture.windows(plain, accepted, GREEN, "accepted")
    picture.slide(far, 1, "NegativeSource, min_distance_px=200, min_tissue=0.9")
    source = NegativeSource(sampler, SIZE, 12, 2, min_distance_px=200, min_tissue=0.9, image_ids=[1])
    picture.windows(far, windows_of(drawn(source)), GREEN, "accepted")
    return picture


def draw_rejection(sampler: Sampler) -> Picture:
    picture = Picture(sampler, 2)
    before, after = picture.axes
    inner = WeightedSource(sampler, SIZE, "tissue", 14, 1, image_ids=[1])
    picture.slide(before, 1, "trials: windows anywhere on tissue")
    trials = windows_of(drawn(inner))
    kept = [window for window in trials if foreground(sampler, window) >= 1000]
    refused = [window for window in trials if window not in kept]
    picture.windows(before, refused, GREY, "fewer than 1000 pixels of foreground", dashed=True, fill=0.05)
    picture.windows(before, kept, BLUE, "1000 or more")
    picture.slide(after, 1, "kept at size_threshold=1000, p=0.95, after so many trials")
    source = RejectionSource(inner, size_threshold=1000, p=0.95, seed=1)
    for target, record in (source.explain(0, index) for index in range(0, len(source), 2)):
        window = sampler.resolve(target).window
        assert window is not None
        enough = foreground(sampler, window) >= 1000
        picture.windows(
            after, [window], BLUE if enough else GREY, "", numbers=[record.tries], dashed=not enough
        )
    return picture


def draw_balanced(sampler: Sampler) -> Picture:
    """Draw four batches, a row each."""
    source = BalancedSource(sampler, SIZE, 32, 1, pos_fraction=0.25, batch_size=8)
    figure = Figure(figsize=(7.4, 4.1), dpi=DPI, facecolor="white")
    sides = {"left": 0.075, "right": 0.995, "top": 0.995, "bottom": 0.085, "wspace": 0.06, "hspace": 0.08}
    for index, axes in enumerate(figure.subplots(4, 8, gridspec_kw=sides).flat):
        target = sampler.resolve(source.target(0, index))
        sample = sampler.load_sample(target.with_fields(size=(96, 96), downsample=None), with_annots=False)
        axes.imshow(255 - (255 - sample.image.astype(int)) * 8 // 10)
        axes.set(xticks=[], yticks=[])
        for side in axes.spines.values():
            positive = target.kind == "positive"
            side.set(color=BLUE if positive else "#c8c8c8", linewidth=3.5 if positive else 1)
        if index % 8 == 0:
            axes.set_ylabel(f"batch {index // 8}", fontsize=9)
    handles = [
        Patch(facecolor="none", edgecolor=BLUE, linewidth=2.5, label="positive: 2 of 8, pos_fraction=0.25"),
        Patch(facecolor="none", edgecolor="#c8c8c8", label="negative"),
    ]
    figure.legend(handles=handles, loc="lower center", ncols=2, fontsize=9, frameon=False)
    return Drawn(to_small_png(figure, [BLUE, "#ffffff", "#c8c8c8"], 48))


def draw_grid(sampler: Sampler) -> Picture:
    picture = Picture(sampler, 3)
    size = 1000
    for axes, edge in zip(picture.axes, ("shift", "pad", "even"), strict=True):
        picture.slide(axes, 1, f'size={size}, edge="{edge}"')
        targets = drawn(GridSource(sampler, size, edge=edge, image_ids=[1]))
        axes.set(xlim=(-60, 4060), ylim=(3060, -60))
        axes.add_patch(Rectangle((0, 0), WIDTH, HEIGHT, fill=False, edgecolor=DARK, linewidth=0.8))
        picture.windows(axes, windows_of(targets), GREY, "windows", fill=0.0)
        rows = sorted({target.window.y for target in targets})
        columns = sorted({target.window.x for target in targets})
        for target in targets:
            owned, window = target.owned, target.window
            shade = (BLUE, ORANGE)[(rows.index(window.y) + columns.index(window.x)) % 2]
            axes.add_patch(
                Rectangle(
                    (owned.x, owned.y),
                    owned.width,
                    owned.height,
                    facecolor=shade,
                    alpha=0.22,
                    linewidth=0,
                )
            )
        picture.explain("#b9cae4", "owned: the image's pixels, each in one of them")
    return picture


def draw_coverage(sampler: Sampler) -> Picture:
    picture = Picture(sampler)
    (axes,) = picture.axes
    source = CoverageSource(sampler, SIZE, categories=["tumour", "necrosis"], image_ids=[1])
    targets = drawn(source)
    picture.slide(axes, 1, f"{len(targets)} windows hold every tumour and every necrosis")
    picture.windows(axes, windows_of(targets), GREEN, "windows of CoverageSource")
    return picture


def draw_weighted(sampler: Sampler) -> Picture:
    picture = Picture(sampler, 2)
    left, right = picture.axes
    # As the errors of a model would be: around the edge of the tumours, and nowhere else.
    y, x = np.mgrid[0:60, 0:80]
    errors = np.exp(-(((y - 18) / 9) ** 2 + ((x - 52) / 10) ** 2)) + 0.5 * np.exp(
        -(((y - 42) / 6) ** 2 + ((x - 24) / 8) ** 2)
    )
    errors[errors < 0.08] = 0
    picture.slide(left, 1, "a map of weights; 0 is never")
    colors = colormaps["viridis"](errors / errors.max())
    colors[..., 3] = np.where(errors > 0, 0.75, 0)
    left.imshow(colors, extent=(0, WIDTH, HEIGHT, 0), interpolation="nearest")
    left.set(xlim=(0, WIDTH), ylim=(HEIGHT, 0))
    picture.slide(right, 1, "centres of 2000 windows, and three of them")
    windows = windows_of(drawn(WeightedSource(sampler, SIZE, {1: errors}, 2000, 3)))
    centres = np.array([window.center for window in windows])
    right.plot(centres[:, 1], centres[:, 0], ".", color=DARK, markersize=1.5)
    picture.windows(right, windows[:3], GREEN, "windows of WeightedSource")
    return picture


def draw_snap(sampler: Sampler) -> Picture:
    picture = Picture(sampler, 3)
    # The tiles of a cache are as large as the windows.
    for axes, snap in zip(picture.axes, (None, SIZE // 2, SIZE), strict=True):
        source = WeightedSource(sampler, SIZE, "tissue", 9, 3, snap=snap, image_ids=[1])
        windows = windows_of(drawn(source))
        tiles = {
            (row, column)
            for window in windows
            for row in range(window.y // SIZE, (window.y1 - 1) // SIZE + 1)
            for column in range(window.x // SIZE, (window.x1 - 1) // SIZE + 1)
        }
        picture.slide(axes, 1, f"snap={snap}: {len(tiles)} tiles for {len(windows)} windows")
        axes.set(xticks=range(0, WIDTH, SIZE), yticks=range(0, HEIGHT, SIZE), xticklabels=[], yticklabels=[])
        axes.tick_params(length=0)
        axes.grid(color=GREY, linewidth=0.5, alpha=0.7)
        corners = [Window(row * SIZE, column * SIZE, SIZE, SIZE) for row, column in sorted(tiles)]
        for tile in corners:
            axes.add_patch(Rectangle((tile.x, tile.y), SIZE, SIZE, facecolor=ORANGE, alpha=0.25, linewidth=0))
        picture.explain(ORANGE, "tiles that are read")
        picture.windows(axes, windows, BLUE, "windows of WeightedSource", fill=0.0)
    return picture


def draw_fixed(sampler: Sampler) -> Picture:
    picture = Picture(sampler, 2)
    negatives = NegativeSource(sampler, SIZE, 5, 8, min_tissue=0.5, image_ids=[1])
    positives = PositiveSource(sampler, SIZE, 5, 8, categories="tumour", choose="pixel", image_ids=[1])
    source = BalancedSource.of(positives, negatives, 0.5, n=10)
    frozen = FixedSource(targets_of(source, epoch=0))
    for axes, epoch in zip(picture.axes, (0, 7), strict=True):
        picture.slide(axes, 1, f"FixedSource, epoch {epoch}: the same windows in the same order")
        targets = [sampler.resolve(target) for target in targets_of(frozen, epoch)]
        picture.windows(axes, windows_of(targets), GREEN, "windows, by index", numbers=range(len(targets)))
    return picture


def draw_tiles(sampler: Sampler) -> Picture:
    picture = Picture(sampler, 3)
    grid = GridSource(sampler, 800, where="tissue", min_inside=0.4)
    orders = (
        ("image by image", ImageMajorTiles(grid), BLUE),
        ("tile by tile", TileMajorTiles(grid), GREEN),
        ("one random tile each", RandomTilePerImage(grid, 1), ORANGE),
    )
    for axes, (words, order, color) in zip(picture.axes, orders, strict=True):
        picture.slide(axes, 1, f"{words}: index on slide 1 of {SLIDES}")
        targets = [sampler.resolve(target) for target in targets_of(order)]
        mine = [target for target in targets if target.image_id == 1]
        name = type(order).__name__
        picture.windows(axes, windows_of(mine), color, name, numbers=[target.index for target in mine])
    return picture


def draw_splits(sampler: Sampler) -> Picture:
    picture = Picture(sampler, 2)
    left, right = picture.axes
    colors = {"train": BLUE, "test": ORANGE}
    fractions = {"train": 3, "test": 1}
    strips = split_by_region(sampler, fractions, 1, guard_px=256, min_px=SIZE, image_ids=[1])
    blocks = split_by_region(
        sampler, fractions, 2, guard_px=128, block_px=(750, 720), min_px=SIZE, image_ids=[1]
    )
    for axes, title, split in ((left, "strips, guard_px=256", strips), (right, "blocks, guard_px=128", blocks)):
        picture.slide(axes, 1, f"split_by_region: {title}")
        for part, color in colors.items():
            picture.windows(axes, split[part][1], color, f"region of {part}", fill=0.12, dashed=True)
            inner = WeightedSource(sampler, SIZE, "tissue", 9 if part == "train" else 4, 4, image_ids=[1])
            source = RestrictedSource(inner, split[part])
            targets = [sampler.resolve(target) for target in targets_of(source)]
            picture.windows(axes, windows_of(targets), color, f"windows of {part}", fill=0.25)
    return picture


def draw_tissue(sampler: Sampler) -> Picture:
    picture = Picture(sampler, 2)
    left, right = picture.axes
    picture.slide(left, 1, "the slide")
    picture.slide(right, 1, "tissue, found from its colours")
    index = sampler.foreground
    row, step = index.row(1), 8
    found = np.array(
        [
            [
                (index.count(row, [index.tissue_slot], Window(y, x, step, step)) or [0])[0] > step * step // 2
                for x in range(0, WIDTH, step)
            ]
            for y in range(0, HEIGHT, step)
        ]
    )
    veil = np.zeros((*found.shape, 4))
    veil[~found] = (1, 1, 1, 0.85)
    right.imshow(veil, extent=(0, WIDTH, HEIGHT, 0), interpolation="nearest")
    right.set(xlim=(0, WIDTH), ylim=(HEIGHT, 0))
    edges, _ = mask_edges(found.astype(np.uint8))
    draw_segments(right, edges * step, GREEN, 1.0)
    picture.explain(GREEN, "outline of the tissue mask", filled=True)
    return picture


def draw_report(sampler: Sampler) -> Picture:
    """Draw the maps of a report."""
    source = BalancedSource(sampler, SIZE, 400, 1, image_ids=[1])
    return draw_maps(sampler, summarize(targets_of(source), sampler, count_at_most=0))


def draw_log(sampler: Sampler) -> Picture:
    """Draw the maps of a log of a run that stayed away from a part of the slide."""
    part = {1: (Window(0, 0, HEIGHT, WIDTH * 6 // 10), Window(0, 0, HEIGHT // 3, WIDTH))}
    source = RestrictedSource(WeightedSource(sampler, SIZE, "tissue", 500, 1, image_ids=[1]), part)
    with tempfile.TemporaryDirectory() as folder, SampleLog(folder) as log:
        for target in targets_of(source):
            log.write(sampler.resolve(target), epoch=0)
        served = read_log(folder)
    return draw_maps(sampler, summarize(served, sampler, count_at_most=0))


def draw_maps(sampler: Sampler, summary: SampleSummary) -> Picture:
    (row,) = [row for row in summary.images if row.windows]
    assert row.coverage is not None
    balance = cell_balance(row.coverage, (row.height, row.width), row.windows)
    return Drawn(draw_slide(row, thumbnail(sampler, 1), balance, sampler.class_map))


PICTURES: dict[str, Callable[[Sampler], Picture]] = {
    function.__name__.removeprefix("draw_"): function
    for function in (
        draw_positive,
        draw_negative,
        draw_rejection,
        draw_balanced,
        draw_grid,
        draw_coverage,
        draw_weighted,
        draw_snap,
        draw_fixed,
        draw_tiles,
        draw_splits,
        draw_tissue,
        draw_report,
        draw_log,
    )
}


def open_sampler(folder: Path) -> Sampler:
    """Return a sampler of three slides with a cache, made where they are not there."""
    manifest = folder / "slides.kwcoco.json"
    if not manifest.exists():
        make_dataset(folder, SLIDES, HEIGHT, WIDTH, SEED, max_nuclei=300)
    sampler = Sampler(manifest, folder / "cache", "cog", label_spec=LabelSpec(tissue="otsu"))
    report = sampler.build()
    if not report.ok:
        raise SystemExit("\n".join(f"{row.path}: {row.reason}" for row in report.failed))
    return sampler


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(PICTURES)}; all when not given"
    )
    parser.add_argument(
        "--out", type=Path, default=OUT, help="where the pictures go (default: docs/sampling/img)"
    )
    parser.add_argument("--work", type=Path, help="keep the slides and their cache here")
    options = parser.parse_args(arguments)
    unknown = set(options.names) - set(PICTURES)
    if unknown:
        parser.error(f"no picture is called {', '.join(sorted(unknown))}; there are {', '.join(PICTURES)}")
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        sampler = open_sampler(options.work or Path(scratch))
        for name in options.names or PICTURES:
            png = PICTURES[name](sampler).png()
            path = options.out / f"{name}.png"
            path.write_bytes(png)
            print(f"{path}: {len(png) / 1000:.0f} kB")
            if len(png) > LIMIT:
                print(f"{path} is larger than {LIMIT / 1000:.0f} kB", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
