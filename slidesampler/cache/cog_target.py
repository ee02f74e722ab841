"""Who writes a COG: the compiled encoder where it can, else GDAL."""

from __future__ import annotations

from slidesampler import _native
from slidesampler.cache.cog_layout import CogLayout, CogTarget
from slidesampler.cache.cog_scratch import CogScratch
from slidesampler.cache.cog_stream import ENCODED, CogStream

__all__ = ["open_cog"]


def open_cog(layout: CogLayout, *, threads: int = 1, whole_rows: bool = True) -> CogTarget:
    """Begin a COG.

    Both writers give the same pixels, JPEG included, and readers see the same of both. GDAL is asked for what
    it alone has, LZW and WebP, for images so wide that their strips have to be cut, and where the encoder was
    not compiled.

    Parameters
    ----------
    layout : CogLayout
    threads : int
        Threads that compress; the file is the same with any number of them.
    whole_rows : bool
        Whether every piece will have the full width of its level.

    Raises
    ------
    BuildError
        If a file cannot be written.
    """
    if _native.encode is not None and layout.codec in ENCODED and whole_rows:
        return CogStream(layout, threads)
    return CogScratch(layout, threads)
