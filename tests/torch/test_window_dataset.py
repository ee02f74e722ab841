from __future__ import annotations

import copy
import pickle
import sys

import numpy as np
import pytest
import torch

from slidesampler import (
    FixedSource,
    GridSource,
    NegativeSource,
    PositiveSource,
    ReadError,
    Sampler,
    TargetError,
    UnknownKeyError,
)
from slidesampler.models import Annots
from slidesampler.torch import WindowDataset, sample_to_item

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (90, 120, 3), dtype=np.uint8)
TARGET = {"image_id": 1, "cx": 30, "cy": 40, "width": 24, "height": 16}


def make_sampler(pixels=PIXELS, name="window-dataset", classes=2):
    manifest = {
        "images": [{"id": 1, "file_name": f"array://{name}"}],
        "categories": [{"id": i, "name": f"c{i}"} for i in range(1, classes + 1)],
        "annotations": [
            {"id": 5, "image_id": 1, "category_id": classes, "bbox": [25, 35, 10, 10]},
            {
                "id": 6,
                "image_id": 1,
                "category_id": 1,
                "segmentation": [{"exterior": [[80, 50], [110, 50], [110, 80], [80, 80]], "interiors": []}],
                "bbox": [80, 50, 30, 30],
            },
        ],
    }
    return Sampler(manifest, arrays={name: pixels})


@pytest.fixture(scope="module")
def sampler():
    return make_sampler()


def test_real_torch_is_not_hidden():
    import slidesampler

    assert slidesampler.torch is sys.modules["slidesampler.torch"]
    assert slidesampler.torch is not torch
    assert hasattr(torch, "nn")


def test_item_is_the_sample_as_tensors(sampler):
    item = WindowDataset(sampler, [TARGET])[0]
    # Rows 32 to 48, columns 18 to 42 of the source, read with numpy alone.
    np.testing.assert_array_equal(item["image"].numpy(), PIXELS[32:48, 18:42].transpose(2, 0, 1))
    assert item["image"].is_contiguous()
    mask = np.zeros((16, 24), np.uint8)
    mask[3:13, 7:17] = 2
    np.testing.assert_array_equal(item["mask"].numpy(), mask)
    assert item["mask"].dtype == torch.uint8
    assert item["valid"].dtype == torch.bool
    assert item["valid"].all()
    assert item["window"].dtype == torch.int64
    assert item["window"].tolist() == [32, 18, 16, 24]
    assert (item["image_id"], item["index"], item["epoch"]) == (1, 0, 0)
    assert isinstance(item["annots"], Annots)
    assert item["annots"].boxes_xyxy.tolist() == [[7, 3, 17, 13]]
    assert item["target"]["window"] == [32, 18, 16, 24]
    assert "instances" not in item


