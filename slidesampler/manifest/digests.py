"""What the annotations of each image are, in sixteen bytes: label layers are found in the cache by that.

Hashed once, when a manifest is read, and saved with its columns. A process that sees a slide for the first time
would else read all its annotations, before it has drawn one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import fields

import numpy as np
from numpy.typing import NDArray

from slidesampler.shapes import Shapes

__all__ = ["DIGEST_BYTES", "digest_images"]

DIGEST_BYTES = 16

#: Columns of one row an annotation.
_OWN = ("annot_ids", "category_ids", "kinds", "boxes_xyxy", "areas", "rle_heights")
_NAMES = tuple(item.name for item in fields(Shapes))


def digest_images(shapes: Shapes, image_annots: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return the digest of each image's annotations, whatever the other images have.

    Parameters
    ----------
    shapes : Shapes
        Sorted by image.
    image_annots : int64 (images + 1,)
        Rows of ``shapes`` that belong to each image.

    Returns
    -------
    uint8 (images, DIGEST_BYTES)
    """
    # Slices have the types of their columns.
    heads = [f"{name} {column.dtype.str} " for name, column in shapes.columns().items()]
    digests = np.empty((len(image_annots) - 1, DIGEST_BYTES), np.uint8)
    digests[:] = _digest(heads, _own_columns(shapes, 0, 0))
    for row in np.flatnonzero(np.diff(image_annots)).tolist():
        first, last = image_annots[row : row + 2].tolist()
        digests[row] = _digest(heads, _own_columns(shapes, first, last))
    return digests


def _digest(heads: Sequence[str], columns: Mapping[str, NDArray[np.generic]]) -> NDArray[np.uint8]:
    """Return the digest of the names, types, shapes and bytes of columns."""
    pieces: list[bytes] = []
    for head, name in zip(heads, _NAMES, strict=True):
        column = columns[name]
        pieces += (f"{head}{column.shape}\n".encode(), column.tobytes())
    # All at once: most images have few annotations, and calls take longer than they do.
    return np.frombuffer(hashlib.blake2b(b"".join(pieces), digest_size=DIGEST_BYTES).digest(), np.uint8)


def _own_columns(shapes: Shapes, first: int, last: int) -> dict[str, NDArray[np.generic]]:
    """Return the columns of some annotations by name, with nothing of others: offsets begin at 0."""
    columns: dict[str, NDArray[np.generic]] = {name: getattr(shapes, name)[first:last] for name in _OWN}
    parts, runs, points = (
        column[first : last + 1] for column in (shapes.annot_parts, shapes.annot_runs, shapes.annot_keypoints)
    )
    part_rings = shapes.part_rings[parts[0] : parts[-1] + 1]
    ring_vertices = shapes.ring_vertices[part_rings[0] : part_rings[-1] + 1]
    columns.update(
        annot_parts=parts - parts[0],
        part_rings=part_rings - part_rings[0],
        ring_vertices=ring_vertices - ring_vertices[0],
        vertices=shapes.vertices[ring_vertices[0] : ring_vertices[-1]],
        annot_runs=runs - runs[0],
        run_ends=shapes.run_ends[runs[0] : runs[-1]],
        annot_keypoints=points - points[0],
        keypoints=shapes.keypoints[points[0] : points[-1]],
    )
    return columns
