"""Channel specs (``"r|g|b"``, ``"B1.0:3"``) -> channel names, by kwcoco's own rules."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Any

from slidesampler.manifest.fields import FieldFault, short

__all__ = ["KWCOCO_ALIASES", "channel_names"]

#: Words that kwcoco reads as several channels; a test compares them with kwcoco's.
KWCOCO_ALIASES = frozenset({"dxdy", "fxfy", "rgb", "rgba"})
#: Names that mean themselves. Importing kwcoco's parser takes seconds, so it is asked about the others only.
_PLAIN = re.compile(r"[\w\-]+(\.\w+)*")
#: A slice such as ``B.0:1000000`` would be expanded into that many names.
_LONG_NUMBER = re.compile(r"\d{6}")


def channel_names(value: Any, field: str) -> tuple[str, ...]:
    """Return the names of channels in order; empty for null.

    Parameters
    ----------
    value : str, sequence of str or None
        A kwcoco channel spec, or the names themselves.
    field : str
        What to name in a fault.

    Raises
    ------
    FieldFault
        If it is of another type, or kwcoco cannot parse it, or a name is empty or there twice.
    """
    if value is None or value == "":
        return ()
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        if not all(isinstance(item, str) for item in value):
            raise FieldFault(field, f"must be a channel spec or a list of names, found {short(value)}")
        names = tuple(value)
    elif isinstance(value, str):
        names = _parse(value, field)
    else:
        raise FieldFault(field, f"must be a channel spec such as 'r|g|b', found {short(value)}")
    if "" in names or len(set(names)) < len(names):
        raise FieldFault(field, f"must give every channel a name of its own, found {short(value)}")
    return names


@functools.lru_cache(maxsize=1024)
def _parse(spec: str, field: str) -> tuple[str, ...]:
    parts = [part.strip() for part in spec.split("|")]
    if all(_PLAIN.fullmatch(part) and part not in KWCOCO_ALIASES for part in parts):
        return tuple(parts)
    if ":" in spec and _LONG_NUMBER.search(spec):
        raise FieldFault(field, f"names too many channels: {short(spec)}")
    import kwcoco

    try:
        # By way of an image, since the name kwcoco.ChannelSpec is deprecated and going away.
        image = kwcoco.CocoImage({"file_name": "", "channels": spec.replace(" ", "")})
        names = tuple(image.channels.fuse().normalize().as_list())
    except Exception as error:  # whatever its parser trips over is the manifest's fault
        raise FieldFault(field, f"is no channel spec: {short(spec)} ({error})") from error
    if not names:
        raise FieldFault(field, f"names no channel: {short(spec)}")
    return names