def test_outside_the_image_is_not_valid(sampler):
    item = WindowDataset(sampler, [{"image_id": 1, "window": (-4, -4, 8, 8)}])[0]
    expected = np.zeros((8, 8), bool)
    expected[4:, 4:] = True
    np.testing.assert_array_equal(item["valid"].numpy(), expected)
    np.testing.assert_array_equal(item["mask"].numpy() == 255, ~expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
def test_stored_dtype_is_kept(dtype):
    limits = (0, 1) if dtype == np.float32 else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    pixels = np.linspace(*limits, 20 * 30 * 2).reshape(20, 30, 2).astype(dtype)
    dataset = WindowDataset(make_sampler(pixels, f"dtype-{np.dtype(dtype).name}"), [{"image_id": 1}])
    image = dataset[0]["image"]
    assert image.numpy().dtype == dtype
    np.testing.assert_array_equal(image.numpy(), pixels.transpose(2, 0, 1))


def test_mask_dtype(sampler):
    assert WindowDataset(sampler, [TARGET], mask_dtype=torch.int64)[0]["mask"].dtype == torch.int64
    many = WindowDataset(make_sampler(classes=300), [TARGET])
    assert many[0]["mask"].dtype == torch.uint16
    assert many[0]["mask"].long().unique().tolist() == [0, 300]


def test_what_is_loaded_can_be_chosen(sampler):
    bare = WindowDataset(sampler, [TARGET], with_annots=False, with_mask=False)[0]
    assert not {"mask", "annots", "instances"} & bare.keys()
    full = WindowDataset(sampler, [TARGET], with_instances=True)[0]
    assert full["instances"].dtype == torch.uint32
    # One plus the row of the annotation in its image.
    assert full["instances"].long().unique().tolist() == [0, 1]
    # 9 of the 30 rows and 30 columns of the polygon are visible.
    corner = {"image_id": 1, "window": (41, 78, 18, 40)}
    assert len(WindowDataset(sampler, [corner], visible_threshold=0.29)[0]["annots"]) == 1
    assert len(WindowDataset(sampler, [corner], visible_threshold=0.31)[0]["annots"]) == 0


def test_sequence_has_a_leading_axis():
    manifest = {
        "images": [
            {"id": i, "file_name": f"array://frame{i}", "video_id": 1, "frame_index": i} for i in (1, 2)
        ],
        "videos": [{"id": 1, "name": "v"}],
    }
    frames = {f"frame{i}": np.full((20, 20, 3), i, np.uint8) for i in (1, 2)}
    dataset = WindowDataset(Sampler(manifest, arrays=frames), [{"video_id": 1, "window": (2, 3, 5, 6)}])
    item = dataset[0]
    assert item["image"].shape == (2, 3, 5, 6)
    assert item["image"][:, 0, 0, 0].tolist() == [1, 2]
    assert item["image_ids"] == (1, 2)
    assert "image_id" not in item
    batch = dataset.collate([item, item])
    assert batch["image"].shape == (2, 2, 3, 5, 6)
    assert batch["image_ids"] == [(1, 2), (1, 2)]


def test_items_do_not_share_memory(sampler):
    dataset = WindowDataset(sampler, [TARGET])
    first = dataset[0]
    first["image"].zero_()
    first["mask"].fill_(9)
    np.testing.assert_array_equal(dataset[0]["image"].numpy(), PIXELS[32:48, 18:42].transpose(2, 0, 1))
    assert dataset[0]["mask"].max() == 2


def test_sample_of_read_only_pixels_is_copied(sampler):
    sample = sampler.load_sample(TARGET)
    sample.image.flags.writeable = False
    sample.valid.flags.writeable = False
    item = sample_to_item(sample)
    item["valid"].zero_()
    assert sample.valid.all()


def test_indexes_like_a_list(sampler):
    source = GridSource(sampler, 30)
    dataset = WindowDataset(sampler, source)
    windows = [source.target(0, i).window for i in range(12)]
    expected = [[w.y, w.x, w.height, w.width] for w in windows]
    assert len(dataset) == len(expected) == 12
    assert [item["window"].tolist() for item in dataset] == expected
    for index in (-12, -1, 0, 11, np.int64(3), torch.tensor(4)):
        assert dataset[index]["window"].tolist() == expected[int(index)]
        assert dataset[index]["index"] == int(index) % 12
    for index in (12, -13, 10**12, (0, 12), (3, -13)):
        with pytest.raises(IndexError, match="the dataset has 12"):
            dataset[index]
    for index in (1.0, "1", None, slice(2), (1,), (0, 1, 2), (0.5, 1)):
        with pytest.raises(TypeError):
            dataset[index]


def test_epochs(sampler):
    source = PositiveSource(sampler, 16, n=20, seed=3, jitter_px=8)
    dataset = WindowDataset(sampler, source)

    def windows(*index):
        return dataset[index if len(index) == 2 else index[0]]["window"].tolist()

    def expected(epoch, index):
        window = source.target(epoch, index).window
        return [window.y, window.x, window.height, window.width]

    assert dataset.epoch == 0
    assert [windows(i) for i in range(20)] == [expected(0, i) for i in range(20)]
    dataset.set_epoch(7)
    assert dataset.epoch == 7
    assert [windows(i) for i in range(20)] == [expected(7, i) for i in range(20)]
    assert [windows(2, i) for i in range(20)] == [expected(2, i) for i in range(20)]
    assert windows(2, -1) == expected(2, 19)
    assert dataset[2, 5]["epoch"] == 2
    assert expected(0, 5) != expected(7, 5)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda d: pickle.loads(pickle.dumps(d))])
def test_copies_have_an_epoch_of_their_own(sampler, copied):
    dataset = WindowDataset(sampler, PositiveSource(sampler, 16, n=5))
    dataset.set_epoch(3)
    other = copied(dataset)
    assert other.epoch == 3
    dataset.set_epoch(4)
    assert other.epoch == 3
    other.set_epoch(5)
    assert dataset.epoch == 4
    assert other[1]["window"].tolist() == dataset[5, 1]["window"].tolist()


def test_getitems_keeps_the_order_asked(sampler):
    dataset = WindowDataset(sampler, GridSource(sampler, 30))
    asked = [7, -1, 0, 7, (3, 2), np.int64(5)]
    items = dataset.__getitems__(asked)
    assert [item["index"] for item in items] == [7, 11, 0, 7, 2, 5]
    assert [item["epoch"] for item in items] == [0, 0, 0, 0, 3, 0]
    for item, index in zip(items, asked, strict=True):
        assert torch.equal(item["image"], dataset[index]["image"])
    assert dataset.__getitems__([]) == []
    with pytest.raises(IndexError):
        dataset.__getitems__([0, 12])


