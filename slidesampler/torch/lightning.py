"""``WindowDataModule``: windows for a Lightning ``Trainer``.

::

    from slidesampler.torch.lightning import WindowDataModule

    windows = WindowDataModule(train_dataset, val_dataset, batch_size=64, num_workers=4)
    Trainer(max_epochs=20).fit(model, windows)
"""

from __future__ import annotations

import importlib
import operator
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from slidesampler.errors import MissingDependencyError
from slidesampler.torch.dataset import WindowDataset
from slidesampler.torch.window_sampler import WindowSampler

__all__ = ["WindowDataModule"]


def _lightning() -> Any:
    """Return Lightning, of which there are two packages; a trainer takes data modules of its own one only."""
    names = ["lightning.pytorch", "pytorch_lightning"]
    # The one that the caller has imported already, and else the newer name.
    names.sort(key=lambda name: name not in sys.modules)
    for name in names:
        try:
            return importlib.import_module(name)
        except ImportError as error:
            found = error
    raise MissingDependencyError(
        f"slidesampler.torch.lightning needs Lightning, which cannot be imported ({found}); install it with: "
        'pip install "slidesampler[lightning]"'
    ) from found


class WindowDataModule(_lightning().LightningDataModule):  # type: ignore[misc]
    """Training and validation windows for a Lightning ``Trainer``, on any number of devices.

    The trainer sets the epoch by itself, and its ``use_distributed_sampler`` may stay as it is: the samplers
    deal windows out to the ranks already, and Lightning leaves those that do alone. A checkpoint from the
    middle of an epoch is gone on with at the next batch.

    Parameters
    ----------
    train : WindowDataset
        Shuffled anew every epoch; an incomplete last batch is left out.
    val, test : WindowDataset, optional
        In order, and always as in epoch 0, so that scores can be compared. Where the ranks' shares would differ
        by a window, that of the first windows is loaded twice (see :class:`~slidesampler.torch.WindowSampler`).
    batch_size : int
        Windows of a *global* batch, all devices together, so that a run means the same on any number of them; a
        multiple of their number.
    num_workers : int
        Worker processes a device, for each loader.
    seed : int
        Same seed, same order.
    pin_memory : bool, optional
        Whether batches are put where a GPU reads them fast; where None, if there is one.

    Raises
    ------
    ValueError
        When loaders are made: see :class:`~slidesampler.torch.WindowSampler`.
    """

    def __init__(
        self,
        train: WindowDataset,
        val: WindowDataset | None = None,
        test: WindowDataset | None = None,
        *,
        batch_size: int = 32,
        num_workers: int = 0,
        seed: int = 0,
        pin_memory: bool | None = None,
    ) -> None:
        super().__init__()
        self.train, self.val, self.test = train, val, test
        self.batch_size = operator.index(batch_size)
        self.num_workers = operator.index(num_workers)
        self.seed = operator.index(seed)
        self.pin_memory = torch.cuda.is_available() if pin_memory is None else pin_memory

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the loader of ``train``."""
        sampler = WindowSampler(
            self.train, self.seed, *self._rank(), drop_last=True, batch_size=self.batch_size
        )
        # A trainer that goes on from a checkpoint asks for the first batches before it sets the epoch.
        sampler.set_epoch(0 if self.trainer is None else self.trainer.current_epoch)
        return self._loader(self.train, sampler)

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Return the loader of ``val``; an empty list, which means none, where there is none."""
        return self._fixed_loader(self.val)

    def test_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Return the loader of ``test``; an empty list, which means none, where there is none."""
        return self._fixed_loader(self.test)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Return the batch with its tensors on the device; annotations and targets stay where they are."""
        if not isinstance(batch, dict):
            return super().transfer_batch_to_device(batch, device, dataloader_idx)
        # Lightning takes apart whatever it meets, and refuses a dataclass that it cannot write to.
        kept = {key: batch[key] for key in ("annots", "target") if key in batch}
        rest = {key: value for key, value in batch.items() if key not in kept}
        moved = super().transfer_batch_to_device(rest, device, dataloader_idx)
        return {key: kept[key] if key in kept else moved[key] for key in batch}

    def _fixed_loader(self, dataset: WindowDataset | None) -> DataLoader[Any] | list[Any]:
        if dataset is None:
            return []
        sampler = _SameEpoch(
            dataset, self.seed, *self._rank(), shuffle=False, batch_size=self.batch_size, keep_batches=False
        )
        return self._loader(dataset, sampler)

    def _loader(self, dataset: WindowDataset, sampler: WindowSampler) -> DataLoader[Any]:
        return _CountedLoader(
            dataset,
            batch_size=self.batch_size // sampler.world_size,
            sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=dataset.collate,
            persistent_workers=self.num_workers > 0,
            pin_memory=self.pin_memory,
        )

    def _rank(self) -> tuple[int | None, int | None]:
        # Not every process has windows of its own: those that share a model share them, too.
        dealt = None if self.trainer is None else self.trainer.distributed_sampler_kwargs
        return (None, None) if dealt is None else (dealt["rank"], dealt["num_replicas"])


class _SameEpoch(WindowSampler):
    """The same windows every time."""

    def set_epoch(self, epoch: int) -> None:
        """Stay in epoch 0."""


class _CountedLoader(DataLoader[Any]):
    """A loader that knows how many batches the loop has had, which the sampler, ahead of it, does not."""

    _done = 0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        self._done = 0
        for batch in super().__iter__():
            self._done += 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Return the place in the epoch; a Lightning checkpoint holds it."""
        assert isinstance(self.sampler, WindowSampler)
        assert self.batch_size is not None
        return self.sampler.state_dict(self._done * self.batch_size if self._done else None)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a place."""
        assert isinstance(self.sampler, WindowSampler)
        self.sampler.load_state_dict(state)
