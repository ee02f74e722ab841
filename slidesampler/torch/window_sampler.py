"""Which windows of an epoch this rank loads, in which order, and from where it goes on."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sized
from itertools import islice
from typing import Any, Literal, get_args

import torch.distributed
from torch.utils.data import DistributedSampler, Sampler

from slidesampler.errors import SamplingError
from slidesampler.sampling.permutation import Permutation
from slidesampler.sampling.windows import checked_count
from slidesampler.torch.dataset import WindowDataset

__all__ = ["Even", "WindowBatchSampler", "WindowSampler"]

#: What is done about an epoch that cannot be dealt out evenly; see :class:`WindowSampler`.
Even = Literal["pad", "drop", False]
#: What must be the same for a place in an epoch to mean the same windows.
SAME_ORDER = ("length", "seed", "shuffle", "batch_size", "keep_batches")


class WindowSampler(DistributedSampler[tuple[int, int]]):
    """The windows of an epoch that one rank loads, as ``(epoch, index)``, for ``DataLoader(sampler=...)``.

    The epoch travels with each index, so workers that live on over epochs load the right one. All ranks walk
    through one order, taking turns: of the windows at places 0, 1, 2 ... rank ``r`` of ``w`` has ``r``, ``r +
    w``, ``r + 2 w`` ... So the ``b``-th batches of all ranks together are the ``b``-th global batch, for any
    number of ranks. The order is a permutation that is computed place by place and takes no memory.

    It is a :class:`torch.utils.data.DistributedSampler`, so that frameworks which look for one (Lightning)
    leave it alone; call :meth:`set_epoch` before each epoch, or let them call it.

    Parameters
    ----------
    source : TargetSource, WindowDataset or int
        What the indices are of, or how many there are.
    seed : int
        Same seed, same order. The same on all ranks.
    rank, world_size : int, optional
        This process and how many there are; what ``torch.distributed`` says where it is initialised, else 0 and
        1.
    drop_last : bool
        Leave out the last global batch where it is not full. Needs ``batch_size``.
    even : {"pad", "drop", False}
        What is done where the ranks' shares would differ by one. ``"pad"``: the windows at the start of the
        order are loaded once more at its end, at most one a rank (see :attr:`padding`). ``"drop"``: the windows
        at the end of the order are left out, fewer than there are ranks. False: nothing; each window is loaded
        exactly once, and the ranks that have one less must not wait for the others.
    shuffle : bool
        Draw a new order every epoch; else it is 0, 1, 2 ...
    batch_size : int, optional
        Windows of a *global* batch, all ranks together, a multiple of ``world_size``: the loader of each rank
        gets ``batch_size // world_size``. The source's own where it has one.
    keep_batches : bool, optional
        Shuffle global batches as a whole, so that the quotas of :class:`~slidesampler.MixtureSource` hold in
        each. By default just where the source has a ``batch_size``.

    Raises
    ------
    ValueError
        For a rank that does not exist, half of (rank, world_size), a batch that cannot be dealt out evenly,
        another batch than that of the source, or an option that is none.
    SamplingError
        If no window is left.

    Examples
    --------
    >>> ranks = [WindowSampler(10, seed=0, rank=rank, world_size=4) for rank in range(4)]
    >>> [len(list(rank)) for rank in ranks], [rank.padding for rank in ranks]
    ([3, 3, 3, 3], [0, 0, 1, 1])
    >>> sampler = WindowSampler(10, even=False, shuffle=False, rank=1, world_size=4)
    >>> sampler.set_epoch(7)
    >>> list(sampler)
    [(7, 1), (7, 5), (7, 9)]
    """

    def __init__(
        self,
        source: Sized | int,
        seed: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
        drop_last: bool = False,
        even: Even = "pad",
        *,
        shuffle: bool = True,
        batch_size: int | None = None,
        keep_batches: bool | None = None,
    ) -> None:
        rank, world_size = _rank_of(rank, world_size)
        self.length = len(source) if isinstance(source, Sized) else operator.index(source)
        own = getattr(source.source if isinstance(source, WindowDataset) else source, "batch_size", None)
        self.keep_batches = own is not None if keep_batches is None else keep_batches
        self.batch_size = _batch_of(batch_size, own if self.keep_batches else None, world_size)
        if even not in get_args(Even):
            raise ValueError(f"even must be 'pad', 'drop' or False, got {even!r}")
        if self.batch_size is None and (drop_last or self.keep_batches):
            raise ValueError(
                "drop_last and keep_batches are about the global batch: say how large it is, batch_size= "
                "(to make the shares of ranks even use even='drop'; the loader has a drop_last of its own)"
            )
        places: Any = range(self.length)
        super().__init__(places, world_size, rank, shuffle, operator.index(seed), drop_last)
        self.even = even
        self._used = self.length
        if drop_last and self.batch_size is not None:
            self._used -= self.length % self.batch_size
        self._start = self._base = self._given = 0
        self._end = self._stop(0)
        self.total_size = self._end
        self.num_samples = len(range(rank, self.total_size, world_size))
        if not self.total_size:
            raise SamplingError(
                f"of {self.length} windows none is left for {world_size} ranks: batch_size={self.batch_size}, "
                f"drop_last={drop_last}, even={even!r}"
            )

    @property
    def world_size(self) -> int:
        """How many ranks there are."""
        return self.num_replicas

    @property
    def padding(self) -> int:
        """How many windows at the end of this rank's epoch are there a second time (0 or 1).

        In an epoch that is gone on with on another number of ranks it may be other ranks that are padded; what
        holds always is that an index that comes twice in an epoch is padding the second time.
        """
        return max(0, self.num_samples - len(range(self.rank, self._used, self.num_replicas)))

    def __len__(self) -> int:
        """Return how many windows this rank loads in a whole epoch."""
        return self.num_samples

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yield ``(epoch, index)``, from the start or, once, from where :meth:`load_state_dict` says."""
        epoch, order = self.epoch, self._order()
        self._base, self._start, self._given = self._start, 0, 0
        self._end = self._stop(self._base)
        for place in range(self._base + self.rank, self._end, self.num_replicas):
            self._given += 1
            yield epoch, order(place % self._used)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; call it before each epoch's loop, on all ranks.

        A place set by :meth:`load_state_dict` is kept if it is of this epoch.
        """
        epoch = operator.index(epoch)
        if epoch != self.epoch:
            self._start = 0
        self.epoch = epoch

    def state_dict(self, windows_done: int | None = None) -> dict[str, Any]:
        """Return the place in the epoch, the same on all ranks that are as far.

        Parameters
        ----------
        windows_done : int, optional
            How many windows of this rank the training loop has had since the loop began: batches times the
            loader's ``batch_size``. Where None, what was handed to the loader: with workers that is more, since
            they load batches ahead (torchdata's ``StatefulDataLoader`` asks at the right time, so there it is
            right).

        Raises
        ------
        ValueError
            If that many were not handed out yet.
        """
        done = self._given if windows_done is None else operator.index(windows_done)
        # The last batch may be smaller than the others, and be counted as a whole one.
        if not 0 <= done <= self._given and (
            done < 0 or self._base + self._given * self.num_replicas < self._end
        ):
            raise ValueError(f"{done} windows cannot be done: {self._given} were handed out in this loop")
        begun = self._given > 0 or windows_done is not None
        position = min(self._base + done * self.num_replicas, self._end) if begun else self._start
        return {
            "epoch": self.epoch,
            "position": position,
            "world_size": self.num_replicas,
            **{name: getattr(self, name) for name in SAME_ORDER},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a place: sets the epoch, and the next iteration starts there.

        The number of workers does not matter. The number of ranks may be another one: the windows that are left
        are dealt out to those that there are now.

        Raises
        ------
        SamplingError
            If the place is of another order (another length, seed, batch size ...), or within a global batch
            that other ranks began.
        """
        missing = {"epoch", "position", "world_size", *SAME_ORDER} - set(state)
        if missing:
            raise SamplingError(f"this is no state of a WindowSampler: it has no {', '.join(sorted(missing))}")
        for name in SAME_ORDER:
            if state[name] != getattr(self, name):
                raise SamplingError(
                    f"the state is of a sampler with {name}={state[name]!r}, this one has "
                    f"{getattr(self, name)!r}: its windows come in another order; make the sampler as it was, "
                    "or leave the state and begin an epoch with set_epoch"
                )
        position, before = operator.index(state["position"]), operator.index(state["world_size"])
        within = self.batch_size is not None and position < self._used and position % self.batch_size
        if within and before != self.num_replicas:
            raise SamplingError(
                f"{before} ranks stopped within a global batch, at window {position} with batches of "
                f"{self.batch_size}; {self.num_replicas} ranks can go on between batches only: save the state "
                "after a step"
            )
        self.epoch = operator.index(state["epoch"])
        self._start = position
        self._given = 0

    def _stop(self, start: int) -> int:
        """Return the end of the order, for ranks that begin at ``start`` together."""
        left = max(self._used - start, 0)
        if self.even == "pad":
            left += -left % self.num_replicas
        elif self.even == "drop":
            left -= left % self.num_replicas
        return start + left

    def _order(self) -> Callable[[int], int]:
        """Return which index stands at a place of the epoch."""
        if not self.shuffle:
            return int
        if not self.keep_batches or self.batch_size is None:
            return Permutation(self.length, self.seed, self.epoch, stream="windows")
        size, full = self.batch_size, self.length // self.batch_size
        # The last batch stays last where it is not full: otherwise none behind it would be a batch of the
        # source.
        batches = Permutation(full, self.seed, self.epoch, stream="batches") if full else int

        def index_at(place: int) -> int:
            batch, rest = divmod(place, size)
            return batches(batch) * size + rest if batch < full else place

        return index_at


