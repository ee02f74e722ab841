"""From targets to a batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from slidesampler.batching.arrays import BatchArrays, the_same
from slidesampler.batching.batch import Batch
from slidesampler.batching.reading import read_batch
from slidesampler.errors import ReadError, TargetError
from slidesampler.loading import SampleLoader, Wanted, is_sequence
from slidesampler.machine import usable_threads
from slidesampler.target import Target

__all__ = ["BatchLoader"]


class BatchLoader:
    """Loads windows of one size as stacked arrays.

    Parameters
    ----------
    loader : SampleLoader
        Resolves targets, and reads what the compiled reader does not.
    """

    def __init__(self, loader: SampleLoader) -> None:
        self._loader = loader

    def load(
        self,
        targets: Iterable[Target | Mapping[str, Any]],
        out: Batch | Mapping[str, Any] | None,
        threads: int | None,
        wanted: Wanted,
        *,
        channels_first: bool,
    ) -> Batch:
        """Return a batch; see :meth:`slidesampler.Sampler.load_batch`."""
        asked = [Target.coerce(target) for target in targets]
        if not asked:
            raise TargetError("a batch needs at least one target, got none")
        if threads is not None and threads < 1:
            raise ValueError(f"threads must be at least 1, got {threads}")
        threads = threads or usable_threads()
        frames, flat = self._frames(asked)

        def load() -> Batch:
            targets = [self._loader.resolve(target) for target in flat]
            arrays = self._arrays(targets, frames, wanted, out, channels_first)
            read_batch(self._loader, targets, arrays, threads)
            return arrays.batch(targets, asked, self._annots(targets, wanted))

        try:
            return load()
        except (ReadError, FileNotFoundError) as error:
            if not self._loader.may_be_outdated(error):
                raise
        for target in flat:
            self._loader.forget(target)
        return load()

    def load_alike(
        self,
        targets: Iterable[Target | Mapping[str, Any]],
        threads: int | None,
        wanted: Wanted,
        *,
        channels_first: bool,
    ) -> list[tuple[tuple[int, ...], Batch]]:
        """Return a batch for each kind of window; see :meth:`slidesampler.Sampler.load_batches`."""
        asked = [Target.coerce(target) for target in targets]
        alike: dict[tuple[Any, ...], list[int]] = {}
        for slot, target in enumerate(asked):
            frames = self._loader.frames(target) if is_sequence(target) else [target]
            if not frames:
                raise TargetError(f"video {target.video_id} has no frames; name their 'image_ids'")
            first = self._loader.resolve(frames[0])
            kind = (is_sequence(target), len(frames), first.size, *self._pixels_of(first))
            alike.setdefault(kind, []).append(slot)
        found = []
        for slots in alike.values():
            some = [asked[slot] for slot in slots]
            batch = self.load(some, None, threads, wanted, channels_first=channels_first)
            found.append((tuple(slots), batch))
        return found

    def _frames(self, asked: Sequence[Target]) -> tuple[int | None, list[Target]]:
        """Return how many frames each sequence has, and all of them in a row; None where there is none."""
        sequences = [is_sequence(target) for target in asked]
        if not any(sequences):
            return None, list(asked)
        if not all(sequences):
            raise TargetError("a batch holds sequences or single images, not both")
        frames = [self._loader.frames(target) for target in asked]
        count = the_same("numbers of frames", [len(some) for some in frames], "name the 'image_ids'")
        if not count:
            raise TargetError("the sequences of a batch have no frames; name their 'image_ids'")
        return count, [frame for some in frames for frame in some]

    def _arrays(
        self,
        targets: Sequence[Target],
        frames: int | None,
        wanted: Wanted,
        out: Batch | Mapping[str, Any] | None,
        channels_first: bool,
    ) -> BatchArrays:
        size = the_same("sizes", [target.size for target in targets], "give all of them the same 'size'")
        # Looked up once for each image, and each wish.
        kinds = {(target.image_id, target.channels, target.dtype): target for target in targets}
        found = [self._pixels_of(target) for target in kinds.values()]
        channels = the_same("numbers of channels", [kind[0] for kind in found], "name the 'channels'")
        dtype = the_same("dtypes", [kind[1] for kind in found], "say the 'dtype'")
        layers: dict[str, np.dtype[Any]] = {"valid": np.dtype(np.bool_)}
        if wanted.mask:
            layers["mask"] = self._loader.manifest.class_map.dtype
        if wanted.instances:
            layers["instances"] = np.dtype(np.uint32)
        n = len(targets)
        return BatchArrays(n, frames, size, channels, dtype, layers, out, channels_first=channels_first)

    def _pixels_of(self, target: Target) -> tuple[int, np.dtype[Any]]:
        """Return the number of channels and the dtype that a target gives."""
        assert target.image_id is not None
        source = self._loader.sources.get(target.image_id)
        channels = self._loader.channels(target, source)
        count = source.shape[2] if channels is None else len(channels)
        return count, source.dtype if target.dtype is None else np.dtype(target.dtype)

    def _annots(self, targets: Sequence[Target], wanted: Wanted) -> list[Any] | None:
        if not wanted.annots:
            return None
        annots = self._loader.layers.annots
        return [annots(*self._loader.view(target), wanted.visible_threshold) for target in targets]
