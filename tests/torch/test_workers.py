"""Worker processes give what one process gives, byte for byte, however they are started."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import tifffile
import torch
from torch.utils.data import ConcatDataset, DataLoader

from slidesampler import (
    CacheMissError,
    GridSource,
    NegativesExhaustedError,
    NegativeSource,
    PositiveSource,
    Sampler,
    SourceMissingError,
    TargetError,
    UnknownKeyError,
)
from slidesampler.torch import WindowDataset

pytestmark = [
    # Four workers are what is promised, whatever the number of cores here.
    pytest.mark.filterwarnings("ignore:This DataLoader will create . worker:UserWarning"),
    # Python 3.12 and later warn of every fork in a process with threads; that forks work is what is tested.
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]

BACKENDS = ["cog", "npy", None]
SIZES = [(300, 260), (257, 513), (128, 400), (333, 222), (200, 200)]


def slide_pixels(image_id):
    return np.random.default_rng(image_id).integers(0, 256, (*SIZES[image_id - 1], 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("worker-slides")
    rng = np.random.default_rng(99)
    images, annotations = [], []
    for image_id, (height, width) in enumerate(SIZES, start=1):
        path = folder / f"slide{image_id}.tif"
        tifffile.imwrite(path, slide_pixels(image_id), tile=(64, 64), photometric="rgb", compression="zlib")
        images.append({"id": image_id, "file_name": str(path), "height": height, "width": width})
        for _ in range(8):
            x, y = rng.uniform(0, (width - 50, height - 50))
            ring = np.add([[0, 0], [40, 5], [45, 45], [3, 38]], (x, y))
            hole = np.add([[15, 15], [25, 15], [20, 25]], (x, y))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": int(rng.integers(1, 3)),
                    "segmentation": [{"exterior": ring.tolist(), "interiors": [hole.tolist()]}],
                    "bbox": [x, y, 45, 45],
                }
            )
    categories = [{"id": 1, "name": "tumour"}, {"id": 2, "name": "stroma"}]
    return {"images": images, "annotations": annotations, "categories": categories}


@pytest.fixture(scope="module")
def workdir(manifest, tmp_path_factory):
    folder = tmp_path_factory.mktemp("worker-cache")
    for backend in ("cog", "npy"):
        report = Sampler(manifest, folder, backend).build()
        assert report.ok
    return folder


@pytest.fixture(scope="module", params=BACKENDS, ids=lambda backend: backend or "in-place")
def sampler(request, manifest):
    if request.param is None:
        return Sampler(manifest)
    return Sampler(manifest, request.getfixturevalue("workdir"), request.param)


def frozen(items):
    """Everything in items (or in the items of a batch) as one comparable value."""
    out = []
    for item in items:
        annots = item["annots"]
        arrays = [item[key].numpy() for key in ("image", "mask", "valid", "window")]
        arrays += [annots.annot_ids, annots.class_index, annots.boxes_xyxy, annots.visible]
        arrays += [ring for parts in annots.polygons for part in parts for ring in part]
        numbers = [int(item[key]) for key in ("image_id", "index", "epoch")]
        out.append((numbers, item["target"], [(a.dtype.str, a.shape, a.tobytes()) for a in arrays]))
    return out


def unbatched(batch):
    """The items of a batch; by the documented layout, not by the code of collate."""
    return [{key: values[i] for key, values in batch.items()} for i in range(len(batch["target"]))]


def loader_of(dataset, start="fork", **options):
    settings = {"batch_size": 8, "num_workers": 4, "collate_fn": dataset.collate, "pin_memory": False}
    return DataLoader(dataset, multiprocessing_context=start, **{**settings, **options})


def test_forked_workers_give_what_one_process_gives(sampler):
    source = PositiveSource(sampler, 48, n=64, seed=3, jitter_px=30)
    dataset = WindowDataset(sampler, source)
    # The parent reads first, so that forked workers inherit open files.
    expected = frozen(dataset[index] for index in range(64))
    for item in (dataset[index] for index in (0, 63)):
        y, x, h, w = item["window"].tolist()
        pixels = np.pad(slide_pixels(item["image_id"]), ((48, 48), (48, 48), (0, 0)))
        window = pixels[y + 48 : y + 48 + h, x + 48 : x + 48 + w]
        np.testing.assert_array_equal(item["image"].numpy(), window.transpose(2, 0, 1))
    found = [item for batch in loader_of(dataset, "fork") for item in unbatched(batch)]
    assert frozen(found) == expected
    # And the parent can still read, afterwards.
    assert frozen(dataset[index] for index in range(64)) == expected


def test_spawned_workers_give_what_one_process_gives(manifest, workdir):
    """All backends, positives and negatives, over two epochs: starting workers by spawn takes seconds."""
    datasets = []
    for sampler in (Sampler(manifest, workdir, "cog"), Sampler(manifest, workdir, "npy"), Sampler(manifest)):
        datasets.append(WindowDataset(sampler, PositiveSource(sampler, 48, n=40, seed=3, jitter_px=30)))
        datasets.append(WindowDataset(sampler, NegativeSource(sampler, 48, n=8, seed=3)))
    together = ConcatDataset(datasets)
    loader = DataLoader(
        together,
        batch_size=8,
        num_workers=4,
        multiprocessing_context="spawn",
        collate_fn=WindowDataset.collate,
        persistent_workers=True,
    )
    for epoch in (0, 5):
        for dataset in datasets:
            dataset.set_epoch(epoch)
        expected = frozen(together[index] for index in range(len(together)))
        assert {numbers[2] for numbers, *_ in expected} == {epoch}
        assert frozen(item for batch in loader for item in unbatched(batch)) == expected


def test_order_asked_is_order_given(sampler):
    dataset = WindowDataset(sampler, GridSource(sampler, 32, downsample=1.5))
    order = np.random.default_rng(5).permutation(len(dataset))[:50].tolist()
    expected = frozen(dataset[index] for index in order)
    batches = [order[i : i + 7] for i in range(0, len(order), 7)]
    loader = loader_of(dataset, batch_size=1, batch_sampler=batches)
    assert frozen(item for batch in loader for item in unbatched(batch)) == expected


def test_negatives_in_workers(sampler):
    dataset = WindowDataset(sampler, NegativeSource(sampler, 24, n=24, seed=3))
    expected = frozen(dataset[index] for index in range(24))
    batches = list(loader_of(dataset))
    assert frozen(item for batch in batches for item in unbatched(batch)) == expected
    assert all(set(batch["mask"].unique().tolist()) == {0} for batch in batches)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_number_of_workers_changes_nothing(sampler, workers):
    source = PositiveSource(sampler, 32, n=30, seed=3, class_weights="uniform")
    dataset = WindowDataset(sampler, source)
    start = "fork" if workers else None
    found = [item for batch in loader_of(dataset, start, num_workers=workers) for item in unbatched(batch)]
    windows = [source.target(0, index).window for index in range(30)]
    assert [item["window"].tolist() for item in found] == [[w.y, w.x, w.height, w.width] for w in windows]


def test_new_epoch_reaches_persistent_workers(sampler):
    source = PositiveSource(sampler, 32, n=24, seed=3)
    dataset = WindowDataset(sampler, source)
    loader = loader_of(dataset, num_workers=2, persistent_workers=True)
    for epoch in (0, 1, 7):
        dataset.set_epoch(epoch)
        found = [item for batch in loader for item in unbatched(batch)]
        windows = [source.target(epoch, index).window for index in range(24)]
        assert [int(item["epoch"]) for item in found] == [epoch] * 24
        assert [item["window"].tolist() for item in found] == [[w.y, w.x, w.height, w.width] for w in windows]


def test_epoch_and_index_from_a_batch_sampler(sampler):
    source = PositiveSource(sampler, 32, n=24, seed=3)
    dataset = WindowDataset(sampler, source)
    places = [(epoch, index) for epoch in (2, 9) for index in range(0, 24, 5)]
    loader = loader_of(dataset, batch_size=None, sampler=places, collate_fn=None)
    assert frozen(loader) == frozen(dataset[place] for place in places)


def test_unbatched_loading(sampler):
    dataset = WindowDataset(sampler, GridSource(sampler, 64))
    loader = loader_of(dataset, batch_size=None, collate_fn=None)
    assert frozen(loader) == frozen(dataset)


def test_dtypes_that_torch_barely_knows_travel():
    pixels = np.arange(64 * 64 * 2, dtype=np.uint16).reshape(64, 64, 2) * 7
    manifest = {
        "images": [{"id": 1, "file_name": "array://uint16-travels"}],
        "categories": [{"id": i, "name": f"c{i}"} for i in range(1, 301)],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 300, "bbox": [10, 10, 30, 30]}],
    }
    sampler = Sampler(manifest, arrays={"uint16-travels": pixels})
    dataset = WindowDataset(sampler, GridSource(sampler, 32), with_instances=True)
    (batch,) = loader_of(dataset, num_workers=1)
    assert (batch["image"].dtype, batch["mask"].dtype) == (torch.uint16, torch.uint16)
    assert batch["instances"].dtype == torch.uint32
    np.testing.assert_array_equal(batch["image"][3].numpy(), pixels[32:, 32:].transpose(2, 0, 1))
    assert batch["mask"].long().unique().tolist() == [0, 300]


# Errors -------------------------------------------------------------------------------------------------------


def drain(dataset, start="fork"):
    for _ in loader_of(dataset, start, num_workers=1):
        pass


def sown_manifest():
    """An image with a pixel of foreground every four pixels: no window is without, and none is known to be."""
    places = [(x, y) for y in range(0, 100, 4) for x in range(0, 100, 4)]
    return {
        "images": [{"id": 1, "file_name": "array://sown", "height": 100, "width": 100}],
        "categories": [{"id": 1, "name": "tumour"}],
        "annotations": [
            {"id": i, "image_id": 1, "category_id": 1, "bbox": [x, y, 1, 1]}
            for i, (x, y) in enumerate(places, 1)
        ],
    }


def test_errors_of_workers_are_of_our_classes(manifest, tmp_path):
    here = {"window": (0, 0, 16, 16)}
    unbuilt = Sampler(manifest, tmp_path / "empty", "cog")
    with pytest.raises(CacheMissError, match=r"slidesampler build(.|\n)*item 0 of epoch 0"):
        drain(WindowDataset(unbuilt, [{"image_id": 1, **here}]), "spawn")
    sampler = Sampler(manifest)
    with pytest.raises(TargetError, match=r"77(.|\n)*item 1 of epoch 0"):
        drain(WindowDataset(sampler, [{"image_id": 1, **here}, {"image_id": 77, **here}]))
    gone = Sampler({"images": [{"id": 1, "file_name": str(tmp_path / "gone.tif")}]})
    with pytest.raises(SourceMissingError, match=r"gone\.tif"):
        drain(WindowDataset(gone, [{"image_id": 1, **here}]))
    sown = Sampler(sown_manifest(), arrays={"sown": np.zeros((100, 100, 1), np.uint8)})
    impossible = NegativeSource(sown, 16, n=1, max_tries=9, seed=1)
    with pytest.raises(NegativesExhaustedError, match=r"found 0 in 9 tries(.|\n)*in item 0 of epoch 0"):
        drain(WindowDataset(sown, impossible))
    mixed = [{"image_id": 1, "window": (0, 0, 16, w)} for w in (16, 17)]
    with pytest.raises(TargetError, match="cannot be stacked"):
        drain(WindowDataset(sampler, mixed))


def divide(item):
    return item | {"scale": 1 // (item["index"] - 2)}


def mistype(item):
    raise UnknownKeyError("a target has no key 'hieght'")


def test_error_of_a_transform_names_the_item(manifest):
    sampler = Sampler(manifest)
    source = GridSource(sampler, 64)
    with pytest.raises(ZeroDivisionError, match=r"item 2 of epoch 0(.|\n)*'image_id': 1"):
        drain(WindowDataset(sampler, source, divide))
    with pytest.raises(UnknownKeyError, match="'hieght'"):
        drain(WindowDataset(sampler, source, mistype))


def test_dataset_sent_to_workers_is_small(sampler):
    for source in (
        GridSource(sampler, 16),
        PositiveSource(sampler, 16, n=100_000),
        NegativeSource(sampler, 16, n=100_000),
    ):
        dataset = WindowDataset(sampler, source)
        dataset[0]
        assert len(pickle.dumps(dataset)) < 16_000