class WindowBatchSampler(Sampler[list[tuple[int, int]]]):
    """The batches of an epoch that one rank loads, for ``DataLoader(batch_sampler=...)``.

    As :class:`WindowSampler`, by batches: the loader's batches cannot be of another size than those that the
    quotas of a :class:`~slidesampler.MixtureSource` hold in.

    Parameters
    ----------
    source : TargetSource, WindowDataset or int
        What the indices are of, or how many there are.
    batch_size : int, optional
        Windows of a *global* batch, a multiple of ``world_size``; each rank gets its share. The source's own
        where None.
    seed, rank, world_size, drop_last, even, shuffle, keep_batches
        See :class:`WindowSampler`, which also says what is raised.

    Examples
    --------
    >>> [list(WindowBatchSampler(7, 4, shuffle=False, rank=rank, world_size=2)) for rank in (0, 1)]
    [[[(0, 0), (0, 2)], [(0, 4), (0, 6)]], [[(0, 1), (0, 3)], [(0, 5), (0, 0)]]]
    """

    def __init__(
        self,
        source: Sized | int,
        batch_size: int | None = None,
        seed: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
        drop_last: bool = False,
        even: Even = "pad",
        *,
        shuffle: bool = True,
        keep_batches: bool | None = None,
    ) -> None:
        self.sampler = WindowSampler(
            source,
            seed,
            rank,
            world_size,
            drop_last,
            even,
            shuffle=shuffle,
            batch_size=batch_size,
            keep_batches=keep_batches,
        )
        if self.sampler.batch_size is None:
            raise ValueError("say how large a global batch is: batch_size=")
        #: Windows of a batch of this rank.
        self.batch_size = self.sampler.batch_size // self.sampler.world_size

    @property
    def epoch(self) -> int:
        """The epoch that the next batches belong to."""
        return self.sampler.epoch

    def __len__(self) -> int:
        """Return how many batches this rank loads in a whole epoch."""
        return -(-len(self.sampler) // self.batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Yield lists of ``(epoch, index)``."""
        windows = iter(self.sampler)
        while batch := list(islice(windows, self.batch_size)):
            yield batch

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; see :meth:`WindowSampler.set_epoch`."""
        self.sampler.set_epoch(epoch)

    def state_dict(self, batches_done: int | None = None) -> dict[str, Any]:
        """Return the place in the epoch; see :meth:`WindowSampler.state_dict`.

        Parameters
        ----------
        batches_done : int, optional
            How many batches the training loop has had since the loop began; what was handed to the loader where
            None.

        Raises
        ------
        ValueError
            If that many were not handed out yet.
        """
        return self.sampler.state_dict(None if batches_done is None else batches_done * self.batch_size)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a place; see :meth:`WindowSampler.load_state_dict`, which says what is raised."""
        self.sampler.load_state_dict(state)


def _rank_of(rank: int | None, world_size: int | None) -> tuple[int, int]:
    if (rank is None) != (world_size is None):
        raise ValueError(f"rank and world_size belong together, got rank={rank} and world_size={world_size}")
    if rank is None or world_size is None:
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return 0, 1
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    rank, world_size = operator.index(rank), operator.index(world_size)
    if not 0 <= rank < world_size:
        raise ValueError(f"rank must be 0 to world_size - 1, got rank={rank} of world_size={world_size}")
    return rank, world_size


def _batch_of(batch_size: int | None, own: int | None, world_size: int) -> int | None:
    """Return the size of a global batch, of which every rank has the same share."""
    if batch_size is None and own is None:
        return None
    size = checked_count(batch_size if batch_size is not None else own, "batch_size")  # type: ignore[arg-type]
    if own is not None and size != own:
        raise ValueError(
            f"batch_size={size} was asked for, but the source's quotas hold in batches of {own}: make the "
            f"source with batch_size={size}, or give keep_batches=False to do without"
        )
    if size % world_size:
        near = sorted({size - size % world_size, size + -size % world_size} - {0})
        raise ValueError(
            f"a global batch of {size} cannot be dealt out evenly to {world_size} ranks; take "
            + " or ".join(map(str, near))
        )
    return size
