"""``make_dataset``: synthetic slides and the kwcoco manifest that describes them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from slidesampler.rng import rng_for
from slidesampler.testing.slides import SlideCodec, make_slide
from slidesampler.testing.truth import CLASS_NAMES, SUPERCATEGORIES, SlideTruth, TrueAnnot

__all__ = ["make_dataset", "manifest_dict"]


def make_dataset(
    folder: str | os.PathLike[str],
    n_slides: int = 2,
    height: int = 6000,
    width: int = 6000,
    seed: int = 0,
    *,
    tile: int = 256,
    codec: SlideCodec = "deflate",
    mpp: float = 0.5,
    nuclei_per_mpx: float = 1000.0,
    max_nuclei: int = 20_000,
    artefacts: bool = True,
    advance: Callable[[int], None] | None = None,
) -> Path:
    """Write ``slide-01.tif``, ``slide-02.tif`` ... and ``slides.kwcoco.json`` into a folder.

    Parameters
    ----------
    folder : path
        Made where it does not exist.
    n_slides, height, width : int
    seed : int
        Every slide has a seed of its own that follows from it.
    tile, codec, mpp, nuclei_per_mpx, max_nuclei, artefacts
        See :func:`~slidesampler.testing.make_slide`.
    advance : callable, optional
        Called with the number of pixels just painted.

    Returns
    -------
    Path
        The manifest.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    truths = [
        make_slide(
            folder / f"slide-{number + 1:02d}.tif",
            height,
            width,
            int(rng_for(seed, index=number, stream="dataset").integers(1 << 48)),
            tile=tile,
            codec=codec,
            mpp=mpp,
            nuclei_per_mpx=nuclei_per_mpx,
            max_nuclei=max_nuclei,
            artefacts=artefacts,
            advance=advance,
        )
        for number in range(n_slides)
    ]
    manifest = folder / "slides.kwcoco.json"
    partial = manifest.with_name(manifest.name + ".partial")
    partial.write_text(json.dumps(manifest_dict(truths), separators=(",", ":")), encoding="utf-8")
    partial.replace(manifest)
    return manifest


def manifest_dict(truths: list[SlideTruth]) -> dict[str, Any]:
    """Return the kwcoco manifest of slides that lie in one folder.

    Image ids count from 1 in the order given, and annotation ids over all images in painting order, so that the
    later one wins. Every slide is a patient of its own. Category ids are class indices.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, truth in enumerate(truths, start=1):
        images.append(
            {
                "id": image_id,
                "file_name": truth.path.name,
                "width": truth.width,
                "height": truth.height,
                "mpp": truth.mpp,
                "patient": f"patient-{image_id:02d}",
            }
        )
        for annot in truth.annots:
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, **_annotation(annot)})
    return {
        "info": [],
        "categories": [
            {"id": number, "name": name, "supercategory": SUPERCATEGORIES[name]}
            for number, name in enumerate(CLASS_NAMES)
            if number
        ],
        "videos": [],
        "images": images,
        "annotations": annotations,
    }


def _annotation(annot: TrueAnnot) -> dict[str, Any]:
    x0, y0, x1, y1 = annot.box_xyxy
    return {
        "category_id": annot.class_index,
        "bbox": [x0, y0, round(x1 - x0, 4), round(y1 - y0, 4)],
        "segmentation": [
            {"exterior": part[0].tolist(), "interiors": [hole.tolist() for hole in part[1:]]}
            for part in annot.parts
        ],
    }
