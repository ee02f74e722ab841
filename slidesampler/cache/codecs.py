"""Compression of COGs: which codecs there are, what each can hold, and the GDAL options that ask for it.

Why zstd of level 1 with horizontal differencing is the default: measured on a real H&E slide (RGB uint8,
256-pixel tiles, GDAL 3.6, one thread; size as a share of the raw pixels, speeds in MB/s of raw pixels):

=========================  ======  ========  ========
codec                      size    encode    decode
=========================  ======  ========  ========
zstd level 1               0.393   334       633
zstd level 1, differences  0.338   234       559
zstd level 9, differences  0.335   64        561
deflate, differences       0.344   80        335
lzw, differences           0.455   81        210
none                       1       735       1110
=========================  ======  ========  ========

Higher levels of zstd buy nothing on tissue. Differencing saves 14 % of the disk for 12 % of the decoding
speed on uint8, and is smaller *and* faster on uint16 (0.784 and 408 against 0.830 and 334). For float32 GDAL
has a predictor of its own (3), which is smaller still (0.67 against 0.77 by differences of the bit patterns)
but decodes at 264 against 461 MB/s; a cache is written once and read for weeks, so the faster one is used.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from slidesampler.cache.gdal_write import gdal
from slidesampler.cache.spec import CODECS, DEFAULT_QUALITY
from slidesampler.errors import CodecError

__all__ = ["auto_codec", "check_codec", "cog_codecs", "cog_options", "scratch_options"]

_LOSSLESS = ("zstd", "deflate", "lzw", "none")
#: Differences pay for every codec that looks for repetitions.
_PREDICTED = ("zstd", "deflate", "lzw")


def cog_codecs() -> tuple[str, ...]:
    """Return the codecs of ours that this GDAL's COG driver can write, in the order of preference."""
    driver = gdal.GetDriverByName("COG")
    options = driver.GetMetadataItem("DMD_CREATIONOPTIONLIST") if driver is not None else None
    if options is None:
        return ()
    compress = re.search(r"<Option name='COMPRESS'.*?</Option>", options, re.DOTALL)
    values = set(re.findall(r"<Value>(\w+)</Value>", compress.group(0))) if compress else set()
    return tuple(name for name in CODECS if name.upper() in values)


def auto_codec() -> str:
    """Return the codec that ``"auto"`` stands for: zstd where this GDAL can, else deflate; both lossless."""
    return "zstd" if "zstd" in cog_codecs() else "deflate"


def check_codec(codec: str, dtype: np.dtype[Any], channels: int) -> None:
    """Raise unless this GDAL can write pixels of this kind with the codec.

    Parameters
    ----------
    codec : str
        A name of ``spec.CODECS`` other than ``"auto"``.
    dtype : numpy.dtype
    channels : int

    Raises
    ------
    CodecError
        If this GDAL lacks the codec (the message names those it has), or the codec cannot hold pixels of this
        dtype and number of channels (the message says what can).
    """
    available = cog_codecs()
    if codec not in available:
        raise CodecError(
            f"codec {codec!r} was asked for, but this GDAL ({gdal.__version__}) cannot write it; "
            f"it can write {', '.join(available)}; use one of these or 'auto'"
        )
    found = f"{channels} channel{'s' if channels != 1 else ''} of {dtype.name}"
    lossless = ", ".join(name for name in available if name in _LOSSLESS)
    if codec == "jpeg" and (dtype != np.uint8 or channels not in (1, 3)):
        raise CodecError(
            f"codec 'jpeg' holds 1 or 3 channels of uint8, the image has {found}; "
            f"use a lossless codec ({lossless}) or 'auto'"
        )
    if codec == "webp" and (dtype != np.uint8 or channels != 3):
        raise CodecError(
            f"codec 'webp' holds 3 channels of uint8, the image has {found}; "
            f"use a lossless codec ({lossless}) or 'auto'"
        )


def cog_options(
    codec: str, quality: int | None, *, tile: int, threads: int = 1, sparse: bool = False
) -> list[str]:
    """Return the creation options of GDAL's COG driver for an image whose overviews are already there.

    Parameters
    ----------
    codec : str
        A name of ``spec.CODECS`` other than ``"auto"``, already checked by :func:`check_codec`.
    quality : int or None
        For jpeg and webp; their default where None.
    tile : int
        Pixels.
    threads : int
        Threads that compress.
    sparse : bool
        Leave out tiles that are all 0.
    """
    options = [
        f"COMPRESS={codec.upper()}",
        f"OVERVIEW_COMPRESS={codec.upper()}",
        f"BLOCKSIZE={tile}",
        "OVERVIEWS=FORCE_USE_EXISTING",
        # A compressed file's size is not known before: BigTIFF as soon as the raw pixels are over 2 GB.
        "BIGTIFF=IF_SAFER",
        f"NUM_THREADS={threads}",
        f"SPARSE_OK={'YES' if sparse else 'NO'}",
    ]
    predictor = "STANDARD" if codec in _PREDICTED else "NO"
    if codec in _PREDICTED:
        options += [f"PREDICTOR={predictor}", f"OVERVIEW_PREDICTOR={predictor}"]
    if codec == "zstd":
        options.append("LEVEL=1")
    if codec in DEFAULT_QUALITY:
        quality = quality or DEFAULT_QUALITY[codec]
        # Unless told, overviews would get 75 whatever the image has.
        options += [f"QUALITY={quality}", f"OVERVIEW_QUALITY={quality}"]
    return options


def scratch_options(*, tile: int, threads: int = 1, sparse: bool = False) -> list[str]:
    """Return the creation options of the tiled GTiff that a COG is copied from.

    It is compressed by the fastest codec there is, since a scratch file of raw pixels would need twice to three
    times the disk of the finished entry, and on most disks would not even be faster.
    """
    options = [
        "TILED=YES",
        f"BLOCKXSIZE={tile}",
        f"BLOCKYSIZE={tile}",
        "INTERLEAVE=PIXEL",
        "BIGTIFF=IF_SAFER",
        f"NUM_THREADS={threads}",
        f"SPARSE_OK={'TRUE' if sparse else 'FALSE'}",
    ]
    if "zstd" in cog_codecs():
        options += ["COMPRESS=ZSTD", "ZSTD_LEVEL=1", "PREDICTOR=2"]
    return options
