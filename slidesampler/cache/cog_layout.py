"""What a COG is to hold, and what every writer of one can do."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from slidesampler.models import Level

__all__ = ["CogLayout", "CogTarget"]


@dataclass(frozen=True, slots=True)
class CogLayout:
    """What a COG is to hold.

    Parameters
    ----------
    path : Path
        Of the COG; whatever else is needed on the way lies beside it.
    levels : tuple of Level
        Finest first.
    channels : int
    dtype : numpy.dtype
        uint8, uint16, int16, uint32 or float32.
    tile : int
        Pixels, a multiple of 16.
    codec : str
        A name of ``spec.CODECS`` other than ``"auto"``, already checked by ``codecs.check_codec``.
    quality : int or None
        For jpeg and webp; their default where None.
    names : tuple of str
        Channel names, kept as band descriptions; may be empty.
    mpp : (float, float) or None
        Micrometres per pixel ``(y, x)``, kept as TIFF resolution.
    rgb : bool
        Whether the first three channels are red, green and blue.
    sparse : bool
        Leave out tiles that are never written or are all 0.
    """

    path: Path
    levels: tuple[Level, ...]
    channels: int
    dtype: np.dtype[Any]
    tile: int
    codec: str
    quality: int | None = None
    names: tuple[str, ...] = ()
    mpp: tuple[float, float] | None = None
    rgb: bool = False
    sparse: bool = False


class CogTarget(Protocol):
    """A COG in the making. Use as a context manager: unless it was finished, nothing of it is left.

    Pieces of a level come downwards, strip by strip. Every method raises BuildError when a file cannot be
    written.
    """

    def __enter__(self) -> CogTarget: ...

    def __exit__(self, *_: object) -> None: ...

    def write(self, level: int, y: int, x: int, pixels: NDArray[Any]) -> None:
        """Take ``(h, w, C)`` pixels at ``(y, x)`` of a level."""
        ...

    def start_mask(self) -> None:
        """Add a mask to all levels. Called at most once, before any ``write_mask``."""
        ...

    def write_mask(self, level: int, y: int, x: int, valid: NDArray[np.bool_]) -> None:
        """Take ``(h, w)`` of the mask of a level at ``(y, x)``."""
        ...

    def finish(self, advance: Callable[[float], None]) -> None:
        """Put the file together; ``advance`` is told the share that is done, 0 to 1, now and then."""
        ...

    def blamed_for_reads(self) -> AbstractContextManager[None]:
        """Run code that reads a source, and tell a full disk from a damaged source."""
        ...
