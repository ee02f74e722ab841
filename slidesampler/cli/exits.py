"""Exit codes, and which error ends a command with which."""

from __future__ import annotations

import enum

from slidesampler.errors import (
    BuildError,
    CacheError,
    CodecError,
    ManifestError,
    MissingDependencyError,
    NegativesExhaustedError,
    SamplingError,
    SlideSamplerError,
    TargetError,
)

__all__ = ["ExitCode", "exit_code_of"]


class ExitCode(enum.IntEnum):
    """How a command ended.

    Attributes
    ----------
    OK
        Everything that was asked for is done.
    FAILED
        Some images or entries failed, the others are done; or windows of a source that was asked for ran out.
    USAGE
        What was asked for makes no sense: an option, a manifest, a folder that is no cache.
    ENVIRONMENT
        This machine lacks something: a library, disk space, a permission.
    INTERRUPTED
        Control-C.
    """

    OK = 0
    FAILED = 1
    USAGE = 2
    ENVIRONMENT = 3
    INTERRUPTED = 130


#: The first class that matches decides.
_BY_CLASS: tuple[tuple[type[BaseException], ExitCode], ...] = (
    (MissingDependencyError, ExitCode.ENVIRONMENT),
    (CodecError, ExitCode.USAGE),
    (BuildError, ExitCode.ENVIRONMENT),
    (ManifestError, ExitCode.USAGE),
    (TargetError, ExitCode.USAGE),
    (CacheError, ExitCode.USAGE),
    (NegativesExhaustedError, ExitCode.FAILED),
    (SamplingError, ExitCode.USAGE),
    (SlideSamplerError, ExitCode.FAILED),
    (OSError, ExitCode.ENVIRONMENT),
    (KeyboardInterrupt, ExitCode.INTERRUPTED),
)


def exit_code_of(error: BaseException) -> ExitCode | None:
    """Return the code that an error ends a command with; None for one that is a fault of the program."""
    for cls, code in _BY_CLASS:
        if isinstance(error, cls):
            return code
    return None
