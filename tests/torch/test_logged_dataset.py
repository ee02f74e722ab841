"""A dataset with a log: what workers load is what the log holds."""

from __future__ import annotations

import numpy as np
import pytest
from torch.utils.data import DataLoader

from slidesampler import Sampler
from slidesampler.geometry import Window
from slidesampler.sampling import GridSource
from slidesampler.sampling.log import SampleLog
from slidesampler.sampling.log_columns import UNKNOWN, read_log
from slidesampler.torch import WindowDataset


@pytest.fixture
def sampler(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((64, 96, 3), np.uint8))
    manifest = {"images": [{"id": 1, "file_name": "a.npy"}, {"id": 4, "file_name": "a.npy"}]}
    return Sampler(manifest, bundle_dir=tmp_path)


class TestDataset:
    @pytest.mark.parametrize(("workers", "method"), [(0, None), (2, "fork"), (1, "spawn")])
    def test_a_dataset_logs_what_it_loads(self, sampler, tmp_path, workers, method):
        source = GridSource(sampler, size=24)
        dataset = WindowDataset(sampler, source, log=SampleLog(tmp_path / "log"))
        loader = DataLoader(
            dataset,
            batch_size=4,
            num_workers=workers,
            collate_fn=dataset.collate,
            multiprocessing_context=method,
        )
        for epoch in (0, 3):
            dataset.set_epoch(epoch)
            assert sum(len(batch["image"]) for batch in loader) == len(source)
        columns = read_log(tmp_path / "log")
        served = sorted(zip(columns.epochs.tolist(), columns.indexes.tolist(), strict=True))
        assert served == [(epoch, index) for epoch in (0, 3) for index in range(len(source))]
        for index, window, image_id in zip(
            columns.indexes.tolist(), columns.windows.tolist(), columns.image_ids.tolist(), strict=True
        ):
            expected = source.target(0, index)
            assert (image_id, Window(*window)) == (expected.image_id, expected.window)
        assert set(columns.workers) == ({UNKNOWN} if not workers else set(range(workers)))

    def test_a_dataset_without_log_writes_none(self, sampler):
        assert WindowDataset(sampler, GridSource(sampler, size=24)).log is None
