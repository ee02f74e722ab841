"""Building on a dask cluster."""

import sys

import numpy as np
import pytest

from slidesampler.cache import BuildSpec, DaskExecutor, build
from slidesampler.errors import MissingDependencyError


def test_without_distributed_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'slidesampler\[dask\]'"):
        DaskExecutor(None)


def test_builds_on_a_cluster(make_bundle, debris):
    distributed = pytest.importorskip("distributed", reason="distributed is not installed (extra 'dask')")
    bundle = make_bundle(3)
    bundle.annotate(1, [5, 5, 20, 20])
    bundle.path(2).write_bytes(b"no image")
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        report = build(
            bundle.manifest, BuildSpec(backend="npy"), bundle.store, executor=DaskExecutor(client), jobs=2
        )
    assert [row.status for row in report] == ["built", "built", "failed", "built"]
    for image_id in (1, 3):
        np.testing.assert_array_equal(np.load(bundle.find(image_id).files["image"]), bundle.pixels[image_id])
    assert debris(bundle.workdir) == []
