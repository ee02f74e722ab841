from __future__ import annotations

import numpy as np
import pytest
import torch

from slidesampler import Annots, Sampler, TargetError
from slidesampler.torch import WindowDataset, collate

PIXELS = np.random.default_rng(1).integers(0, 256, (60, 80, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def sampler():
    manifest = {
        "images": [{"id": 10**18, "file_name": "array://collate"}],
        "categories": [{"id": 1, "name": "c"}],
        "annotations": [
            {"id": i, "image_id": 10**18, "category_id": 1, "bbox": [40 + 3 * i, 40, 2, 2]} for i in range(3)
        ],
    }
    return Sampler(manifest, arrays={"collate": PIXELS})


@pytest.fixture(scope="module")
def items(sampler):
    windows = [(0, 0, 16, 16), (36, 38, 16, 16), (36, 43, 16, 16), (0, 100, 16, 16)]
    dataset = WindowDataset(sampler, [{"image_id": 10**18, "window": window} for window in windows])
    return [dataset[5, index] for index in range(4)]


def test_batch_is_the_items_stacked(items):
    batch = collate(items)
    for key in ("image", "mask", "valid", "window"):
        assert batch[key].dtype == items[0][key].dtype
        np.testing.assert_array_equal(batch[key].numpy(), np.stack([item[key].numpy() for item in items]))
    assert batch["image"].shape == (4, 3, 16, 16)
    for key, expected in {"image_id": [10**18] * 4, "index": [0, 1, 2, 3], "epoch": [5] * 4}.items():
        assert batch[key].dtype == torch.int64
        assert batch[key].tolist() == expected
    assert batch["target"] == [item["target"] for item in items]


def test_annotations_of_any_number_are_a_list(items):
    batch = collate(items)
    assert [type(annots) for annots in batch["annots"]] == [Annots] * 4
    assert [annots.annot_ids.tolist() for annots in batch["annots"]] == [[], [0, 1, 2], [1, 2], []]


def test_batch_of_items_without_annotations(items):
    batch = collate([items[0], items[3]])
    assert [len(annots) for annots in batch["annots"]] == [0, 0]
    assert batch["annots"][0].boxes_xyxy.shape == (0, 4)


def test_batch_of_one(items):
    batch = collate(items[:1])
    assert batch["image"].shape == (1, 3, 16, 16)
    assert len(batch["annots"]) == 1


def test_method_and_function_are_the_same(sampler, items):
    assert WindowDataset(sampler, []).collate is collate


@pytest.mark.parametrize("dtype", [torch.uint16, torch.uint32, torch.int16, torch.float16, torch.bool])
def test_dtypes_stack(dtype):
    values = [torch.arange(6).reshape(2, 3).to(dtype), torch.ones(2, 3).to(dtype)]
    batch = collate([{"image": value} for value in values])["image"]
    assert batch.dtype == dtype
    np.testing.assert_array_equal(batch.numpy(), np.stack([value.numpy() for value in values]))


def test_what_a_transform_added(items):
    added = [
        item | {"flip": i > 1, "scale": i / 2, "name": str(i), "points": torch.ones(2, i), "none": None}
        for i, item in enumerate(items)
    ]
    with pytest.raises(TargetError, match=r"'points' cannot be stacked.*\(2, 0\) torch.float32 and \(2, 1\)"):
        collate(added)
    for item in added:
        del item["points"]
    batch = collate(added)
    assert batch["flip"].tolist() == [False, False, True, True]
    assert batch["scale"].tolist() == [0, 0.5, 1, 1.5]
    assert batch["name"] == ["0", "1", "2", "3"]
    assert batch["none"] == [None] * 4


def test_windows_of_different_sizes(sampler):
    dataset = WindowDataset(sampler, [{"image_id": 10**18, "window": (0, 0, 8, w)} for w in (8, 9)])
    with pytest.raises(
        TargetError, match=r"'image' cannot be stacked.*\(3, 8, 8\).*\(3, 8, 9\).*the same size"
    ):
        collate([dataset[0], dataset[1]])


def test_dtypes_are_not_promoted(items):
    other = items[1] | {"image": items[1]["image"].float()}
    with pytest.raises(TargetError, match=r"float32 and .*uint8"):
        collate([items[0], other])


def test_items_with_different_keys(items):
    with pytest.raises(TargetError, match=r"item 1 of the batch differs from item 0 in the keys \['extra'\]"):
        collate([items[0], items[1] | {"extra": 1}])


def test_nothing_to_collate():
    with pytest.raises(ValueError, match="at least one item"):
        collate([])


def test_items_of_a_batch_are_stacked_without_a_copy(sampler):
    windows = [(4 * i, 3 * i, 16, 12) for i in range(5)]
    dataset = WindowDataset(sampler, [{"image_id": 10**18, "window": window} for window in windows])
    items = dataset.__getitems__(range(5))
    batch = collate(items)
    for key in ("image", "mask", "valid"):
        assert batch[key].data_ptr() == items[0][key].data_ptr()
        assert batch[key].is_contiguous()
        np.testing.assert_array_equal(batch[key].numpy(), np.stack([item[key].numpy() for item in items]))
    expected = [PIXELS[y : y + 16, x : x + 12].transpose(2, 0, 1) for y, x, _, _ in windows]
    np.testing.assert_array_equal(batch["image"].numpy(), np.stack(expected))


@pytest.mark.parametrize("order", [(1, 0, 2), (0, 2, 1), (0, 0, 1), (0, 2, 4), (3, 2, 1)])
def test_items_in_another_order_are_copied_into_it(sampler, order):
    windows = [(4 * i, 3 * i, 16, 12) for i in range(5)]
    dataset = WindowDataset(sampler, [{"image_id": 10**18, "window": window} for window in windows])
    items = dataset.__getitems__(range(5))
    batch = collate([items[i] for i in order])
    expected = [PIXELS[4 * i : 4 * i + 16, 3 * i : 3 * i + 12].transpose(2, 0, 1) for i in order]
    np.testing.assert_array_equal(batch["image"].numpy(), np.stack(expected))


def test_a_batch_of_parameters_keeps_its_gradient():
    value = torch.zeros(2, 3, requires_grad=True)
    batch = collate([{"weight": value[0]}, {"weight": value[1]}])
    batch["weight"].sum().backward()
    np.testing.assert_array_equal(value.grad.numpy(), np.ones((2, 3)))
