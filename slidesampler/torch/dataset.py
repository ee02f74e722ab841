"""``WindowDataset``: the windows a source chooses, as torch items."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import Dataset, get_worker_info

from slidesampler.machine import usable_threads
from slidesampler.models import Sample
from slidesampler.sampling import FixedSource, TargetSource
from slidesampler.sampling.log import SampleLog
from slidesampler.target import Target
from slidesampler.torch.batches import collate
from slidesampler.torch.items import Item, batch_to_items, sample_to_item

if TYPE_CHECKING:
    from slidesampler.sampler import Sampler

__all__ = ["WindowDataset"]


class WindowDataset(Dataset[Item]):
    """A map-style dataset of windows.

    Items depend on ``(epoch, index)`` alone, so any number of workers, started by fork or by spawn, gives the
    same ones. Workers need no ``worker_init_fn``: files are opened by the process that reads them, and random
    choices are drawn from the source's seed, not from the worker's.

    Parameters
    ----------
    sampler : Sampler
    source_or_targets : TargetSource or iterable of Target or mapping
        Which windows; a list of targets is checked at once.
    transform : callable, optional
        Takes an item (a dict of tensors, see :func:`~slidesampler.torch.sample_to_item`, with ``index`` and
        ``epoch``) and returns an item. For random augmentation that does not depend on workers draw from
        ``slidesampler.rng_for(seed, item["epoch"], item["index"], "augment")``.
    with_annots, with_mask, with_instances : bool
        What is loaded besides pixels.
    visible_threshold : float
        Least visible share of the annotations in ``annots``.
    mask_dtype : torch.dtype, optional
        Dtype of masks. The stored one (uint8; uint16 from 256 classes on) where None: an eighth of what int64
        takes in memory and between processes, and ``batch["mask"].long()`` is quick on the device.
    log : SampleLog, optional
        Gets a line for every window loaded, in the process that loaded it.
    threads : int, optional
        Threads that read a batch together, in each process. All processors that the process may use, dealt out
        to the workers of a ``DataLoader``, where None; so few workers, or none, keep them all busy.

    Raises
    ------
    TargetError
        For a list with something in it that is no target.

    Examples
    --------
    >>> import numpy as np
    >>> from slidesampler import GridSource, Sampler
    >>> pixels = np.zeros((64, 96, 3), np.uint8)
    >>> sampler = Sampler({"images": [{"id": 1, "file_name": "array://zeros"}]}, arrays={"zeros": pixels})
    >>> dataset = WindowDataset(sampler, GridSource(sampler, size=32))
    >>> len(dataset), dataset[-1]["image"].shape, dataset[-1]["window"].tolist()
    (6, torch.Size([3, 32, 32]), [32, 64, 32, 32])
    >>> dataset.collate([dataset[0], dataset[1]])["image"].shape
    torch.Size([2, 3, 32, 32])
    """

    #: For ``DataLoader(..., collate_fn=dataset.collate)``; see :func:`slidesampler.torch.collate`.
    collate = staticmethod(collate)

    def __init__(
        self,
        sampler: Sampler,
        source_or_targets: TargetSource | Iterable[Target | Mapping[str, Any]],
        transform: Callable[[Item], Item] | None = None,
        *,
        with_annots: bool = True,
        with_mask: bool = True,
        with_instances: bool = False,
        visible_threshold: float = 0.0,
        mask_dtype: torch.dtype | None = None,
        log: SampleLog | None = None,
        threads: int | None = None,
    ) -> None:
        self.sampler = sampler
        self.source: TargetSource = (
            source_or_targets if isinstance(source_or_targets, TargetSource) else FixedSource(source_or_targets)
        )
        self.transform = transform
        self.with_annots = with_annots
        self.with_mask = with_mask
        self.with_instances = with_instances
        self.visible_threshold = visible_threshold
        self.mask_dtype = mask_dtype
        self.log = log
        if threads is not None and threads < 1:
            raise ValueError(f"threads must be at least 1, got {threads}")
        self.threads = threads
        # In shared memory: workers that persist over epochs have a copy of the dataset, and must hear of a new
        # epoch all the same.
        self._epoch = _shared(torch.zeros((), dtype=torch.int64))

    @property
    def epoch(self) -> int:
        """The epoch that plain indices belong to."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that plain indices belong to; call it before the epoch's loop.

        Reaches workers that are already running (``persistent_workers=True``).
        """
        self._epoch.fill_(operator.index(epoch))

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int | tuple[int, int]) -> Item:
        """Return one item.

        Parameters
        ----------
        index : int or (epoch, index)
            Negative indices count from the end. A plain index is of the epoch that :meth:`set_epoch` chose.

        Raises
        ------
        IndexError
            If there is no such item.
        TypeError
            If the index is something else.
        """
        return self._load(*self._choose(index))

    def __getitems__(self, indices: Sequence[int | tuple[int, int]]) -> list[Item]:
        """Return items in the order asked, read as one batch; see :meth:`slidesampler.Sampler.load_batch`.

        What a ``DataLoader`` calls. The tensors of a batch lie one after the other in memory, so that
        :meth:`collate` can stack them without a copy.
        """
        chosen = [self._choose(index) for index in indices]
        try:
            batches = self.sampler.load_batches(
                [target for _, _, target in chosen],
                self._threads(),
                with_annots=self.with_annots,
                with_mask=self.with_mask,
                with_instances=self.with_instances,
                visible_threshold=self.visible_threshold,
                channels_first=True,
            )
        except Exception:
            # Loaded one by one, the item that fails says which it is.
            return [self._load(*one) for one in chosen]
        loaded: dict[int, tuple[Sample, Item]] = {}
        for places, batch in batches:
            pairs = zip(batch, batch_to_items(batch, self.mask_dtype), strict=True)
            loaded.update(zip(places, pairs, strict=True))
        return [self._finish(*one, *loaded[place]) for place, one in enumerate(chosen)]

    def _threads(self) -> int:
        if self.threads is not None:
            return self.threads
        worker = get_worker_info()
        return max(1, usable_threads() // (1 if worker is None else worker.num_workers))

    def _choose(self, index: int | tuple[int, int]) -> tuple[int, int, Target]:
        if isinstance(index, tuple):
            if len(index) != 2:
                raise TypeError(f"an index is a whole number or (epoch, index), got {index!r}")
            epoch, number = operator.index(index[0]), operator.index(index[1])
        else:
            epoch, number = self.epoch, operator.index(index)
        length = len(self)
        if not -length <= number < length:
            raise IndexError(f"item {number} was asked for; the dataset has {length}")
        number %= length
        try:
            return epoch, number, self.source.target(epoch, number)
        except Exception as error:
            error.add_note(f"in item {number} of epoch {epoch}")
            raise

    def _load(self, epoch: int, index: int, target: Target) -> Item:
        with _naming_item(epoch, index, target):
            sample = self.sampler.load_sample(
                target,
                self.with_annots,
                self.with_mask,
                with_instances=self.with_instances,
                visible_threshold=self.visible_threshold,
            )
        return self._finish(epoch, index, target, sample, sample_to_item(sample, self.mask_dtype))

    def _finish(self, epoch: int, index: int, target: Target, sample: Sample, item: Item) -> Item:
        with _naming_item(epoch, index, target):
            if self.log is not None:
                self.log.write(sample, epoch=epoch, index=index)
            item["index"], item["epoch"] = index, epoch
            if self.transform is None:
                return item
            changed = self.transform(item)
        if not isinstance(changed, dict):
            raise TypeError(f"the transform must return the item, a dict; it returned {type(changed).__name__}")
        return changed

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        # A copy made by pickle or deepcopy has an epoch of its own; one sent to a worker shares it already.
        self._epoch = _shared(self._epoch)


def _shared(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor in memory that other processes see; itself where it is there already."""
    return tensor.share_memory_()  # type: ignore[no-untyped-call,no-any-return]


@contextmanager
def _naming_item(epoch: int, index: int, target: Target) -> Iterator[None]:
    """Note in an error which item it is about."""
    try:
        yield
    except Exception as error:
        # Torch sends a worker's error as its class and its printed traceback, of which notes are a part.
        error.add_note(f"in item {index} of epoch {epoch}, target {target.to_mapping()}")
        raise
