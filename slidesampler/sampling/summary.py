"""``summarize``: what a set of windows shows of a dataset, beside what was asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from slidesampler.errors import SamplingError
from slidesampler.models import NO_CATEGORY
from slidesampler.sampling.base import SourceSampler
from slidesampler.sampling.draw_record import DrawRecord
from slidesampler.sampling.judge import target_counts
from slidesampler.sampling.log_columns import UNKNOWN, LogColumns
from slidesampler.sampling.seen import cover_image, seen_share
from slidesampler.sampling.statistics import (
    AskedShares,
    ClassServed,
    ImageServed,
    KindServed,
    SampleSummary,
    TryCounts,
)
from slidesampler.target import Target

__all__ = ["suggest_weights", "summarize"]

#: Suggested weights differ by this factor at most: more would show the same few windows again and again.
MAX_RATIO = 10.0


def summarize(
    targets: LogColumns | Iterable[Target | Mapping[str, Any]],
    sampler: SourceSampler,
    *,
    asked: AskedShares | None = None,
    records: Iterable[DrawRecord | None] | None = None,
    count_at_most: int = 20_000,
    seed: int | None = None,
    epoch: int | None = None,
) -> SampleSummary:
    """Return what a set of windows shows of a dataset.

    Parameters
    ----------
    targets : LogColumns or iterable of Target or mapping
        What was served, from :func:`~slidesampler.sampling.log_columns.read_log`; or what a source gives. The
        frames of a sequence count one by one.
    sampler : Sampler
    asked : AskedShares, optional
        What to compare with; see :func:`~slidesampler.sampling.asked.asked_shares`.
    records : iterable of DrawRecord or None, optional
        What it took to choose each target, in their order. A log's own numbers where None.
    count_at_most : int
        Windows whose mask is counted, evenly chosen where there are more; 0 counts none. A log that has the
        counts of all its windows is taken at its word.
    seed, epoch : int, optional
        Where the targets come from; carried along. A log says the epochs itself.

    Raises
    ------
    SamplingError
        If there is no window.
    TargetError
        For an image that the sampler has not.
    """
    served = _served(targets, sampler)
    if not len(served.rows):
        raise SamplingError("there are no windows to summarize: the log or the list of targets is empty")
    asked = asked or AskedShares()
    pixels = _pixels(served, targets, sampler, count_at_most)
    logged = targets if isinstance(targets, LogColumns) else None
    epochs = () if epoch is None else (epoch,)
    if logged is not None:
        epochs = tuple(number for number in np.unique(logged.epochs).tolist() if number != UNKNOWN)
    return SampleSummary(
        windows=len(served.rows),
        kinds=_kinds(served.kinds, asked),
        classes=_classes(served, asked, pixels, sampler),
        images=_images(served, asked, sampler),
        tries=_logged_tries(logged) if records is None else _tries(served.item_kinds, records),
        duplicates=_duplicates(served),
        seed=seed,
        epochs=epochs,
        counted=0 if pixels is None else pixels.counted,
    )


def suggest_weights(wanted: NDArray[np.float64], served: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return weights for the next run: what is wanted over what was served.

    Parameters
    ----------
    wanted, served : float64 (n,)
        Shares. What is not wanted at all gets 0.

    Returns
    -------
    float64 (n,)
        Sums to 1 (or all 0 where nothing is wanted); the largest is at most ten times the smallest above 0.

    Examples
    --------
    >>> suggest_weights(np.array([0.5, 0.5, 0.0]), np.array([0.8, 0.2, 0.0])).round(3).tolist()
    [0.2, 0.8, 0.0]
    """
    ratios: NDArray[np.float64] = np.full(len(wanted), np.inf)
    np.divide(wanted, served, out=ratios, where=served > 0)
    ratios[wanted <= 0] = 0.0
    kept = ratios > 0
    if not kept.any():
        return ratios
    lowest = float(ratios[kept].min())
    ratios[kept] = np.minimum(ratios[kept], lowest * MAX_RATIO) if np.isfinite(lowest) else 1.0
    ratios /= ratios.sum()
    return ratios


class _Served(NamedTuple):
    """Windows as columns; a frame of a sequence is one."""

    #: Positions in ``sampler.image_ids``.
    rows: NDArray[np.int64]
    windows: NDArray[np.int64]
    sizes: NDArray[np.int64]
    kinds: list[str]
    #: Class index each was chosen for; -1 for none.
    classes: NDArray[np.int64]
    #: Kind of each target that was given, before sequences were taken apart.
    item_kinds: list[str]
    #: The targets that each stands for; None for a log.
    targets: list[Target] | None


