"""Typed access to what a manifest says; a wrong value becomes a fault that names its field.

A manifest is other people's JSON, so nothing may be assumed of it. Readers of single values raise
:class:`FieldFault`, which knows the field and not the row; whoever walks over the rows turns it into a
:class:`~slidesampler.errors.ManifestError` that names both. A fault costs nothing until it is raised, which
matters for a million annotations.
"""

from __future__ import annotations

import math
import operator
import os
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

from slidesampler.errors import ManifestError

__all__ = [
    "COORDINATE_LIMIT",
    "FieldFault",
    "RowFault",
    "int64",
    "mapping",
    "number",
    "optional_string",
    "path_string",
    "plain",
    "rows_of",
    "short",
    "whole_number",
]

_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1
#: Coordinates and sizes beyond this many pixels are a mistake of whoever wrote them (and would overflow the
#: arithmetic of areas and run lengths).
COORDINATE_LIMIT = float(2**31)


class FieldFault(Exception):  # noqa: N818 - it is turned into an error, never seen by a caller
    """A value that cannot be used: the field, and what was found and what to do."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(field, problem)
        self.field = field
        self.problem = problem


class RowFault(FieldFault):
    """A fault found in a whole column at once; also knows which row."""

    def __init__(self, row: int, field: str, problem: str) -> None:
        super().__init__(field, problem)
        self.row = row


def short(value: object) -> str:
    """Return a ``repr`` of at most some 60 characters, whatever the value is."""
    try:
        return reprlib.repr(value)
    except ValueError:
        # Python refuses to print integers of more than 4300 digits.
        return f"a {type(value).__name__} too long to print"


def plain(value: Any) -> Any:
    """Return numpy arrays as lists and everything else as it is (manifests made in memory hold arrays)."""
    # The first test is for speed: nearly everything that comes here is a list.
    return value if type(value) is list or not hasattr(value, "tolist") else value.tolist()


def int64(value: object, field: str) -> int:
    """Return a 64-bit integer; numpy integers are welcome, booleans, floats and strings are not."""
    if type(value) is int and _INT64_MIN <= value <= _INT64_MAX:
        return value
    if isinstance(value, bool):
        raise FieldFault(field, f"must be an integer, found {value!r}")
    try:
        found = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise FieldFault(field, f"must be an integer, found {short(value)}") from None
    if not _INT64_MIN <= found <= _INT64_MAX:
        raise FieldFault(field, f"must fit in 64 bits, found {short(found)}")
    return found


def number(value: object, field: str) -> float:
    """Return a finite float; booleans and strings are faults."""
    if isinstance(value, (bool, str, bytes)):
        raise FieldFault(field, f"must be a number, found {short(value)}")
    try:
        found = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        raise FieldFault(field, f"must be a number, found {short(value)}") from None
    if not math.isfinite(found):
        raise FieldFault(field, f"must be finite, found {found!r}")
    return found


def whole_number(value: object, field: str) -> int:
    """Return a size in pixels, 1 to 2**31; an integral float such as ``4000.0`` is accepted."""
    found = number(value, field)
    if found != int(found) or not 1 <= found <= COORDINATE_LIMIT:
        raise FieldFault(field, f"must be a whole number of pixels from 1 to 2**31, found {short(value)}")
    return int(found)


def optional_string(value: object, field: str) -> str | None:
    """Return a string, or None for null and the empty string."""
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise FieldFault(field, f"must be a string, found {short(value)}")
    return value


def path_string(value: object, field: str) -> str | None:
    """Return a path as a string, or None for null and the empty string."""
    found = optional_string(os.fspath(value) if isinstance(value, os.PathLike) else value, field)
    if found is not None and "\0" in found:
        raise FieldFault(field, f"must not hold a null character, found {short(found)}")
    return found


def mapping(value: object, field: str) -> Mapping[str, Any]:
    """Return a JSON object."""
    if not isinstance(value, Mapping):
        raise FieldFault(field, f"must be an object, found {short(value)}")
    return value


def rows_of(data: Mapping[str, Any], table: str) -> list[Mapping[str, Any]]:
    """Return the objects of one of the manifest's tables; empty where it is missing or null.

    Raises
    ------
    ManifestError
        If the table is no list, or a row of it no object; names the row's position.
    """
    rows = data.get(table)
    if rows is None:
        return []
    if not isinstance(rows, Sequence) or isinstance(rows, (str, bytes)):
        raise ManifestError(f"{table!r} must be a list of objects, found {short(rows)}", field=table)
    for position, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise ManifestError(f"{table}[{position}] must be an object, found {short(row)}", field=table)
    return list(rows)
