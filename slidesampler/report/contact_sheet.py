"""``contact_sheet``: many windows on one page, their masks outlined."""

from __future__ import annotations

import math
import os
import pathlib
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.path import Path
from numpy.typing import NDArray

from slidesampler.models import ClassMap, Sample
from slidesampler.report.png import DPI, missing_glyphs_allowed, one_line

__all__ = ["class_colors", "contact_sheet", "display_pixels", "draw_segments", "draw_sheet", "mask_edges"]

#: Colours that stand out from pink and purple tissue, from green land and from grey microscopy, and from each
#: other; class 1 has the first one. After the last they begin again.
PALETTE = (
    "#ffe100",
    "#00e5ff",
    "#31ff2e",
    "#ff8a00",
    "#ff2a2a",
    "#2f6bff",
    "#ffffff",
    "#ff4df0",
    "#9cff00",
    "#b08d57",
)
#: Of pixels that say nothing.
IGNORE_COLOR = "#9a9a9a"
#: Width of a panel.
PANEL_INCHES = 2.3


def contact_sheet(
    samples: Iterable[Sample],
    path: str | os.PathLike[str],
    class_map: ClassMap,
    *,
    columns: int = 6,
    title: str | None = None,
) -> pathlib.Path:
    """Write a picture of windows, each with its mask outlined in the colours of the classes.

    Each panel says which image it is from, the level-0 coordinates of its top-left corner, its size in level-0
    pixels, and who chose it. Pixels that the mask ignores are greyed.

    Parameters
    ----------
    samples : iterable of Sample
        In the order of the panels, row by row. The frames of a sequence are panels of their own. Of images with
        more than three channels the first three are shown, of those with two the first; other dtypes than uint8
        are stretched, so that a panel's own middle 98 percent fill the range.
    path : path
        ``.png``, or another format that matplotlib writes; replaced once the new one is complete.
    class_map : ClassMap
        The sampler's: names for the legend.
    columns : int
        Panels a row.
    title : str, optional
        Above the panels.

    Returns
    -------
    Path
        Where it was written.

    Raises
    ------
    ValueError
        If there is no sample, or ``columns`` is below 1.
    """
    figure = draw_sheet(samples, class_map, columns=columns, title=title)
    path = pathlib.Path(path)
    partial = path.with_name(f"{path.stem}.partial{path.suffix}")
    try:
        with missing_glyphs_allowed():
            FigureCanvasAgg(figure).print_figure(partial, dpi=DPI, facecolor="white")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def draw_sheet(
    samples: Iterable[Sample], class_map: ClassMap, *, columns: int = 6, title: str | None = None
) -> Figure:
    """Return the figure that :func:`contact_sheet` writes; the same parameters, and the same is raised."""
    panels = [frame for sample in samples for frame in _frames(sample)]
    if not panels:
        raise ValueError("a contact sheet needs at least one sample, got none")
    if columns < 1:
        raise ValueError(f"columns must be at least 1, got {columns}")
    columns = min(columns, len(panels))
    rows = math.ceil(len(panels) / columns)
    # Room in inches: a panel and its caption, the title above, the legend below.
    cell, top, bottom = PANEL_INCHES + 0.24, 0.45 if title else 0.1, 0.45
    height = rows * cell + top + bottom
    figure = Figure(figsize=(columns * (PANEL_INCHES + 0.08) + 0.1, height), dpi=DPI, facecolor="white")
    grid = figure.add_gridspec(
        rows,
        columns,
        left=0.01,
        right=0.99,
        top=1 - (top + 0.2) / height,
        bottom=bottom / height,
        wspace=0.04,
        hspace=0.24 / PANEL_INCHES,
    )
    for number, sample in enumerate(panels):
        _draw_panel(figure.add_subplot(grid[divmod(number, columns)]), sample, class_map)
    if title:
        figure.text(0.5, 1 - 0.12 / height, title, ha="center", va="top", fontsize=13, parse_math=False)
    _draw_legend(figure, panels, class_map)
    return figure


def class_colors(class_map: ClassMap) -> dict[int, str]:
    """Return the colour of each class index other than the background, ``"#rrggbb"``, and of *ignore*."""
    colors = {index: PALETTE[(index - 1) % len(PALETTE)] for index in range(1, len(class_map.names))}
    return {**colors, class_map.ignore: IGNORE_COLOR}


