"""How much is measured."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["BenchOptions"]


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """How much is measured.

    Parameters
    ----------
    window : int or (height, width)
        Level-0 pixels of the windows that are intended.
    images : int
        How many are taken, spread evenly over the manifest.
    only_images : tuple of int, optional
        Image ids; taken instead.
    crop : int, optional
        Side of the part that is taken of each, pixels; where None 4096 for windows of up to 256 pixels, 8192
        for larger ones. At least twice the window.
    whole : bool
        Take images whole, however large.
    windows : int
        A round, at most: fewer where no more fit without sharing a tile.
    rounds : int
    threads : int, optional
        As many as this process may use where None.
    batch : int
        Windows a call.
    seconds : float, optional
        After half of that no further variant is built, after all of it no further round begun; no limit where
        None. What was begun is finished.
    with_mask : bool
        Read masks with the pixels.
    seed : int
        Of the places of windows.
    keep : bool
        Leave what was built.

    Raises
    ------
    ValueError
        If a number is less than 1.
    """

    window: int | tuple[int, int] = 256
    images: int = 3
    only_images: tuple[int, ...] | None = None
    crop: int | None = None
    whole: bool = False
    windows: int = 200
    rounds: int = 3
    threads: int | None = None
    batch: int = 32
    seconds: float | None = None
    with_mask: bool = False
    seed: int = 0
    keep: bool = False

    def __post_init__(self) -> None:
        for name in ("images", "windows", "rounds", "batch", "crop", "threads", "window"):
            value = min(self.sides) if name == "window" else getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.seconds is not None and not self.seconds > 0:
            raise ValueError(f"seconds must be more than 0, got {self.seconds}")

    @property
    def sides(self) -> tuple[int, int]:
        """``(height, width)`` of the window."""
        return (self.window, self.window) if isinstance(self.window, int) else self.window

    @property
    def crop_side(self) -> int | None:
        """Side of the parts, pixels; None for whole images."""
        if self.whole:
            return None
        longer = max(self.sides)
        return max(self.crop or (4096 if longer <= 256 else 8192), 2 * longer)
