"""The figures of a report: bars of what was asked for and served, and maps over slides."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from slidesampler.models import ClassMap
from slidesampler.report.balance import CellBalance
from slidesampler.report.contact_sheet import draw_segments, mask_edges
from slidesampler.report.png import DPI, one_line, to_png
from slidesampler.report.thumbnails import Thumbnail
from slidesampler.sampling.statistics import ImageServed, Region, TryCounts

__all__ = ["ASKED", "SERVED", "Z_LIMIT", "draw_shares", "draw_slide", "draw_tries"]

#: Colours that are told apart by those who see few colours, and in grey.
SERVED, ASKED, COMPARED, OUTLINE = "#2a6fbb", "#111111", "#e08214", "#ffffff"
#: Accepted tries, then the reasons in order.
TRY_COLORS = ("#2a6fbb", "#e08214", "#8073ac", "#b2182b", "#666666", "#80b1d3", "#b3de69")
#: The map of z ends here, in both directions.
Z_LIMIT = 6.0
#: Greys of a slide behind a map.
SHADES = 24
#: Inches.
BAR_WIDTH, PANEL_WIDTH, MAX_PANEL_HEIGHT = 8.0, 3.9, 5.2


def draw_shares(
    names: Sequence[str],
    served: Sequence[float],
    asked: Sequence[float | None],
    compared: tuple[str, Sequence[float | None]] | None = None,
) -> bytes:
    """Return a PNG of bars: a share of the windows each, beside what was asked for.

    Parameters
    ----------
    names : sequence of str
    served, asked : sequence of float
        0 to 1; None where nobody asked.
    compared : (str, sequence of float), optional
        A further mark for each, and what it is called: the share of the tissue, for example.
    """
    figure = _bars_figure(len(names))
    axes = figure.add_subplot()
    rows = np.arange(len(names))
    axes.barh(rows, served, height=0.62, color=SERVED)
    handles: list[Patch] = [Patch(color=SERVED, label="served")]
    marks = [(asked, ASKED, "asked for")] + ([(compared[1], COMPARED, compared[0])] if compared else [])
    for values, color, label in marks:
        known = [(row, value) for row, value in zip(rows.tolist(), values, strict=True) if value is not None]
        if known:
            lines = [[(value, row - 0.42), (value, row + 0.42)] for row, value in known]
            axes.add_collection(LineCollection(lines, colors=color, linewidths=2.4))
            handles.append(Patch(color=color, label=label))
    everything = [*served, *(value for values, _, _ in marks for value in values if value is not None)]
    axes.set_xlim(0, max([*everything, 1e-6]) * 1.08)
    axes.xaxis.set_major_formatter(PercentFormatter(xmax=1))
    _name_bars(axes, names)
    _bars_legend(figure, handles)
    return to_png(figure)


def draw_tries(tries: Sequence[TryCounts], reasons: Sequence[str]) -> bytes:
    """Return a PNG of bars: the tries of each kind of windows, accepted and refused by reason.

    Parameters
    ----------
    tries : sequence of TryCounts
    reasons : sequence of str
        In the order in which they are stacked.
    """
    figure = _bars_figure(len(tries))
    axes = figure.add_subplot()
    rows = np.arange(len(tries))
    left = np.zeros(len(tries))
    accepted = [row.tries - sum(row.refused.values()) for row in tries]
    parts = [("accepted", accepted)] + [
        (reason, [row.refused.get(reason, 0) for row in tries]) for reason in reasons
    ]
    handles = []
    for number, (label, counts) in enumerate(parts):
        color = TRY_COLORS[number % len(TRY_COLORS)]
        axes.barh(rows, counts, left=left, height=0.62, color=color)
        left += np.array(counts)
        shown = label if number == 0 else f"refused: {one_line(label, 24)}"
        handles.append(Patch(color=color, label=shown))
    axes.set_xlim(0, max(float(left.max()), 1.0) * 1.04)
    axes.set_xlabel("tries", fontsize=9)
    _name_bars(axes, [row.kind or "(none)" for row in tries])
    _bars_legend(figure, handles)
    return to_png(figure)


def draw_slide(
    row: ImageServed, thumbnail: Thumbnail | None, balance: CellBalance | None, class_map: ClassMap
) -> bytes:
    """Return a PNG of a slide's coverage, and of where it was seen more or less than its tissue explains.

    Parameters
    ----------
    row : ImageServed
        With coverage.
    thumbnail : Thumbnail, optional
        The maps lie on white where there is none.
    balance : CellBalance, optional
        One map is drawn where there is none.
    class_map : ClassMap
        Which pixels of the thumbnail's mask are annotated.
    """
    assert row.coverage is not None
    panels = 1 if balance is None else 2
    tall = float(np.clip(PANEL_WIDTH * row.height / row.width, 0.8, MAX_PANEL_HEIGHT))
    # The panels, a colour bar below each, a title above.
    height = tall + 1.05
    figure = Figure(figsize=(2 * PANEL_WIDTH + 0.5, height), dpi=DPI, facecolor="white")
    sides = {"bottom": 0.72 / height, "top": 1 - 0.3 / height, "left": 0.01, "right": 0.99, "wspace": 0.05}
    axes = figure.subplots(1, 2, gridspec_kw=sides)
    _draw_coverage(figure, axes[0], row, thumbnail, class_map)
    if panels == 1:
        axes[1].axis("off")
        axes[1].text(0.05, 0.5, "too few windows to compare\nparts of this slide", fontsize=9, va="center")
    else:
        assert balance is not None
        _draw_balance(figure, axes[1], row, thumbnail, balance)
    return to_png(figure)


def _draw_coverage(
    figure: Figure, axes: Axes, row: ImageServed, thumbnail: Thumbnail | None, class_map: ClassMap
) -> None:
    assert row.coverage is not None
    _draw_ground(axes, row, thumbnail)
    seen = row.coverage.seen
    most = max(float(seen.max()), 1e-9)
    # By the square root: a few tumours that are seen fifty times leave shades for what is seen once.
    norm = PowerNorm(0.5, 0, most)
    colors = colormaps["viridis"](norm(seen))
    # Nothing seen is nothing drawn: the slide shows through.
    colors[..., 3] = np.where(seen > 0, 0.62, 0.0)
    _draw_cells(axes, colors, row.coverage.cell_px)
    if thumbnail is not None:
        _draw_outlines(axes, row, thumbnail, class_map)
    axes.set_title("times a pixel was in a window", fontsize=9)
    _draw_scale(figure, axes, "viridis", norm, "times seen")


def _draw_balance(
    figure: Figure, axes: Axes, row: ImageServed, thumbnail: Thumbnail | None, balance: CellBalance
) -> None:
    assert row.coverage is not None
    _draw_ground(axes, row, thumbnail)
    z = np.clip(np.nan_to_num(balance.z), -Z_LIMIT, Z_LIMIT)
    norm = Normalize(-Z_LIMIT, Z_LIMIT)
    colors = colormaps["RdBu_r"](norm(z))
    colors[..., 3] = np.where(np.isnan(balance.z), 0.0, 0.68)
    _draw_cells(axes, colors, balance.cell_px)
    for regions, color, style in ((row.coverage.under, "#053061", "--"), (row.coverage.over, "#67001f", "-")):
        for region in regions[:3]:
            axes.add_patch(_box(region, color, style))
    axes.set_title("fewer (blue) or more (red) windows than its tissue explains", fontsize=9)
    _draw_scale(figure, axes, "RdBu_r", norm, "Poisson z of a cell")


def _box(region: Region, color: str, style: str) -> Rectangle:
    window = region.window
    return Rectangle(
        (window.x, window.y),
        window.width,
        window.height,
        fill=False,
        edgecolor=color,
        linewidth=1.6,
        linestyle=style,
    )


def _draw_ground(axes: Axes, row: ImageServed, thumbnail: Thumbnail | None) -> None:
    """Draw the slide in pale grey, so that the colours on it are those of the map."""
    if thumbnail is not None:
        # In few shades: what is behind a map need not be exact, and costs half the bytes so.
        shades = np.round(thumbnail.image.astype(np.float32).mean(axis=2) / 255 * SHADES) / SHADES
        axes.imshow(
            0.25 + 0.75 * shades,
            cmap="gray",
            vmin=0,
            vmax=1,
            extent=(0, row.width, row.height, 0),
            interpolation="antialiased",
        )
    axes.set(xlim=(0, row.width), ylim=(row.height, 0), xticks=[], yticks=[], aspect="equal")


def _draw_cells(axes: Axes, colors: NDArray[np.float64], cell_px: int) -> None:
    """Draw cells; the last ones reach over the edge of the slide and are cut off by the axes."""
    rows, columns = colors.shape[:2]
    limits = axes.get_xlim(), axes.get_ylim()
    axes.imshow(colors, extent=(0, columns * cell_px, rows * cell_px, 0), interpolation="nearest")
    axes.set(xlim=limits[0], ylim=limits[1])


def _draw_outlines(axes: Axes, row: ImageServed, thumbnail: Thumbnail, class_map: ClassMap) -> None:
    # Classes within classes (nuclei in a tumour) would cover the map at this scale.
    foreground = (thumbnail.mask != 0) & (thumbnail.mask != class_map.ignore)
    edges, _ = mask_edges(foreground)
    height, width = foreground.shape
    lines = edges * (row.width / width, row.height / height)
    draw_segments(axes, lines, "#000000", 1.8)
    draw_segments(axes, lines, OUTLINE, 0.8)


def _draw_scale(figure: Figure, axes: Axes, cmap: str, norm: Normalize, label: str) -> None:
    """Draw a colour bar below axes."""
    box = axes.get_position()
    height = figure.get_figheight()
    scale = figure.add_axes((box.x0 + 0.1 * box.width, 0.42 / height, 0.8 * box.width, 0.12 / height))
    assert norm.vmin is not None
    assert norm.vmax is not None
    shades = colormaps[cmap](norm(np.linspace(norm.vmin, norm.vmax, 512)))
    scale.imshow(shades[None], aspect="auto", extent=(norm.vmin, norm.vmax, 0, 1))
    scale.set_yticks([])
    scale.tick_params(labelsize=8, length=2)
    scale.set_xlabel(label, fontsize=8, labelpad=1)


def _bars_figure(count: int) -> Figure:
    height = 0.95 + 0.3 * count
    return Figure(figsize=(BAR_WIDTH, height), dpi=DPI, facecolor="white", layout="constrained")


def _name_bars(axes: Axes, names: Sequence[str]) -> None:
    axes.set_ylim(len(names) - 0.4, -0.6)
    # A name with two dollar signs is no formula.
    axes.set_yticks(range(len(names)), [one_line(name) for name in names], parse_math=False)
    axes.tick_params(labelsize=9)
    axes.grid(axis="x", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def _bars_legend(figure: Figure, handles: Sequence[Patch]) -> None:
    legend = figure.legend(
        handles=handles, loc="outside upper left", ncols=min(4, len(handles)), fontsize=9, frameon=False
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
