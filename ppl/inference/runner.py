"""Runs chains of any sampler: groups of chains in threads, a progress bar, interruption, checkpoints.

A `Sampler` advances a group of chains by some transitions; the runner calls it until all is done. Law: what is drawn
does not depend on the groups, on how many transitions an advance makes, or on an interruption that is resumed. A group
is one chain on a CPU, where a chain a thread is fastest (XLA holds no lock while it computes), and all chains of a
device, side by side, elsewhere.
"""

import os
import queue
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from threadpoolctl import ThreadpoolController

from ppl.inference.progress import Progress, Reporter

LOOK = 0.1
"""Seconds between two looks of the main thread at its groups."""
SLICE = 0.3
"""Seconds that an advance should take: short enough for a lively bar and a prompt Ctrl-C."""
FIRST = 32
"""Transitions of the first advance of a group, from which its speed is known."""


class Batch(NamedTuple):
    """What an advance gives.

    Attributes:
        kept: Draws to keep, a pytree of host arrays with leading axes (chains of the group, draws); maybe no draws.
        progress: Numbers for the bar.
    """

    kept: Any
    progress: Progress


@runtime_checkable
class Sampler(Protocol):
    """A sampler as the runner sees it; `carry` is a pytree of arrays (a checkpoint holds it)."""

    @property
    def total(self) -> int:
        """Transitions of a chain, warm-up included."""
        ...

    @property
    def signature(self) -> Any:
        """Hashable; equal for samplers that share compiled code."""
        ...

    def start(self, chains: Sequence[int], device: Any) -> Any:
        """The carry of a group of chains, given by their numbers, before its first transition."""
        ...

    def done(self, carry: Any) -> int:
        """Transitions that a group has made."""
        ...

    def advance(self, carry: Any, transitions: int) -> tuple[Any, Batch]:
        """Make at least one and at most so many transitions."""
        ...


class Group(NamedTuple):
    """Chains that advance together, on a device (None: JAX's default)."""

    chains: tuple[int, ...]
    device: Any


@dataclass
class Track:
    """How far a group has come. Replaced as a whole by its thread, so that a look at it is consistent."""

    carry: Any
    batches: tuple[Any, ...] = ()


@dataclass
class Board:
    """What threads share: the tracks by group, and whether to stop."""

    tracks: list[Track | None]
    stop: threading.Event = field(default_factory=threading.Event)


class Visited(NamedTuple):
    """What came of a run.

    Attributes:
        kept: The kept draws, leading axes (chain, draw), chains in order.
        carries: The last carry of each group.
        interrupted: Whether the run was cut short.
    """

    kept: Any
    carries: list[Any]
    interrupted: bool


def groups_of(chains: int, layout: str | None) -> list[Group]:
    """How chains are laid out: "threads" (one chain each), "vmap" (side by side), "devices" (side by side on each).

    By default: threads on a CPU, however many chains there are (docs/decisions/0010: a thousand NUTS chains one after
    another take seconds, side by side minutes); else side by side on all local devices.
    """
    numbers, devices = tuple(range(chains)), jax.local_devices()
    if layout is None:
        layout = "threads" if jax.default_backend() == "cpu" and len(devices) == 1 else "devices"
    if layout == "threads":
        return [Group((number,), None) for number in numbers]
    if layout == "vmap":
        return [Group(numbers, None)]
    parts = [tuple(int(i) for i in part) for part in np.array_split(np.arange(chains), len(devices))]
    return [Group(part, device) for part, device in zip(parts, devices, strict=True) if part]


def run(sampler: Sampler, groups: Sequence[Group], reporter: Reporter, save: Any = None, tracks: Any = None) -> Visited:
    """Run all groups to their end.

    Args:
        sampler: The sampler.
        groups: How the chains are laid out.
        reporter: Shows the progress.
        save: Called with the list of tracks from time to time and at the end (None: never).
        tracks: Where to go on (None: from the start).

    Returns:
        What was visited; of an interrupted run as many draws as every chain has.

    Raises:
        KeyboardInterrupt: interrupted before any draw was kept.
    """
    board = Board(list(tracks) if tracks is not None else [None] * len(groups))
    workers = max(1, min(len(groups), _cores()))
    with ThreadPoolExecutor(workers, thread_name_prefix="chains") as pool, reporter, _one_blas_thread(workers):
        interrupted = False
        if not is_compiled(sampler):  # one thread compiles before the others start
            interrupted = _watch([pool.submit(_advance_once, sampler, groups[0], board, reporter)], board, save)
            _COMPILED.add(sampler.signature)
        if not interrupted:
            waiting = _waiting(sampler, board)
            rest = [pool.submit(_work, sampler, groups, waiting, board, reporter) for _ in range(workers)]
            interrupted = _watch(rest, board, save)
    if save is not None:
        save(board.tracks)
    return _visited(board, interrupted=interrupted)


