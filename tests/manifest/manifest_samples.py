"""Manifests that the tests of this room begin from."""

import copy

SQUARE = [[10, 10], [20, 10], [20, 20], [10, 20]]

_FULL = {
    "info": {"description": "everything a manifest may hold"},
    "categories": [
        {"id": 3, "name": "tumour", "supercategory": "tissue"},
        {"id": -5, "name": "stroma", "supercategory": "tissue"},
        {"id": 2**40, "name": "ignore"},
    ],
    "videos": [{"id": 1, "name": "stack"}],
    "images": [
        {"id": 10, "file_name": "a.tif", "height": 100, "width": 80, "mpp": 0.25, "patient": "p1"},
        {
            "id": -7,
            "name": "multi",
            "height": 60,
            "width": 70,
            "mpp_x": 0.5,
            "mpp_y": 1,
            "group": 12,
            "video_id": 1,
            "frame_index": 4,
            "assets": [
                {"file_name": "multi/rgb.tif", "channels": "r|g|b", "height": 60, "width": 70},
                {"file_name": "multi/nir.tif", "channels": "nir"},
                {"file_name": "multi/labels.png", "name": "labels"},
                {"file_name": "multi/valid.png", "channels": "valid"},
            ],
        },
        {"id": 0, "file_name": "c.tif", "video_id": 1, "frame_index": 2},
    ],
    "annotations": [
        {
            "id": 1,
            "image_id": 10,
            "category_id": 3,
            "bbox": [10, 10, 10, 10],
            "segmentation": {"exterior": SQUARE, "interiors": [[[12, 12], [14, 12], [14, 14], [12, 14]]]},
        },
        {"id": -2, "image_id": 0, "category_id": None, "bbox": [1, 2, 3, 4]},
        {
            "id": 2**62,
            "image_id": 10,
            "category_id": -5,
            "segmentation": [[0, 0, 4, 0, 4, 4], [50, 50, 60, 50, 60, 60, 50, 60]],
        },
        {
            "id": 5,
            "image_id": -7,
            "category_id": 3,
            "segmentation": {"counts": [61, 3, 57, 3, 60 * 70 - 124], "size": [60, 70]},
        },
        {"id": 6, "image_id": 0, "category_id": 2**40, "keypoints": [3, 4, 2, 0, 0, 0, 7, 9, 1]},
        {"id": 7, "image_id": 0, "category_id": 3, "keypoints": [{"xy": [1, 2], "visible": 1}, {"xy": [5, 6]}]},
    ],
}


def full():
    """A manifest with every kind of image and annotation."""
    return copy.deepcopy(_FULL)


def one_image(annotation=None, **image):
    """A manifest of one image of 40 x 50 pixels, one category and at most one annotation, all with id 1."""
    annotations = [] if annotation is None else [{"id": 1, "image_id": 1, "category_id": 1, **annotation}]
    return {
        "images": [{"id": 1, "file_name": "a.tif", "height": 40, "width": 50, **image}],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": annotations,
    }


def compressed(counts):
    """COCO's string for the runs of a mask: ``rleToString`` of its ``maskApi.c``, in Python."""
    text = bytearray()
    for position, count in enumerate(counts):
        number = int(count) - (int(counts[position - 2]) if position > 2 else 0)
        more = True
        while more:
            code = number & 0x1F
            number >>= 5
            more = number != -1 if code & 0x10 else number != 0
            text.append((code | 0x20 if more else code) + 48)
    return bytes(text)
