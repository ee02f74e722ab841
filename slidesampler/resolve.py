"""From a target to the exact window and output size it means. Pure: no pixel is read here."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from typing import NamedTuple

from slidesampler.errors import TargetError
from slidesampler.geometry import Window, ceil_size, normalize_pad, window_from_center
from slidesampler.target import Target

__all__ = ["ImageFacts", "resolve_channels", "resolve_target"]


#: Bounds on windows and outputs, with which all arithmetic of :mod:`slidesampler.geometry` fits 64 bits.
REACH_PX = 2**35
SIZE_LIMIT_PX = 2**25


class ImageFacts(NamedTuple):
    """What a target is resolved against."""

    image_id: int
    height: int
    width: int
    mpp: tuple[float, float] | None
    #: Bounds of the annotation that the target names, ``(x0, y0, x1, y1)``; None where it names none.
    annot_box: tuple[float, float, float, float] | None = None


def resolve_target(target: Target, image: ImageFacts) -> Target:
    """Return the target with ``image_id``, ``window``, ``size`` and ``downsample`` filled in.

    Everything that the window was made from (centre, pad, mpp ...) is cleared, so resolving the result again
    gives the result.

    Parameters
    ----------
    target : Target
        Names one image, directly or by an annotation.
    image : ImageFacts

    Returns
    -------
    Target
        ``window`` in level-0 pixels and ``size`` in output pixels; output pixel ``(i, j)`` covers
        ``window.height / size[0]`` by ``window.width / size[1]`` level-0 pixels. ``downsample`` is that ratio,
        or None where one number does not describe both axes (or the output is finer than level 0).

    Raises
    ------
    TargetError
        If the fields contradict each other, or something needed is missing.
    """
    if _says_it_all(target):
        assert target.window is not None
        window = target.window
        size = window.height, window.width
        _check_reach(window, size)
        return target.with_fields(image_id=image.image_id, size=size, downsample=1.0)
    if target.downsample is not None and target.mpp is not None:
        raise TargetError("'downsample' and 'mpp' both say the output pixel size; give one of them")
    scale = _wanted_scale(target, image)
    window, fixed = _wanted_window(target, image, scale)
    pad = target.pad
    if any(pad):
        pad = normalize_pad((pad[:2], pad[2:]))
        if target.size is not None and fixed:
            raise TargetError("'pad' grows the window and 'size' fixes the output; leave out one of them")
        try:
            window = window.grow(*pad)
        except ValueError as error:
            raise TargetError(f"pad={pad} leaves nothing of the window {window}") from error
    size = _wanted_size(target, window, scale, padded=any(pad))
    _check_reach(window, size)
    return target.with_fields(
        image_id=image.image_id,
        window=window,
        size=size,
        downsample=_one_downsample(window, size),
        mpp=None,
        cx=None,
        cy=None,
        width=None,
        height=None,
        window_dims=None,
        pad=(0, 0, 0, 0),
    )


def _says_it_all(target: Target) -> bool:
    """Whether it is a window at full resolution and nothing else, as most that are read are."""
    return (
        target.window is not None
        and (target.downsample is None or target.downsample == 1)
        and (target.size is None or target.size == target.window.shape)
        and target.mpp is None
        and target.cx is target.cy is target.width is target.height is None
        and target.window_dims is None
        and not any(target.pad)
    )


def _check_reach(window: Window, size: tuple[int, int]) -> None:
    # Comparisons rather than max(), which takes three times as long: this runs for every window.
    if not (
        -REACH_PX <= window.y <= REACH_PX
        and -REACH_PX <= window.x <= REACH_PX
        and window.height <= REACH_PX
        and window.width <= REACH_PX
        and size[0] <= SIZE_LIMIT_PX
        and size[1] <= SIZE_LIMIT_PX
    ):
        raise TargetError(
            f"{window} as {size[0]} x {size[1]} pixels is beyond any image: at most {REACH_PX} pixels away and "
            f"{SIZE_LIMIT_PX} pixels of output an axis"
        )


def _wanted_scale(target: Target, image: ImageFacts) -> tuple[float, float] | None:
    """Level-0 pixels per output pixel ``(y, x)`` as asked by downsample or mpp; None where neither is given."""
    if target.downsample is not None:
        if target.downsample < 1:
            raise TargetError(f"downsample must be at least 1 (full resolution), got {target.downsample}")
        return target.downsample, target.downsample
    if target.mpp is None:
        return None
    if image.mpp is None:
        raise TargetError(
            f"mpp={target.mpp} was asked for, but image {image.image_id} has no known resolution; give it as "
            "'mpp' in the manifest, or Sampler(..., mpp=0.5) for all images or mpp={image_id: 0.5} for some"
        )
    scale = target.mpp / image.mpp[0], target.mpp / image.mpp[1]
    if min(scale) < 0.5:
        raise TargetError(
            f"mpp={target.mpp} was asked for, but image {image.image_id} has {image.mpp[0]:g} x "
            f"{image.mpp[1]:g} micrometres a pixel: more than twofold enlargement is refused; is the unit "
            "micrometres?"
        )
    return scale


def _wanted_window(target: Target, image: ImageFacts, scale: tuple[float, float] | None) -> tuple[Window, bool]:
    """Return the window before padding, and whether ``size`` was *not* what it was made from."""
    _check_pairs(target)
    centred = target.cx is not None
    if target.window is not None:
        if centred or target.width is not None or target.window_dims is not None:
            raise TargetError("'window' (or 'space_slice') already says where; leave out cx, cy, width, height")
        return target.window, True
    if image.annot_box is not None and not centred:
        return _annot_window(target, image.annot_box, scale)
    if target.window_dims is not None:
        raise TargetError("'window_dims' shapes the window around an annotation; it needs 'annot_id'")
    if centred:
        assert target.cx is not None
        assert target.cy is not None
        height, width, from_size = _extent(target, scale)
        return window_from_center(target.cy, target.cx, height, width), not from_size
    if target.width is not None:
        raise TargetError("'width' and 'height' need a centre: give 'cx' and 'cy' too")
    return Window(0, 0, image.height, image.width), True


def _check_pairs(target: Target) -> None:
    for one, other in (("cx", "cy"), ("width", "height")):
        if (getattr(target, one) is None) != (getattr(target, other) is None):
            there, missing = (one, other) if getattr(target, one) is not None else (other, one)
            raise TargetError(f"'{there}' was given without '{missing}'")


def _extent(target: Target, scale: tuple[float, float] | None) -> tuple[float, float, bool]:
    if target.width is not None:
        assert target.height is not None
        return target.height, target.width, False
    if target.size is None:
        raise TargetError(
            "a centre needs an extent: give 'width' and 'height' (level-0 pixels), or 'size' (output pixels)"
        )
    scale_y, scale_x = scale or (1.0, 1.0)
    return target.size[0] * scale_y, target.size[1] * scale_x, True


def _annot_window(
    target: Target, box: tuple[float, float, float, float], scale: tuple[float, float] | None
) -> tuple[Window, bool]:
    x0, y0, x1, y1 = box
    cy, cx = (y0 + y1) / 2, (x0 + x1) / 2
    dims = target.window_dims
    if target.width is not None:
        if dims is not None:
            raise TargetError("'window_dims' and 'width', 'height' both say the size; give one of them")
        assert target.height is not None
        dims = (target.height, target.width)
    if dims is None and target.size is not None:
        # A fixed output around an annotation, at the scale asked for (full resolution where none is).
        height, width, from_size = _extent(target, scale)
        return window_from_center(cy, cx, height, width), not from_size
    if dims is None or dims == "extent":
        # Snapped outwards, so that the window holds the whole box; ceil_size(0) does not exist.
        top, left = math.floor(y0), math.floor(x0)
        return Window(top, left, max(math.ceil(y1) - top, 1), max(math.ceil(x1) - left, 1)), True
    if dims == "square":
        side = max(y1 - y0, x1 - x0, 1.0)
        return window_from_center(cy, cx, side, side), True
    if isinstance(dims, str):
        raise TargetError(f"window_dims must be 'extent', 'square' or (height, width), got {dims!r}")
    return window_from_center(cy, cx, *dims), True


def _wanted_size(
    target: Target, window: Window, scale: tuple[float, float] | None, *, padded: bool
) -> tuple[int, int]:
    scale_y, scale_x = scale or (1.0, 1.0)
    implied = window.shape
    if scale is not None:
        implied = ceil_size(window.height / scale_y), ceil_size(window.width / scale_x)
    if target.size is None or padded:
        return implied
    if min(target.size) < 1:
        raise TargetError(f"size must be at least 1 x 1, got {target.size}")
    made_from_size = (
        ceil_size(target.size[0] * scale_y) == window.height
        and ceil_size(target.size[1] * scale_x) == window.width
    )
    if scale is not None and implied != tuple(target.size) and not made_from_size:
        raise TargetError(
            f"a window of {window.height} x {window.width} at {scale_y:g} level-0 pixels per output pixel is "
            f"{implied[0]} x {implied[1]}, but size={tuple(target.size)} was asked for; leave out one of them"
        )
    return target.size[0], target.size[1]


def _one_downsample(window: Window, size: tuple[int, int]) -> float | None:
    if size == window.shape:
        return 1.0
    scale = window.height / size[0]
    implied = ceil_size(window.height / scale), ceil_size(window.width / scale)
    return scale if scale >= 1 and implied == size else None


def resolve_channels(
    wanted: Sequence[str | int] | None, names: Sequence[str], count: int, where: str
) -> tuple[int, ...] | None:
    """Return channel indices for names or indices; None where all are wanted in their order.

    Raises
    ------
    TargetError
        For a name or index that the image has not; the message lists what it has.
    """
    if wanted is None:
        return None
    indices = []
    for channel in wanted:
        if isinstance(channel, str):
            if channel not in names:
                close = difflib.get_close_matches(channel, names, n=1)
                hint = f"; did you mean {close[0]!r}?" if close else ""
                known = f"has {', '.join(names)}" if names else f"has {count} unnamed channels"
                raise TargetError(f"{where} has no channel {channel!r}: it {known}{hint}")
            indices.append(list(names).index(channel))
        else:
            if not 0 <= channel < count:
                raise TargetError(f"{where} has no channel {channel}: it has {count}, counted from 0")
            indices.append(channel)
    return None if indices == list(range(count)) else tuple(indices)