class _Pixels(NamedTuple):
    """Class counts of the windows that were looked at."""

    #: ``(n_classes,)``, the background first.
    totals: NDArray[np.int64]
    windows_with: NDArray[np.int64]
    counted: int


def _served(targets: LogColumns | Iterable[Target | Mapping[str, Any]], sampler: SourceSampler) -> _Served:
    index = sampler.foreground
    if isinstance(targets, LogColumns):
        names = targets.kind_names
        kinds = [names[code] for code in targets.kinds.tolist()]
        categories = targets.category_ids.tolist()
        ids: Sequence[int] = targets.image_ids.tolist()
        windows, sizes, flat, item_kinds = targets.windows, targets.sizes, None, kinds
    else:
        flat, item_kinds = [], []
        for given in targets:
            target = Target.coerce(given)
            item_kinds.append(target.kind or "")
            flat += [_resolved(frame, sampler) for frame in _frames(target)]
        kinds = [target.kind or "" for target in flat]
        categories = [NO_CATEGORY if target.category_id is None else target.category_id for target in flat]
        ids = [int(target.image_id or 0) for target in flat]
        boxes = [target.window for target in flat]
        windows = np.array([(w.y, w.x, w.height, w.width) for w in boxes if w], np.int64).reshape(-1, 4)
        sizes = np.array([target.size for target in flat], np.int64).reshape(-1, 2)
    classes = sampler.class_map.category_to_index
    return _Served(
        np.array([index.row(image_id) for image_id in ids], np.int64),
        windows,
        sizes,
        kinds,
        np.array([classes.get(category, -1) for category in categories], np.int64),
        item_kinds,
        flat,
    )


def _frames(target: Target) -> list[Target]:
    if target.image_ids is None:
        return [target]
    return [target.with_fields(image_id=frame, image_ids=None, video_id=None) for frame in target.image_ids]


def _resolved(target: Target, sampler: SourceSampler) -> Target:
    window = target.window
    plain = target.downsample is None and target.mpp is None and not any(target.pad)
    if window is None or target.image_id is None or not plain:
        return sampler.resolve(target)
    # What resolving would fill in, without looking the image up.
    return target if target.size is not None else target.with_fields(size=window.shape)


def _pixels(
    served: _Served,
    targets: LogColumns | Iterable[Target | Mapping[str, Any]],
    sampler: SourceSampler,
    count_at_most: int,
) -> _Pixels | None:
    n_classes = len(sampler.class_map.names)
    if isinstance(targets, LogColumns) and targets.counts is not None and (targets.counts >= 0).all():
        table = targets.counts[:, :n_classes]
        totals, having = np.zeros(n_classes, np.int64), np.zeros(n_classes, np.int64)
        totals[: table.shape[1]], having[: table.shape[1]] = table.sum(axis=0), (table > 0).sum(axis=0)
        return _Pixels(totals, having, len(table))
    if count_at_most < 1:
        return None
    flat = list(targets.targets()) if isinstance(targets, LogColumns) else served.targets
    assert flat is not None
    chosen = np.unique(np.linspace(0, len(flat) - 1, min(count_at_most, len(flat))).astype(np.int64)).tolist()
    totals, having = np.zeros(n_classes, np.int64), np.zeros(n_classes, np.int64)
    index = sampler.foreground
    for at in chosen:
        # Sizes were filled in above: at full resolution the index counts.
        target = flat[at]
        window = target.window
        if window is not None and target.size == window.shape:
            target = target.with_fields(size=None)
        counts = target_counts(sampler, target.with_fields(downsample=None, annot_id=None), index=index).counts
        totals += counts
        having += counts > 0
    return _Pixels(totals, having, len(chosen))


def _kinds(kinds: Sequence[str], asked: AskedShares) -> tuple[KindServed, ...]:
    counts = Counter(kinds)
    names = sorted({*counts, *asked.kinds}, key=lambda name: (-counts[name], name))
    return tuple(
        KindServed(
            name, counts[name], counts[name] / len(kinds), asked.kinds.get(name, 0.0) if asked.kinds else None
        )
        for name in names
    )


