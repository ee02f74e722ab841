"""The part of a sampler that builds its cache: what would be built and why, and building it.

Apart from :mod:`slidesampler.sampler`, which reads: nothing here runs when a window is loaded, and nothing that
loads a window is needed to build. It is a base class rather than an object of its own since users call both on
one sampler.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from slidesampler.cache import BuildPlan, BuildReport, BuildSpec, CacheStore, Progress, build, plan_build
from slidesampler.cache.tile_size import TileSize, resolve_tile
from slidesampler.manifest import Manifest
from slidesampler.models import LabelSpec

__all__ = ["BuildsCache"]


class HasCache(Protocol):
    """What the methods below need of the sampler that they are methods of."""

    manifest: Manifest
    backend: str | None
    label_spec: LabelSpec

    def _store(self) -> CacheStore:
        """Return the cache."""
        ...

    def refresh(self) -> None:
        """Forget what was looked up in the cache."""
        ...


class BuildsCache:
    """Methods of :class:`slidesampler.Sampler` that build its cache."""

    def plan(
        self: HasCache,
        backend: str | None = None,
        *,
        codec: str = "auto",
        quality: int | None = None,
        tile: TileSize = 256,
        window: int | tuple[int, int] | None = None,
        only_images: Sequence[int] | None = None,
        labels: bool = True,
        instances: bool = False,
        full_hash: bool = False,
        force: bool = False,
    ) -> BuildPlan:
        """Return what :meth:`build` with the same arguments would do, and why, without doing it."""
        tile = resolve_tile(tile, window, codec=codec)
        spec = _spec(self, backend, codec, quality, tile, labels, instances, full_hash)
        return plan_build(self.manifest, spec, self._store(), only_images=only_images, force=force)

    def build(
        self: HasCache,
        backend: str | None = None,
        *,
        codec: str = "auto",
        quality: int | None = None,
        tile: TileSize = 256,
        window: int | tuple[int, int] | None = None,
        jobs: int = 1,
        only_images: Sequence[int] | None = None,
        labels: bool = True,
        instances: bool = False,
        full_hash: bool = False,
        force: bool = False,
        progress: Progress | None = None,
    ) -> BuildReport:
        """Build the cache: what is missing or stale, nothing else.

        One image that cannot be built does not stop the others: look at ``report.failed``.

        Parameters
        ----------
        backend : {"auto", "cog", "npy"}, optional
            The sampler's own where None (``"cog"`` where it has none). ``"auto"`` records sources whose tiles
            can be read where they lie, and converts the others to COG.
        codec : {"auto", "zstd", "deflate", "lzw", "jpeg", "webp", "none"}
            ``"auto"`` never adds loss.
        quality : int, optional
            1 to 100, for jpeg and webp.
        tile : {128, 256, 512} or "auto"
            Of a COG, pixels; ``"auto"`` suits the windows.
        window : int or (height, width), optional
            Output size of the windows that are intended, for ``tile="auto"``.
        jobs : int
            Worker processes.
        only_images : sequence of int, optional
            Image ids; all where None.
        labels, instances : bool
            Whether label layers (and instance layers) are written.
        full_hash : bool
            Remember a hash of the whole source, not of sampled blocks: finds any edit, and reads every source
            once more.
        force : bool
            Build again what is there, and copy valid COGs that would be used where they lie.
        progress : Progress, optional
            Told of images and megapixels as they are done.

        Returns
        -------
        BuildReport

        Raises
        ------
        CodecError
            For a codec that does not exist or is not in this GDAL.
        ValueError
            If the tile is ``"auto"`` and no window is given, or a window for a tile of a given size.
        """
        tile = resolve_tile(tile, window, codec=codec)
        spec = _spec(self, backend, codec, quality, tile, labels, instances, full_hash)
        report = build(
            self.manifest,
            spec,
            self._store(),
            jobs=jobs,
            only_images=only_images,
            force=force,
            progress=progress,
        )
        self.refresh()
        return report


def _spec(
    sampler: HasCache,
    backend: str | None,
    codec: str,
    quality: int | None,
    tile: int,
    labels: bool,
    instances: bool,
    full_hash: bool,
) -> BuildSpec:
    return BuildSpec(
        backend or sampler.backend or "cog",
        codec,
        quality,
        tile,
        labels,
        instances,
        label_spec=sampler.label_spec,
        full_hash=full_hash,
    )
