"""Windows for torch: a map-style dataset, its collate function, and samplers that deal windows out to ranks.

The module is called ``torch`` like the package it serves. It does not hide it: imports here are absolute, so
``import torch`` is always the real one. People write ``slidesampler.torch.WindowDataset``.
"""

import contextlib
import importlib

# osgeo must be imported before torch: both bring copies of common C++ libraries, the first one loaded serves
# both, and GDAL is the one that can fail with the other's. Where GDAL is missing or broken this is silent,
# since npy caches do not need it; what needs it says so.
with contextlib.suppress(ImportError):
    importlib.import_module("slidesampler.readers.gdal")

try:
    importlib.import_module("torch")
except ImportError as error:
    from slidesampler.errors import MissingDependencyError

    raise MissingDependencyError(
        "slidesampler.torch needs torch >= 2.6, which cannot be imported "
        f'({error}); install it with: pip install "slidesampler[torch]"'
    ) from error

from slidesampler.torch.batches import collate
from slidesampler.torch.dataset import WindowDataset
from slidesampler.torch.items import sample_to_item
from slidesampler.torch.window_sampler import WindowBatchSampler, WindowSampler

__all__ = ["WindowBatchSampler", "WindowDataset", "WindowSampler", "collate", "sample_to_item"]
