"""How large a source's windows are, in the pixels of each image."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidesampler.errors import TargetError
from slidesampler.geometry import Window, ceil_size
from slidesampler.sampling.base import SourceSampler
from slidesampler.sampling.snap import checked_snap, step_of
from slidesampler.target import Target

__all__ = ["WindowShape", "image_sizes"]

#: Output pixels whose extent tells the scale of an image to a hundredth of what matters.
_MANY = 1 << 20
#: Fields of a target that say *how* it is read; the others say where, which is the source's business.
HOW_FIELDS = ("channels", "dtype", "nodata", "padding")


@dataclass(frozen=True, slots=True)
class WindowShape:
    """How large the windows of a source are, and how they are to be read.

    Parameters
    ----------
    size : (int, int)
        Output pixels, ``(height, width)``.
    downsample : float or None
        Level-0 pixels per output pixel, at least 1.
    mpp : float or None
        Micrometres per output pixel; needs images whose resolution is known. Not with ``downsample``.
    how : Target
        ``channels``, ``dtype``, ``nodata`` and ``padding`` of every target.
    snap : (int, int) or None
        Windows start at multiples of this many output pixels, ``(y, x)``; anywhere where None.

    See Also
    --------
    WindowShape.of : parses what a user gives.
    """

    size: tuple[int, int]
    downsample: float | None
    mpp: float | None
    how: Target
    snap: tuple[int, int] | None = None

    @classmethod
    def of(
        cls,
        size: int | tuple[int, int],
        downsample: float | None = None,
        mpp: float | None = None,
        how: Target | Mapping[str, Any] | None = None,
        snap: int | tuple[int, int] | None = None,
    ) -> WindowShape:
        """Return the shape that a user's words mean; one number is a square.

        Raises
        ------
        TargetError
            For values that no target takes, both scales at once, a ``how`` that says where, a ``snap`` that is
            more than the size, or one that is no whole number of level-0 pixels.
        """
        # One door for everything that becomes part of a target: its own parser.
        given = Target.from_mapping({"size": size, "downsample": downsample, "mpp": mpp})
        if given.size is None:
            raise TargetError("size must be a whole number of output pixels or (height, width), got None")
        if given.downsample is not None and given.mpp is not None:
            raise TargetError("'downsample' and 'mpp' both say the output pixel size; give one of them")
        template = Target() if how is None else Target.coerce(how)
        misplaced = set(template.to_mapping()) - set(HOW_FIELDS)
        if misplaced:
            raise TargetError(
                f"how takes {', '.join(HOW_FIELDS)}, got {', '.join(sorted(misplaced))}: "
                "the source itself chooses where and how large"
            )
        pair = None if snap is None else checked_snap(snap, given.size)
        if pair is not None and given.mpp is None:
            for one in pair:
                step_of(one, given.downsample or 1.0)
        return cls(given.size, given.downsample, given.mpp, template, pair)

    def extents(self, sampler: SourceSampler, image_ids: Iterable[int]) -> NDArray[np.int64]:
        """Return ``(height, width)`` of a window in level-0 pixels of each image, int64 ``(n, 2)``.

        Raises
        ------
        TargetError
            If ``mpp`` is asked for and an image has no known resolution.
        """
        if self.mpp is None:
            scale = self.downsample or 1.0
            extent = ceil_size(self.size[0] * scale), ceil_size(self.size[1] * scale)
            return np.array([extent for _ in image_ids], dtype=np.int64).reshape(-1, 2)
        return self._by_resolution(
            sampler, image_ids, lambda image_id: self._probe(sampler, image_id, self.size)
        )

    def steps(self, sampler: SourceSampler, image_ids: Iterable[int]) -> NDArray[np.int64]:
        """Return what the starts of windows are multiples of in each image, int64 ``(n, 2)``, ``(y, x)``.

        Level-0 pixels; 1 where windows may start anywhere.

        Raises
        ------
        TargetError
            If ``snap`` is no whole number of level-0 pixels of an image, or ``mpp`` is asked for and an image
            has no known resolution.
        """
        if self.snap is None:
            return np.array([(1, 1) for _ in image_ids], dtype=np.int64).reshape(-1, 2)
        if self.mpp is None:
            step = self._steps_at(self.downsample or 1.0, self.downsample or 1.0)
            return np.array([step for _ in image_ids], dtype=np.int64).reshape(-1, 2)

        def steps(image_id: int) -> tuple[int, int]:
            height, width = self._probe(sampler, image_id, (_MANY, _MANY))
            return self._steps_at(height / _MANY, width / _MANY, f" of image {image_id}")

        return self._by_resolution(sampler, image_ids, steps)

    def _steps_at(self, scale_y: float, scale_x: float, where: str = "") -> tuple[int, int]:
        assert self.snap is not None
        return step_of(self.snap[0], scale_y, where), step_of(self.snap[1], scale_x, where)

    def _by_resolution(
        self, sampler: SourceSampler, image_ids: Iterable[int], ask: Callable[[int], tuple[int, int]]
    ) -> NDArray[np.int64]:
        # Asked once per resolution that the manifest knows: the sampler may open the image to answer.
        known: dict[tuple[float, float], tuple[int, int]] = {}
        found = []
        for image_id in image_ids:
            mpp = sampler.image_record(image_id).mpp
            if mpp is None:
                found.append(ask(image_id))
                continue
            if mpp not in known:
                known[mpp] = ask(image_id)
            found.append(known[mpp])
        return np.array(found, dtype=np.int64).reshape(-1, 2)

    def _probe(self, sampler: SourceSampler, image_id: int, size: tuple[int, int]) -> tuple[int, int]:
        probe = Target(image_id=image_id, cx=0.0, cy=0.0, size=size, mpp=self.mpp)
        window = sampler.resolve(probe).window
        assert window is not None
        return window.shape

    def target(
        self,
        image_id: int,
        window: Window,
        kind: str,
        index: int,
        annot_id: int | None = None,
        category_id: int | None = None,
    ) -> Target:
        """Return the target of one window."""
        # A window at full resolution implies its size; saying it again would only make batches larger.
        scaled = self.downsample is not None or self.mpp is not None
        return self.how.with_fields(
            image_id=image_id,
            window=window,
            size=self.size if scaled else None,
            downsample=self.downsample,
            mpp=self.mpp,
            kind=kind,
            index=index,
            annot_id=annot_id,
            category_id=category_id,
        )


def image_sizes(sampler: SourceSampler, image_ids: Iterable[int]) -> NDArray[np.int64]:
    """Return ``(height, width)`` of images, int64 ``(n, 2)``.

    Opens only those whose size the manifest leaves out: opening every slide of a large manifest, once more in
    each worker, would make the start of training slow.
    """
    sizes = []
    for image_id in image_ids:
        record = sampler.image_record(image_id)
        if record.height is None or record.width is None:
            sizes.append(sampler.image_shape(image_id)[:2])
        else:
            sizes.append((record.height, record.width))
    return np.array(sizes, dtype=np.int64).reshape(-1, 2)