def mask_edges(mask: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the borders between pixels of different classes, exactly along the pixels' edges.

    Parameters
    ----------
    mask : ndarray of integers, shape (H, W)

    Returns
    -------
    segments : ndarray of float64, shape (n, 2, 2)
        Two points ``(x, y)`` each, in the coordinates of the window: pixel 0 covers 0 to 1. A straight border
        is one segment.
    classes : ndarray of int64, shape (n,)
        The higher class index of the two sides.
    """
    along, classes = _straight_edges(mask.astype(np.int64))
    across, more = _straight_edges(mask.T.astype(np.int64))
    return np.concatenate([along, across[..., ::-1]]), np.concatenate([classes, more])


def draw_segments(axes: Axes, segments: NDArray[np.float64], color: str, width: float) -> None:
    """Draw lines ``(n, 2, 2)``, two points ``(x, y)`` each, as one path: thousands cost what a few do."""
    codes = np.tile(np.array([Path.MOVETO, Path.LINETO], np.uint8), len(segments))
    if len(segments):
        lines = PathCollection(
            [Path(segments.reshape(-1, 2), codes)], facecolors="none", edgecolors=color, linewidths=width
        )
        lines.set_capstyle("round")
        # The limits are the picture's; working them out from the path would cost more than drawing it.
        axes.add_collection(lines, autolim=False)


def _straight_edges(mask: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the borders between a pixel and the one below, joined along the row."""
    top, bottom = mask[:-1], mask[1:]
    # 0 stands for no border: a border has a class of at least 1 on one side.
    border = np.where(top != bottom, np.maximum(top, bottom), 0)
    padded = np.pad(border, ((0, 0), (1, 1)))
    change = padded[:, 1:] != padded[:, :-1]
    starts = np.argwhere(change & (padded[:, 1:] > 0))
    ends = np.argwhere(change & (padded[:, :-1] > 0))
    y = starts[:, 0] + 1
    segments = np.stack([np.stack([starts[:, 1], y], 1), np.stack([ends[:, 1], y], 1)], axis=1)
    return segments.astype(np.float64), border[starts[:, 0], starts[:, 1]]


def _frames(sample: Sample) -> list[Sample]:
    if sample.image.ndim == 3:
        return [sample]
    ids = sample.target.image_ids or ()
    return [
        replace(
            sample,
            image=image,
            mask=None if sample.mask is None else sample.mask[number],
            valid=sample.valid[number],
            annots=None,
            target=sample.target.with_fields(image_id=ids[number] if ids else None, image_ids=None),
        )
        for number, image in enumerate(sample.image)
    ]


def _draw_panel(axes: Axes, sample: Sample, class_map: ClassMap) -> None:
    height, width = sample.image.shape[:2]
    axes.imshow(display_pixels(sample), extent=(0, width, height, 0), interpolation="antialiased")
    if sample.mask is not None:
        colors = class_colors(class_map)
        veil = np.zeros((height, width, 4), np.float32)
        veil[sample.mask == class_map.ignore] = (0.6, 0.6, 0.6, 0.55)
        axes.imshow(veil, extent=(0, width, height, 0), interpolation="nearest")
        shown = np.where(sample.mask == class_map.ignore, 0, sample.mask)
        edges, classes = mask_edges(shown)
        # A dark line beneath keeps a bright one visible on white.
        draw_segments(axes, edges, "#00000090", 2.0)
        for index in np.unique(classes).tolist():
            draw_segments(axes, edges[classes == index], colors[index], 1.1)
    axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
    axes.set_title(_caption(sample), fontsize=7, pad=2.5, parse_math=False)


def _caption(sample: Sample) -> str:
    window, target = sample.window, sample.target
    words = [f"image {target.image_id}", f"y {window.y} x {window.x}", f"{window.height}×{window.width}"]
    if target.downsample is not None and target.downsample != 1:
        words.append(f"÷{target.downsample:g}")
    if target.kind is not None:
        words.append(one_line(target.kind, 24))
    return "  ".join(words)


def display_pixels(sample: Sample) -> NDArray[np.uint8]:
    """Return the pixels of a sample as a picture shows them, 8-bit RGB ``(H, W, 3)``."""
    image = sample.image[..., :3] if sample.image.shape[-1] >= 3 else sample.image[..., :1]
    if image.dtype != np.uint8:
        real = image[sample.valid] if sample.valid.any() else image.reshape(-1, image.shape[-1])
        finite = real[np.isfinite(real)]
        low, high = np.percentile(finite, (1, 99)) if finite.size else (0.0, 1.0)
        scaled = (image.astype(np.float64) - low) / max(float(high - low), 1e-12)
        image = (np.clip(np.nan_to_num(scaled), 0, 1) * 255).astype(np.uint8)
    return np.asarray(np.broadcast_to(image, (*image.shape[:2], 3)))


def _draw_legend(figure: Figure, panels: list[Sample], class_map: ClassMap) -> None:
    present = {int(value) for sample in panels if sample.mask is not None for value in np.unique(sample.mask)}
    handles = [
        Line2D(
            [],
            [],
            color=color,
            linewidth=5,
            label=str(index),
        )
        for index, color in class_colors(class_map).items()
        if index in present
    ]
    if not handles:
        return
    legend = figure.legend(handles=handles, loc="lower center", ncols=min(6, len(handles)), fontsize=10)
    legend.get_frame().set(facecolor="#dddddd", edgecolor="none")
    for text in legend.get_texts():
        # Written here: a label that begins with an underscore would be left out, and one between dollar signs
        # set as a formula.
        index = int(text.get_text())
        text.set(text="ignored" if index == class_map.ignore else one_line(class_map.names[index]))
        text.set_parse_math(False)
