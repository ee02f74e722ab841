"""``Target``: what to load, and the door through which mappings become one."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, get_args

import numpy as np

from slidesampler.errors import TargetError, UnknownKeyError
from slidesampler.geometry import PadMode, Window, normalize_pad

__all__ = ["Padding", "Target"]

#: Older kwcoco and ndsampler words, accepted at the door only.
ALIASES: Mapping[str, str] = {
    "gid": "image_id",
    "gids": "image_ids",
    "aid": "annot_id",
    "cid": "category_id",
    "vidid": "video_id",
}

PAD_MODES: tuple[PadMode, ...] = get_args(PadMode)

#: What ``float`` takes, but no coordinate is.
_NO_NUMBER = (bool, str)


@dataclass(frozen=True, slots=True)
class Padding:
    """How pixels outside the image are filled.

    Parameters
    ----------
    mode : {"constant", "reflect", "edge", "symmetric"}
        What :func:`numpy.pad` does with the whole image, whatever the distance.
    value : tuple of float
        For ``"constant"``: one value for all channels, or one a channel.
    """

    mode: PadMode = "constant"
    value: tuple[float, ...] = (0.0,)

    def __post_init__(self) -> None:
        if self.mode not in PAD_MODES:
            raise TargetError(_unknown_choice("padding", self.mode, PAD_MODES))

    @classmethod
    def coerce(cls, padding: Any) -> Padding:
        """Accept a Padding, a mode, a number, one per channel, or a mapping with ``mode`` and ``value``."""
        if padding is None:
            return cls()
        if isinstance(padding, Padding):
            return padding
        if isinstance(padding, str):
            return cls(padding)  # type: ignore[arg-type]  # checked in __post_init__
        if isinstance(padding, Mapping):
            extra = set(padding) - {"mode", "value"}
            if extra:
                raise TargetError(f"padding takes the keys 'mode' and 'value', got {sorted(extra)}")
            return cls(padding.get("mode", "constant"), cls.coerce(padding.get("value", 0)).value)
        try:
            value = tuple(float(v) for v in np.atleast_1d(np.asarray(padding, dtype=float)).ravel())
        except (TypeError, ValueError):
            value = ()
        if not value:
            raise TargetError(
                f"padding must be one of {', '.join(PAD_MODES)}, a number, or a number per channel, "
                f"got {padding!r}"
            )
        return cls("constant", value)


# Without slots: a source makes one for every window, and copying a dict costs a tenth of filling 23 slots.
@dataclass(frozen=True)
class Target:
    """What to load. Every field is optional; which belong together is said under *where* below.

    *Where*: ``image_id`` with (``cx, cy`` and ``width, height``, or ``size`` instead) or ``window``, or
    alone for the whole image; or ``annot_id`` (the window is its box, shaped by ``window_dims``); or
    ``video_id`` or ``image_ids`` with a window, for a sequence.

    Parameters
    ----------
    image_id, annot_id, video_id : int
    image_ids : tuple of int
        Frames of a sequence, in order.
    window : Window
        Level-0 pixels.
    cx, cy, width, height : float
        Centre and size in level-0 pixels; see :func:`slidesampler.geometry.window_from_center`.
    window_dims : "extent", "square" or (height, width)
        Only with ``annot_id``: its box, the square around it, or a fixed size around its centre.
    pad : (top, bottom, left, right)
        Level-0 pixels by which the window grows.
    downsample : float
        Output pixel size in level-0 pixels, at least 1.
    mpp : float
        Output pixel size in micrometres; needs an image whose mpp is known.
    size : (height, width)
        Output size in pixels.
    channels : tuple of str or int
        Which channels, in this order.
    dtype : str
        numpy dtype of the image; values are rounded and clipped where it cannot hold them.
    nodata : float
        Value that every pixel gets whose ``valid`` is False.
    padding : Padding
        What stands in the image outside the source.
    owned : Window
        The part of ``window`` that this target alone stands for, level-0 pixels: the owned rectangles of a grid
        partition the image. Carried along, not interpreted.
    category_id : int
        What the window was chosen for; carried along, not interpreted.
    kind, index : str, int
        Who chose the window and its number there; carried along.
    """

    image_id: int | None = None
    annot_id: int | None = None
    video_id: int | None = None
    image_ids: tuple[int, ...] | None = None
    window: Window | None = None
    cx: float | None = None
    cy: float | None = None
    width: float | None = None
    height: float | None = None
    window_dims: str | tuple[float, float] | None = None
    pad: tuple[int, int, int, int] = (0, 0, 0, 0)
    downsample: float | None = None
    mpp: float | None = None
    size: tuple[int, int] | None = None
    channels: tuple[str | int, ...] | None = None
    dtype: str | None = None
    nodata: float | None = None
    padding: Padding = Padding()
    owned: Window | None = None
    category_id: int | None = None
    kind: str | None = None
    index: int | None = None

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Target:
        """Return the target that a mapping describes.

        Takes the field names of this class, their older aliases (``gid``, ``aid``, ``cid``, ``vidid``), and
        ``space_slice=(rows, columns)`` for a window. A value of None is the same as no key.

        Raises
        ------
        UnknownKeyError
            For a key that no target has; the message suggests the closest right one.
        TargetError
            For a value that its key cannot take, or two keys that say the same thing.

        Examples
        --------
        >>> Target.from_mapping({"gid": 1, "cx": 2000, "cy": 900, "width": 256, "height": 256}).image_id
        1
        """
        values: dict[str, Any] = {}
        for key, value in mapping.items():
            name = ALIASES.get(key, key)
            if name not in _PARSERS:
                raise UnknownKeyError(_unknown_key(key))
            if value is None:
                continue
            if name in values:
                raise TargetError(f"'{key}' and '{name}' are the same thing; give one of them")
            try:
                values[name] = _PARSERS[name](value)
            except TargetError:
                raise
            except (TypeError, ValueError, OverflowError) as error:
                raise TargetError(f"target['{key}'] = {value!r}: {error}") from error
        if "space_slice" in values:
            if "window" in values:
                raise TargetError("'space_slice' and 'window' are the same thing; give one of them")
            values["window"] = values.pop("space_slice")
        return _NO_WISH.with_fields(**values)

    @classmethod
    def coerce(cls, target: Target | Mapping[str, Any]) -> Target:
        """Return the target itself, or what :meth:`from_mapping` makes of a mapping."""
        if isinstance(target, Target):
            return target
        if isinstance(target, Mapping):
            return cls.from_mapping(target)
        raise TargetError(f"a target is a mapping or a Target, got {type(target).__name__}")

    def to_mapping(self) -> dict[str, Any]:
        """Return the fields that are set, in JSON types; :meth:`from_mapping` gives the same target back."""
        out: dict[str, Any] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if value is None or value == _DEFAULTS[item.name]:
                continue
            if isinstance(value, Window):
                value = [value.y, value.x, value.height, value.width]
            elif isinstance(value, Padding):
                value = {"mode": value.mode, "value": list(value.value)}
            elif item.name == "pad":
                value = [list(value[:2]), list(value[2:])]
            elif isinstance(value, tuple):
                value = list(value)
            out[item.name] = value
        return out

    def with_fields(self, **changes: Any) -> Target:
        """Return a copy with fields replaced; the values are taken as they are.

        Raises
        ------
        TypeError
            For a name that is no field.
        """
        # What dataclasses.replace does, without checking and setting every field one by one.
        values = self.__dict__ | changes
        if len(values) != len(_DEFAULTS):
            raise TypeError(f"a target has no field {', '.join(sorted(changes.keys() - _DEFAULTS.keys()))}")
        copy = object.__new__(Target)
        object.__setattr__(copy, "__dict__", values)
        return copy


def _unknown_choice(name: str, value: object, choices: Sequence[str]) -> str:
    close = difflib.get_close_matches(str(value), choices, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"{name} must be one of {', '.join(choices)}, got {value!r}{hint}"


def _unknown_key(key: object) -> str:
    known = sorted({*_PARSERS, *ALIASES})
    close = difflib.get_close_matches(str(key), known, n=1)
    hint = f"did you mean '{close[0]}'?" if close else f"a target takes {', '.join(known)}"
    return f"a target has no key {key!r}; {hint}"


def _parse_int(value: Any) -> int:
    if isinstance(value, _NO_NUMBER) or int(value) != value:
        raise ValueError("must be a whole number")
    return int(value)


def _parse_float(value: Any) -> float:
    if isinstance(value, _NO_NUMBER):
        raise ValueError("must be a number")
    return float(value)


def _parse_finite(value: Any) -> float:
    number = _parse_float(value)
    if not math.isfinite(number):
        raise ValueError("must be finite")
    return number


def _parse_positive(value: Any) -> float:
    number = _parse_finite(value)
    if number <= 0:
        raise ValueError("must be positive")
    return number


def _parse_downsample(value: Any) -> float:
    number = _parse_finite(value)
    if number < 1:
        raise ValueError("must be at least 1 (1 is full resolution, 2 is half)")
    return number


def _parse_str(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("must be a string")
    return value


def _parse_window(value: Any) -> Window:
    if isinstance(value, Window):
        return value
    if isinstance(value, Mapping):
        return Window(**value)
    y, x, height, width = value
    return Window(y, x, height, width)


def _parse_space_slice(value: Any) -> Window:
    rows, cols = value
    for part in (rows, cols):
        if not isinstance(part, slice) or part.step not in (None, 1) or None in (part.start, part.stop):
            raise ValueError("must be (slice(y0, y1), slice(x0, x1)) with both ends and no step")
    y0, y1, x0, x1 = rows.start, rows.stop, cols.start, cols.stop
    return Window(y0, x0, y1 - y0, x1 - x0)


def _parse_window_dims(value: Any) -> str | tuple[float, float]:
    choices = ("extent", "square")
    if isinstance(value, str):
        if value not in choices:
            raise TargetError(_unknown_choice("window_dims", value, choices))
        return value
    height, width = value
    return _parse_positive(height), _parse_positive(width)


def _parse_size(value: Any) -> tuple[int, int]:
    height, width = (value, value) if np.ndim(value) == 0 else value
    size = _parse_int(height), _parse_int(width)
    if min(size) < 1:
        raise ValueError("must be at least 1 x 1")
    return size


def _parse_channels(value: Any) -> tuple[str | int, ...]:
    if isinstance(value, str):
        # kwcoco's word for "these bands of one asset": r|g|b
        value = value.split("|")
    elif np.ndim(value) == 0:
        value = [value]
    channels = tuple(v if isinstance(v, str) else _parse_int(v) for v in value)
    if not channels:
        raise ValueError("must name at least one channel")
    return channels


def _parse_image_ids(value: Any) -> tuple[int, ...]:
    ids = tuple(_parse_int(v) for v in value)
    if not ids:
        raise ValueError("must name at least one image")
    return ids


def _parse_dtype(value: Any) -> str:
    dtype = np.dtype(value)
    if dtype.kind not in "uif":
        raise ValueError("must be an integer or floating-point dtype")
    return str(dtype.name)


_PARSERS: Mapping[str, Any] = {
    "image_id": _parse_int,
    "annot_id": _parse_int,
    "video_id": _parse_int,
    "image_ids": _parse_image_ids,
    "window": _parse_window,
    "space_slice": _parse_space_slice,
    "cx": _parse_finite,
    "cy": _parse_finite,
    "width": _parse_positive,
    "height": _parse_positive,
    "window_dims": _parse_window_dims,
    "pad": normalize_pad,
    "downsample": _parse_downsample,
    "mpp": _parse_positive,
    "size": _parse_size,
    "channels": _parse_channels,
    "dtype": _parse_dtype,
    "nodata": _parse_float,
    "padding": Padding.coerce,
    "owned": _parse_window,
    "category_id": _parse_int,
    "kind": _parse_str,
    "index": _parse_int,
}

_DEFAULTS = {item.name: item.default for item in fields(Target)}
#: What others are copies of, which takes a sixth of the time of setting every field.
_NO_WISH = Target()
