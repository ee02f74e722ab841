"""What is needed to build one entry, in any process that sees the same files."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from slidesampler.cache.fingerprint import source_assets
from slidesampler.cache.plan import PlanRow
from slidesampler.cache.spec import BuildSpec
from slidesampler.models import ClassMap, ImageRecord
from slidesampler.readers.array import ARRAY_SCHEME
from slidesampler.shapes import Shapes

__all__ = ["EntryTask", "LabelInputs", "TaskReport", "compact_shapes"]


@dataclass(frozen=True, slots=True, eq=False)
class LabelInputs:
    """What a label layer is made from besides pixels.

    Parameters
    ----------
    shapes : Shapes
        Of this image alone, not sharing memory with others (see :func:`compact_shapes`).
    class_map : ClassMap
    annots_digest : str
    """

    shapes: Shapes
    class_map: ClassMap
    annots_digest: str


@dataclass(frozen=True, slots=True, eq=False)
class EntryTask:
    """Everything needed to build one entry, in any process.

    Parameters
    ----------
    row : PlanRow
    record : ImageRecord
    spec : BuildSpec
        Resolved.
    workdir : str
    force : bool
    threads : int
        For compression.
    labels : LabelInputs or None
        For a label layer.
    manifest_path : str or None
        Recorded with a label layer, so that it can be built again from its record.
    """

    row: PlanRow
    record: ImageRecord
    spec: BuildSpec
    workdir: str
    force: bool = False
    threads: int = 1
    labels: LabelInputs | None = None
    manifest_path: str | None = None

    @property
    def in_memory(self) -> bool:
        """Whether it needs an array that only the process that registered it has."""
        return any(asset.path.startswith(ARRAY_SCHEME) for asset in source_assets(self.record, self.row.what))


class TaskReport:
    """Takes the events of one task. The base class ignores them."""

    def started(self, megapixels: float) -> None:
        """Take note that the entry is being built."""

    def advanced(self, megapixels: float) -> None:
        """Take note that so much of it is done."""


def compact_shapes(shapes: Shapes) -> Shapes:
    """Return equal columns that hold nothing of other annotations.

    A slice of a manifest's columns shares the arrays of all its images, and would be pickled with all of them.
    """
    rings = shapes.part_rings[shapes.annot_parts[0] : shapes.annot_parts[-1] + 1]
    vertices = shapes.ring_vertices[rings[0] : rings[-1] + 1]
    return replace(
        shapes,
        **{name: np.array(getattr(shapes, name)) for name in ("annot_ids", "category_ids", "kinds")},
        **{name: np.array(getattr(shapes, name)) for name in ("boxes_xyxy", "areas", "rle_heights")},
        annot_parts=shapes.annot_parts - shapes.annot_parts[0],
        part_rings=rings - rings[0],
        ring_vertices=vertices - vertices[0],
        vertices=np.array(shapes.vertices[vertices[0] : vertices[-1]]),
        annot_runs=shapes.annot_runs - shapes.annot_runs[0],
        run_ends=np.array(shapes.run_ends[shapes.annot_runs[0] : shapes.annot_runs[-1]]),
        annot_keypoints=shapes.annot_keypoints - shapes.annot_keypoints[0],
        keypoints=np.array(shapes.keypoints[shapes.annot_keypoints[0] : shapes.annot_keypoints[-1]]),
    )