def _classes(
    served: _Served, asked: AskedShares, pixels: _Pixels | None, sampler: SourceSampler
) -> tuple[ClassServed, ...]:
    names, index = sampler.class_map.names, sampler.foreground
    n = len(names)
    chosen = served.classes[(served.classes > 0) & (served.classes < n)]
    windows = np.bincount(chosen, minlength=n)
    shares = windows / max(len(chosen), 1)
    there = index.pixels[:, 1:n].sum(axis=0)
    if asked.classes:
        wanted = np.array([asked.classes.get(at, 0.0) for at in range(1, n)])
    else:
        wanted = (there > 0) / max(int((there > 0).sum()), 1)
    wanted = np.where(there > 0, wanted, 0.0)
    weights = suggest_weights(wanted, shares[1:]) if len(chosen) else wanted
    return tuple(
        ClassServed(
            class_index=at,
            name=names[at],
            windows=int(windows[at]),
            served=float(shares[at]),
            asked=asked.classes.get(at, 0.0) if asked.classes else None,
            windows_with=None if pixels is None else int(pixels.windows_with[at]),
            pixels=None if pixels is None else int(pixels.totals[at]),
            pixel_share=None if pixels is None else int(pixels.totals[at]) / max(int(pixels.totals.sum()), 1),
            dataset_share=int(there[at - 1]) / max(int(index.pixels[:, 0].sum()), 1),
            suggested_weight=float(weights[at - 1]),
        )
        for at in range(1, n)
    )


def _images(served: _Served, asked: AskedShares, sampler: SourceSampler) -> tuple[ImageServed, ...]:
    index, ids = sampler.foreground, sampler.image_ids
    counts = np.bincount(served.rows, minlength=len(ids))
    shares = counts / len(served.rows)
    tissue = index.pixels[:, index.tissue_slot].astype(np.float64)
    tissue_shares = tissue / max(tissue.sum(), 1.0)
    wanted = np.array([asked.images.get(one, 0.0) for one in ids]) if asked.images else tissue_shares
    weights = suggest_weights(np.where(tissue > 0, wanted, 0.0), shares)
    order = np.argsort(served.rows, kind="stable")
    stops = np.cumsum(counts)
    out = []
    for row, image_id in enumerate(ids):
        mine = order[stops[row] - counts[row] : stops[row]]
        windows = served.windows[mine]
        classes = Counter(number for number in served.classes[mine].tolist() if number > 0)
        out.append(
            ImageServed(
                image_id=image_id,
                name=sampler.image_record(image_id).name,
                height=int(index.sizes[row, 0]),
                width=int(index.sizes[row, 1]),
                windows=len(mine),
                served=float(shares[row]),
                asked=asked.images.get(image_id, 0.0) if asked.images else None,
                tissue_share=float(tissue_shares[row]),
                kinds=dict(Counter(served.kinds[at] for at in mine.tolist())),
                classes=dict(sorted(classes.items())),
                seen_share=seen_share(index, row, windows) if len(mine) else 0.0,
                coverage=cover_image(index, row, windows) if len(mine) else None,
                suggested_weight=float(weights[row]),
            )
        )
    return tuple(out)


def _tries(kinds: Sequence[str], records: Iterable[DrawRecord | None]) -> tuple[TryCounts, ...]:
    rows: dict[str, list[int]] = {}
    refused: dict[str, Counter[str]] = {}
    for kind, record in zip(kinds, records, strict=True):
        if record is None:
            continue
        row = rows.setdefault(kind, [0, 0, 0])
        row[0] += 1
        row[1] += record.tries
        row[2] += record.exhausted
        refused.setdefault(kind, Counter()).update(record.refused)
    return tuple(TryCounts(kind, row[0], row[1], dict(refused[kind]), row[2]) for kind, row in rows.items())


def _logged_tries(log: LogColumns | None) -> tuple[TryCounts, ...]:
    if log is None:
        return ()
    out = []
    by_kind: dict[int, Counter[str]] = {}
    for at, reasons in log.refused:
        by_kind.setdefault(int(log.kinds[at]), Counter()).update(reasons)
    for code, kind in enumerate(log.kind_names):
        told = log.tries[(log.kinds == code) & (log.tries >= 0)]
        if len(told):
            out.append(TryCounts(kind, len(told), int(told.sum()), dict(by_kind.get(code, Counter()))))
    return tuple(out)


def _duplicates(served: _Served) -> int:
    rows = np.concatenate([served.rows[:, None], served.windows, served.sizes], axis=1)
    return len(rows) - len(np.unique(rows, axis=0))
