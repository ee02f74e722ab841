"""A Lightning trainer sees every window once an epoch, new ones every epoch, and goes on where it stopped."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from slidesampler.sampler import Sampler
from slidesampler.sampling.balanced import BalancedSource
from slidesampler.sampling.fixed import FixedSource
from slidesampler.torch import WindowDataset

pl = pytest.importorskip("pytorch_lightning", reason="Lightning is not installed")

from slidesampler.torch.lightning import WindowDataModule  # noqa: E402  (needs Lightning)

# Lightning gives advice on loggers, numbers of workers and batches by warnings; none of it is about windows.
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

N, BATCH = 42, 8


class Model(pl.LightningModule):
    """Learns nothing, and remembers what it was shown."""

    def __init__(self, stop_after=None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.trained, self.validated = [], []
        self.stop_after = stop_after

    def training_step(self, batch, number):
        self.trained.append(
            [tuple(place) for place in zip(batch["epoch"].tolist(), batch["index"].tolist(), strict=True)]
        )
        return self.weight * batch["image"].float().mean()

    def validation_step(self, batch, number):
        self.validated.append(batch["window"].tolist())

    def on_train_batch_end(self, outputs, batch, number):
        if len(self.trained) == self.stop_after:
            # As a checkpoint callback does that saves every few steps.
            self.trainer.save_checkpoint(self.trainer.default_root_dir + "/stopped.ckpt")
            raise KeyboardInterrupt

    def on_train_end(self):
        folder = Path(self.trainer.default_root_dir)
        if self.trainer.world_size > 1:
            (folder / f"rank{self.trainer.global_rank}.json").write_text(
                json.dumps(self.trained), encoding="utf-8"
            )

    def configure_optimizers(self):
        return torch.optim.SGD([self.weight], lr=0.1)


def make_windows(workers=0, **options):
    manifest = {
        "images": [{"id": 1, "file_name": "array://lightning"}],
        "categories": [{"id": 1, "name": "tumour"}],
        "annotations": [
            {"id": i, "image_id": 1, "category_id": 1, "bbox": [9 * i, 30, 6, 6]} for i in range(1, 6)
        ],
    }
    pixels = np.random.default_rng(0).integers(0, 256, (200, 200, 1), dtype=np.uint8)
    sampler = Sampler(manifest, arrays={"lightning": pixels})
    source = BalancedSource(sampler, 16, n=N, batch_size=BATCH)
    val = BalancedSource(sampler, 16, n=13)
    return WindowDataModule(
        WindowDataset(sampler, source),
        WindowDataset(sampler, val),
        batch_size=BATCH,
        num_workers=workers,
        **options,
    )


def make_trainer(folder, epochs, **options):
    settings = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False}
    settings |= {"enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    return pl.Trainer(default_root_dir=str(folder), max_epochs=epochs, **settings | options)


def check_epochs(steps, epochs):
    """Five batches an epoch (of 42 windows two are left out), none of them twice, all of its own epoch."""
    assert len(steps) == 5 * epochs
    orders = []
    for epoch in range(epochs):
        batches = [sorted(batch) for batch in steps[5 * epoch : 5 * epoch + 5]]
        assert sorted(batches) == [[(epoch, 8 * b + i) for i in range(8)] for b in range(5)]
        orders.append([batch[0][1] for batch in batches])
    assert len({tuple(order) for order in orders}) > 1


@pytest.mark.parametrize("workers", [0, 1])
def test_epochs_of_a_trainer(tmp_path, workers):
    model = Model()
    make_trainer(tmp_path, 3).fit(model, make_windows(workers))
    check_epochs(model.trained, 3)
    # Validation: the same windows in the same order each time.
    assert [len(batch) for batch in model.validated] == [8, 5] * 3
    assert model.validated[:2] == model.validated[2:4] == model.validated[4:]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("stop_after", [2, 7, 8])
def test_checkpoint_within_an_epoch(tmp_path, workers, stop_after):
    whole = Model()
    make_trainer(tmp_path, 3).fit(whole, make_windows())
    begun, rest = Model(stop_after), Model()
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        make_trainer(tmp_path, 3).fit(begun, make_windows(workers))
    make_trainer(tmp_path, 3).fit(rest, make_windows(workers), ckpt_path=f"{tmp_path}/stopped.ckpt")
    assert begun.trained + rest.trained == whole.trained


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
@pytest.mark.parametrize("use_distributed_sampler", [True, False])
def test_two_devices(tmp_path, use_distributed_sampler):
    alone = Model()
    make_trainer(tmp_path, 2).fit(alone, make_windows())
    options = {"devices": 2, "strategy": "ddp_fork", "use_distributed_sampler": use_distributed_sampler}
    make_trainer(tmp_path, 2, **options).fit(Model(), make_windows())
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text(encoding="utf-8")) for rank in range(2)]
    together = [sorted(map(tuple, one + other)) for one, other in zip(*ranks, strict=True)]
    assert together == [sorted(batch) for batch in alone.trained]


def test_without_validation(tmp_path):
    dataset = make_windows().train
    model = Model()
    make_trainer(tmp_path, 1).fit(model, WindowDataModule(dataset, batch_size=BATCH))
    check = WindowDataModule(dataset, test=dataset)
    assert (check.val_dataloader(), len(check.test_dataloader())) == ([], 2)
    assert len(model.trained) == 5


def test_targets_will_do(tmp_path):
    sampler = make_windows().train.sampler
    targets = [{"image_id": 1, "window": (i, i, 16, 16)} for i in range(20)]
    model = Model()
    windows = WindowDataModule(WindowDataset(sampler, FixedSource(targets)), batch_size=4)
    make_trainer(tmp_path, 1).fit(model, windows)
    assert sorted(place for batch in model.trained for place in batch) == [(0, i) for i in range(20)]


def test_without_lightning_the_error_is_the_command_that_installs_it():
    code = """
import sys
sys.modules["lightning"] = sys.modules["pytorch_lightning"] = None
import slidesampler.errors
try:
    import slidesampler.torch.lightning
except slidesampler.errors.MissingDependencyError as error:
    print("slidesampler[lightning]" in str(error))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True"]
