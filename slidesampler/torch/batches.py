"""From items to a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import default_collate, get_worker_info

from slidesampler.errors import TargetError
from slidesampler.torch.items import Item

__all__ = ["collate"]


def collate(items: Sequence[Item]) -> Item:
    """Return a batch: tensors stacked, numbers as a tensor, everything else as a list.

    Parameters
    ----------
    items : sequence of dict
        What :class:`~slidesampler.torch.WindowDataset` gives, with or without what a transform added.

    Returns
    -------
    dict
        ``image (B, C, H, W)``, ``mask (B, H, W)``, ``valid (B, H, W)``, ``window (B, 4)``, ``image_id (B,)``,
        ``index (B,)``, ``epoch (B,)``; ``annots`` and ``target`` are lists of length B, since their lengths
        vary.

    Raises
    ------
    TargetError
        If the windows differ in size, number of channels or dtype, or the items in their keys; the message says
        in what, and what to do.
    ValueError
        If there are no items.
    """
    if not items:
        raise ValueError("a batch needs at least one item, got none")
    keys = items[0].keys()
    for position, item in enumerate(items):
        if item.keys() != keys:
            raise TargetError(
                f"item {position} of the batch differs from item 0 in the keys "
                f"{sorted(item.keys() ^ keys)}; a transform must add and drop the same keys everywhere"
            )
    return {key: _collate_values(key, [item[key] for item in items]) for key in keys}


def _collate_values(key: str, values: list[Any]) -> Any:
    if all(isinstance(value, torch.Tensor) for value in values):
        kinds = {(tuple(value.shape), value.dtype) for value in values}
        if len(kinds) > 1:
            # torch.stack would promote dtypes without a word.
            found = " and ".join(sorted(f"{shape} {dtype}" for shape, dtype in kinds))
            raise TargetError(
                f"{key!r} cannot be stacked: the batch holds {found}; give all targets the same size "
                "(and, where images differ, 'channels' and 'dtype'), or use batches of one image kind"
            )
        if get_worker_info() is None and (whole := _already_stacked(values)) is not None:
            return whole
        # In a worker process this stacks straight into memory shared with the parent.
        return default_collate(values)
    if all(isinstance(value, int | float) for value in values):
        return torch.tensor(values)
    return values


def _already_stacked(values: list[torch.Tensor]) -> torch.Tensor | None:
    """Return the tensor whose slices these are, one after the other, as they are in a batch; None otherwise."""
    first = values[0]
    step = first.numel()
    if type(first) is not torch.Tensor or not first.is_contiguous() or first.requires_grad or step == 0:
        return None
    storage, offset = first.untyped_storage(), first.storage_offset()
    for place, value in enumerate(values):
        if (
            value.untyped_storage().data_ptr() != storage.data_ptr()
            or value.storage_offset() != offset + place * step
            or not value.is_contiguous()
        ):
            return None
    return first.as_strided((len(values), *first.shape), (step, *first.stride()))