_COMPILED: set[Any] = set()
"""Signatures of samplers that have been compiled in this process."""


def _one_blas_thread(workers: int) -> AbstractContextManager[Any]:
    """While chains have a thread each, linear algebra gets none of its own: they would wait for one another.

    A Cholesky factor of 96 x 96 and its gradient took 60 times as long with OpenBLAS's threads in two chains.
    """
    return nullcontext() if workers == 1 else _blas().limit(limits=1, user_api="blas")


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()


def is_compiled(sampler: Sampler) -> bool:
    """Whether this process has compiled what the sampler runs."""
    return sampler.signature in _COMPILED


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _advance_once(sampler: Sampler, group: Group, board: Board, reporter: Reporter) -> None:
    with _on(group.device):
        track = _started(sampler, group, 0, board)
        if sampler.done(track.carry) < sampler.total:
            board.tracks[0] = _advanced(sampler, track, 1, reporter)


def _on(device: Any) -> AbstractContextManager[Any]:
    """Where this thread computes."""
    return nullcontext() if device is None else jax.default_device(device)


def _started(sampler: Sampler, group: Group, index: int, board: Board) -> Track:
    track = board.tracks[index] or Track(sampler.start(group.chains, group.device))
    board.tracks[index] = track
    return track


def _waiting(sampler: Sampler, board: Board) -> "queue.PriorityQueue[tuple[int, int, int]]":
    """The groups by what they have done, their number, and the transitions of their next advance."""
    waiting: queue.PriorityQueue[tuple[int, int, int]] = queue.PriorityQueue()
    for index, track in enumerate(board.tracks):
        waiting.put((0 if track is None else sampler.done(track.carry), index, FIRST))
    return waiting


def _work(sampler: Sampler, groups: Sequence[Group], waiting: Any, board: Board, reporter: Reporter) -> None:
    """Advance the group that is furthest behind, so that an interruption leaves all with about as many draws."""
    while not board.stop.is_set():
        try:
            _, index, budget = waiting.get_nowait()
        except queue.Empty:
            return
        with _on(groups[index].device):
            track = _started(sampler, groups[index], index, board)
            begin, before = time.perf_counter(), sampler.done(track.carry)
            if before >= sampler.total:
                continue
            track = board.tracks[index] = _advanced(sampler, track, budget, reporter)
        seconds, done = max(time.perf_counter() - begin, 1e-6), sampler.done(track.carry)
        waiting.put((done, index, max(1, int((done - before) * SLICE / seconds))))


def _advanced(sampler: Sampler, track: Track, budget: int, reporter: Reporter) -> Track:
    carry, batch = sampler.advance(track.carry, budget)
    reporter.add(batch.progress)
    empty = all(x.shape[1] == 0 for x in jax.tree.leaves(batch.kept))
    return Track(carry, track.batches if empty else (*track.batches, batch.kept))


def _watch(futures: list[Future[None]], board: Board, save: Any) -> bool:
    """Wait for the threads; whether the user interrupted. An error in one thread stops the others and is raised."""
    interrupted = False
    while True:
        try:
            finished, pending = wait(futures, timeout=LOOK)
            if any(future.exception() is not None for future in finished):
                board.stop.set()
            if save is not None and pending:
                save(board.tracks, lazily=True)
            if not pending:
                break
        except KeyboardInterrupt:
            interrupted = True
            board.stop.set()
    for future in futures:
        future.result()
    return interrupted


def _visited(board: Board, *, interrupted: bool) -> Visited:
    tracks = [track for track in board.tracks if track is not None]
    drawn = [joined(track.batches) for track in tracks]
    counts = [jax.tree.leaves(kept)[0].shape[1] if kept is not None else 0 for kept in drawn]
    if interrupted and (min(counts, default=0) == 0 or len(tracks) < len(board.tracks)):
        raise KeyboardInterrupt("interrupted during warm-up: no draw was kept")
    fewest = min(counts)
    kept = _merged(lambda *parts: np.concatenate([part[:, :fewest] for part in parts]), drawn)
    return Visited(kept, [track.carry for track in tracks], interrupted)


def joined(batches: tuple[Any, ...]) -> Any:
    """The draws of some batches, one after another; None where there are none."""
    return _merged(lambda *parts: np.concatenate(parts, axis=1), batches) if batches else None


def _merged(function: Any, trees: Sequence[Any]) -> Any:
    """`jax.tree.map` by leaves alone: what comes from a checkpoint has named tuples of other classes."""
    leaves = zip(*map(jax.tree.leaves, trees), strict=True)
    return jax.tree.unflatten(jax.tree.structure(trees[-1]), [function(*parts) for parts in leaves])
