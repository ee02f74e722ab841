"""What a user's word for a kind of object stands for: category ids, or class indices of masks.

A *category* is what the manifest gives an annotation, a *class* is what stands in a mask. Several categories
may be drawn as one class, so a question about annotations is answered in category ids and a question about
pixels in class indices.
"""

from __future__ import annotations

import difflib
import math
import operator
from collections.abc import Iterable, Mapping
from typing import SupportsIndex, TypeAlias

from slidesampler.errors import TargetError
from slidesampler.models import ClassMap
from slidesampler.sampling.base import SourceSampler

__all__ = [
    "Word",
    "Words",
    "categories_of",
    "class_weights_of",
    "classes_of",
    "foreground_categories",
    "foreground_classes",
    "words_of",
]

#: A category's id, or the name of a category, of a class, or of a supercategory for all below it.
Word: TypeAlias = str | int
#: One such word or several.
Words: TypeAlias = Word | Iterable[Word]


def words_of(words: Words, what: str) -> list[Word]:
    """Return one word or several as a list, ids as plain ints.

    Parameters
    ----------
    words : str, int or iterable of these
    what : str
        The argument's name, for messages.

    Raises
    ------
    TargetError
        If there is none, or one of them is neither text nor a whole number.

    Examples
    --------
    >>> words_of("tumour", "categories"), words_of([3, "tumour"], "categories")
    (['tumour'], [3, 'tumour'])
    """
    try:
        given = [words] if isinstance(words, str | SupportsIndex) else list(words)
    except TypeError:
        given = [words]  # type: ignore[list-item]  # refused below
    if not given:
        raise TargetError(f"{what} is empty: name at least one, or leave it out")
    checked: list[Word] = []
    for word in given:
        if isinstance(word, str):
            checked.append(word)
        elif isinstance(word, SupportsIndex) and not isinstance(word, bool):
            checked.append(operator.index(word))
        else:
            raise TargetError(f"{what} takes names and category ids, got {word!r}")
    return checked


def categories_of(sampler: SourceSampler, word: Word) -> tuple[int, ...]:
    """Return the category ids that a word stands for, in the manifest's order.

    Categories that stand for the background or for *ignore* are among them. None at all is returned for the
    name of a class that no category is drawn as, as ``"background"`` mostly is.

    Parameters
    ----------
    sampler : SourceSampler
    word : str or int
        Name of a category, of a class, or of a supercategory (all below it); or a category's id.

    Raises
    ------
    TargetError
        If the manifest has no such thing; names the closest.
    """
    classes = sampler.class_map
    if not isinstance(word, str):
        category_id = operator.index(word)
        if category_id not in classes.category_to_index:
            ids = ", ".join(map(str, list(classes.category_to_index)[:10]))
            more = " ..." if len(classes.category_to_index) > 10 else ""
            raise TargetError(f"the manifest has no category id {word}; it has {ids or 'none'}{more}")
        return (category_id,)
    names = sampler.manifest.category_names
    found = tuple(
        category
        for category, index in classes.category_to_index.items()
        if word in _lineage(names[category], classes)
        or (index < len(classes.names) and word == classes.names[index])
    )
    if not found and word not in classes.names:
        known = sorted({*names.values(), *classes.names, *classes.parents.values()})
        closest = difflib.get_close_matches(word, known, n=1)
        hint = f"did you mean {closest[0]!r}?" if closest else f"it has {', '.join(known)}"
        raise TargetError(f"the manifest has no category {word!r}; {hint}")
    return found


