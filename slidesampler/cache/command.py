"""The shell command that builds what is missing, as error messages give it."""

from __future__ import annotations

import shlex

from slidesampler.models import LabelSpec

__all__ = ["build_command"]


def build_command(
    manifest: str,
    workdir: str,
    image_id: int,
    backend: str,
    *,
    codec: str | None = None,
    tile: int | None = None,
    instances: bool = False,
    label_spec: LabelSpec | None = None,
) -> str:
    """Return the command that builds an image and its label layer into a cache.

    Examples
    --------
    >>> build_command("slides.json", "cache", 7, "cog", label_spec=LabelSpec(tissue="otsu"))
    'slidesampler build slides.json --workdir cache --backend cog --tissue otsu --only-images=7'
    """
    words = ["slidesampler", "build", manifest, "--workdir", workdir, "--backend", backend]
    if codec is not None and codec != "auto" and backend != "npy":
        words += ["--codec", codec]
    if tile and backend != "npy":
        words += ["--tile", str(tile)]
    if instances:
        words.append("--instances")
    label_spec = label_spec or LabelSpec()
    if label_spec.overlap != "last":
        words += ["--overlap", label_spec.overlap]
    if label_spec.tissue != "auto":
        words += ["--tissue", label_spec.tissue]
    # One word, so that a negative id is not taken for an option.
    words.append(f"--only-images={image_id}")
    return shlex.join(words)
