"""Every error the package raises on purpose.

Each class is ours *and* a builtin, so ``except FileNotFoundError`` written by somebody who has never heard
of us still works::

    SlideSamplerError
    ├── ManifestError            (ValueError)         a manifest that cannot be trusted
    ├── TargetError              (ValueError)         a target that cannot be resolved
    │   └── UnknownKeyError      (KeyError)           a key no target has; suggests the right one
    ├── ReadError                (OSError)            pixels that could not be read
    │   ├── SourceMissingError   (FileNotFoundError)  the source file is not there
    │   └── UnsupportedSourceError                    no reader can open it
    ├── CacheError               (OSError)            the cache is not as it should be
    │   ├── CacheMissError       (FileNotFoundError)  the entry was never built; the message says how
    │   ├── CorruptEntryError                         an entry whose files disagree with its record
    │   └── StaleEntryError                           an entry whose source has changed since
    ├── BuildError               (RuntimeError)       an image that could not be built
    │   └── CodecError           (ValueError)         a codec that is unknown or cannot hold these pixels
    ├── SamplingError            (RuntimeError)       windows that cannot be chosen
    │   └── NegativesExhaustedError                   no window without foreground was found
    └── MissingDependencyError   (ImportError)        an optional package; the message says how to get it

Every class can be built from one string and survives pickling with its attributes, because errors travel
from worker processes to the parent.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = [
    "BuildError",
    "CacheError",
    "CacheMissError",
    "CodecError",
    "CorruptEntryError",
    "ManifestError",
    "MissingDependencyError",
    "NegativesExhaustedError",
    "ReadError",
    "SamplingError",
    "SlideSamplerError",
    "SourceMissingError",
    "StaleEntryError",
    "TargetError",
    "UnknownKeyError",
    "UnsupportedSourceError",
]


class SlideSamplerError(Exception):
    """Root of every error raised on purpose by slidesampler."""

    def __str__(self) -> str:
        # KeyError shows the repr of its message and OSError formats (errno, text): we always show the text.
        return str(self.args[0]) if self.args else ""


class ManifestError(SlideSamplerError, ValueError):
    """A manifest that cannot be trusted; names the image or annotation and the field.

    Parameters
    ----------
    message : str
        What was found, where, and what to do.
    image_id, annot_id : int, optional
        The offending row.
    field : str, optional
        The offending field of that row.
    """

    def __init__(
        self,
        message: str,
        *,
        image_id: int | None = None,
        annot_id: int | None = None,
        field: str | None = None,
    ) -> None:
        super().__init__(message)
        self.image_id = image_id
        self.annot_id = annot_id
        self.field = field


class TargetError(SlideSamplerError, ValueError):
    """A target that cannot be resolved to a window."""


class UnknownKeyError(TargetError, KeyError):
    """A target mapping has a key that no target has; the message suggests the closest right one."""


class ReadError(SlideSamplerError, OSError):
    """Pixels that could not be read; names the file and the region."""


class SourceMissingError(ReadError, FileNotFoundError):
    """The source file is not where the manifest says."""


class UnsupportedSourceError(ReadError):
    """No reader can open the file, or its pixels are of a kind that is not handled."""


class CacheError(SlideSamplerError, OSError):
    """The cache is not as it should be."""


class CacheMissError(CacheError, FileNotFoundError):
    """The image has no entry in the cache; the message is the command that builds it."""


class CorruptEntryError(CacheError):
    """An entry whose files are missing, truncated or changed."""


class StaleEntryError(CacheError):
    """An entry whose source was edited after it was built."""


class BuildError(SlideSamplerError, RuntimeError):
    """An image that could not be built into the cache."""


class CodecError(BuildError, ValueError):
    """A codec that is unknown, not compiled in, or cannot hold these pixels."""


class SamplingError(SlideSamplerError, RuntimeError):
    """Windows that cannot be chosen as asked."""


class NegativesExhaustedError(SamplingError):
    """No window without foreground was found within the allowed tries.

    Parameters
    ----------
    message : str
        Says wanted, found and tries.
    wanted, found, tries : int, optional
        The same as numbers.
    refused : mapping of str to int, optional
        How many of the tries were refused, by reason.
    """

    def __init__(
        self,
        message: str,
        *,
        wanted: int | None = None,
        found: int | None = None,
        tries: int | None = None,
        refused: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(message)
        self.wanted = wanted
        self.found = found
        self.tries = tries
        self.refused = dict(refused or {})


class MissingDependencyError(SlideSamplerError, ImportError):
    """An optional package is not installed; the message is the command that installs it."""
