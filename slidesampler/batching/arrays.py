"""The arrays that a batch is read into: the caller's memory, or new."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidesampler.batching.batch import Batch
from slidesampler.errors import TargetError
from slidesampler.geometry import Window
from slidesampler.sequences import check_equal
from slidesampler.target import Target

__all__ = ["BatchArrays", "the_same"]


class BatchArrays:
    """The stacked arrays of a batch, of n windows or of sequences with n frames in all.

    Parameters
    ----------
    n : int
    frames : int or None
        Frames of each sequence; None where the windows are none.
    size : (height, width)
    channels : int
    dtype : numpy.dtype
        Of the image.
    layers : mapping of str to numpy.dtype
        ``valid``, and what else is wanted of ``mask`` and ``instances``.
    out : Batch or mapping, optional
        The caller's memory.
    channels_first : bool

    Attributes
    ----------
    image : ndarray (n, H, W, C)
        A view, whatever the order of the caller's memory; frames of all sequences in a row.
    layers : dict of str to ndarray (n, H, W)
    """

    def __init__(
        self,
        n: int,
        frames: int | None,
        size: tuple[int, int],
        channels: int,
        dtype: np.dtype[Any],
        layers: Mapping[str, np.dtype[Any]],
        out: Batch | Mapping[str, Any] | None,
        *,
        channels_first: bool,
    ) -> None:
        self.size = size
        self.channels_first = channels_first
        self._frames = frames
        lead = (n,) if frames is None else (n // frames, frames)
        shape = (channels, *size) if channels_first else (*size, channels)
        self._whole = {"image": _given_array(out, "image", (*lead, *shape), dtype)}
        for name, kind in layers.items():
            self._whole[name] = _given_array(out, name, (*lead, *size), kind)
        flat = {
            name: array if frames is None else _in_a_row(name, array) for name, array in self._whole.items()
        }
        image = flat.pop("image")
        self.image = np.moveaxis(image, 1, -1) if channels_first else image
        self.layers = flat

    def batch(self, targets: Sequence[Target], asked: Sequence[Target], annots: Sequence[Any] | None) -> Batch:
        """Return the arrays as a batch.

        Parameters
        ----------
        targets : sequence of Target, n
            As resolved.
        asked : sequence of Target
            Windows or sequences, as asked.
        annots : sequence, n, optional

        Raises
        ------
        TargetError
            If the frames of a sequence show different windows.
        """
        step = self._frames or 1
        if self._frames is not None:
            targets = [
                _as_sequence(targets[i : i + step], whole)
                for i, whole in zip(range(0, len(targets), step), asked, strict=True)
            ]
            if annots is not None:
                annots = [tuple(annots[i : i + step]) for i in range(0, len(annots), step)]
        windows = [target.window for target in targets if target.window is not None]
        return Batch(
            image=self._whole["image"],
            mask=self._whole.get("mask"),
            valid=self._whole["valid"],
            targets=tuple(targets),
            rel_to_abs=_transforms(windows, self.size),
            channels_first=self.channels_first,
            instances=self._whole.get("instances"),
            annots=None if annots is None else tuple(annots),
        )


def the_same(what: str, values: list[Any], mend: str) -> Any:
    """Return the one value that all have.

    Raises
    ------
    TargetError
        If they differ.
    """
    first = values[0]
    if values.count(first) != len(values):
        found = ", ".join(sorted({str(value) for value in values}))
        raise TargetError(f"the windows of a batch must have the same {what}, got {found}; {mend}")
    return first


def _transforms(windows: Sequence[Window], size: tuple[int, int]) -> NDArray[np.float64]:
    """Return what :func:`slidesampler.models.relative_transform` gives for each window, ``(N, 3, 3)``."""
    boxes = np.array([(window.y, window.x, window.height, window.width) for window in windows])
    transforms = np.zeros((len(windows), 3, 3))
    transforms[:, 0, 0] = boxes[:, 3] / size[1]
    transforms[:, 0, 2] = boxes[:, 1]
    transforms[:, 1, 1] = boxes[:, 2] / size[0]
    transforms[:, 1, 2] = boxes[:, 0]
    transforms[:, 2, 2] = 1.0
    return transforms


def _as_sequence(frames: Sequence[Target], asked: Target) -> Target:
    check_equal("windows", [frame.window for frame in frames], "say the 'window'")
    ids = tuple(frame.image_id for frame in frames if frame.image_id is not None)
    return frames[0].with_fields(image_id=None, image_ids=ids, video_id=asked.video_id)


def _in_a_row(name: str, array: NDArray[Any]) -> NDArray[Any]:
    """Return ``(N, T, ...)`` as ``(N * T, ...)``, the same memory."""
    flat = array.view()
    try:
        # Raises where reshape would copy: what is read into a copy is lost.
        flat.shape = (array.shape[0] * array.shape[1], *array.shape[2:])
    except AttributeError as error:
        raise TargetError(f"out[{name!r}]: the frames of its sequences must lie in a row") from error
    return flat


def _given_array(
    out: Batch | Mapping[str, Any] | None, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> NDArray[Any]:
    """Return the caller's memory for one of the arrays of a batch, or new memory where there is none.

    Parameters
    ----------
    out : Batch or mapping
        Arrays, or CPU tensors (pinned ones, shared ones), by the name of the field.
    name : str
    shape : tuple of int
        The shape that it must have.
    dtype : numpy.dtype

    Raises
    ------
    TargetError
        If what the caller gave is of another shape or dtype, or cannot be written to.
    """
    value = getattr(out, name) if isinstance(out, Batch) else None if out is None else out.get(name)
    if value is None:
        return np.empty(shape, dtype)
    # A CPU tensor gives the array that shares its memory.
    array = value if isinstance(value, np.ndarray) else getattr(value, "numpy", lambda: None)()
    if not isinstance(array, np.ndarray):
        raise TargetError(f"out[{name!r}] must be an array or a CPU tensor, got {type(value).__name__}")
    if array.shape != shape or array.dtype != dtype:
        raise TargetError(
            f"out[{name!r}] is {array.shape} {array.dtype}, but these targets give {shape} {dtype}"
        )
    if not array.flags.writeable:
        raise TargetError(f"out[{name!r}] is read-only; pass an array that may be written to")
    return array
