"""What became of a build: one row an image or label layer."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["BuildReport", "BuildRow", "Status"]

Status = Literal["built", "reused", "in-place", "failed"]


@dataclass(frozen=True, slots=True)
class BuildRow:
    """What became of one image or label layer.

    Parameters
    ----------
    image_id : int
    name : str
    what : {"image", "labels"}
    status : {"built", "reused", "in-place", "failed"}
        ``"reused"`` also where another process built it meanwhile.
    reason : str
        Why it was built or reused; for ``"failed"`` the class and message of the error.
    path : str
        The source (the first file of several).
    folder : str
        Of the entry.
    seconds : float
    megapixels : float
        Level-0 pixels / 1e6; 0 where the image was never opened.
    size_bytes : int
        Of the entry's files in the cache; 0 for a COG used in place.
    """

    image_id: int
    name: str
    what: Literal["image", "labels"]
    status: Status
    reason: str
    path: str = ""
    folder: str = ""
    seconds: float = 0.0
    megapixels: float = 0.0
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class BuildReport:
    """What became of a build.

    Parameters
    ----------
    rows : tuple of BuildRow
        In the order of the plan: the manifest's, each image before its label layer.
    workdir : str
    backend : str
    seconds : float
        From the call to the return.
    """

    rows: tuple[BuildRow, ...]
    workdir: str
    backend: str
    seconds: float

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[BuildRow]:
        return iter(self.rows)

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return not self.failed

    @property
    def failed(self) -> tuple[BuildRow, ...]:
        """The rows that failed."""
        return tuple(row for row in self.rows if row.status == "failed")

    @property
    def counts(self) -> dict[str, int]:
        """Number of rows by status."""
        return dict(Counter(row.status for row in self.rows))

    @property
    def megapixels(self) -> float:
        """Level-0 pixels / 1e6 of the images and label layers that were built."""
        return sum(row.megapixels for row in self.rows if row.status == "built")

    @property
    def size_bytes(self) -> int:
        """Bytes of all entries of the report that are in the cache."""
        return sum(row.size_bytes for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON-ready values."""
        return {
            "ok": self.ok,
            "workdir": self.workdir,
            "backend": self.backend,
            "seconds": self.seconds,
            "counts": self.counts,
            "rows": [asdict(row) for row in self.rows],
        }

    def to_json(self, *, indent: int | None = None) -> str:
        """Return the report as JSON text."""
        return json.dumps(self.to_dict(), indent=indent)
