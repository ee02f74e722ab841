"""Categories -> dense class indices."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from slidesampler.errors import ManifestError
from slidesampler.manifest.columns import ClassTable, Strings
from slidesampler.manifest.fields import FieldFault, int64, optional_string, rows_of, short
from slidesampler.models import NO_CATEGORY, ClassMap

__all__ = ["Categories", "class_map_of", "class_table", "read_categories", "stored_class_map"]

_BACKGROUND, _IGNORE = "background", "ignore"
#: Class indices must stay below the *ignore* value of 16-bit masks.
_MAX_INDEX = 65534


@dataclass(frozen=True, slots=True)
class Categories:
    """The categories of a manifest in its order: ids, names, and the supercategory of those that have one."""

    ids: tuple[int, ...]
    names: tuple[str, ...]
    parents: Mapping[str, str]


def read_categories(data: Mapping[str, Any]) -> Categories:
    """Return the categories of a manifest.

    Raises
    ------
    ManifestError
        If an id or name is missing, of the wrong type or there twice, or supercategories go in a circle.
    """
    names: dict[str, int] = {}
    ids: dict[int, str] = {}
    parents: dict[str, str] = {}
    for position, row in enumerate(rows_of(data, "categories")):
        where = f"categories[{position}]"
        try:
            category_id = int64(row.get("id"), "id")
            if category_id == NO_CATEGORY:
                raise FieldFault("id", f"must be above {NO_CATEGORY}, which stands for annotations without one")
            where = f"category {category_id}"
            name = optional_string(row.get("name"), "name")
            parent = optional_string(row.get("supercategory"), "supercategory")
            if name is None:
                raise FieldFault("name", "is missing; every category needs one")
            if category_id in ids:
                raise FieldFault("id", f"is that of {ids[category_id]!r} and of {name!r}; give each its own")
            if name in names:
                raise FieldFault("name", f"{name!r} is also that of category {names[name]}; give each its own")
        except FieldFault as fault:
            raise ManifestError(f"{where}: {fault.field} {fault.problem}", field=fault.field) from None
        ids[category_id], names[name] = name, category_id
        # Many exporters write a category as its own supercategory where there is none.
        if parent is not None and parent != name:
            parents[name] = parent
    for name in parents:
        _lineage(name, parents)
    return Categories(tuple(ids), tuple(names), parents)


def _lineage(name: str, parents: Mapping[str, str]) -> list[str]:
    """Return a category's name, its supercategory's, and so on up."""
    line = [name]
    while line[-1] in parents:
        line.append(parents[line[-1]])
        if line[-1] == name or len(line) > len(parents) + 1:
            raise ManifestError(
                f"category {name!r}: supercategory goes in a circle: {' -> '.join(line[:8])}; break it",
                field="supercategory",
            )
    return line


def class_map_of(categories: Categories, class_map: Mapping[str, str | int] | None = None) -> ClassMap:
    """Return the class map: background 0, then one class a category in the manifest's order.

    Parameters
    ----------
    categories : Categories
    class_map : mapping of str to int or str, optional
        For a category's name, or a supercategory's name (all its descendants; the nearest entry of a category
        wins): the class index, or the name of a class. A name is not looked up in the mapping again, but one
        that an entry gave an index means that index. ``"background"`` and ``"ignore"`` are those; categories of
        these names (in any case) that the mapping does not mention are, too. Classes without an index of their
        own take the lowest free ones, in the manifest's order.

    Returns
    -------
    ClassMap
        An index that no category uses is named ``"class_<index>"``.

    Raises
    ------
    ManifestError
        If a key is no category or supercategory, or a value no class.
    """
    asked = dict(class_map or {})
    for key, value in asked.items():
        _check_entry(key, value, categories)
    index_of_name: dict[str, int] = {_BACKGROUND: 0}
    name_of_index: dict[int, str] = {0: _BACKGROUND}
    for key, value in asked.items():
        if not isinstance(value, str):
            index_of_name[key] = int(value)
            name_of_index.setdefault(int(value), key)
    wanted: list[int | None] = []
    free = 1
    for name in categories.names:
        target = _wanted(name, categories.parents, asked)
        if isinstance(target, str) and target.casefold() in (_BACKGROUND, _IGNORE):
            wanted.append(0 if target.casefold() == _BACKGROUND else None)
            continue
        if isinstance(target, str) and target not in index_of_name:
            while free in name_of_index:
                free += 1
            index_of_name[target] = free
            name_of_index[free] = target
        wanted.append(index_of_name[target] if isinstance(target, str) else int(target))
    names = _names(name_of_index)
    # Which value means *ignore* depends on how many classes there are, so it is filled in last.
    ignore = ClassMap(names, {}).ignore
    indexes = [ignore if index is None else index for index in wanted]
    return ClassMap(names, dict(zip(categories.ids, indexes, strict=True)), dict(categories.parents))


def _check_entry(key: object, value: object, categories: Categories) -> None:
    known = {*categories.names, *categories.parents.values()}
    if not isinstance(key, str) or key not in known:
        close = difflib.get_close_matches(str(key), sorted(known), n=3)
        hint = f"did you mean {' or '.join(map(repr, close))}?" if close else f"it has {short(sorted(known))}"
        raise ManifestError(
            f"class_map: {short(key)} is no category of the manifest; {hint}", field="class_map"
        )
    if isinstance(value, str):
        if value:
            return
    else:
        try:
            index = int64(value, "class_map")
        except FieldFault as fault:
            raise ManifestError(
                f"class_map[{key!r}] {fault.problem}; give a class index or a name", field="class_map"
            ) from None
        if 0 <= index <= _MAX_INDEX:
            return
    raise ManifestError(
        f"class_map[{key!r}] must be a class index from 0 to {_MAX_INDEX} or a name, found {short(value)}; "
        "'ignore' marks pixels that are not to count",
        field="class_map",
    )


def _wanted(name: str, parents: Mapping[str, str], asked: Mapping[str, str | int]) -> str | int:
    return next((asked[step] for step in _lineage(name, parents) if step in asked), name)


def _names(name_of_index: Mapping[int, str]) -> tuple[str, ...]:
    """Return the name of every index up to the highest."""
    count = max(name_of_index) + 1
    if count > _MAX_INDEX + 1:
        raise ManifestError(f"{count} classes do not fit in a 16-bit mask; merge some with class_map")
    if 255 in name_of_index and len(name_of_index) < 256:
        raise ManifestError(
            f"class_map[{name_of_index[255]!r}] is 255, which would make masks 16 bits wide; "
            "say 'ignore' for pixels that are not to count, or use a lower index",
            field="class_map",
        )
    return tuple(name_of_index.get(index, f"class_{index}") for index in range(count))


def class_table(categories: Categories, class_map: ClassMap) -> ClassTable:
    """Return a class map as columns."""
    return ClassTable(
        names=Strings.pack(class_map.names),
        category_ids=np.array(categories.ids, np.int64),
        category_index=np.array([class_map.category_to_index[one] for one in categories.ids], np.int64),
        category_names=Strings.pack(categories.names),
        child_names=Strings.pack(categories.parents),
        parent_names=Strings.pack(categories.parents.values()),
    )


def stored_class_map(table: ClassTable) -> ClassMap:
    """Return the class map that ``class_table`` stored."""
    return ClassMap(
        tuple(table.names),
        dict(zip(table.category_ids.tolist(), table.category_index.tolist(), strict=True)),
        dict(zip(table.child_names, table.parent_names, strict=True)),
    )
