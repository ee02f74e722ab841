"""The nouns of the package: frozen, picklable, compared by value.

``Window`` lives with its arithmetic in :mod:`slidesampler.geometry` and ``Target`` with its parsing in
:mod:`slidesampler.target`; everything else that is passed between rooms is here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from slidesampler.geometry import Window

if TYPE_CHECKING:
    from slidesampler.target import Target

__all__ = [
    "NO_CATEGORY",
    "Annots",
    "Asset",
    "CacheEntry",
    "ClassMap",
    "ImageRecord",
    "LabelSpec",
    "Level",
    "Overlap",
    "Part",
    "Ring",
    "Sample",
    "relative_transform",
]

#: Stands in a column of category ids for an annotation whose ``category_id`` is null (0 and -1 are valid ids).
NO_CATEGORY = int(np.iinfo(np.int64).min)

#: One ring of a polygon: float64 ``(n, 2)``, order ``(x, y)``, not closed.
Ring = NDArray[np.float64]
#: One part of a polygon: the exterior ring, then its holes.
Part = tuple[Ring, ...]


@dataclass(frozen=True, slots=True)
class Asset:
    """One file that holds some of an image's pixels.

    Parameters
    ----------
    path : str
        Absolute path (or a GDAL ``/vsi...`` or ``DRIVER:...`` name, or ``array://NAME`` for an array that the
        caller registered).
    channels : tuple of str
        Names of its channels in order; empty where the manifest does not say.
    """

    path: str
    channels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """What the manifest says of one image.

    Parameters
    ----------
    image_id : int
    name : str
        The manifest's ``name``, else the stem of its file name.
    assets : tuple of Asset
        Files whose channels, one after the other, are the image. At least one.
    height, width : int or None
        Level-0 pixels; None where the manifest does not say (the file does).
    mpp : (float, float) or None
        Micrometres per level-0 pixel, ``(y, x)``; the manifest's word, which wins over the file's.
    labels, valid : Asset or None
        A raster label layer (pixel value = category id, 0 = background) and a valid-region mask (non-zero =
        valid), each of the size of the image.
    video_id, frame_index : int or None
    group : str or None
        The manifest's ``group`` or ``patient``, for splits.
    tissue : Asset or None
        A mask of the tissue (non-zero = tissue), of any resolution.
    """

    image_id: int
    name: str
    assets: tuple[Asset, ...]
    height: int | None = None
    width: int | None = None
    mpp: tuple[float, float] | None = None
    labels: Asset | None = None
    valid: Asset | None = None
    video_id: int | None = None
    frame_index: int | None = None
    group: str | None = None
    tissue: Asset | None = None

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels of all assets, in order; empty where any asset does not name its own."""
        if not all(asset.channels for asset in self.assets):
            return ()
        return tuple(name for asset in self.assets for name in asset.channels)


