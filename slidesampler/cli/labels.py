"""How the labels of a cache were made, so that commands read the ones that are there."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slidesampler.cli.options import Tissue
    from slidesampler.models import LabelSpec

__all__ = ["label_spec_of"]


def label_spec_of(workdir: Path | None, tissue: Tissue | None) -> LabelSpec:
    """Return the spec of the labels that were built last, with another ``tissue`` where one is given.

    Parameters
    ----------
    workdir : Path or None
        A cache; the default spec where None, or where it has no labels.
    tissue : Tissue or None
    """
    from slidesampler.cache.entry_json import ENTRY_FILE, label_spec_from_dict, load_entry
    from slidesampler.errors import CacheError
    from slidesampler.models import LabelSpec

    spec = LabelSpec()
    records = [] if workdir is None else list(workdir.glob(f"labels/*/{ENTRY_FILE}"))
    if records:
        newest = max(records, key=lambda path: (path.stat().st_mtime_ns, path))
        # What cannot be read is reported by what reads the labels.
        with suppress(OSError, CacheError, KeyError, TypeError, ValueError):
            spec = label_spec_from_dict(load_entry(newest.parent).spec["label_spec"])
    return spec if tissue is None else replace(spec, tissue=tissue.value)
