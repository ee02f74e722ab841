"""What a build is asked for and what a writer answers; imports neither GDAL nor any writer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from slidesampler.errors import CodecError
from slidesampler.models import LabelSpec, Level

__all__ = ["CODECS", "DEFAULT_QUALITY", "TILES", "Backend", "BuildSpec", "Codec", "WrittenFiles"]

Backend = Literal["cog", "npy", "auto"]
Codec = Literal["auto", "zstd", "deflate", "lzw", "jpeg", "webp", "none"]

#: Names a user may give to ``--codec``; which of them GDAL can write is ``codecs.cog_codecs()``.
CODECS: tuple[str, ...] = get_args(Codec)
#: Tile sizes a COG may have, pixels.
TILES = (128, 256, 512)
#: Quality of the codecs that have one, where the user gives none.
DEFAULT_QUALITY = {"jpeg": 90, "webp": 90}


@dataclass(frozen=True, slots=True)
class BuildSpec:
    """How images become cache entries.

    Parameters
    ----------
    backend : {"cog", "npy", "auto"}
        ``"auto"``: as ``"cog"``, but a source whose tiles can be read where they lie is not converted.
    codec : {"auto", "zstd", "deflate", "lzw", "jpeg", "webp", "none"}
        ``"auto"`` never adds loss: zstd where this GDAL can, else deflate; ``"none"`` for npy, which holds
        plain pixels and takes nothing else.
    quality : int, optional
        1 to 100, for jpeg and webp only; 90 where None. WebP of quality 100 is lossless.
    tile : int
        Tile size of a COG, pixels: 128, 256 or 512. npy has no tiles.
    labels : bool
        Whether a label layer is written for every image, with its foreground index.
    instances : bool
        Whether instance layers are written beside them.
    label_spec : LabelSpec
        How annotations become pixels.
    full_hash : bool
        Whether the identity of a source holds a hash of the whole file, not of sampled blocks alone.

    Raises
    ------
    CodecError
        If the codec is unknown, not one of the backend's, or the quality does not belong to it.
    ValueError
        If the backend or the tile size is not one of those above.

    Examples
    --------
    >>> BuildSpec(codec="jpeg").resolved().quality
    90
    """

    backend: str = "cog"
    codec: str = "auto"
    quality: int | None = None
    tile: int = 256
    labels: bool = True
    instances: bool = False
    label_spec: LabelSpec = field(default_factory=LabelSpec)
    full_hash: bool = False

    def __post_init__(self) -> None:
        if self.backend not in get_args(Backend):
            raise ValueError(f"backend must be one of {', '.join(get_args(Backend))}, got {self.backend!r}")
        if self.codec not in CODECS:
            raise CodecError(f"unknown codec {self.codec!r}; choose one of {', '.join(CODECS)}")
        if self.backend == "npy" and self.codec not in ("auto", "none"):
            raise CodecError(
                f"codec {self.codec!r} was asked for with backend 'npy', which holds plain pixels; "
                "leave the codec out, or use backend 'cog'"
            )
        if self.tile not in TILES and not (self.tile == 0 and self.backend == "npy"):
            raise ValueError(f"tile must be one of {', '.join(map(str, TILES))}, got {self.tile!r}")
        if self.quality is not None:
            if self.codec not in DEFAULT_QUALITY:
                raise CodecError(
                    f"quality {self.quality} was given for codec {self.codec!r}, which has none; "
                    f"quality belongs to {' and '.join(DEFAULT_QUALITY)}"
                )
            if not 1 <= self.quality <= 100:
                raise CodecError(f"quality must be 1 to 100, got {self.quality}")

    @property
    def stored_as(self) -> str:
        """Backend of the entries: ``"cog"`` or ``"npy"``."""
        return "npy" if self.backend == "npy" else "cog"

    @property
    def lossless(self) -> bool:
        """Whether pixels come back exactly: every codec but JPEG, and WebP below quality 100."""
        return self.codec not in DEFAULT_QUALITY or (self.codec == "webp" and self.quality == 100)

    def resolved(self) -> BuildSpec:
        """Return the spec with nothing left open, so that equal work has equal specs.

        ``"auto"`` becomes the codec that will be used (this asks GDAL which it has, for cog), the quality is
        filled in, and the tile size of npy is 0.

        Raises
        ------
        MissingDependencyError
            If the backend is cog or auto and GDAL is not installed.
        """
        if self.backend == "npy":
            return replace(self, codec="none", tile=0)
        if self.codec == "auto":
            # Imported here: the codecs module needs GDAL, this one must not.
            from slidesampler.cache.codecs import auto_codec

            return replace(self, codec=auto_codec())
        if self.quality is None and self.codec in DEFAULT_QUALITY:
            return replace(self, quality=DEFAULT_QUALITY[self.codec])
        return self


@dataclass(frozen=True, slots=True)
class WrittenFiles:
    """What a writer left in its folder.

    Parameters
    ----------
    files : mapping of str to str
        Role to file name within the folder. cog: ``image``. npy: ``image``, ``level1`` ..., and, where some
        pixel is invalid, ``valid``, ``valid.level1`` .... Labels: ``labels``, when asked ``instances``, and
        ``index`` (what :func:`slidesampler.foreground.index_image` makes of the layer).
    shape : (int, int, int)
        ``(H, W, C)`` of level 0.
    dtype : str
        numpy name.
    levels : tuple of Level
        Finest first.
    tile : int
        Pixels; 0 for npy.
    codec : str
        The codec used, never ``"auto"``.
    quality : int or None
    lossless : bool
    has_valid : bool
        Whether some pixel is invalid (and a mask was written).
    extra : mapping
        JSON-ready facts for the record of the entry.
    """

    files: Mapping[str, str]
    shape: tuple[int, int, int]
    dtype: str
    levels: tuple[Level, ...]
    tile: int
    codec: str
    quality: int | None
    lossless: bool
    has_valid: bool
    extra: Mapping[str, Any] = field(default_factory=dict)
