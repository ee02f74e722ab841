"""Frames of a sequence, loaded one by one, as one sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidesampler.errors import TargetError
from slidesampler.models import Annots, Sample

__all__ = ["check_equal", "stack_samples"]


def stack_samples(samples: Sequence[Sample], frames: tuple[int, ...], video_id: int | None) -> Sample:
    """Return the samples of frames as one, with a leading axis.

    Parameters
    ----------
    samples : sequence of Sample
        One a frame, all loaded with the same layers.
    frames : tuple of int
        Their image ids.
    video_id : int or None
        The video that was asked for; kept in the target.

    Raises
    ------
    TargetError
        If there are none, or they differ in shape, dtype or window: a sample has one dtype, one window and one
        ``rel_to_abs``.
    """
    if not samples:
        raise TargetError(f"video {video_id} has no frames; give its images a video_id, or name 'image_ids'")
    check_equal("shapes", [sample.image.shape for sample in samples], "say the window (and 'size')")
    check_equal("dtypes", [sample.image.dtype for sample in samples], "say the 'dtype'")
    check_equal("windows", [sample.window for sample in samples], "say the 'window' and its 'size'")
    first = samples[0]
    annots = tuple(sample.annots for sample in samples if isinstance(sample.annots, Annots))
    return Sample(
        image=np.stack([sample.image for sample in samples]),
        mask=_stack([sample.mask for sample in samples]),
        valid=np.stack([sample.valid for sample in samples]),
        annots=None if first.annots is None else annots,
        target=first.target.with_fields(image_id=None, image_ids=frames, video_id=video_id),
        rel_to_abs=first.rel_to_abs,
        instances=_stack([sample.instances for sample in samples]),
    )


def check_equal(what: str, values: Sequence[Any], mend: str) -> None:
    """Raise TargetError unless all frames of a sequence have one value; says what differs and what to do."""
    found = sorted({str(value) for value in values})
    if len(found) > 1:
        raise TargetError(f"the frames of a sequence must give equal {what}, got {', '.join(found)}; {mend}")


def _stack(layers: Sequence[NDArray[Any] | None]) -> NDArray[Any] | None:
    present = [layer for layer in layers if layer is not None]
    return np.stack(present) if present else None
