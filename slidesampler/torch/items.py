"""From a sample to what a training loop takes: a dict of tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from slidesampler.models import Sample

__all__ = ["Item", "sample_to_item"]

#: One window (or one batch of them) as tensors, by name.
Item = dict[str, Any]


def sample_to_item(sample: Sample, mask_dtype: torch.dtype | None = None) -> Item:
    """Return a sample as a dict of tensors.

    Parameters
    ----------
    sample : Sample
        A sequence has a leading axis ``T`` on image, mask, valid and instances.
    mask_dtype : torch.dtype, optional
        Dtype of the mask; its stored one where None.

    Returns
    -------
    dict
        ``image``
            ``(C, H, W)``, in the stored dtype; contiguous, sharing no memory with other items.
        ``mask``
            ``(H, W)``, class indices; only where the sample has one.
        ``valid``
            ``(H, W)``, bool.
        ``instances``
            ``(H, W)``, uint32; only where the sample has them.
        ``window``
            ``(4,)``, int64: ``y, x, height, width`` in level-0 pixels.
        ``image_id``
            int; for a sequence ``image_ids``, a tuple.
        ``annots``
            An :class:`~slidesampler.Annots` of numpy columns (for a sequence a tuple of them); only where the
            sample has them.
        ``target``
            The resolved target as a dict.

    Notes
    -----
    uint16 pixels become ``torch.uint16``, which torch can index, stack, send between processes and convert, but
    not compute with: begin with ``image.float()``.

    Annotations stay numpy on purpose. A tensor that travels from a worker process takes a file descriptor, so a
    few columns for each window of each prefetched batch would use up what a process may have open;
    ``torch.from_numpy(annots.boxes_xyxy)`` costs nothing where a tensor is wanted.
    """
    window = sample.window
    item: Item = {
        "image": as_tensor(np.moveaxis(sample.image, -1, -3)),
        "valid": as_tensor(sample.valid),
        "window": torch.tensor([window.y, window.x, window.height, window.width], dtype=torch.int64),
        "target": sample.target.to_mapping(),
    }
    if sample.target.image_ids is None:
        item["image_id"] = sample.target.image_id
    else:
        item["image_ids"] = sample.target.image_ids
    if sample.mask is not None:
        mask = as_tensor(sample.mask)
        item["mask"] = mask if mask_dtype is None else mask.to(mask_dtype)
    if sample.instances is not None:
        item["instances"] = as_tensor(sample.instances)
    if sample.annots is not None:
        item["annots"] = sample.annots
    return item


def as_tensor(array: NDArray[Any]) -> torch.Tensor:
    """Return an array as a contiguous tensor of its dtype; copies where torch could not write to the array."""
    array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    return torch.from_numpy(array if array.flags.writeable else array.copy())
