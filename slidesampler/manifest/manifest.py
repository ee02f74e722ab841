"""``Manifest``: what a kwcoco file says, as numpy columns."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from slidesampler.manifest.annots import read_annotations
from slidesampler.manifest.classes import class_map_of, class_table, read_categories, stored_class_map
from slidesampler.manifest.columns import (
    ROLE_IMAGE,
    ROLE_LABELS,
    ROLE_TISSUE,
    ROLE_VALID,
    Columns,
    Strings,
    digest_of,
    frozen,
)
from slidesampler.manifest.digests import digest_images
from slidesampler.manifest.files import check_present, check_size
from slidesampler.manifest.images import MppArgument, read_images
from slidesampler.manifest.lookup import find_id, unknown_id
from slidesampler.manifest.remembered import begin_reading
from slidesampler.manifest.snapshot import (
    PICKLED,
    default_snapshot_dir,
    is_intact,
    open_shared,
    open_snapshot,
    save_snapshot,
)
from slidesampler.manifest.source import collector_paused, read_source
from slidesampler.manifest.videos import read_videos
from slidesampler.models import Asset, ImageRecord
from slidesampler.shape_index import ShapeIndex, index_shapes
from slidesampler.shapes import Shapes

if TYPE_CHECKING:
    import kwcoco

__all__ = ["Manifest"]


class Manifest:
    """Images, annotations and categories of a kwcoco file, loaded once into read-only numpy columns.

    Made by :meth:`load` or :meth:`open`, not by its constructor. A pickle is a few hundred bytes whatever the
    size: the columns are saved once as a snapshot, and the pickle names it; processes that unpickle it map the
    same files. Compared by digest.

    Attributes
    ----------
    digest : str
        Of the bundle's folder and every column: the same in every process, another as soon as anything differs.
    bundle_dir : str
        Absolute folder that relative file names start from.
    class_map : ClassMap
    shapes : Shapes
        All annotations, sorted by image, as the manifest has them within an image.
    snapshot_dir : str or None
        Folder under which pickling saves its snapshot; the user's cache folder where None. It is kept there
        (each content once), and may be removed when no pickle is in use.

    Examples
    --------
    >>> manifest = Manifest.load({
    ...     "images": [{"id": 7, "file_name": "a.tif", "height": 100, "width": 200}],
    ...     "categories": [{"id": 1, "name": "tumour"}],
    ...     "annotations": [{"id": 3, "image_id": 7, "category_id": 1, "bbox": [10, 20, 30, 40]}],
    ... }, bundle_dir="/data")
    >>> manifest.record(7).assets[0].path, manifest.class_map.names
    ('/data/a.tif', ('background', 'tumour'))
    >>> manifest.shapes_of(7).boxes_xyxy.tolist(), manifest.locate_annot(3)
    ([[10.0, 20.0, 40.0, 60.0]], (7, 0))
    """

    def __init__(self, columns: Columns, digest: str) -> None:
        self.digest = digest
        self.bundle_dir = columns.bundle_dir[0]
        self.class_map = stored_class_map(columns.classes)
        self.shapes = columns.shapes
        self.snapshot_dir: str | None = None
        self._columns = columns
        self._verified_snapshot: str | None = None

    @classmethod
    def load(
        cls,
        source: str | os.PathLike[str] | Mapping[str, Any] | kwcoco.CocoDataset,
        *,
        bundle_dir: str | os.PathLike[str] | None = None,
        mpp: MppArgument = None,
        class_map: Mapping[str, str | int] | None = None,
        reuse: bool = True,
    ) -> Manifest:
        """Return the manifest of a kwcoco file.

        A file of 1 MiB or more is parsed once: its columns are kept in the user's cache folder, and mapped as
        long as the file and the arguments are the same.

        Parameters
        ----------
        source : path, mapping or kwcoco.CocoDataset
            A ``.json``, a zip that holds one, the object in it, or a dataset that kwcoco has loaded.
        bundle_dir : path, optional
            Folder that relative file names start from; that of the file where None (the working folder for a
            mapping). The manifest's ``img_root`` is joined to it.
        mpp : float, (float, float) or mapping of int to either, optional
            Micrometres per level-0 pixel, ``(y, x)``, for all images or by image id; wins over the manifest's.
        class_map : mapping of str to int or str, optional
            Class index, or name of a class, for a category's or supercategory's name (all its descendants);
            ``"background"`` and ``"ignore"`` are understood.
        reuse : bool
            Whether columns may be taken from the cache folder, and kept there.

        Raises
        ------
        ManifestError
            If anything in it cannot be trusted; names the image or annotation and the field. Files are not
            looked at: :meth:`check_files` does that.
        """
        reading = begin_reading(source, (bundle_dir, mpp, class_map)) if reuse else None
        found = None if reading is None else reading.recall()
        if found is not None:
            manifest = cls(*found)
            manifest._verified_snapshot = str(Path(default_snapshot_dir()).absolute() / manifest.digest)
            return manifest
        with collector_paused():
            columns = _read_columns(source, bundle_dir, mpp, class_map)
        digest = digest_of(columns)
        return cls(columns if reading is None else reading.remember(columns, digest), digest)

    # Images ----------------------------------------------------------------------------------------------

    @property
    def image_ids(self) -> NDArray[np.int64]:
        """Ids of the images in the manifest's order, int64 ``(n,)``, read-only."""
        return self._columns.images.image_ids

    def __len__(self) -> int:
        return len(self.image_ids)

    def __contains__(self, image_id: object) -> bool:
        return find_id(self._columns.images.sorted_ids, image_id) is not None

    def record(self, image_id: int) -> ImageRecord:
        """Return what the manifest says of one image.

        Raises
        ------
        TargetError
            If there is no such image; names the closest ids.
        """
        return self._record(self._image_row(image_id))

    def records(self) -> Iterator[ImageRecord]:
        """Yield the record of every image, in the manifest's order."""
        return map(self._record, range(len(self)))

    def _image_row(self, image_id: int) -> int:
        images = self._columns.images
        at = find_id(images.sorted_ids, image_id)
        if at is None:
            raise unknown_id("image", image_id, images.sorted_ids)
        return int(images.id_order[at])

    def _record(self, row: int) -> ImageRecord:
        images = self._columns.images
        by_role: dict[int, list[Asset]] = {
            role: [] for role in (ROLE_IMAGE, ROLE_LABELS, ROLE_VALID, ROLE_TISSUE)
        }
        for at in range(int(images.image_assets[row]), int(images.image_assets[row + 1])):
            names = range(int(images.asset_channels[at]), int(images.asset_channels[at + 1]))
            channels = tuple(images.channel_names[name] for name in names)
            by_role[int(images.asset_roles[at])].append(Asset(images.asset_paths[at], channels))
        height, width = (int(side) if side > 0 else None for side in images.sizes[row])
        mpp = images.mpp[row]
        return ImageRecord(
            image_id=int(images.image_ids[row]),
            name=images.names[row],
            assets=tuple(by_role[ROLE_IMAGE]),
            height=height,
            width=width,
            mpp=None if np.isnan(mpp[0]) else (float(mpp[0]), float(mpp[1])),
            labels=next(iter(by_role[ROLE_LABELS]), None),
            valid=next(iter(by_role[ROLE_VALID]), None),
            tissue=next(iter(by_role[ROLE_TISSUE]), None),
            video_id=int(images.video_ids[row]) if images.has_video[row] else None,
            frame_index=int(images.frame_indexes[row]) if images.has_frame[row] else None,
            group=images.groups[row] if images.has_group[row] else None,
        )

    def video_frames(self, video_id: int) -> tuple[int, ...]:
        """Return the image ids of a video's frames, by ``frame_index``.

        Raises
        ------
        TargetError
            If there is no such video; names the closest ids.
        """
        videos = self._columns.videos
        at = find_id(videos.video_ids, video_id)
        if at is None:
            raise unknown_id("video", video_id, videos.video_ids)
        return tuple(videos.frames[videos.offsets[at] : videos.offsets[at + 1]].tolist())

    # Annotations -----------------------------------------------------------------------------------------

    @property
    def category_names(self) -> dict[int, str]:
        """Name of every category id, in the manifest's order."""
        classes = self._columns.classes
        return {int(one): classes.category_names[row] for row, one in enumerate(classes.category_ids)}

    def shapes_of(self, image_id: int) -> Shapes:
        """Return the annotations of one image, as the manifest has them; costs the same however many there are.

        Raises
        ------
        TargetError
            If there is no such image.
        """
        _, first, last = self.annot_rows(image_id)
        return self.shapes.rows(first, last)

    @property
    def shape_index(self) -> ShapeIndex:
        """Where the annotations of every image lie; images by their row, see :meth:`annot_rows`."""
        return self._columns.index

    def annot_rows(self, image_id: int) -> tuple[int, int, int]:
        """Return the row of an image, and of its annotations in ``shapes`` the first and one past the last.

        Raises
        ------
        TargetError
            If there is no such image.
        """
        row = self._image_row(image_id)
        offsets = self._columns.image_annots
        return row, int(offsets[row]), int(offsets[row + 1])

    def locate_annot(self, annot_id: int) -> tuple[int, int]:
        """Return the image id of an annotation and its row in ``shapes_of(image_id)``.

        Raises
        ------
        TargetError
            If there is no such annotation; names the closest ids.
        """
        columns = self._columns
        at = find_id(columns.sorted_annot_ids, annot_id)
        if at is None:
            raise unknown_id("annotation", annot_id, columns.sorted_annot_ids)
        position = int(columns.annot_order[at])
        # The last image that begins at or before it: images without annotations that begin there come first.
        row = int(np.searchsorted(columns.image_annots, position, "right")) - 1
        return int(self.image_ids[row]), position - int(columns.image_annots[row])

    def annots_digest(self, image_id: int) -> str:
        """Return the digest of one image's annotations, whatever the other images have: 32 hex digits.

        Raises
        ------
        TargetError
            If there is no such image.
        """
        return bytes(self._columns.image_digests[self._image_row(image_id)]).hex()

    # Files -----------------------------------------------------------------------------------------------

    def check_files(self, sizes: Callable[[ImageRecord], tuple[int, int]] | None = None) -> None:
        """Compare the manifest with the files it names.

        Parameters
        ----------
        sizes : callable, optional
            Gives the ``(height, width)`` of a record's image as its file has it; compared where given.

        Raises
        ------
        ManifestError
            For the first image with a file that is missing, or a height or width that is not the file's.
            Names that are no path (``/vsi...``, ``DRIVER:...``, ``array://...``) are not looked for.
        """
        check_present(self.records())
        if sizes is not None:
            for record in self.records():
                check_size(record, sizes(record))

    # Snapshots and pickles -------------------------------------------------------------------------------

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the columns as ``.npy`` files into a folder of their own, all or nothing.

        An intact snapshot of the same content is left as it is, a damaged or older one is replaced.

        Raises
        ------
        ManifestError
            If the folder holds something else, or cannot be written.
        """
        save_snapshot(folder, self._columns, self.digest)

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Manifest:
        """Return the manifest that :meth:`save` wrote; its large columns are memory-mapped.

        Raises
        ------
        ManifestError
            If the snapshot is missing or damaged.
        """
        return cls(*open_snapshot(folder, verify=True))

    def __reduce__(self) -> tuple[Callable[[str, str], Manifest], tuple[str, str]]:
        folder = str(Path(self.snapshot_dir or default_snapshot_dir()).absolute() / self.digest)
        # Every byte is verified once; after that, only that nobody has emptied the folder since.
        if folder != self._verified_snapshot or not is_intact(folder, self.digest, verify=False):
            save_snapshot(folder, self._columns, self.digest)
            self._verified_snapshot = folder
        with suppress(OSError):
            Path(folder, PICKLED).touch()
        return _from_pickle, (folder, self.digest)

    def __eq__(self, other: object) -> bool:
        return self.digest == other.digest if isinstance(other, Manifest) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return (
            f"Manifest({len(self)} images, {len(self.shapes)} annotations, "
            f"{len(self.class_map.names)} classes, bundle_dir={self.bundle_dir!r})"
        )


def _read_columns(
    source: str | os.PathLike[str] | Mapping[str, Any] | kwcoco.CocoDataset,
    bundle_dir: str | os.PathLike[str] | None,
    mpp: MppArgument,
    class_map: Mapping[str, str | int] | None,
) -> Columns:
    data, base = read_source(source, bundle_dir)
    categories = read_categories(data)
    images = read_images(data, base, mpp)
    shapes, image_annots = read_annotations(data, images, categories.ids)
    order = np.argsort(shapes.annot_ids, kind="stable").astype(np.int64)
    return frozen(
        Columns(
            bundle_dir=Strings.pack([base]),
            images=images,
            videos=read_videos(data, images),
            classes=class_table(categories, class_map_of(categories, class_map)),
            shapes=shapes,
            image_annots=image_annots,
            sorted_annot_ids=shapes.annot_ids[order],
            annot_order=order,
            image_digests=digest_images(shapes, image_annots),
            index=index_shapes(shapes, image_annots),
        )
    )


def _from_pickle(folder: str, digest: str) -> Manifest:
    """Return the manifest whose snapshot a pickle names."""
    manifest = Manifest(open_shared(folder, digest), digest)
    manifest.snapshot_dir = str(Path(folder).parent)
    return manifest