def classes_of(sampler: SourceSampler, word: Word) -> tuple[int, ...]:
    """Return the class indices that a word stands for, ascending; 0 is the background. *Ignore* is no class.

    Parameters
    ----------
    sampler : SourceSampler
    word : str or int
        As :func:`categories_of` takes it.

    Raises
    ------
    TargetError
        If the manifest has no such thing, or a class that it stands for also shows categories that it does not:
        then no mask can tell them apart.
    """
    classes = sampler.class_map
    meant = set(categories_of(sampler, word))
    found = {classes.category_to_index[category] for category in meant} - {classes.ignore}
    if isinstance(word, str) and word in classes.names:
        found.add(classes.names.index(word))
        return tuple(sorted(found))
    names = sampler.manifest.category_names
    for index in sorted(found - {0}):
        drawn = [category for category, other in classes.category_to_index.items() if other == index]
        if not meant.issuperset(drawn):
            others = ", ".join(repr(names[category]) for category in drawn if category not in meant)
            raise TargetError(
                f"category {word!r} is drawn as class {classes.names[index]!r} together with {others}, so "
                f"masks cannot tell them apart; name {classes.names[index]!r}"
            )
    return tuple(sorted(found))


def foreground_categories(
    sampler: SourceSampler, words: Words | None, what: str = "categories"
) -> dict[Word, tuple[int, ...]] | None:
    """Return the category ids of each word, less those that stand for the background or for *ignore*.

    Parameters
    ----------
    sampler : SourceSampler
    words : str, int, iterable of these, or None
    what : str
        The argument's name, for messages.

    Returns
    -------
    mapping of word to tuple of int, or None
        None where ``words`` is None: every category that is drawn as a class.

    Raises
    ------
    TargetError
        For a word that the manifest has not, or one that stands for no class.
    """
    if words is None:
        return None
    classes = sampler.class_map
    wanted: dict[Word, tuple[int, ...]] = {}
    for word in words_of(words, what):
        useful = tuple(
            one
            for one in categories_of(sampler, word)
            if classes.category_to_index[one] not in (0, classes.ignore)
        )
        if not useful:
            raise _no_class(what, word)
        wanted[word] = useful
    return wanted


def foreground_classes(
    sampler: SourceSampler, words: Words | None, what: str = "categories"
) -> tuple[int, ...]:
    """Return the class indices that words stand for, ascending, each once, the background not among them.

    Parameters
    ----------
    sampler : SourceSampler
    words : str, int, iterable of these, or None
        Every class but the background where None.
    what : str
        The argument's name, for messages.

    Raises
    ------
    TargetError
        For a word that the manifest has not, one that stands for no class, or for a part of one.
    """
    if words is None:
        return tuple(range(1, len(sampler.class_map.names)))
    found: set[int] = set()
    for word in words_of(words, what):
        useful = {index for index in classes_of(sampler, word) if index}
        if not useful:
            raise _no_class(what, word)
        found |= useful
    return tuple(sorted(found))


def class_weights_of(
    sampler: SourceSampler, weights: Mapping[Word, float], what: str = "class_weights"
) -> dict[int, float]:
    """Return the weight of each class index that a mapping of words to weights names.

    A word for several classes (a supercategory) gives each of them its weight.

    Raises
    ------
    TargetError
        For a word that :func:`foreground_classes` refuses, two words for one class, or a weight that is not a
        finite number of at least 0.
    """
    if not weights:
        raise TargetError(f"{what} is empty: name at least one class, or leave it out")
    found: dict[int, float] = {}
    for word, weight in weights.items():
        if isinstance(weight, str | bool) or not math.isfinite(weight) or weight < 0:
            raise TargetError(f"{what}[{word!r}] must be a finite number of at least 0, got {weight!r}")
        for index in foreground_classes(sampler, [word], what):
            if index in found:
                name = sampler.class_map.names[index]
                raise TargetError(f"{what} gives class {name!r} a weight twice, the second time as {word!r}")
            found[index] = float(weight)
    return found


def _no_class(what: str, word: Word) -> TargetError:
    return TargetError(
        f"{what}: {word!r} stands for the background or for ignored pixels; name a class of the foreground"
    )


def _lineage(name: str, classes: ClassMap) -> list[str]:
    """Return a category's name and the supercategories above it; a circle ends where it closes."""
    line = [name]
    while (above := classes.parents.get(line[-1])) is not None and above not in line:
        line.append(above)
    return line
