"""What was measured: a row a variant, figures with their spread, JSON-ready."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Literal

from slidesampler.cache import BuildSpec

__all__ = [
    "Alternative",
    "CacheBench",
    "CacheVariant",
    "MeasuredPart",
    "Recommendation",
    "Spread",
    "VariantMeasurement",
]

Kind = Literal["in-place", "auto", "npy", "cog"]


@dataclass(frozen=True, slots=True)
class CacheVariant:
    """One way to keep images.

    Parameters
    ----------
    backend : {"in-place", "auto", "npy", "cog"}
        ``"in-place"``: the sources where they lie, by whatever reads them, nothing is built. ``"auto"``: the
        sources where they lie, recorded in the cache with tables of their tiles.
    codec : str
        Of a COG, never ``"auto"``; ``""`` for the others.
    quality : int or None
        Of a lossy codec; the codec's default where None.
    tile : int
        Of a COG, pixels; 0 for the others.
    """

    backend: Kind
    codec: str = ""
    quality: int | None = None
    tile: int = 0

    @property
    def name(self) -> str:
        """As people read it: ``"cog zstd 256"``."""
        quality = "" if self.quality is None else f" q{self.quality}"
        return f"cog {self.codec}{quality} {self.tile}" if self.backend == "cog" else self.backend

    @property
    def in_place(self) -> bool:
        """Whether pixels are read where the user put them."""
        return self.backend in ("in-place", "auto")

    @property
    def lossless(self) -> bool:
        """Whether pixels come back exactly as the sources give them."""
        return self.backend != "cog" or BuildSpec("cog", self.codec, self.quality).lossless

    def build_spec(self, *, labels: bool) -> BuildSpec:
        """Return how it is built.

        Raises
        ------
        ValueError
            For sources in place, or a variant that there is not (``CodecError`` for its codec).
        """
        if self.backend == "in-place":
            raise ValueError("sources in place are not built")
        if self.backend != "cog":
            return BuildSpec(self.backend, labels=labels)
        return BuildSpec("cog", self.codec, self.quality, self.tile, labels=labels)


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure that was taken several times.

    Parameters
    ----------
    median, low, high : float
        ``low`` and ``high`` are the smallest and the largest.
    count : int
        How many times.

    Examples
    --------
    >>> Spread.of([3.0, 1.0, 2.0])
    Spread(median=2.0, low=1.0, high=3.0, count=3)
    """

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of some values, at least one."""
        return cls(float(median(values)), float(min(values)), float(max(values)), len(values))

    @property
    def half_range(self) -> float:
        """Half the distance from low to high, as a share of the median."""
        return (self.high - self.low) / 2 / self.median if self.median else 0.0


@dataclass(frozen=True, slots=True)
class MeasuredPart:
    """What of an image was taken.

    Parameters
    ----------
    image_id : int
    name : str
    y, x, height, width : int
        Level-0 pixels.
    image_height, image_width : int
        Of the image.
    """

    image_id: int
    name: str
    y: int
    x: int
    height: int
    width: int
    image_height: int
    image_width: int

    @property
    def whole(self) -> bool:
        """Whether that is all of the image."""
        return (self.height, self.width) == (self.image_height, self.image_width)

    @property
    def megapixels(self) -> float:
        """Level-0 pixels / 1e6."""
        return self.height * self.width / 1e6


@dataclass(frozen=True, slots=True)
class VariantMeasurement:
    """What was found of one variant.

    Parameters
    ----------
    variant : CacheVariant
    status : {"measured", "failed", "skipped"}
    reason : str
        Why it failed or was skipped; empty for ``"measured"``.
    size_bytes : int
        Of the files of the parts that were built; 0 for sources in place.
    bytes_per_megapixel : float
        Of the same.
    total_bytes : float
        Of the cache of the whole manifest, if all of it is like the parts; 0 for sources in place.
    build_megapixels_per_s : Spread or None
        By one job that compresses on all threads, reading of the source included; a figure a part. None for
        sources in place.
    cold_one, cold_all, warm_one, warm_all : Spread or None
        Windows a second by one thread and by all, with the files not in the system's page cache and in it; a
        figure a round. Cold is None where files could not be dropped from it.
    left_in_memory : float or None
        Share of the files that was still in the page cache when a cold read began; None where unknown.
    """

    variant: CacheVariant
    status: Literal["measured", "failed", "skipped"]
    reason: str = ""
    size_bytes: int = 0
    bytes_per_megapixel: float = 0.0
    total_bytes: float = 0.0
    build_megapixels_per_s: Spread | None = None
    cold_one: Spread | None = None
    cold_all: Spread | None = None
    warm_one: Spread | None = None
    warm_all: Spread | None = None
    left_in_memory: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the row as JSON-ready values."""
        own = {"name": self.variant.name, **asdict(self.variant), "lossless": self.variant.lossless}
        return {**own, **{key: value for key, value in asdict(self).items() if key != "variant"}}


