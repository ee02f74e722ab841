"""Synthetic slides with exact ground truth, and contract suites, for your tests and ours.

Everything is loaded when first asked for, so that importing one helper does not import another's
dependencies.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slidesampler.testing.arrays import make_array
    from slidesampler.testing.contracts import ReaderCase, ReaderContract
    from slidesampler.testing.dataset import make_dataset, manifest_dict
    from slidesampler.testing.slides import make_slide
    from slidesampler.testing.source_contract import SourceContract
    from slidesampler.testing.truth import CLASS_NAMES, SlideTruth, TrueAnnot

__all__ = [
    "CLASS_NAMES",
    "ReaderCase",
    "ReaderContract",
    "SlideTruth",
    "SourceContract",
    "TrueAnnot",
    "make_array",
    "make_dataset",
    "make_slide",
    "manifest_dict",
]

_HOMES = {
    "CLASS_NAMES": "truth",
    "ReaderCase": "contracts",
    "ReaderContract": "contracts",
    "SlideTruth": "truth",
    "SourceContract": "source_contract",
    "TrueAnnot": "truth",
    "make_array": "arrays",
    "make_dataset": "dataset",
    "make_slide": "slides",
    "manifest_dict": "dataset",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
