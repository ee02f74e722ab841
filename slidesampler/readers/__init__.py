"""Readers: the one way pixels come in.

``open_reader(spec)`` opens any image; a :class:`ReaderPool` keeps a bounded number of them open and lends
each to one thread of one process at a time. Every reader answers windows of its levels; none pads, and none
resamples. GDAL and OpenSlide are imported when the first file that needs them is opened.
"""

from __future__ import annotations

from slidesampler.readers.array import ArrayReader, register_array, registered_array, unregister_array
from slidesampler.readers.base import NativePart, NativeReader, Reader
from slidesampler.readers.pool import ReaderPool, usual_max_open
from slidesampler.readers.spec import (
    ReaderSpec,
    open_reader,
    spec_for_entry,
    spec_for_labels,
    spec_for_record,
    spec_for_tissue,
    spec_for_valid,
)

__all__ = [
    "ArrayReader",
    "NativePart",
    "NativeReader",
    "Reader",
    "ReaderPool",
    "ReaderSpec",
    "open_reader",
    "register_array",
    "registered_array",
    "spec_for_entry",
    "spec_for_labels",
    "spec_for_record",
    "spec_for_tissue",
    "spec_for_valid",
    "unregister_array",
    "usual_max_open",
]
