"""The compiled hot path: windows of tiled TIFFs, straight from the tiles.

Built with the package against libjpeg-turbo, libdeflate and libzstd. Where it could not be built, or
``SLIDESAMPLER_NO_NATIVE=1`` says so, :data:`tiles` is None, everything is read through GDAL, and
``slidesampler doctor`` tells why.
"""

from __future__ import annotations

import importlib
import os
from types import ModuleType

__all__ = ["missing_because", "tiles"]

#: The extension module; None where it is not there.
tiles: ModuleType | None = None
#: Why :data:`tiles` is None; empty where it is not.
missing_because = ""

if os.environ.get("SLIDESAMPLER_NO_NATIVE", "0") not in ("", "0"):
    missing_because = "SLIDESAMPLER_NO_NATIVE is set"
else:
    try:
        tiles = importlib.import_module("slidesampler._native._tiles")
    except ImportError as error:
        missing_because = str(error)
