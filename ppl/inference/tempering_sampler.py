"""Chains of replicas as a `Sampler` of the runner: each moves its own ladder in the first half of the warm-up.

Nothing is shared between chains, so that draws do not depend on how chains are laid out, up to rounding, nor on where a
run is cut, bit for bit: rejections are summed step by step in double precision.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float

from ppl.inference.kernel_sampler import START, Carry, Span, one_chain
from ppl.inference.kernels import KernelMaker, State, initial_states
from ppl.inference.progress import Progress
from ppl.inference.runner import Batch
from ppl.inference.tempering import replicated, tempered
from ppl.semantics.program import Program
from ppl.typing import PRNGKey

ROUNDS = 2
"""How often the ladder is moved; each round takes a quarter of the warm-up."""
LEAST_REJECTION = 1e-3
"""Rejection rates count for at least this much, so that the ladder stays strictly falling."""
BUDGET = 1 << 16
"""Numbers that a record holds, at most (at least 16 draws)."""


class Swaps(NamedTuple):
    """Swaps of a run by pair of neighbours: probabilities and outcomes, pair k being that of replicas k and k + 1."""

    acceptance: Float[np.ndarray, "chains draws pairs"]
    swapped: Bool[np.ndarray, "chains draws pairs"]


class Replicas(NamedTuple):
    """A group of chains between two advances; all have a leading axis of chains but `done`.

    Attributes:
        chains: Their numbers.
        states: Choices, with a second axis of replicas.
        moved: Whether a chain has ever moved.
        betas: The ladders.
        rejections: Sums of rejection probabilities by pair, since the ladder was last moved.
        done: Steps made.
    """

    chains: Any
    states: State
    moved: Any
    betas: Any
    rejections: Any
    done: Any


@dataclass(frozen=True, eq=False)
class TemperingSampler:
    """Chains of `tempered(maker)` on replicas of a program.

    Attributes:
        maker: Makes the kernel of one replica; hashable.
        program: The program that is replicated.
        key: The run's key.
        betas: The first ladder.
        warmup, draws, thin: Steps thrown away, draws kept, steps a draw (warm-up steps are not thinned).
        learn: Steps of each of two rounds after which the ladder is moved; 0: it stays.
        lockstep: Whether the chains of a group go side by side.
        reduce: What is kept of states of the first replica (chains, draws), given the first chain and draw; None: all.
    """

    maker: KernelMaker
    program: Program
    key: PRNGKey
    betas: tuple[float, ...]
    warmup: int
    draws: int
    thin: int
    learn: int
    lockstep: bool
    reduce: Callable[[State, tuple[int, int]], Any] | None = None

    @property
    def total(self) -> int:
        """Steps of a chain."""
        return self.warmup + self.draws * self.thin

    @property
    def signature(self) -> Any:
        """Equal for samplers that share compiled code."""
        leaves, tree = jax.tree.flatten(self.program)
        shapes = tuple((np.shape(x), str(x.dtype)) for x in leaves)
        return type(self).__name__, self.maker, len(self.betas), tree, shapes, self.lockstep, jax.default_backend()

    def done(self, carry: Replicas) -> int:
        """Steps made."""
        return int(carry.done)

    def start(self, chains: Sequence[int], device: Any) -> Replicas:
        """Prior draws of positive density, one for each replica."""
        del device
        key, count = jax.random.fold_in(self.key, START % (1 << 31)), len(self.betas)
        starts = [initial_states(self.program, jax.random.fold_in(key, chain), count) for chain in chains]
        states = jax.tree.map(lambda *x: np.stack([np.asarray(part) for part in x]), *starts)
        betas = np.tile(np.asarray(self.betas, np.dtype(jax.dtypes.canonicalize_dtype(float))), (len(chains), 1))
        rejections = np.zeros((len(chains), count - 1))
        moved = np.zeros(len(chains), bool)
        return Replicas(np.asarray(chains, np.int32), states, moved, betas, rejections, np.int64(0))

    def advance(self, carry: Replicas, transitions: int) -> tuple[Replicas, Batch]:
        """Make steps, up to the next time that ladders are moved; keep those after the warm-up."""
        done, rows = int(carry.done), self._rows(carry)
        warm = done < self.warmup
        thin = 1 if warm else self.thin
        ends = (*(self.learn * (i + 1) for i in range(ROUNDS)), self.warmup, self.total)
        left = min(end for end in ends if end > done) - done
        count = min(max(transitions // thin, 1) * thin, rows * thin, left)
        span = Span(np.int32(done), np.int32(count), np.int32(thin))
        states, moved, record = self._run(carry, rows, span)
        visited, stats = jax.tree.map(lambda x: np.asarray(x)[:, : count // thin], record)
        swaps = swaps_of(stats)
        carry = carry._replace(states=states, moved=np.asarray(moved), done=np.int64(done + count))
        progress = Progress(count * len(carry.chains), phase="warm-up" if warm else "sampling")
        if warm:
            carry = self._learnt(carry, swaps)
        states = jax.tree.map(lambda x: x[:, :, 0], visited)
        kept = {"states": states, "stats": cold_stats(stats), "swaps": swaps}
        if warm:
            return carry, Batch(jax.tree.map(lambda x: x[:, :0], kept), progress)
        if self.reduce is not None:
            kept["states"] = self.reduce(states, (int(np.min(carry.chains)), (done - self.warmup) // thin))
        return carry, Batch(kept, progress)

    def _run(self, carry: Replicas, rows: int, span: Span) -> Any:
        args = (carry.chains, carry.states, carry.moved, carry.betas)
        if self.lockstep:
            return _side_by_side(self.maker, rows, self.program, self.key, span, args)
        alone = jax.tree.map(lambda x: x[0], args)
        made = _alone(self.maker, rows, self.program, self.key, span, alone)
        return jax.tree.map(lambda x: np.asarray(x)[None], made)

    def _learnt(self, carry: Replicas, swaps: Swaps) -> Replicas:
        """The carry with rejections counted, and at the end of a round with moved ladders."""
        if carry.done > ROUNDS * self.learn:
            return carry
        parts = np.concatenate([carry.rejections[:, None], 1.0 - swaps.acceptance.astype(np.float64)], axis=1)
        rejections = np.cumsum(parts, axis=1)[:, -1]  # one after another, wherever the run was cut
        if int(carry.done) % self.learn:
            return carry._replace(rejections=rejections)
        ladders = [equal_ladder(b, r / self.learn) for b, r in zip(carry.betas, rejections, strict=True)]
        return carry._replace(betas=np.stack(ladders).astype(carry.betas.dtype), rejections=np.zeros_like(rejections))

    def _rows(self, carry: Replicas) -> int:
        size = sum(np.size(x) for x in jax.tree.leaves(carry.states)) // len(carry.chains)
        return 1 << max(4, min(10, (BUDGET // max(size, 1)).bit_length() - 1))


@partial(jax.jit, static_argnums=(0, 1))
def _alone(maker: KernelMaker, rows: int, program: Program, key: PRNGKey, span: Span, chain: Any) -> Any:
    number, states, moved, betas = chain
    carry = Carry(number, states, moved, span.first)
    ended, record = one_chain(tempered(maker), rows, replicated(program, betas), key, carry, span)
    return ended.states, ended.moved, record


@partial(jax.jit, static_argnums=(0, 1))
def _side_by_side(maker: KernelMaker, rows: int, program: Program, key: PRNGKey, span: Span, chains: Any) -> Any:
    return jax.vmap(partial(_alone, maker, rows, program, key, span))(chains)


def equal_ladder(
    betas: Float[np.ndarray, "replicas"], rejections: Float[np.ndarray, "pairs"]
) -> Float[np.ndarray, "replicas"]:
    """The ladder with the same ends on which neighbours are equally far apart, by rejection rate.

    Args:
        betas: The falling ladder on which swaps were tried.
        rejections: Mean rejection probability of each pair of neighbours.

    Examples:
        >>> equal_ladder(np.array([1.0, 0.5, 0.0]), np.array([0.2, 0.6])).round(3).tolist()
        [1.0, 0.333, 0.0]
    """
    barrier = np.concatenate([[0.0], np.cumsum(np.maximum(rejections, LEAST_REJECTION))])
    return np.interp(np.linspace(0.0, barrier[-1], len(betas)), barrier, betas)


def swaps_of(stats: dict[str, Any]) -> Swaps:
    """The swaps of even and odd pairs, brought in order."""

    def interleaved(name: str) -> np.ndarray:
        names = [f"{which}/{name}" for which in ("even", "odd")]
        parts = [np.asarray(stats[name]) for name in names if name in stats]
        whole = np.zeros((*parts[0].shape[:2], sum(part.shape[2] for part in parts)), parts[0].dtype)
        for first, part in enumerate(parts):
            whole[:, :, first::2] = part
        return whole

    return Swaps(interleaved("acceptance"), interleaved("swapped"))


def cold_stats(stats: dict[str, Any]) -> dict[str, Any]:
    """What the first replica's kernel recorded in its last move; its log density is that before the last swap."""
    names = [name for name in stats if name.startswith("second/") and not name.endswith("log_density")]
    return {name.removeprefix("second/"): stats[name][:, :, 0] for name in names}
