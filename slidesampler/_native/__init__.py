"""The compiled hot paths: windows of tiled TIFFs straight from the tiles, and tiles compressed for the cache.

Built with the package against libjpeg-turbo, libdeflate and libzstd. Where one could not be built, or
``SLIDESAMPLER_NO_NATIVE=1`` says so, :data:`tiles` or :data:`encode` is None, GDAL reads or writes instead, and
``slidesampler doctor`` tells why.
"""

from __future__ import annotations

import importlib
import os
from types import ModuleType

__all__ = ["encode", "missing_because", "tiles"]

#: The extension modules; None where they are not there.
tiles: ModuleType | None = None
encode: ModuleType | None = None
#: Why one of them is None; empty where none is.
missing_because = ""

if os.environ.get("SLIDESAMPLER_NO_NATIVE", "0") not in ("", "0"):
    missing_because = "SLIDESAMPLER_NO_NATIVE is set"
else:
    try:
        tiles = importlib.import_module("slidesampler._native._tiles")
        encode = importlib.import_module("slidesampler._native._encode")
    except ImportError as error:
        missing_because = str(error)
