"""``Sampler``: a manifest and its cache, answering windows."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from slidesampler.batching import Batch, BatchLoader
from slidesampler.building import BuildsCache
from slidesampler.cache import CacheStore
from slidesampler.choosing import ChoosesWindows
from slidesampler.errors import ReadError
from slidesampler.foreground import ForegroundIndex
from slidesampler.foregrounds import ForegroundFinder
from slidesampler.geometry import Window
from slidesampler.layers import Layers
from slidesampler.lazy import lazy_property
from slidesampler.loading import SampleLoader, Wanted
from slidesampler.manifest import Manifest
from slidesampler.models import ClassMap, ImageRecord, LabelSpec, Sample
from slidesampler.readers import (
    Reader,
    ReaderPool,
    ReaderSpec,
    open_reader,
    register_array,
    registered_array,
    usual_max_open,
)
from slidesampler.sources import SourceTable
from slidesampler.target import Target

if TYPE_CHECKING:
    import kwcoco

__all__ = ["Sampler"]


class Sampler(BuildsCache, ChoosesWindows):
    """Answers windows of the images of a manifest, with masks and annotations.

    Safe to use from any number of threads, and after fork or spawn: file handles are lent to one thread of one
    process at a time, and a pickle holds none of them, no pixels and no manifest.

    Parameters
    ----------
    manifest : str, path, mapping, kwcoco.CocoDataset or Manifest
        See :meth:`slidesampler.Manifest.load`.
    workdir : str or path, optional
        Folder of the cache. Label layers found there are used whatever the backend.
    backend : {"auto", "cog", "npy"}, optional
        Which cache is read; None reads the sources where they lie, by their own libraries. ``"auto"`` is COGs,
        and slides that a build has recorded instead of converting them.
    arrays : mapping of str to ndarray, optional
        Images already in memory, ``(H, W)`` or ``(H, W, C)``: the manifest names one as ``array://NAME``. Names
        belong to the process: one that is given to another array is refused by this sampler from then on.
    mpp : float, (float, float) or mapping of int to either, optional
        Micrometres per level-0 pixel (``(y, x)``), where the files do not say or say it wrong.
    class_map : mapping of str to int or str, optional
        Class index (or another category) for a category or supercategory name.
    label_spec : LabelSpec, optional
        How annotations become pixels.
    codec, tile : str, int, optional
        Which variant of the cache is read where several were built; the latest one where None.
    max_open : int, optional
        Images and label layers kept open per process: a file each, or one for each level that is read. A
        quarter of the files that a process may have open, at most 256, where None.
    bundle_dir : str or path, optional
        What relative paths in a manifest given as a mapping start from.

    Examples
    --------
    >>> import numpy as np
    >>> from slidesampler import Sampler
    >>> pixels = np.arange(100 * 80 * 3, dtype=np.uint8).reshape(100, 80, 3)
    >>> manifest = {"images": [{"id": 1, "file_name": "array://a"}]}
    >>> sampler = Sampler(manifest, arrays={"a": pixels})
    >>> target = {"image_id": 1, "cx": 5, "cy": 50, "width": 16, "height": 8}
    >>> sample = sampler.load_sample(target)
    >>> sample.image.shape, sample.window, int(sample.valid.sum())
    ((8, 16, 3), Window(y=46, x=-3, height=8, width=16), 104)
    """

    def __init__(
        self,
        manifest: str | os.PathLike[str] | Mapping[str, Any] | kwcoco.CocoDataset | Manifest,
        workdir: str | os.PathLike[str] | None = None,
        backend: str | None = None,
        *,
        arrays: Mapping[str, NDArray[Any]] | None = None,
        mpp: float | tuple[float, float] | Mapping[int, float | tuple[float, float]] | None = None,
        class_map: Mapping[str, str | int] | None = None,
        label_spec: LabelSpec | None = None,
        codec: str | None = None,
        tile: int | None = None,
        max_open: int | None = None,
        bundle_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        if backend not in (None, "auto", "cog", "npy"):
            raise ValueError(
                f"backend must be 'auto', 'cog', 'npy' or None (sources in place), got {backend!r}"
            )
        if backend is not None and workdir is None:
            raise ValueError(f"backend={backend!r} reads a cache: say where it is with workdir=")
        self._arrays: dict[str, NDArray[Any]] = {}
        for name, array in (arrays or {}).items():
            full_name = register_array(name, array)
            self._arrays[full_name] = registered_array(full_name)
        if isinstance(manifest, Manifest):
            if mpp is not None or class_map is not None or bundle_dir is not None:
                raise ValueError(
                    "mpp, class_map and bundle_dir are given to Manifest.load, not with a Manifest"
                )
            self.manifest = manifest
        else:
            self.manifest = Manifest.load(manifest, bundle_dir=bundle_dir, mpp=mpp, class_map=class_map)
        self._manifest_path = _path_of(manifest)
        self.workdir = None if workdir is None else str(Path(workdir).resolve())
        self.backend = backend
        self.label_spec = label_spec or LabelSpec()
        self.codec = codec
        self.tile = tile
        self.max_open = usual_max_open() if max_open is None else max_open
        self._start()

    def _start(self) -> None:
        self._pool = ReaderPool(self._open, self.max_open)
        self._sources = SourceTable(
            self.manifest,
            self._pool,
            None if self.workdir is None else self._store(),
            self.backend,
            self.label_spec,
            self.codec,
            self.tile,
        )
        layers = Layers(self.manifest, self._pool, self._sources, self.label_spec)
        self._loader = SampleLoader(self.manifest, self._pool, self._sources, layers)
        self._batches = BatchLoader(self._loader)

    def _open(self, spec: ReaderSpec) -> Reader:
        for part in (spec, *spec.parts) if self._arrays else ():
            mine = self._arrays.get(part.path)
            if mine is not None and not _same_memory(registered_array(part.path), mine):
                raise ReadError(
                    f"{part.path} was registered again with another array after this sampler was made; give "
                    "every array a name of its own"
                )
        return open_reader(spec)

    def __getstate__(self) -> dict[str, Any]:
        names = ("manifest", "_manifest_path", "workdir", "backend", "label_spec", "codec", "tile", "max_open")
        return {name: getattr(self, name) for name in (*names, "preselected")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._arrays = {}
        self._start()

    def __repr__(self) -> str:
        return f"Sampler({len(self.manifest)} images, workdir={self.workdir!r}, backend={self.backend!r})"

    # What the manifest says -------------------------------------------------------------------------------

    @property
    def image_ids(self) -> tuple[int, ...]:
        """Ids of all images, in the manifest's order."""
        return tuple(int(image_id) for image_id in self.manifest.image_ids)

    @property
    def class_map(self) -> ClassMap:
        """Categories <-> class indices of masks."""
        return self.manifest.class_map

    @lazy_property
    def foreground(self) -> ForegroundIndex:
        """Where the classes of every image are; rows are in the order of ``image_ids``.

        Opened where a build has left it. Made from the masks where there is none, which takes as long as to
        read them all, and kept for the next time where it can be.
        """
        store = None if self.workdir is None else self._store()
        return ForegroundFinder(
            self.manifest, self._pool, self._sources, store, self.label_spec, self.load_mask
        ).find()

    def image_record(self, image_id: int) -> ImageRecord:
        """Return what the manifest says of an image."""
        return self.manifest.record(image_id)

    def image_shape(self, image_id: int) -> tuple[int, int, int]:
        """Return ``(H, W, C)`` of an image at full resolution."""
        return self._sources.get(image_id).shape

    def image_mpp(self, image_id: int) -> tuple[float, float] | None:
        """Return micrometres per level-0 pixel ``(y, x)``: the manifest's word, else the file's, else None."""
        return self._sources.get(image_id).mpp

    def image_channels(self, image_id: int) -> tuple[str, ...]:
        """Return the names of an image's channels; empty where nobody named them."""
        return self._sources.get(image_id).channels

    # The cache --------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Forget what was looked up in the cache, so that entries built since are found."""
        self._pool.close()
        self._sources.clear()
        self.__dict__.pop("foreground", None)

    def close(self) -> None:
        """Close all files. The sampler can still be used: they are opened again at need."""
        self._pool.close()

    def _store(self) -> CacheStore:
        if self.workdir is None:
            raise ValueError("this sampler has no cache: say where it is with Sampler(..., workdir=)")
        return CacheStore(self.workdir, manifest_path=self._manifest_path, label_spec=self.label_spec)

    # Resolving --------------------------------------------------------------------------------------------

    def resolve(self, target: Target | Mapping[str, Any]) -> Target:
        """Return the target with image, window, output size and downsample filled in; reads no pixel.

        Raises
        ------
        TargetError
            If it names no image, or its fields contradict each other.
        """
        return self._loader.resolve(Target.coerce(target))

    # Loading ----------------------------------------------------------------------------------------------

    def load_sample(
        self,
        target: Target | Mapping[str, Any],
        with_annots: bool = True,
        with_mask: bool = True,
        *,
        with_instances: bool = False,
        visible_threshold: float = 0.0,
    ) -> Sample:
        """Return the pixels of a target, with its mask and annotations.

        Parameters
        ----------
        target : Target or mapping
            See :class:`slidesampler.Target`.
        with_annots, with_mask, with_instances : bool
            What to load besides pixels.
        visible_threshold : float
            Annotations of which a smaller share is inside the window are left out of ``annots``; the mask shows
            every pixel of every annotation.

        Raises
        ------
        TargetError
            If the target cannot be resolved; ``UnknownKeyError`` for a key that no target has.
        CacheMissError
            If the image was not built; the message is the command that builds it.
        StaleEntryError, CorruptEntryError
            If the source was edited since, or the entry is damaged.
        ReadError
            If a file cannot be read.
        """
        layers = Wanted(with_annots, with_mask, with_instances, visible_threshold)
        return self._loader.load(target, layers)

    def load_batch(
        self,
        targets: Iterable[Target | Mapping[str, Any]],
        out: Batch | Mapping[str, Any] | None = None,
        threads: int | None = None,
        *,
        with_annots: bool = False,
        with_mask: bool = True,
        with_instances: bool = False,
        visible_threshold: float = 0.0,
        channels_first: bool = False,
    ) -> Batch:
        """Return many windows of one size as stacked arrays, in the order asked.

        Holds what :meth:`load_sample` gives for each of them. They are read grouped by image and in the order
        in which they lie there, in one call of the compiled reader: a tile that several windows (or image and
        mask) need is decoded once, on ``threads`` threads, without the interpreter's lock.

        Parameters
        ----------
        targets : iterable of Target or mapping
            All of one output size, number of channels and dtype; of any images. Or sequences only, of as many
            frames each.
        out : Batch or mapping of str to array, optional
            Memory to fill: an earlier batch, or arrays (or CPU tensors, pinned ones too) under ``image``,
            ``mask``, ``valid``, ``instances``. New memory for what is not there. After an error it holds
            anything.
        threads : int, optional
            As many as this process may use where None.
        with_annots, with_mask, with_instances : bool
            What to load besides pixels.
        visible_threshold : float
            See :meth:`load_sample`.
        channels_first : bool
            Whether the image is ``(N, C, H, W)``, as torch has it, rather than ``(N, H, W, C)``. Pixels are
            written where they belong; neither costs a copy.

        Returns
        -------
        Batch

        Raises
        ------
        TargetError
            If a target cannot be resolved, they differ in size, channels or dtype, or ``out`` does not fit.
        CacheMissError, StaleEntryError, CorruptEntryError, ReadError
            As :meth:`load_sample`.
        """
        layers = Wanted(with_annots, with_mask, with_instances, visible_threshold)
        return self._batches.load(targets, out, threads, layers, channels_first=channels_first)

    def load_batches(
        self,
        targets: Iterable[Target | Mapping[str, Any]],
        threads: int | None = None,
        *,
        with_annots: bool = False,
        with_mask: bool = True,
        with_instances: bool = False,
        visible_threshold: float = 0.0,
        channels_first: bool = False,
    ) -> list[tuple[tuple[int, ...], Batch]]:
        """Return windows of any sizes: a batch for those that are alike, with their places among the targets.

        Parameters and errors are those of :meth:`load_batch`. Every target is in one batch; the places of a
        batch ascend.
        """
        layers = Wanted(with_annots, with_mask, with_instances, visible_threshold)
        return self._batches.load_alike(targets, threads, layers, channels_first=channels_first)

    def load_mask(self, image_id: int, window: Window, size: tuple[int, int] | None = None) -> NDArray[Any]:
        """Return the mask of a window without reading its pixels, ``(H, W)``.

        Parameters
        ----------
        image_id : int
        window : Window
            Level-0 pixels.
        size : (height, width), optional
            Output size; the window's own where None.
        """
        return self._loader.load_mask(image_id, window, size)


def _same_memory(one: NDArray[Any], other: NDArray[Any]) -> bool:
    return one is other or one.__array_interface__ == other.__array_interface__


def _path_of(manifest: object) -> str | None:
    """Return the file that a manifest was given as, for messages and for rebuilding label layers from it."""
    path = manifest if isinstance(manifest, str | os.PathLike) else getattr(manifest, "fpath", None)
    return None if path is None or not Path(path).is_file() else str(Path(path).resolve())
