"""Many chains that share step size, metric and trajectory length, as a `Sampler` of the runner: one group, one loop.

The host holds the plan: where windows of the warm-up end, the metric that the pooled draws and gradients of a window
show, and what is kept. One compiled function does all the rest; with several devices the chains are spread over them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float

from ppl import native
from ppl.inference.progress import Progress
from ppl.inference.runner import Batch
from ppl.inference.warmup import default_step, started
from ppl.numerics.many_chains import EACH, SHARED, Ensemble, Order, Record, ensemble_stretch, rows_for, within
from ppl.numerics.metric import Metric, identity
from ppl.numerics.metric_estimates import Window, estimate
from ppl.numerics.metric_on_host import coordinates_of, original_gradients, positions, pulled_gradients
from ppl.numerics.trajectory_length import LengthAdaptation
from ppl.typing import PRNGKey

COLUMNS = (*EACH, *SHARED)
"""The numbers kept of a draw, in this order."""
FIRST_WINDOW = 10
"""Transitions of the first window; each is twice as long as the one before."""
LAST_STRETCH = 0.2
"""Share of the warm-up, at the end, that adapts step size and length alone."""
EARLY = 30
"""Transitions in which trajectories are kept short, while the step size may be far too small."""
EARLY_STEPS, MOST_STEPS = 32, 1024
"""The most steps of a trajectory, in these and later."""
ENOUGH = 8192
"""About how many draws a window keeps, over all chains."""
SETTLED = 60
"""Iterations after which adaptation goes on through a change of metric."""


class ManyPlan(NamedTuple):
    """What a run does.

    Attributes:
        warmup, draws, thin: Transitions thrown away, draws kept, transitions a draw.
        target: Mean acceptance to adapt to.
        capacity: Directions of the metric that there is room for.
        cutoff: Eigenvalues of the metric nearer to one than by this factor are one.
    """

    warmup: int
    draws: int
    thin: int
    target: float
    capacity: int
    cutoff: float


class SharedAdaptation(NamedTuple):
    """What a warm-up of many chains learnt: give it to another run as `ppl.MAMS(adaptation=...)`.

    Attributes:
        step_size, length: In the coordinates of the metric.
        metric: The change of coordinates.
        positions: The last unconstrained positions, where the next run starts.
    """

    step_size: Any
    length: Any
    metric: Metric
    positions: Float[Any, "chains dim"]


class EnsembleCarry(NamedTuple):
    """The chains between two advances; `spent` counts the gradients of the warm-up."""

    chains: Any
    state: Ensemble
    metric: Metric
    window: Window
    done: Any
    spent: Any


def ends_of_windows(warmup: int) -> tuple[int, ...]:
    """The transitions after which the metric is estimated anew.

    Examples:
        >>> ends_of_windows(500), ends_of_windows(10), ends_of_windows(0)
        ((10, 30, 70, 150, 400), (8,), ())
    """
    last, ends, size = round((1 - LAST_STRETCH) * warmup), [], FIRST_WINDOW
    while sum(ends[-1:]) + size <= 0.5 * last:
        ends.append(sum(ends[-1:]) + size)
        size *= 2
    return (*ends, last) if last else ()


@lru_cache(maxsize=8)
def _compiled(backend: str) -> Any:
    def run(target: Any, key: PRNGKey, chains: Any, metric: Metric, state: Ensemble, order: Order, rows: int) -> Any:
        return ensemble_stretch(jax.value_and_grad(_padded(target)), metric, state, key, chains, order, rows)

    return jax.jit(run, static_argnums=6, compiler_options=native.compiler_options(backend))


@lru_cache(maxsize=8)
def _compiled_look(backend: str) -> Any:
    def look(target: Any, metric: Metric, coordinates: Any) -> Any:
        return within(jax.value_and_grad(_padded(target)), metric)(coordinates)

    return jax.jit(look, compiler_options=native.compiler_options(backend, quick=True))


def _padded(target: Any) -> Callable[[Any], Any]:
    """The log density with standard normal coordinates behind its own: on a sphere in one dimension nothing moves."""
    dim = target.dim
    return lambda vector: target.log_density(vector[:dim]) - 0.5 * jnp.sum(vector[dim:] ** 2)


@dataclass(frozen=True, eq=False)
class ManyChainSampler:
    """Microcanonical chains side by side on a target.

    Attributes:
        target: A pytree with `dim` and `log_density(vector)`, such as `Flat`.
        key: The run's key.
        plan: What to do.
        start_at: From (chain, attempt) to a vector to start from; raises where it has no more to offer.
        adaptation: What an earlier run learnt, or None.
        devices: Over which the chains are spread, in equal parts.
        reduce: From positions (chains, draws, dim) and the numbers of the first chain and draw to what is kept of them
            (None: the positions).
    """

    target: Any
    key: PRNGKey
    plan: ManyPlan
    start_at: Callable[[int, int], np.ndarray]
    adaptation: SharedAdaptation | None
    devices: tuple[Any, ...]
    reduce: Callable[[np.ndarray, tuple[int, int]], Any] | None = None

    @cached_property
    def dim(self) -> int:
        """Dimension of the vectors that move: at least two."""
        return max(self.target.dim, 2)

    @property
    def total(self) -> int:
        """Transitions of a chain."""
        return self.plan.warmup + self.plan.draws * self.plan.thin

    @cached_property
    def signature(self) -> Any:
        """Equal for samplers that share compiled code, but for the number of chains: one group compiles by itself."""
        leaves, tree = jax.tree.flatten(self.target)
        shapes = tuple((np.shape(x), str(x.dtype)) for x in leaves)
        return type(self).__name__, tree, shapes, self.plan.capacity, self.devices, jax.default_backend()

    def done(self, carry: EnsembleCarry) -> int:
        """Transitions made."""
        return int(carry.done)

    # --- the start ---------------------------------------------------------------------------------------------------

    def start(self, chains: Sequence[int], device: Any) -> EnsembleCarry:
        """A start of finite density for each chain; the first metric is that of all starts."""
        del device
        numbers, dtype = np.asarray(chains, np.int32), np.dtype(jax.dtypes.canonicalize_dtype(float))
        metric = jax.tree.map(np.asarray, identity(self.dim, self.plan.capacity, dtype))
        positions, values, gradients = self._sound_starts(numbers, metric, dtype)
        window = Window(positions.astype(np.float64), gradients.astype(np.float64))
        known = self.adaptation
        step, length = (default_step(self.dim) * self.dim**0.5, 0.5 * self.dim**0.5) if known is None else known[:2]
        state = Ensemble(
            positions, gradients, values, started(float(step), dtype), _length(float(length), dtype), np.int32(0)
        )
        metric = estimate(window, metric, self.plan.cutoff) if known is None else known.metric
        metric, state = moved(metric, state, window)
        return EnsembleCarry(numbers, state, metric, self._empty(len(numbers)), np.int64(0), np.int64(0))

    def _sound_starts(self, numbers: np.ndarray, metric: Metric, dtype: Any) -> Any:
        positions, values = np.zeros((len(numbers), self.dim), dtype), np.full(len(numbers), -np.inf, dtype)
        gradients, bad, attempt = np.zeros_like(positions), np.ones(len(numbers), bool), 0
        while bad.any():
            for row in np.flatnonzero(bad):
                positions[row] = self._start(int(numbers[row]), attempt)
            found = _compiled_look(jax.default_backend())(self.target, metric, positions)
            values, gradients = (np.asarray(x) for x in found)
            bad, attempt = ~(np.isfinite(values) & np.isfinite(gradients).all(axis=1)), attempt + 1
        return positions, values, gradients

    def _start(self, chain: int, attempt: int) -> np.ndarray:
        if self.adaptation is not None and attempt == 0:
            vector = np.asarray(self.adaptation.positions)[chain % len(self.adaptation.positions)]
        else:
            vector = self.start_at(chain, attempt)
        spare = np.random.default_rng([chain, attempt]).normal(size=self.dim - self.target.dim)
        return np.concatenate([vector[: self.target.dim], spare])

    def _empty(self, chains: int) -> Window:
        blank = np.zeros((0, chains, self.dim))
        return Window(blank.reshape(-1, self.dim), blank.reshape(-1, self.dim))

    # --- transitions -------------------------------------------------------------------------------------------------

    def advance(self, carry: EnsembleCarry, transitions: int) -> tuple[EnsembleCarry, Batch]:
        """Run transitions up to the next end of a window; learn a metric there."""
        done, warmup = int(carry.done), self.plan.warmup
        count, adapting = self._count(done, transitions, len(carry.chains)), done < warmup
        state, record = self._run(carry, self._order(count, done))
        rows = count if adapting else count // self.plan.thin
        kept = Record(*(np.asarray(part)[:rows] for part in record))
        carry = carry._replace(state=state, done=np.int64(done + count))
        phase = "warm-up" if adapting else "sampling"
        if adapting:
            spent = np.int64(kept.shared[:, SHARED.index("steps")].sum() * len(carry.chains))
            carry = self._learnt(carry._replace(spent=carry.spent + spent), kept)
            return carry, self._batch(kept, 0, count, phase, 0)
        return carry, self._batch(kept, rows, count, phase, (done - warmup) // self.plan.thin)

    def _count(self, done: int, budget: int, chains: int) -> int:
        """How many transitions to run now: within the budget, the record, the window, and whole draws."""
        warmup, thin, rows = self.plan.warmup, self.plan.thin, rows_for(chains, self.dim)
        if done < warmup:
            ends = (EARLY, *ends_of_windows(warmup), warmup)
            return min(max(budget, 1), rows, min(end for end in ends if end > done) - done)
        return min(max(budget // thin, 1) * thin, rows * thin, self.total - done)

    def _order(self, count: int, done: int) -> Order:
        adapt, dtype = done < self.plan.warmup, np.dtype(jax.dtypes.canonicalize_dtype(float))
        most = EARLY_STEPS if adapt and done < EARLY else MOST_STEPS
        thin = 1 if adapt else self.plan.thin
        return Order(
            np.int32(count), np.int32(thin), np.asarray(self.plan.target, dtype), np.bool_(adapt), np.int32(most)
        )

    def _run(self, carry: EnsembleCarry, order: Order) -> tuple[Ensemble, Record]:
        rows = rows_for(len(carry.chains), self.dim)
        chains, state = self._spread(carry.chains, carry.state)
        function = _compiled(jax.default_backend())
        return function(self.target, self.key, chains, carry.metric, state, order, rows)

    def _spread(self, chains: Any, state: Ensemble) -> tuple[Any, Ensemble]:
        """Chains over the devices in equal parts; what they share is on all."""
        if len(self.devices) < 2:
            return chains, state
        mesh = Mesh(np.array(self.devices), ("chains",))
        by_chain, shared = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("chains",), ()))
        split = ("position", "gradient", "log_density")
        placed = {n: jax.device_put(x, by_chain if n in split else shared) for n, x in state._asdict().items()}
        return jax.device_put(chains, by_chain), Ensemble(**placed)

    def _learnt(self, carry: EnsembleCarry, record: Record) -> EnsembleCarry:
        """The carry after a stretch of warm-up: the window grown, and at its end a metric learnt from it."""
        ends, done = ends_of_windows(self.plan.warmup), int(carry.done)
        if done > ends[-1]:
            return carry
        chains, end = len(carry.chains), min(end for end in ends if end >= done)
        begin = max([e for e in ends if e < end], default=0)
        wanted = max(min(-(-ENOUGH // chains), (end - begin + 1) // 2), 1) * chains  # the later half, at most
        gradients = original_gradients(carry.metric, record.gradients.reshape(-1, self.dim))
        found = Window(record.positions.reshape(-1, self.dim).astype(np.float64), gradients)
        window = Window(*(np.concatenate(pair)[-wanted:] for pair in zip(carry.window, found, strict=True)))
        if done < end:
            return carry._replace(window=window)
        state = Ensemble(*jax.tree.map(np.asarray, tuple(carry.state)))
        last = Window(*(part[-chains:] for part in window))
        metric, state = moved(estimate(window, carry.metric, self.plan.cutoff), state, last)
        return carry._replace(metric=metric, state=_restarted(state, self.dim), window=self._empty(chains))

    def _batch(self, record: Record, rows: int, count: int, phase: str, first: int) -> Batch:
        chains = record.each.shape[1]
        positions = np.moveaxis(record.positions[:rows, :, : self.target.dim], 0, 1)
        shared = np.broadcast_to(record.shared[:, None], (len(record.shared), chains, len(SHARED)))
        stats = np.moveaxis(np.concatenate([record.each, shared], axis=2)[:rows], 0, 1)
        diverging = int(stats[..., COLUMNS.index("diverging")].sum())
        reduced = self.reduce(positions, (0, first)) if self.reduce is not None and rows else positions
        step_size = float(record.shared[-1, SHARED.index("step_size")])
        return Batch({"positions": reduced, "stats": stats}, Progress(count * chains, diverging, step_size, phase))

    def adaptation_of(self, carry: EnsembleCarry) -> SharedAdaptation:
        """What the chains learnt."""
        state, metric = carry.state, carry.metric
        places = positions(metric, state.position)[:, : self.target.dim]
        learnt = np.exp(np.asarray(state.step.log_average)), np.exp(np.asarray(state.length.log_average))
        return SharedAdaptation(*learnt, metric, places.astype(np.asarray(metric.scale).dtype))


# --- changes of coordinates on the host, in double precision ---------------------------------------------------------


def _length(length: float, dtype: Any) -> LengthAdaptation:
    log_length, zero = np.log(length).astype(dtype), np.zeros((), dtype)
    return LengthAdaptation(log_length, log_length, zero, zero, zero, zero)


def _restarted(state: Ensemble, dim: int) -> Ensemble:
    """Averages start anew; early on, so does the step size, since the metric was a guess."""
    zero = np.zeros_like(state.step.averaged)
    settled = state.step.iterations >= SETTLED
    step = state.step._replace(averaged=zero) if settled else started(default_step(dim) * dim**0.5, zero.dtype)
    return state._replace(step=step, length=state.length._replace(averaged=zero))


def moved(metric: Metric, state: Ensemble, last: Window) -> tuple[Metric, Ensemble]:
    """The chains in the coordinates of a metric, centred at their mean; `last` is where they are, in the original."""
    dtype = np.asarray(metric.scale).dtype
    metric = metric._replace(center=np.mean(last.draws, axis=0).astype(dtype))
    position, gradient = coordinates_of(metric, last.draws), pulled_gradients(metric, last.gradients)
    return metric, state._replace(position=position.astype(dtype), gradient=gradient.astype(dtype))
