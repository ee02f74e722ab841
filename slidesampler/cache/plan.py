"""What a build would do, and why: reads the cache and looks at the sources, writes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from slidesampler.cache.entry_json import load_entry
from slidesampler.cache.in_place import find_in_place
from slidesampler.cache.spec import BuildSpec
from slidesampler.cache.store import CacheStore, check_files, check_source
from slidesampler.cache.tables import check_tables
from slidesampler.errors import CacheError, CorruptEntryError, UnsupportedSourceError
from slidesampler.manifest import Manifest
from slidesampler.models import CacheEntry, ImageRecord

__all__ = ["BuildPlan", "PlanRow", "can_use_in_place", "plan_build", "plan_entry", "what_to_build"]

Action = Literal["build", "reuse", "rebuild", "in-place"]
What = Literal["image", "labels"]


@dataclass(frozen=True, slots=True)
class PlanRow:
    """What is to be done for one image or label layer.

    Parameters
    ----------
    image_id : int
    name : str
    what : {"image", "labels"}
    action : {"build", "reuse", "rebuild", "in-place"}
        ``"in-place"``: the source is read where it lies: recorded, and not copied.
    reason : str
    path : str
        The source (the first file of several).
    folder : str
        Of the entry.
    """

    image_id: int
    name: str
    what: What
    action: Action
    reason: str
    path: str
    folder: str


@dataclass(frozen=True, slots=True)
class BuildPlan:
    """What a build would do.

    Parameters
    ----------
    rows : tuple of PlanRow
        In the manifest's order, each image before its label layer.
    spec : BuildSpec
        Resolved: no ``"auto"`` left.
    workdir : str
    """

    rows: tuple[PlanRow, ...]
    spec: BuildSpec
    workdir: str

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[PlanRow]:
        return iter(self.rows)

    @property
    def work(self) -> tuple[PlanRow, ...]:
        """The rows that need something to be done."""
        return tuple(row for row in self.rows if row.action != "reuse")

    @property
    def counts(self) -> dict[str, int]:
        """Number of rows by action."""
        return dict(Counter(row.action for row in self.rows))

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON-ready values."""
        return {
            "workdir": self.workdir,
            "backend": self.spec.backend,
            "codec": self.spec.codec,
            "counts": self.counts,
            "rows": [asdict(row) for row in self.rows],
        }


def plan_build(
    manifest: Manifest,
    spec: BuildSpec,
    store: CacheStore,
    *,
    only_images: Sequence[int] | None = None,
    force: bool = False,
) -> BuildPlan:
    """Return what :func:`slidesampler.cache.build` with the same arguments would do, and why.

    Parameters
    ----------
    manifest : Manifest
    spec : BuildSpec
    store : CacheStore
    only_images : sequence of int, optional
        Image ids; all where None.
    force : bool
        Build again what is there, and copy valid COGs that would be used where they lie.

    Raises
    ------
    TargetError
        If ``only_images`` names an image that the manifest has not got.
    CodecError
        If this GDAL cannot write the codec at all.
    MissingDependencyError
        If the backend is cog and GDAL is not installed.
    """
    spec = spec.resolved()
    if only_images is None:
        records = list(manifest.records())
    else:
        wanted = {manifest.record(image_id).image_id for image_id in only_images}
        records = [record for record in manifest.records() if record.image_id in wanted]
    rows = []
    for record in records:
        for what in what_to_build(spec):
            if what == "image":
                folder = store.image_folder(record, spec)
            else:
                folder = store.label_folder(manifest, record, spec.label_spec)
            rows.append(plan_entry(record, what, folder, spec, force=force))
    return BuildPlan(tuple(rows), spec, str(store.workdir))


def what_to_build(spec: BuildSpec) -> tuple[What, ...]:
    """Return which entries an image gets.

    Where labels are asked for, an image without annotations gets them too: a normal slide is all background,
    and negatives are chosen from its tissue.
    """
    return ("image", "labels") if spec.labels or spec.instances else ("image",)


def plan_entry(record: ImageRecord, what: What, folder: Path, spec: BuildSpec, *, force: bool) -> PlanRow:
    """Return what is to be done for one entry; ``spec`` is resolved."""
    row = PlanRow(record.image_id, record.name, what, "build", "", record.assets[0].path, str(folder))
    entry, reason = _usable(folder, what, spec)
    if entry is None:
        action: Action = "rebuild" if reason else "build"
        reason = reason or "not in the cache"
        if what == "image" and not force and spec.stored_as == "cog":
            try:
                cog = find_in_place(record, spec).cog
            except UnsupportedSourceError as error:
                # Whoever asks for a COG knows that others are converted.
                reason += f"; converted: {error}" if spec.backend == "auto" else ""
            else:
                found = "a valid COG" if cog else "tiles that can be read where they lie"
                return replace(row, action="in-place", reason=f"the source is {found}")
        return replace(row, action=action, reason=reason)
    if force:
        return replace(row, action="rebuild", reason="forced")
    if mismatch := _size_mismatch(record, entry):
        # Building opens the source, which tells which of the two is wrong.
        return replace(row, action="rebuild", reason=mismatch)
    return replace(row, action="reuse", reason=reason)


def _size_mismatch(record: ImageRecord, entry: CacheEntry) -> str:
    """Return how the size in the manifest differs from an entry's; nothing where it does not."""
    height, width, _ = entry.shape
    for field, said, found in (("height", record.height, height), ("width", record.width, width)):
        if said is not None and said != found:
            return f"{field} is {said} in the manifest, the entry has {found}"
    return ""


def _usable(folder: Path, what: What, spec: BuildSpec) -> tuple[CacheEntry | None, str]:
    """Return the entry if it can be served as it is, and why it can or cannot; no reason if there is none."""
    try:
        entry = load_entry(folder)
        check_files(entry)
        if entry.in_place:
            # The only files of such an entry, and small ones.
            check_tables(entry)
    except FileNotFoundError:
        return None, ""
    except CorruptEntryError as error:
        return None, f"corrupt: {error}"
    except CacheError as error:
        return None, str(error)
    state = check_source(entry)
    if state.status == "changed" or (state.status == "gone" and entry.in_place):
        return None, f"stale: {state.detail}"
    if entry.in_place and spec.backend == "cog" and entry.extra.get("cog") is False:
        return None, "a COG was asked for and the entry is its source, used in place"
    if what == "labels" and spec.instances and "instances" not in entry.files:
        return None, "an instance layer was asked for and the entry has none"
    if what == "labels" and "index" not in entry.files:
        return None, "a foreground index was asked for and the entry has none"
    if what == "image" and spec.full_hash and not _has_full_hash(entry):
        return None, "a hash of the whole source was asked for and the entry has none"
    if state.status == "gone":
        return entry, f"{state.detail}; the entry is kept"
    return entry, "used where it lies" if entry.in_place else "up to date"


def _has_full_hash(entry: CacheEntry) -> bool:
    return all(stamp.get("full") or not stamp.get("path") for stamp in entry.source["files"])


def can_use_in_place(record: ImageRecord, spec: BuildSpec) -> bool:
    """Whether a source is read where it lies, so that nothing need be converted; ``spec`` is resolved."""
    try:
        find_in_place(record, spec)
    except UnsupportedSourceError:
        return False
    return True
