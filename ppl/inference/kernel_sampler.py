"""Chains of any kernel as a `Sampler` of the runner.

A step of chain i at time t draws from the run's key folded with i and t, so that draws do not depend on how chains are
laid out, up to rounding, nor on where a run is cut, bit for bit.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ppl.inference.kernels import KernelMaker, State, initial_states
from ppl.inference.progress import Progress
from ppl.inference.runner import Batch
from ppl.semantics.handlers import Simulate
from ppl.semantics.program import Program
from ppl.typing import PRNGKey

BUDGET = 1 << 16
"""Numbers that a record holds, at most (at least 16 draws)."""
START = 0x7374617274


class Carry(NamedTuple):
    """A group of chains between two advances; leading axes are chains, except where the group is one chain alone."""

    chains: Any
    states: State
    moved: Any
    done: Any


class Span(NamedTuple):
    """What an advance runs: the first step's number, how many steps, and every how many one is recorded."""

    first: Any
    steps: Any
    thin: Any


@dataclass(frozen=True, eq=False)
class KernelSampler:
    """Chains of a kernel.

    Attributes:
        maker: Makes the kernel of a program; hashable.
        program: The program.
        key: The run's key.
        warmup, draws, thin: Steps thrown away, draws kept, steps a draw (warm-up steps are not thinned).
        lockstep: Whether the chains of a group go side by side.
        reduce: What is kept of states with leading axes (chains, draws), given the first chain and draw; None: all.
        begin: From the program, a key and a prior draw to the state from which a chain starts; None: the draw itself.
    """

    maker: KernelMaker
    program: Program
    key: PRNGKey
    warmup: int
    draws: int
    thin: int
    lockstep: bool
    reduce: Callable[[State, tuple[int, int]], Any] | None = None
    begin: Callable[[Program, PRNGKey, State], State] | None = None

    @property
    def total(self) -> int:
        """Steps of a chain."""
        return self.warmup + self.draws * self.thin

    @property
    def signature(self) -> Any:
        """Equal for samplers that share compiled code."""
        leaves, tree = jax.tree.flatten(self.program)
        shapes = tuple((np.shape(x), str(x.dtype)) for x in leaves)
        return type(self).__name__, self.maker, tree, shapes, self.lockstep, jax.default_backend()

    def done(self, carry: Carry) -> int:
        """Steps made."""
        return int(carry.done)

    def start(self, chains: Sequence[int], device: Any) -> Carry:
        """Prior draws of positive density."""
        del device
        key = jax.random.fold_in(self.key, START % (1 << 31))
        starts = [self._start(jax.random.fold_in(key, chain)) for chain in chains]
        states = jax.tree.map(lambda *x: np.concatenate([np.asarray(part) for part in x]), *starts)
        numbers, moved = np.asarray(chains, np.int32), np.zeros(len(chains), bool)
        if not self.lockstep:
            numbers, states, moved = jax.tree.map(lambda x: x[0], (numbers, states, moved))
        return Carry(numbers, states, moved, np.int64(0))

    def _start(self, key: PRNGKey) -> State:
        state = initial_states(self.program, key, 1)
        if self.begin is None:
            return state
        begun = self.begin(self.program, jax.random.fold_in(key, 1), jax.tree.map(lambda x: x[0], state))
        return jax.tree.map(lambda x: x[None], begun)

    def advance(self, carry: Carry, transitions: int) -> tuple[Carry, Batch]:
        """Make steps; keep those after the warm-up."""
        done, warm, rows = int(carry.done), int(carry.done) < self.warmup, self._rows(carry)
        thin = 1 if warm else self.thin
        left = (self.warmup if warm else self.total) - done
        count = min(max(transitions // thin, 1) * thin, rows * thin, left)
        span = Span(np.int32(done), np.int32(count), np.int32(thin))
        run = _many if self.lockstep else one_chain
        ended, (states, stats) = run(self.maker, rows, self.program, self.key, carry, span)
        widen = (lambda x: np.asarray(x)) if self.lockstep else (lambda x: np.asarray(x)[None])
        keep = 0 if warm else count // thin
        states, stats = jax.tree.map(lambda x: widen(x)[:, :keep], (states, stats))
        if self.reduce is not None and keep:
            states = self.reduce(states, (int(np.min(carry.chains)), (done - self.warmup) // thin))
        progress = Progress(count * int(np.size(carry.chains)), phase="warm-up" if warm else "sampling")
        return ended._replace(done=np.int64(done + count)), Batch({"states": states, "stats": stats}, progress)

    def _rows(self, carry: Carry) -> int:
        size = sum(np.size(x) for x in jax.tree.leaves(carry.states)) // max(np.size(carry.chains), 1)
        return 1 << max(4, min(10, (BUDGET // max(size, 1)).bit_length() - 1))


@partial(jax.jit, static_argnums=(0, 1))
def one_chain(maker: KernelMaker, rows: int, program: Program, key: PRNGKey, carry: Carry, span: Span) -> Any:
    """Steps of one chain; one kernel is compiled. Returns the last carry, and visited states and recorded numbers."""
    own, kernel = jax.random.fold_in(key, carry.chains), maker(program)

    def step(states: State, number: Any) -> tuple[State, dict[str, Any]]:
        return kernel_step(kernel, jax.random.fold_in(own, number), states)

    def body(index: Any, loop: Any) -> Any:
        states, moved, record = loop
        new, stats = step(states, span.first + index)
        row = index // span.thin
        put = partial(lax.dynamic_update_index_in_dim, index=row, axis=0)
        record = jax.tree.map(lambda buffer, x: put(buffer, x), record, (new, stats))
        return new, moved | _differ(states, new), record

    avals = jax.eval_shape(step, carry.states, span.first)
    blank = jax.tree.map(lambda x: jnp.zeros((rows, *x.shape), x.dtype), avals)
    states = jax.tree.map(lambda x, a: jnp.asarray(x, a.dtype), carry.states, avals[0])
    states, moved, record = lax.fori_loop(0, span.steps, body, (states, jnp.asarray(carry.moved), blank))
    return carry._replace(states=states, moved=moved), record


@partial(jax.jit, static_argnums=(0, 1))
def _many(maker: KernelMaker, rows: int, program: Program, key: PRNGKey, carry: Carry, span: Span) -> Any:
    def one(chains: Any, states: State, moved: Any) -> Any:
        ended, record = one_chain(maker, rows, program, key, Carry(chains, states, moved, carry.done), span)
        return (ended.states, ended.moved), record

    (states, moved), record = jax.vmap(one)(carry.chains, carry.states, carry.moved)
    return carry._replace(states=states, moved=moved), record


def kernel_step(kernel: Callable[[State], Program], key: PRNGKey, state: State) -> tuple[State, dict[str, Any]]:
    """One step of one chain: the next state, and the numbers that the kernel records, by address."""
    program = kernel(state)
    new, result = program.run(Simulate(key), {})
    return new, {a: result.writes[a] for a, i in program.sites.items() if i.kind == "deterministic"}


def _differ(old: State, new: State) -> Any:
    flags = [jnp.any(a != b) for a, b in zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True)]
    return jnp.any(jnp.stack(flags)) if flags else jnp.zeros((), bool)