def test_getitems_reads_a_batch_in_one_call(sampler, monkeypatch):
    calls = []
    load = Sampler.load_batches

    def counting(self, targets, threads, **kwargs):
        calls.append((list(targets), threads))
        return load(self, targets, threads, **kwargs)

    monkeypatch.setattr(Sampler, "load_batches", counting)
    targets = [{"image_id": 1, "window": (y, x, 8, 8)} for y in (9, 0) for x in (5, 3)]
    items = WindowDataset(sampler, targets, threads=3).__getitems__(range(4))
    assert [len(asked) for asked, _ in calls] == [4]
    assert calls[0][1] == 3
    assert [item["window"].tolist()[:2] for item in items] == [[9, 5], [9, 3], [0, 5], [0, 3]]
    with pytest.raises(ValueError, match="threads"):
        WindowDataset(sampler, targets, threads=0)


def test_getitems_takes_windows_of_different_sizes(sampler):
    dataset = WindowDataset(sampler, [TARGET, {"image_id": 1, "window": (0, 0, 8, 8)}, TARGET])
    for index, item in enumerate(dataset.__getitems__([0, 1, 2])):
        assert torch.equal(item["image"], dataset[index]["image"])
        assert item["index"] == index


def test_an_item_of_a_batch_that_fails_says_which_it_is(sampler):
    dataset = WindowDataset(sampler, [TARGET, {"image_id": 404, "window": (0, 0, 16, 24)}])
    with pytest.raises(TargetError) as caught:
        dataset.__getitems__([0, 1])
    assert any("item 1 of epoch 0" in note for note in caught.value.__notes__)


def test_targets_are_checked_at_once(sampler):
    with pytest.raises(UnknownKeyError, match=r"targets\[1\].*'wdith'.*'width'"):
        WindowDataset(sampler, [TARGET, {"image_id": 1, "wdith": 3}])
    with pytest.raises(TargetError, match=r"put it into \[ \]"):
        WindowDataset(sampler, TARGET)


def test_source_or_targets(sampler):
    targets = [TARGET, {"annot_id": 6}]
    given, wrapped = WindowDataset(sampler, iter(targets)), WindowDataset(sampler, FixedSource(targets))
    for index in (0, 1):
        assert torch.equal(given[index]["image"], wrapped[index]["image"])
    assert len(given) == len(wrapped) == 2


class Flip:
    """A transform of everything at once, drawn from (epoch, index) alone."""

    def __call__(self, item):
        if item["index"] % 2:
            return item
        return item | {key: item[key].flip(-1) for key in ("image", "mask", "valid")} | {"flipped": True}


def test_transform_gets_and_returns_the_item(sampler):
    plain, flipped = WindowDataset(sampler, [TARGET] * 2), WindowDataset(sampler, [TARGET] * 2, Flip())
    assert torch.equal(flipped[0]["image"], plain[0]["image"].flip(2))
    assert torch.equal(flipped[0]["mask"], plain[0]["mask"].flip(1))
    assert flipped[0]["flipped"] is True
    assert torch.equal(flipped[1]["image"], plain[1]["image"])


def test_transform_that_fails_says_on_which_item(sampler):
    def fail(item):
        raise ZeroDivisionError("no scale")

    with pytest.raises(ZeroDivisionError, match="no scale") as caught:
        WindowDataset(sampler, [TARGET] * 3, fail)[4, 2]
    assert any("item 2 of epoch 4" in note and "'image_id': 1" in note for note in caught.value.__notes__)


@pytest.mark.parametrize("returned", [None, torch.zeros(3), [1]])
def test_transform_must_return_the_item(sampler, returned):
    with pytest.raises(TypeError, match=f"must return the item, a dict; it returned {type(returned).__name__}"):
        WindowDataset(sampler, [TARGET], lambda item: returned)[0]


def test_error_of_a_read_says_on_which_item(tmp_path):
    sampler = Sampler({"images": [{"id": 1, "file_name": str(tmp_path / "gone.tif")}]})
    with pytest.raises(ReadError, match=r"gone\.tif") as caught:
        WindowDataset(sampler, [TARGET])[0]
    assert any("item 0 of epoch 0" in note for note in caught.value.__notes__)


def test_pickles_small(sampler):
    for source in (
        GridSource(sampler, 8),
        PositiveSource(sampler, 8, n=10**6),
        NegativeSource(sampler, 8, n=9),
    ):
        dataset = WindowDataset(sampler, source)
        dataset[0]
        assert len(pickle.dumps(dataset)) < 16_000
