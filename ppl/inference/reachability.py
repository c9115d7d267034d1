"""Exact transition matrices of kernels on finite programs, and whether a kernel reaches everything.

The kernel is a program, so enumerating it at every state gives its transition matrix without Monte Carlo error: is it
stochastic, does it leave the posterior invariant, is it in balance, is it irreducible? For programs of up to some
hundred states; larger ones are a matter of statistics.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy.sparse.csgraph import connected_components

from ppl.errors import ConvergenceError
from ppl.inference.exact import distinct_points
from ppl.inference.kernels import KernelMaker, State
from ppl.inference.trace_mh import trace_mh_kernel
from ppl.semantics.enumeration import DEFAULT_LIMIT
from ppl.semantics.program import Program

NEGLIGIBLE = 1e-30
"""Transition probabilities below it count as zero: NumPyro gives some impossible outcomes 1e-38 or 1e-308."""

SMALL = 256
"""Programs of at most so many rows are padded to all of them."""


class Transitions(NamedTuple):
    """A kernel on a finite program.

    Attributes:
        states: All states of positive mass, with a leading axis.
        matrix: Probability of going from state i (row) to state j (column).
        posterior: Posterior mass of each state.
    """

    states: State
    matrix: Float[np.ndarray, "states states"]
    posterior: Float[np.ndarray, "states"]


class Reachability(NamedTuple):
    """The communicating classes of a kernel; true where there is only one.

    Attributes:
        classes: For each class, the states in it: choices by address with a leading axis.
        masses: Posterior mass of each class.
    """

    classes: list[dict[str, np.ndarray]]
    masses: list[float]

    def __bool__(self) -> bool:
        """Whether the kernel reaches every state of positive mass from every other."""
        return len(self.classes) <= 1

    def __repr__(self) -> str:
        """A line for each class."""
        head = "irreducible" if self else f"{len(self.classes)} classes that cannot reach each other"
        lines = [f"  mass {mass:.6g}: {_some(group)}" for group, mass in zip(self.classes, self.masses, strict=True)]
        return "\n".join([f"Reachability: {head}", *lines])


def transitions(program: Program, maker: KernelMaker = trace_mh_kernel, limit: int = DEFAULT_LIMIT) -> Transitions:
    """The transition matrix of a kernel on a finite program, by enumerating the kernel at every state.

    Args:
        program: A finite program.
        maker: Makes the kernel, single-site MH by default.
        limit: The most rows, both of the program and of the kernel at one state.

    Raises:
        NotFiniteError, EnumerationSizeError: from the enumeration.
        ConvergenceError: the kernel leaves the support.
    """
    measure = program.enumerate(limit)
    points = distinct_points(measure)
    states = jax.tree.map(jnp.asarray, State(points.choices, points.masks))
    log_weights, new = _enumerated(maker, program, states, limit, len(measure.log_weights))
    index = {key: i for i, key in enumerate(_keys(states))}
    matrix = np.zeros((len(index), len(index)))
    weights = np.exp(np.asarray(log_weights, np.float64))
    for i in range(len(index)):
        for key, weight in zip(_keys(jax.tree.map(lambda x, i=i: x[i], new)), weights[i], strict=True):
            if weight > NEGLIGIBLE and key not in index:
                raise ConvergenceError(f"The kernel leaves the support of {program.name!r} with probability {weight}.")
            if weight > NEGLIGIBLE:
                matrix[i, index[key]] += weight
    masses = np.exp(points.log_weights - np.logaddexp.reduce(points.log_weights))
    return Transitions(states, matrix, masses)


def _enumerated(maker: KernelMaker, program: Program, states: State, limit: int, rows: int) -> tuple[jax.Array, State]:
    """Enumerate the kernel at every state, padded to a size that depends little on the numbers: few compilations."""
    count = len(jax.tree.leaves(states)[0])
    size = rows if rows <= SMALL else 2 ** (count - 1).bit_length()
    padded = np.minimum(np.arange(size), count - 1)
    found = _enumerate_kernel(maker, limit, program, jax.tree.map(lambda x: x[padded], states))
    return jax.tree.map(lambda x: x[:count], found)


@partial(jax.jit, static_argnums=(0, 1))
def _enumerate_kernel(maker: KernelMaker, limit: int, program: Program, states: State) -> tuple[jax.Array, State]:
    def one(state: State) -> tuple[jax.Array, State]:
        measure = maker(program)(state).enumerate(limit)
        return measure.log_weights, measure.values

    return jax.vmap(one)(states)


def _keys(states: State) -> list[bytes]:
    """One hashable key a state; values of choices that are not made are zero already."""
    leaves = [np.asarray(x, np.float64) for x in jax.tree.leaves(states)]
    rows = np.concatenate([np.round(x.reshape(len(x), -1), 5) + 0.0 for x in leaves], axis=1)
    return [row.tobytes() for row in rows]


def irreducible(program: Program, maker: KernelMaker = trace_mh_kernel, limit: int = DEFAULT_LIMIT) -> Reachability:
    """Whether a kernel reaches every state of positive mass, on a finite program.

    Args:
        program: A finite program.
        maker: Makes the kernel, single-site MH by default.
        limit: The most rows to enumerate.

    Returns:
        The communicating classes; as a truth value, whether there is only one.

    Examples:
        >>> import jax.numpy as jnp, ppl, ppl.distributions as dist
        >>> @ppl.model
        ... def twins():
        ...     a = ppl.sample("a", dist.Bernoulli(0.25))
        ...     b = ppl.sample("b", dist.Bernoulli(0.5))
        ...     ppl.factor("equal", jnp.where(a == b, 0.0, -jnp.inf))
        >>> irreducible(twins())
        Reachability: 2 classes that cannot reach each other
          mass 0.75: a=0, b=0
          mass 0.25: a=1, b=1
    """
    return reachability(transitions(program, maker, limit))


def reachability(moves: Transitions) -> Reachability:
    """The communicating classes of a transition matrix."""
    count, labels = connected_components(moves.matrix > 0, directed=True, connection="strong")
    groups = [np.flatnonzero(labels == k) for k in range(count)]
    groups.sort(key=lambda group: int(group[0]))
    classes = [{a: np.asarray(x)[group] for a, x in moves.states.choices.items()} for group in groups]
    return Reachability(classes, [float(moves.posterior[group].sum()) for group in groups])


def _some(group: dict[str, np.ndarray], most: int = 3) -> str:
    size = len(next(iter(group.values()), []))
    shown = ["; ".join([", ".join(f"{a}={x[i].tolist()}" for a, x in group.items())]) for i in range(min(size, most))]
    return " | ".join(shown) + (f" | {size - most} more" if size > most else "")