@dataclass(frozen=True, slots=True)
class Alternative:
    """What else might be built.

    Parameters
    ----------
    when : str
        For whom: ``"Smaller without loss"``, ``"If loss is acceptable"``.
    variant : CacheVariant
    windows_per_s : float
        What to expect of it.
    text : str
        What it would gain and cost, in a sentence or two.
    command : str
        The shell command that builds it.
    """

    when: str
    variant: CacheVariant
    windows_per_s: float
    text: str
    command: str


@dataclass(frozen=True, slots=True)
class Recommendation:
    """What to build.

    Parameters
    ----------
    variant : CacheVariant or None
        None where nothing was measured.
    windows_per_s : float
        What to expect of it, see :func:`slidesampler.measure.expected_rate`.
    reasons : tuple of str
        One sentence each.
    command : str
        The shell command that builds it; empty for sources in place.
    alternatives : tuple of Alternative
    """

    variant: CacheVariant | None
    windows_per_s: float
    reasons: tuple[str, ...]
    command: str = ""
    alternatives: tuple[Alternative, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-ready values."""
        return {
            **asdict(self),
            "name": None if self.variant is None else self.variant.name,
            "alternatives": [{**asdict(item), "name": item.variant.name} for item in self.alternatives],
        }


@dataclass(frozen=True, slots=True)
class CacheBench:
    """Everything that was measured, and how.

    Parameters
    ----------
    rows : tuple of VariantMeasurement
        In the order in which they were asked for.
    recommendation : Recommendation
    parts : tuple of MeasuredPart
        What was taken of the images.
    window : (int, int)
        ``(height, width)`` of the windows, level-0 pixels.
    windows : int
        In each round; no two of them share a tile.
    rounds, threads, batch : int
        Rounds at most (each figure says how many it had), threads of "all", windows a call.
    with_mask : bool
        Whether masks were read too.
    images : int
        In the manifest.
    megapixels : float
        Of all of them, level 0; images whose size the manifest does not say counted as the mean of the others.
    workdir : str
        Folder whose disk was measured.
    free_bytes, memory_bytes : int
        Free there; memory of the machine, or the process's limit.
    seconds : float
        From the call to the return.
    notes : tuple of str
        What a reader of the figures should know.
    """

    rows: tuple[VariantMeasurement, ...]
    recommendation: Recommendation
    parts: tuple[MeasuredPart, ...]
    window: tuple[int, int]
    windows: int
    rounds: int
    threads: int
    batch: int
    with_mask: bool
    images: int
    megapixels: float
    workdir: str
    free_bytes: int
    memory_bytes: int
    seconds: float
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[VariantMeasurement]:
        return iter(self.rows)

    @property
    def measured(self) -> tuple[VariantMeasurement, ...]:
        """The rows that have figures."""
        return tuple(row for row in self.rows if row.status == "measured")

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-ready values."""
        return {
            **asdict(self),
            "rows": [row.to_dict() for row in self.rows],
            "recommendation": self.recommendation.to_dict(),
        }
