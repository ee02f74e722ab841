"""Sources by name: what a command line and a configuration file say."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from typing import Any

from slidesampler.errors import SlideSamplerError, TargetError
from slidesampler.sampling.balanced import BalancedSource
from slidesampler.sampling.base import SourceSampler, TargetSource
from slidesampler.sampling.coverage import CoverageSource
from slidesampler.sampling.fixed import FixedSource
from slidesampler.sampling.grid import GridSource
from slidesampler.sampling.mixture import MixtureSource
from slidesampler.sampling.negative import NegativeSource
from slidesampler.sampling.positive import PositiveSource
from slidesampler.sampling.quota import Quota
from slidesampler.sampling.rejection import RejectionSource
from slidesampler.sampling.weighted import WeightedSource

__all__ = ["SOURCE_NAMES", "source_from_words", "source_options"]

#: Sources that are made from a sampler and options.
_CLASSES: Mapping[str, type[Any]] = {
    "coverage": CoverageSource,
    "grid": GridSource,
    "negative": NegativeSource,
    "positive": PositiveSource,
    "weighted": WeightedSource,
}
#: What a source by name may be called.
SOURCE_NAMES = tuple(sorted([*_CLASSES, "balanced", "fixed", "mixture", "rejection"]))
#: Options that go by image id; a JSON object has only words for keys.
_BY_IMAGE = ("maps", "roi", "slide_weights", "where")
_BALANCED = ("pos_fraction", "n", "seed", "batch_size", "shuffle")


def source_from_words(sampler: SourceSampler, words: Mapping[str, Any]) -> TargetSource:
    """Return the source that a mapping of words describes.

    Parameters
    ----------
    sampler : Sampler
    words : mapping
        ``source`` is its name; everything else are options of its class, by the same names and in JSON types:

        ``"positive"``, ``"negative"``, ``"grid"``, ``"coverage"``
            Options of the class of that name.
        ``"weighted"``
            By tissue where ``maps`` is not given.
        ``"balanced"``
            Options of :class:`~slidesampler.BalancedSource`, and those of the positives and negatives that it
            is made of, each going to whichever takes it (or to one alone, in a mapping ``"positive"`` or
            ``"negative"``).
        ``"rejection"``
            Options of :class:`~slidesampler.RejectionSource`; ``of`` is the source that is wrapped, a name or
            such a mapping (``"weighted"`` where it is left out: windows anywhere on the tissue), and what the
            wrapping does not take is meant for it.
        ``"mixture"``
            ``of`` is a list of such mappings, with ``weights``.
        ``"fixed"``
            ``path``, a file that ``slidesampler sample --out`` wrote.

    Raises
    ------
    TargetError
        For a source or option that there is not (with the closest name), one that is missing, or a value that
        it cannot take.
    SamplingError
        If there is nothing to choose windows from.

    Examples
    --------
    >>> from slidesampler.testing.source_contract import RectangleSampler
    >>> source = source_from_words(RectangleSampler(3), {"source": "grid", "size": 64, "stride": 32})
    >>> type(source).__name__, source.stride
    ('GridSource', (32, 32))
    """
    words = {key: value for key, value in words.items() if value is not None}
    name = words.pop("source", None)
    if name not in SOURCE_NAMES:
        raise TargetError(_unknown("source", str(name), SOURCE_NAMES))
    try:
        return _build(sampler, name, words)
    except SlideSamplerError:
        raise
    except (ValueError, TypeError) as error:
        raise TargetError(f"source {name!r}: {error}") from error


def source_options(name: str) -> tuple[str, ...]:
    """Return the options that a source by name takes, sorted.

    Raises
    ------
    TargetError
        If there is no such source.
    """
    if name in _CLASSES:
        return tuple(sorted(_parameters(_CLASSES[name])))
    own: dict[str, Iterable[str]] = {
        "balanced": {
            *_BALANCED,
            "positive",
            "negative",
            *_parameters(PositiveSource),
            *_parameters(NegativeSource),
        },
        "fixed": ("path",),
        "mixture": ("of", *_parameters(MixtureSource).keys() - {"sources"}),
        "rejection": ("of", *_parameters(RejectionSource).keys() - {"source"}),
    }
    if name not in own:
        raise TargetError(_unknown("source", name, SOURCE_NAMES))
    return tuple(sorted(own[name]))


def _build(sampler: SourceSampler, name: str, words: dict[str, Any]) -> TargetSource:
    if name == "balanced":
        return _balanced(sampler, words)
    if name == "rejection":
        return _rejection(sampler, words)
    if name == "mixture":
        parts = words.pop("of", None)
        if isinstance(parts, str | Mapping) or parts is None:
            raise TargetError("source 'mixture' needs 'of', a list of sources, and their 'weights'")
        sources = [source_from_words(sampler, _nested(part)) for part in parts]
        return MixtureSource(sources, **_checked(name, words, _parameters(MixtureSource), ("sources",)))
    if name == "fixed":
        return FixedSource.from_jsonl(**_checked(name, words, {"path": True}))
    if name == "weighted":
        words.setdefault("maps", "tissue")
    cls = _CLASSES[name]
    source: TargetSource = cls(sampler, **_checked(name, words, _parameters(cls)))
    return source


def _balanced(sampler: SourceSampler, words: dict[str, Any]) -> TargetSource:
    """Return a mixture whose parts get the options that they take."""
    named = {part: dict(words.pop(part, {})) for part in ("positive", "negative")}
    if not any(named.values()) and words.keys() <= _parameters(BalancedSource).keys():
        return BalancedSource(sampler, **_checked("balanced", words, _parameters(BalancedSource)))
    taken: set[str] = set(_BALANCED)
    parts: dict[str, dict[str, Any]] = {}
    for part, own in named.items():
        options = _parameters(_CLASSES[part])
        parts[part] = {**{key: value for key, value in words.items() if key in options}, **own}
        taken |= options.keys()
    if unknown := words.keys() - taken:
        raise TargetError(_unknown("option of source 'balanced'", min(unknown), sorted(taken)))
    how = {key: words[key] for key in _BALANCED if key in words}
    # A part has as many windows as BalancedSource itself gives it, so that an option of one part leaves the
    # windows of the other as they are.
    if (n := how.get("n")) is None:
        raise TargetError("source 'balanced' with options of its parts needs 'n', the windows of an epoch")
    share = Fraction(repr(float(how.get("pos_fraction", 0.5))))
    counts = Quota([share, 1 - share]).counts(n) if 0 <= share <= 1 else [n, n]
    made = [
        source_from_words(sampler, {"source": part, **parts[part], "n": max(1, count)})
        for part, count, used in zip(parts, counts, (share, 1 - share), strict=True)
        if used
    ]
    return BalancedSource.of(made[0], made[-1], **how)


def _rejection(sampler: SourceSampler, words: dict[str, Any]) -> TargetSource:
    inner = _nested(words.pop("of", "weighted"))
    own = _parameters(RejectionSource)
    mine = {key: value for key, value in words.items() if key in own}
    # Both have a seed, and the same one does for both: their streams are different.
    others = {key: value for key, value in words.items() if key not in own or key == "seed"}
    if "seed" in others and "seed" not in source_options(str(inner.get("source"))):
        del others["seed"]
    source = source_from_words(sampler, {**others, **inner})
    return RejectionSource(source, sampler, **_checked("rejection", mine, own, ("source",)))


def _nested(given: object) -> dict[str, Any]:
    if isinstance(given, str):
        return {"source": given}
    if isinstance(given, Mapping):
        return dict(given)
    raise TargetError(f"'of' is a source's name or a mapping with 'source', got {given!r}")


def _parameters(cls: Callable[..., Any]) -> Mapping[str, bool]:
    """Return the options of a class, and whether each must be given."""
    return {
        name: parameter.default is inspect.Parameter.empty
        for name, parameter in inspect.signature(cls).parameters.items()
        if name != "sampler"
    }


def _checked(
    name: str, words: Mapping[str, Any], options: Mapping[str, bool], given: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Return the words, which are options of a source, with image ids as numbers."""
    known = [option for option in options if option not in given]
    for key in words:
        if key not in known:
            raise TargetError(_unknown(f"option of source {name!r}", key, known))
    missing = [option for option in known if options[option] and option not in words]
    if missing:
        raise TargetError(f"source {name!r} needs {' and '.join(map(repr, missing))}")
    return {key: _by_number(value) if key in _BY_IMAGE else value for key, value in words.items()}


def _by_number(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    return {
        int(key) if isinstance(key, str) and key.lstrip("-").isdecimal() else key: one
        for key, one in value.items()
    }


def _unknown(what: str, word: str, known: Iterable[str]) -> str:
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}"
    return f"there is no {what} called {word!r}; {hint}"