@dataclass(frozen=True, slots=True)
class Level:
    """One resolution of an image.

    Parameters
    ----------
    height, width : int
        Pixels of this level.
    downsample : (float, float)
        Level-0 pixels per pixel of this level, ``(y, x)``; ``(1.0, 1.0)`` for level 0.
    """

    height: int
    width: int
    downsample: tuple[float, float] = (1.0, 1.0)

    @classmethod
    @lru_cache(maxsize=2**14)
    def of(cls, base_shape: tuple[int, int], shape: tuple[int, int]) -> Level:
        """Return the level of ``shape`` in a pyramid over ``base_shape``, both ``(height, width)``.

        A ratio that rounding of the level's size explains is taken for the whole number it came from: 2967
        rows halved are 1484 rows, each of 2 rows (the last one cut off), not of 1.9993. The longer side says
        which number, since a side of few pixels is explained by several.

        Examples
        --------
        >>> Level.of((2967, 9), (742, 3)).downsample
        (4.0, 4.0)
        """
        axis = 0 if base_shape[0] >= base_shape[1] else 1
        whole = max(1, round(base_shape[axis] / shape[axis]))
        explained = all(
            reduced in (max(full // whole, 1), -(-full // whole))
            for full, reduced in zip(base_shape, shape, strict=True)
        )
        if explained:
            return cls(*shape, (float(whole), float(whole)))
        return cls(*shape, (base_shape[0] / shape[0], base_shape[1] / shape[1]))


@dataclass(frozen=True, slots=True)
class ClassMap:
    """Categories of a manifest <-> dense class indices, as they stand in masks.

    Index 0 is the background. One value, ``ignore``, marks pixels that say nothing: outside the image,
    outside the valid region, under an annotation without category.

    Parameters
    ----------
    names : tuple of str
        Name of each class index; ``names[0]`` is ``"background"``.
    category_to_index : mapping of int to int
        Class index of every category id of the manifest. Several categories may share an index.
    parents : mapping of str to str
        ``supercategory`` of a category name, where it has one.

    Examples
    --------
    >>> classes = ClassMap(("background", "tumour"), {7: 1})
    >>> classes.index_of(7), classes.ignore, classes.dtype.name
    (1, 255, 'uint8')
    """

    names: tuple[str, ...]
    category_to_index: Mapping[int, int] = field(hash=False)
    parents: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def ignore(self) -> int:
        """255 where the classes fit below it, else 65535."""
        return 255 if len(self.names) <= 255 else 65535

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of masks: uint8, or uint16 from 256 classes on."""
        return np.dtype(np.uint8 if self.ignore == 255 else np.uint16)

    def index_of(self, category_id: int) -> int:
        """Return the class index of a category id; ``ignore`` for :data:`NO_CATEGORY`.

        Raises
        ------
        KeyError
            If the manifest has no such category.
        """
        return self.ignore if category_id == NO_CATEGORY else self.category_to_index[category_id]


#: Which annotation wins where several lie over a pixel; see :class:`LabelSpec`.
Overlap = Literal["last", "first", "smallest", "largest", "class"]
Tissue = Literal["auto", "otsu", "mask", "none"]


@dataclass(frozen=True, slots=True)
class LabelSpec:
    """How annotations become pixels of a mask, and which parts of an image count as tissue.

    Parameters
    ----------
    overlap : {"last", "first", "smallest", "largest", "class"}
        Which annotation wins where several lie over a pixel: the last or first of the manifest, the smallest or
        largest by area, or the one with the highest class index. Ties are won by the later one. An annotation
        without category always gives way to one that has a category.
    keypoint_radius_px : float
        An annotation that is keypoints alone marks every pixel whose centre is at most this far from one of its
        labelled points, and always the pixel that holds the point.
    tissue : {"auto", "otsu", "mask", "none"}
        Where windows without foreground are looked for. ``"mask"``: the ``tissue`` asset that the manifest
        gives each image; ``"otsu"``: found from the colours (see :func:`slidesampler.foreground.find_tissue`);
        ``"none"``: everything valid; ``"auto"``: the manifest's mask where an image has one, else everything
        valid.
    """

    overlap: Overlap = "last"
    keypoint_radius_px: float = 0.0
    tissue: Tissue = "auto"

    def __post_init__(self) -> None:
        if self.overlap not in get_args(Overlap):
            raise ValueError(f"overlap must be one of {', '.join(get_args(Overlap))}, got {self.overlap!r}")
        if self.tissue not in get_args(Tissue):
            raise ValueError(f"tissue must be one of {', '.join(get_args(Tissue))}, got {self.tissue!r}")
        if not self.keypoint_radius_px >= 0:
            raise ValueError(f"keypoint_radius_px must be at least 0, got {self.keypoint_radius_px!r}")


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """One finished image or label layer in the cache, as its ``entry.json`` records it.

    Parameters
    ----------
    kind : {"image", "labels"}
    key : str
        Hash of the identity of what it was built from, of the spec, and of the format version.
    folder : str
        Absolute folder of the entry.
    files : mapping of str to str
        Role (``"image"``, ``"level1"``, ``"valid"``, ``"labels"``, ``"instances"`` ...) to absolute path.
    backend : {"cog", "npy"}
    shape : (int, int, int)
        ``(H, W, C)``.
    dtype : str
        numpy name.
    levels : tuple of Level
    tile : int
        Tile size in pixels; 0 for npy.
    codec, quality : str, int or None
        ``quality`` only for lossy codecs.
    lossless : bool
        Whether the pixels are exactly the source's.
    in_place : bool
        Whether the image lies where the user put it, not in the cache.
    has_valid : bool
        Whether some pixels are marked invalid.
    channels : tuple of str
        Channel names; empty where unknown.
    mpp : (float, float) or None
    source : mapping
        Fingerprint of what it was built from.
    spec : mapping
        The options it was built with.
    checksums : mapping of str to str
        Role to ``"blake2b:..."`` of the whole file, for the files in the cache.
    sizes_bytes : mapping of str to int
    created : str
        UTC, ISO 8601.
    extra : mapping
        What only one kind of entry records (the class map and overlap order of a label layer, for example).
    """

    kind: str
    key: str
    folder: str
    files: Mapping[str, str]
    backend: str
    shape: tuple[int, int, int]
    dtype: str
    levels: tuple[Level, ...]
    tile: int
    codec: str
    quality: int | None
    lossless: bool
    in_place: bool
    has_valid: bool
    channels: tuple[str, ...]
    mpp: tuple[float, float] | None
    source: Mapping[str, Any]
    spec: Mapping[str, Any]
    checksums: Mapping[str, str]
    sizes_bytes: Mapping[str, int]
    created: str
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        """Bytes on disk, an image used in place not counted."""
        return sum(size for role, size in self.sizes_bytes.items() if role in self.checksums)


@dataclass(frozen=True, slots=True, eq=False)
class Annots:
    """Columns of the annotations that touch a window, in the manifest's order.

    All coordinates are in pixels of the sample (relative to its top-left corner, divided by its downsample).

    Parameters
    ----------
    annot_ids : ndarray of int64, shape (n,)
    category_ids : ndarray of int64, shape (n,)
        :data:`NO_CATEGORY` where the manifest says null.
    class_index : ndarray of int64, shape (n,)
    boxes_xyxy : ndarray of float64, shape (n, 4)
        Half-open, not clipped to the window.
    polygons : tuple of tuple of parts
        Per annotation its parts, each the exterior ring followed by its holes, clipped to the window; rings are
        float64 ``(k, 2)`` in order ``(x, y)``. Empty for annotations that are boxes, RLE or keypoints only.
    keypoints : tuple of ndarray of float64, shape (k, 3)
        Per annotation ``(x, y, visibility)``, all of them, also outside the window.
    visible : ndarray of float64, shape (n,)
        Share of the annotation's area inside the window, 0 to 1; for keypoints alone, the share of points.
    """

    annot_ids: NDArray[np.int64]
    category_ids: NDArray[np.int64]
    class_index: NDArray[np.int64]
    boxes_xyxy: NDArray[np.float64]
    polygons: tuple[tuple[Part, ...], ...]
    keypoints: tuple[NDArray[np.float64], ...]
    visible: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.annot_ids)

    @classmethod
    def empty(cls) -> Annots:
        """Return columns of length 0."""
        ids = np.zeros(0, dtype=np.int64)
        return cls(ids, ids.copy(), ids.copy(), np.zeros((0, 4)), (), (), np.zeros(0))


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """What a target loads.

    Parameters
    ----------
    image : ndarray, shape (H, W, C)
        Pixels in the stored dtype (or the one the target asked for).
    mask : ndarray of uint8 or uint16, shape (H, W), or None
        Class index per pixel; the class map's *ignore* where ``valid`` is False.
    valid : ndarray of bool, shape (H, W)
        Which pixels are real: False outside the image and outside its valid region.
    annots : Annots or None
        For a sequence a tuple, one a frame.
    target : Target
        The target as resolved: ids, window, size and downsample filled in.
    rel_to_abs : ndarray of float64, shape (3, 3)
        Takes ``(x, y, 1)`` in pixels of the sample to level-0 pixels.
    instances : ndarray of uint32, shape (H, W), or None
        1 + position of the annotation in the image's list, 0 where there is none; only on request.

    Notes
    -----
    A sequence has a leading axis ``T`` on image, mask, valid and instances.
    """

    image: NDArray[Any]
    mask: NDArray[Any] | None
    valid: NDArray[np.bool_]
    annots: Annots | tuple[Annots, ...] | None
    target: Target
    rel_to_abs: NDArray[np.float64]
    instances: NDArray[np.uint32] | None = None

    @property
    def window(self) -> Window:
        """The level-0 window that was loaded."""
        window = self.target.window
        if window is None:
            raise ValueError("this sample's target was not resolved")
        return window


def relative_transform(window: Window, size: Sequence[int]) -> NDArray[np.float64]:
    """Return the 3x3 matrix that takes sample pixels ``(x, y, 1)`` to level-0 pixels."""
    transform = np.zeros((3, 3))
    transform[0, 0], transform[1, 1], transform[2, 2] = window.width / size[1], window.height / size[0], 1.0
    transform[0, 2], transform[1, 2] = window.x, window.y
    return transform
