"""Videos: which images are whose frames, in order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from slidesampler.errors import ManifestError
from slidesampler.manifest.columns import ImageTable, VideoTable
from slidesampler.manifest.fields import FieldFault, int64, rows_of

__all__ = ["read_videos"]


def read_videos(data: Mapping[str, Any], images: ImageTable) -> VideoTable:
    """Return the frames of every video.

    Frames go by ``frame_index``; where none of a video's images has one, by the manifest's order. A manifest
    without a ``videos`` table has the videos that its images name.

    Raises
    ------
    ManifestError
        If an id is no integer or there twice, an image names a video that the table lacks, or two frames of a
        video cannot be put in order.
    """
    listed: set[int] = set()
    for position, row in enumerate(rows_of(data, "videos")):
        try:
            video_id = int64(row.get("id"), "id")
            if video_id in listed:
                raise FieldFault("id", f"{video_id} is there twice; give each video its own")
        except FieldFault as fault:
            message = f"videos[{position}]: {fault.field} {fault.problem}"
            raise ManifestError(message, field=fault.field) from None
        listed.add(video_id)
    rows_by_video: dict[int, list[int]] = {video_id: [] for video_id in listed}
    for row_number in np.flatnonzero(images.has_video).tolist():
        video_id = int(images.video_ids[row_number])
        if listed and video_id not in listed:
            image_id = int(images.image_ids[row_number])
            raise ManifestError(
                f"image {image_id}: video_id {video_id} is not in the videos table; add it there",
                image_id=image_id,
                field="video_id",
            )
        rows_by_video.setdefault(video_id, []).append(row_number)
    video_ids = sorted(rows_by_video)
    frames = [_in_order(video_id, rows_by_video[video_id], images) for video_id in video_ids]
    offsets = np.zeros(len(frames) + 1, np.int64)
    np.cumsum([len(one) for one in frames], out=offsets[1:])
    flat = [image_id for one in frames for image_id in one]
    return VideoTable(np.array(video_ids, np.int64), offsets, np.array(flat, np.int64))


def _in_order(video_id: int, rows: list[int], images: ImageTable) -> list[int]:
    """Return the image ids of a video's rows by frame index."""
    missing = [row for row in rows if not images.has_frame[row]]
    if len(missing) == len(rows):
        return [int(images.image_ids[row]) for row in rows]
    by_index: dict[int, int] = {}
    for row in rows:
        image_id, index = int(images.image_ids[row]), int(images.frame_indexes[row])
        if not images.has_frame[row]:
            problem = f"is missing, but other frames of video {video_id} have one"
        elif index in by_index:
            problem = f"{index} is also that of image {by_index[index]} in video {video_id}"
        else:
            by_index[index] = image_id
            continue
        raise ManifestError(
            f"image {image_id}: frame_index {problem}; number the frames",
            image_id=image_id,
            field="frame_index",
        )
    return [by_index[index] for index in sorted(by_index)]
