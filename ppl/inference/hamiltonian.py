r"""Hamiltonian Monte Carlo with a fixed number of leapfrog steps, as a kernel.

Draw a momentum, $p \sim$ Normal(0, A^-1), take `steps` leapfrog steps of the dynamics of
$H(q, p) = -\log p(q) + p^T A p / 2$ in R^n (see `ppl.inference.flat`), and accept the end with probability
$\min(1, e^{H - H'})$. Law: leapfrog is reversible and preserves volume, so the kernel is in balance with the program.

It adapts nothing: `ppl.NUTS()` finds its step size, its metric and the length of its trajectories by itself.

Reference: Neal, "MCMC using Hamiltonian dynamics", Handbook of MCMC (2011), section 3.2, and 5.4.2.2 for the jitter.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float

from ppl.errors import ShapeError
from ppl.inference.flat import Flat
from ppl.inference.kernels import Kernel, State
from ppl.inference.method import positive
from ppl.numerics.integrators import Point, energy, momentum_of, trajectory
from ppl.semantics.language import deterministic, sample
from ppl.semantics.program import Program

DIVERGENCE = 1000.0
"""A trajectory whose energy rises by more nats is a divergence."""

Mass = tuple[float, ...] | tuple[tuple[float, ...], ...] | None
"""An inverse mass as a setting: the diagonal, a matrix by rows, or None for ones. Tuples, so that kernels compare."""


class Energies(NamedTuple):
    """The two numbers whose difference is the log acceptance ratio (nats)."""

    old: Any
    new: Any


@dataclass(frozen=True)
class StaticHamiltonian:
    """What `hmc` makes: a maker of kernels, comparable by its settings."""

    step_size: float
    steps: int
    inverse_mass: Mass
    jitter: float

    def __call__(self, program: Program) -> Kernel:
        """The kernel of a program."""
        inverse_mass_of(self.inverse_mass, Flat(program).dim)
        return partial(_kernel, self, program)


def hmc(step_size: float, steps: int, inverse_mass: Mass = None, jitter: float = 0.2) -> StaticHamiltonian:
    """Hamiltonian Monte Carlo on all choices of a program, which must be continuous.

    Args:
        step_size: Of the leapfrog steps, in R^n.
        steps: How many a trajectory.
        inverse_mass: Roughly the posterior's variances in R^n: a tuple by element in the order of the program's sites,
            or a tuple of rows (the covariance); None for ones.
        jitter: The step size of a trajectory is uniform within this share of `step_size`, so that no trajectory is
            caught in a cycle.

    Returns:
        A maker of kernels. Each records `accepted`, its probability `acceptance`, `diverging` (the energy rose by more
        than 1000 nats, or was not a number), and `log_density` in R^n (nats).

    Raises:
        ValueError: a setting is out of range.
        MeasureError: from a program with discrete choices, or with choices that are not always made.

    Examples:
        >>> import ppl, ppl.distributions as dist
        >>> @ppl.model
        ... def income():
        ...     return ppl.sample("x", dist.LogNormal(3.0, 0.5))
        >>> step = hmc(0.3, 4)(income())(State({"x": jnp.array(20.0)}, {}))
        >>> sorted(step.sites)
        ['accept', 'acceptance', 'accepted', 'diverging', 'log_density', 'momentum', 'step_size']
    """
    positive("steps", steps)
    positive_number("step_size", step_size)
    if not 0.0 <= jitter < 1.0:
        raise ValueError(f"jitter is {jitter!r}.\nExpected: a share of the step size, from 0 up to but not 1.")
    return StaticHamiltonian(step_size, steps, inverse_mass, jitter)


def positive_number(name: str, value: float) -> None:
    """Raise a `ValueError` where a setting is not a positive finite number."""
    if not 0.0 < value < float("inf"):
        raise ValueError(f"{name} is {value!r}.\nExpected: a positive number.")


def inverse_mass_of(setting: Mass, dim: int) -> Float[Array, "dim"] | Float[Array, "dim dim"]:
    """The inverse mass as an array.

    Args:
        setting: As the user gave it.
        dim: The number of elements of the program's choices in R^n.

    Raises:
        ShapeError: it has not `dim` elements, or rows of as many.
    """
    if setting is None:
        return jnp.ones(dim)
    array = jnp.asarray(setting, jnp.result_type(float))
    if array.shape not in ((dim,), (dim, dim)):
        raise ShapeError(
            f"inverse_mass has the shape {array.shape}, but the program's choices have {dim} elements in R^n.\n"
            f"Expected: {dim} variances, or {dim} rows of as many."
        )
    return array


def _kernel(maker: StaticHamiltonian, program: Program, state: State) -> Program:
    return Program.of(step, (program, state, maker))


def step(
    program: Program,
    state: State,
    maker: StaticHamiltonian,
    log_ratio: Callable[[Energies], Any] = lambda energies: energies.old - energies.new,
) -> State:
    """The body of the kernel. Another `log_ratio` than the difference of energies is a wrong kernel, for tests."""
    flat = Flat(program)
    mass = inverse_mass_of(maker.inverse_mass, flat.dim)
    value_and_grad = jax.value_and_grad(flat.log_density)
    position = flat.vector(state.choices)
    noise = sample("momentum", dist.Normal(jnp.zeros(flat.dim), 1.0).to_event(1))
    old = Point(position, momentum_of(mass, noise), *value_and_grad(position))
    new = trajectory(value_and_grad, mass, _step_size(maker), maker.steps, old)
    ratio = log_ratio(Energies(energy(mass, old), energy(mass, new)))
    deterministic("diverging", ~(ratio >= -DIVERGENCE))
    return decided(flat, state, old, new, ratio)


def _step_size(maker: StaticHamiltonian) -> Any:
    if maker.jitter == 0.0:
        return maker.step_size
    low, high = (maker.step_size * (1.0 + sign * maker.jitter) for sign in (-1.0, 1.0))
    return sample("step_size", dist.Uniform(low, high))


def decided(flat: Flat, state: State, old: Any, new: Any, log_ratio: Any) -> State:
    """The next state: that of `new` with probability `min(1, exp(log_ratio))`, else the old one untouched.

    A move to density zero, or to anything that is not a number, is never accepted. Records `accepted`, `acceptance`
    and `log_density`.

    Args:
        flat: The program's choices in R^n.
        state: The old state.
        old: Something with `position` and `log_density` (nats): where the state is.
        new: The same, where it may go.
        log_ratio: Log of the acceptance ratio (nats).
    """
    possible = (new.log_density > -jnp.inf) & jnp.all(jnp.isfinite(new.position)) & ~jnp.isnan(log_ratio)
    acceptance = jnp.where(possible, jnp.exp(jnp.minimum(log_ratio, 0.0)), 0.0)
    accepted = sample("accept", dist.Bernoulli(probs=acceptance)) == 1
    deterministic("accepted", accepted)
    deterministic("acceptance", acceptance)
    deterministic("log_density", jnp.where(accepted, new.log_density, old.log_density))
    return moved_where(accepted, flat, state, new.position)


def moved_where(accepted: Any, flat: Flat, state: State, position: Float[Array, "dim"]) -> State:
    """The state at a vector where accepted, else the old one bit for bit (the way to R^n and back rounds)."""
    choices = flat.choices(position)
    return State(
        {a: jnp.where(accepted, choices[a].astype(old.dtype), old) for a, old in state.choices.items()}, state.masks
    )
