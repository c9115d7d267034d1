"""Hamiltonian chains as a `Sampler` of the runner: starts, warm-up windows, stretches of compiled transitions.

Each chain adapts its own step size and metric; nothing is shared between chains, so R-hat means what it says. The host
holds the plan; one compiled function does all the work, whatever the phase: even the first log density and the first
step size come from it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import numpy as np

from ppl.inference import packed
from ppl.inference.progress import Progress
from ppl.inference.runner import Batch
from ppl.inference.warmup import (
    FIRST_WINDOW,
    Adaptation,
    empty_window,
    initial_state,
    joined,
    learn,
    moved_to,
    started,
    window_ends,
    window_of,
)
from ppl.numerics.chain import STATS, ChainState, Recorded, Sizes, Stretch, sizes_for
from ppl.numerics.metric import Metric, identity
from ppl.numerics.metric_estimates import Window
from ppl.numerics.metric_on_host import positions
from ppl.typing import PRNGKey

EARLY = FIRST_WINDOW
"""Transitions in which trajectories are kept short, while the step size may be far too small."""
CHOOSY = 20
"""Tries after which a start is good enough whose log density is finite."""
RESOLVED = 0.1
"""Up to this rounding error of the log density (nats) a start is good: energy differences can be told from noise."""
EARLY_DEPTH = 6
"""The most doublings of these."""


class Plan(NamedTuple):
    """What a run of chains does.

    Attributes:
        warmup, draws, thin: Transitions thrown away, draws kept, transitions a draw.
        target: Mean acceptance to adapt to.
        depth: The most doublings of a trajectory.
        capacity: Directions of the metric that there is room for (part of the compiled code).
        cutoff: Eigenvalues of the metric nearer to one than by this factor are one.
        length: Of static trajectories, in the coordinates of the metric; None: trajectories end where they turn.
    """

    warmup: int
    draws: int
    thin: int
    target: float
    depth: int
    capacity: int
    cutoff: float
    length: float | None = None


class Carry(NamedTuple):
    """A group of chains between two advances: host arrays with a leading axis of chains.

    `spent` counts the gradients of the warm-up, over all chains of the group.
    """

    chains: Any
    state: ChainState
    metric: Metric
    windows: tuple[Window, ...]
    done: Any
    spent: Any


@dataclass(frozen=True, eq=False)
class HamiltonianSampler:
    """NUTS chains on a target.

    Attributes:
        target: A pytree with `dim` and `log_density(vector)`, such as `Flat`.
        key: The run's key; chain i uses it folded with i.
        plan: What to do.
        start_at: From (chain, attempt) to a vector to start from; raises where it has no more to offer.
        adaptation: What an earlier run learnt, or None.
        group_size: How many chains go side by side in one compiled loop.
        reduce: From positions (chains, draws, dim) and the numbers of the first chain and draw to what is kept of them
            (None: the positions).
        enough: Tries after which a start is good enough whose log density is finite.
    """

    target: Any
    key: PRNGKey
    plan: Plan
    start_at: Callable[[int, int], np.ndarray]
    adaptation: Adaptation | None
    group_size: int = 1
    reduce: Callable[[np.ndarray, tuple[int, int]], Any] | None = None
    enough: int = CHOOSY

    @cached_property
    def dim(self) -> int:
        """The dimension of the target."""
        return self.target.dim

    @property
    def total(self) -> int:
        """Transitions of a chain."""
        return self.plan.warmup + self.plan.draws * self.plan.thin

    @cached_property
    def signature(self) -> Any:
        """Equal for samplers that share compiled code."""
        leaves, tree = jax.tree.flatten(self.target)
        shapes = tuple((np.shape(x), str(x.dtype)) for x in leaves)
        sizes = (self.plan.capacity, self._sizes, self.group_size)
        return type(self).__name__, tree, shapes, *sizes, jax.default_backend()

    def done(self, carry: Carry) -> int:
        """Transitions made."""
        return int(carry.done)

    def prime(self) -> None:
        """Compile, by running nothing."""
        groups = self.group_size
        zeros = np.zeros((groups, self.dim), np.dtype(jax.dtypes.canonicalize_dtype(float)))
        states, metrics = (_stack([x] * groups) for x in (initial_state(zeros[0]), self._blank_metric()))
        self._run(np.zeros(groups, np.int32), metrics, states, self._what(0, adapt=False))

    # --- the start ---------------------------------------------------------------------------------------------------

    def start(self, chains: Sequence[int], device: Any) -> Carry:
        """Find a start of finite density for each chain, a first metric and a first step size."""
        del device
        numbers = np.asarray(chains, np.int32)
        metrics = _stack([self._blank_metric() for _ in chains])
        states = _stack([initial_state(np.zeros(self.dim, metrics.scale.dtype)) for _ in chains])
        best, going, attempt = np.full(len(chains), -np.inf), np.ones(len(chains), bool), 0
        while going.any():
            tried = _stack([self._try(int(c), attempt, wanted=bool(w)) for c, w in zip(numbers, going, strict=True)])
            tried = self._evaluated(numbers, metrics, tried)
            better = going & _sound(tried) & (tried.point.log_density > best)
            states = _where(better, tried, states)
            best = np.where(better, tried.point.log_density, best)
            attempt += 1
            going &= ~(_resolved(best) | ((attempt >= self.enough) & np.isfinite(best)))
        metrics, states = self._in_first_metric(chains, metrics, states)
        states = self._with_known_step(numbers, states)
        windows = tuple(empty_window(self.dim) for _ in chains)
        return Carry(numbers, states, metrics, windows, np.int64(0), np.int64(0))

    def _blank_metric(self) -> Metric:
        return identity(self.dim, self.plan.capacity, np.dtype(jax.dtypes.canonicalize_dtype(float)))

    def _try(self, chain: int, attempt: int, *, wanted: bool) -> ChainState:
        """A try of a chain; a chain of a group that has its start needs no more."""
        zeros = np.zeros(self.dim, np.dtype(jax.dtypes.canonicalize_dtype(float)))
        return initial_state(self._start(chain, attempt) if wanted else zeros)

    def _start(self, chain: int, attempt: int) -> np.ndarray:
        if self.adaptation is not None and attempt == 0:
            return np.asarray(self.adaptation.positions)[chain % len(self.adaptation.positions)]
        return self.start_at(chain, attempt)

    def _in_first_metric(self, chains: Sequence[int], metrics: Metric, states: ChainState) -> tuple[Metric, ChainState]:
        moved = []
        for row, chain in enumerate(chains):
            metric, state = _at(metrics, row), _at(states, row)
            gradient = np.asarray(state.point.gradient, np.float64)
            known = self._known_metric(chain) if self.adaptation else metric
            moved.append(moved_to(known, state, state.point.position, gradient))
        return _stack([m for m, _ in moved]), _stack([s for _, s in moved])

    def _known_metric(self, chain: int) -> Metric:
        assert self.adaptation is not None
        return _at(self.adaptation.metric, chain % len(self.adaptation.step_size))

    def _with_known_step(self, numbers: np.ndarray, states: ChainState) -> ChainState:
        """The step size of an earlier run, if there is one; a guess is brought to the target in a few transitions."""
        if self.adaptation is None:
            return states
        dtype, known = states.step.log_step.dtype, np.asarray(self.adaptation.step_size)
        return states._replace(step=_stack([started(float(known[c % len(known)]), dtype) for c in numbers]))

    def _evaluated(self, numbers: np.ndarray, metrics: Metric, states: ChainState) -> ChainState:
        """The states with log density and gradient; a transition of step size zero finds them."""
        found, _ = self._run(numbers, metrics, states, self._what(1, adapt=False, scale=0.0, depth=1))
        return found._replace(transition=states.transition)

    # --- transitions -------------------------------------------------------------------------------------------------

    def advance(self, carry: Carry, transitions: int) -> tuple[Carry, Batch]:
        """Run transitions up to the next end of a window; learn a metric there."""
        done, warmup = int(carry.done), self.plan.warmup
        adapting = done < warmup
        count = self._count(done, transitions)
        depth = min(EARLY_DEPTH, self.plan.depth) if done < min(EARLY, warmup) else self.plan.depth
        what = self._what(count, adapt=adapting, thin=1 if adapting else self.plan.thin, depth=depth)
        state, record = self._run(carry.chains, carry.metric, carry.state, what)
        rows = count if adapting else count // self.plan.thin
        kept = Recorded(*(part[:, :rows] for part in record))
        carry = carry._replace(state=state, done=np.int64(done + count))
        first = (int(np.min(carry.chains)), max(done - warmup, 0) // self.plan.thin)
        if adapting:
            spent = carry.spent + np.int64(kept.stats[:, :, STATS.index("steps")].sum())
            carry = self._learnt(carry._replace(spent=spent), kept)
            return carry, self._batch(kept, 0, count, "warm-up", first)
        return carry, self._batch(kept, rows, count, "sampling", first)

    def _count(self, done: int, budget: int) -> int:
        """How many transitions to run now: within the budget, the record, the window, and whole draws."""
        thin, sizes = self.plan.thin, self._sizes
        if done < self.plan.warmup:
            ends = (EARLY, *window_ends(self.plan.warmup), self.plan.warmup)
            return min(max(budget, 1), sizes.rows, min(end for end in ends if end > done) - done)
        left = self.total - done
        return min(max(budget // thin, 1) * thin, sizes.rows * thin, left)

    def _learnt(self, carry: Carry, record: Recorded) -> Carry:
        """The carry after a stretch of warm-up: windows grown, and at the end of a window learnt from."""
        ends = window_ends(self.plan.warmup)
        if not ends or int(carry.done) > ends[-1]:
            return carry
        metrics = carry.metric
        grown = tuple(
            joined(window, window_of(_at(metrics, row), record.positions[row], record.gradients[row]))
            for row, window in enumerate(carry.windows)
        )
        if int(carry.done) not in ends:
            return carry._replace(windows=grown)
        states = carry.state
        pairs = [learn(_at(metrics, i), _at(states, i), w, self.plan.cutoff) for i, w in enumerate(grown)]
        metric, state = (_stack([pair[i] for pair in pairs]) for i in (0, 1))
        empty = tuple(empty_window(self.dim) for _ in grown)
        return carry._replace(metric=metric, state=state, windows=empty)

    def _batch(self, record: Recorded, rows: int, count: int, phase: str, first: tuple[int, int]) -> Batch:
        stats = record.stats
        diverging = int(stats[:, :rows, STATS.index("diverging")].sum())
        step_size = float(np.median(stats[:, -1, STATS.index("step_size")]))
        places = record.positions[:, :rows]
        reduced = self.reduce(places, first) if self.reduce is not None and rows else places
        kept = {"positions": reduced, "stats": stats[:, :rows]}
        return Batch(kept, Progress(count * len(stats), diverging, step_size, phase))

    def adaptation_of(self, carries: Sequence[Carry]) -> Adaptation:
        """What the chains learnt."""
        states = _concatenated([carry.state for carry in carries])
        metrics = _concatenated([carry.metric for carry in carries])
        size = np.exp(states.step.log_average)
        rows = range(len(size))
        places = np.stack([positions(_at(metrics, i), states.point.position[i]) for i in rows])
        return Adaptation(size, metrics, places.astype(metrics.scale.dtype))

    # --- the compiled function ---------------------------------------------------------------------------------------

    @cached_property
    def _sizes(self) -> Sizes:
        doublings = max(10, self.plan.depth) if self.plan.length is None else 0
        return sizes_for(self.dim, doublings, chains=self.group_size)

    def _what(self, transitions: int, *, adapt: bool, thin: int = 1, scale: float = 1.0, depth: int = 0) -> Stretch:
        dtype = np.dtype(jax.dtypes.canonicalize_dtype(float))
        return Stretch(
            np.int32(transitions),
            np.int32(thin),
            np.asarray(self.plan.target, dtype),
            np.bool_(adapt),
            np.int32(depth or self.plan.depth),
            np.asarray(scale, dtype),
            np.asarray((self.plan.length or 1.0) * scale, dtype),
        )

    def _run(self, chains: Any, metric: Metric, state: ChainState, what: Stretch) -> tuple[ChainState, Recorded]:
        return packed.run(self.target, self.key, chains, metric, state, what, self._sizes)


def _sound(states: ChainState) -> np.ndarray:
    """Which states have a finite density and gradient."""
    return np.isfinite(states.point.log_density) & np.isfinite(states.point.gradient).all(axis=-1)


def _resolved(log_density: np.ndarray) -> np.ndarray:
    """Whether log densities are small enough for their differences to be more than rounding."""
    return np.abs(log_density) * np.finfo(jax.dtypes.canonicalize_dtype(float)).eps < RESOLVED


def _stack(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *x: np.stack(x), *trees)


def _concatenated(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *x: np.concatenate(x), *trees)


def _at(tree: Any, row: int) -> Any:
    return jax.tree.map(lambda x: np.asarray(x)[row], tree)


def _where(flags: np.ndarray, yes: Any, no: Any) -> Any:
    return jax.tree.map(lambda a, b: np.where(flags.reshape(-1, *(1,) * (a.ndim - 1)), a, b), yes, no)
