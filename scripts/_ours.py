"""The package itself for ``bench_read.py``: windows one by one and in batches, with their layers or without."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from _peers import WINDOW, Places, Read

from slidesampler import Manifest, Sampler, Target, Window

BATCH_1, BATCH_2 = "load_batch", "load_batch, 2 threads"


class Contender(NamedTuple):
    """A name, how to open it, and what its pixels are compared with: ``same``, ``near`` or unknown yet."""

    name: str
    open: Callable[[], Read]
    ours: bool = False


def ours(manifest: Manifest, work: Path, backend: str, codec: str) -> list[Contender]:
    """The package itself: windows one by one, and batches."""

    alive: weakref.WeakSet[Sampler] = weakref.WeakSet()

    def sampler() -> Sampler:
        """One for all that are open at a time, as in a process that trains: its files are mapped once."""
        for found in alive:
            return found
        made = Sampler(manifest, workdir=work, backend=backend, codec=codec)
        alive.add(made)
        return made

    def targets(image_id: int, places: Places) -> list[Target]:
        return [Target(image_id=image_id, window=Window(y, x, WINDOW, WINDOW)) for y, x in places]

    def one_by_one(*, with_mask: bool = False, with_annots: bool = False) -> Callable[[], Read]:
        def open_reader() -> Read:
            reader = sampler()
            image_id = reader.image_ids[0]
            return lambda places: [
                reader.load_sample(target, with_annots, with_mask).image for target in targets(image_id, places)
            ]

        return open_reader

    def batched(
        threads: int, *, with_mask: bool = False, with_annots: bool = False, first: bool = False
    ) -> Callable[[], Read]:
        def open_reader() -> Read:
            reader = sampler()
            image_id = reader.image_ids[0]

            def read(places: Places) -> Any:
                image = reader.load_batch(
                    targets(image_id, places),
                    threads=threads,
                    with_mask=with_mask,
                    with_annots=with_annots,
                    channels_first=first,
                ).image
                return np.moveaxis(image, 1, 3) if first else image

            return read

        return open_reader

    named = {
        "load_sample": one_by_one(),
        "load_sample + mask": one_by_one(with_mask=True),
        "load_sample + annotations": one_by_one(with_annots=True),
        BATCH_1: batched(1),
        f"{BATCH_1}, NCHW": batched(1, first=True),
        "load_batch + mask": batched(1, with_mask=True),
        "load_batch + mask + annotations": batched(1, with_mask=True, with_annots=True),
        BATCH_2: batched(2),
        "load_batch + mask, 2 threads": batched(2, with_mask=True),
    }
    return [Contender(name, opened, ours=True) for name, opened in named.items()]
