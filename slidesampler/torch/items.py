"""From a sample to what a training loop takes: a dict of tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from slidesampler.batching import Batch
from slidesampler.models import Sample

__all__ = ["Item", "batch_to_items", "sample_to_item"]

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
    mask = None if sample.mask is None else as_tensor(sample.mask)
    return _item(
        sample,
        as_tensor(np.moveaxis(sample.image, -1, -3)),
        mask if mask is None or mask_dtype is None else mask.to(mask_dtype),
        as_tensor(sample.valid),
        None if sample.instances is None else as_tensor(sample.instances),
    )


def batch_to_items(batch: Batch, mask_dtype: torch.dtype | None = None) -> list[Item]:
    """Return the windows of a batch as items; see :func:`sample_to_item`.

    The tensors of a field are slices of one tensor, one after the other: no pixel is copied, and none is in two
    items.

    Parameters
    ----------
    batch : Batch
        With its channels first.
    mask_dtype : torch.dtype, optional
    """
    images, valid = as_tensor(batch.image), as_tensor(batch.valid)
    masks = None if batch.mask is None else as_tensor(batch.mask)
    if masks is not None and mask_dtype is not None:
        masks = masks.to(mask_dtype)
    instances = None if batch.instances is None else as_tensor(batch.instances)
    return [
        _item(
            sample,
            images[i],
            None if masks is None else masks[i],
            valid[i],
            None if instances is None else instances[i],
        )
        for i, sample in enumerate(batch)
    ]


def _item(
    sample: Sample,
    image: torch.Tensor,
    mask: torch.Tensor | None,
    valid: torch.Tensor,
    instances: torch.Tensor | None,
) -> Item:
    window = sample.window
    item: Item = {
        "image": image,
        "valid": valid,
        "window": torch.tensor([window.y, window.x, window.height, window.width], dtype=torch.int64),
        "target": sample.target.to_mapping(),
    }
    if sample.target.image_ids is None:
        item["image_id"] = sample.target.image_id
    else:
        item["image_ids"] = sample.target.image_ids
    if mask is not None:
        item["mask"] = mask
    if instances is not None:
        item["instances"] = instances
    if sample.annots is not None:
        item["annots"] = sample.annots
    return item


def as_tensor(array: NDArray[Any]) -> torch.Tensor:
    """Return an array as a contiguous tensor of its dtype; copies where torch could not write to the array."""
    array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    return torch.from_numpy(array if array.flags.writeable else array.copy())
