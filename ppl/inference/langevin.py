r"""The Metropolis-adjusted Langevin algorithm, as a kernel.

Propose $q' \sim$ Normal(q + eps^2/2 A g(q), eps^2 A) in R^n, g the gradient of the log density, and accept with
probability $\min(1, \frac{p(q')\, k(q \mid q')}{p(q)\, k(q' \mid q)})$, k the density of the proposal. Law: it is in
balance with the program, and the log of the ratio is the energy error of one leapfrog step with inverse mass A.

Reference: Roberts & Tweedie, "Exponential convergence of Langevin distributions and their discrete approximations",
Bernoulli 2 (1996), section 1.4.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float

from ppl.inference.flat import Flat
from ppl.inference.hamiltonian import DIVERGENCE, Mass, decided, inverse_mass_of, positive_number
from ppl.inference.kernels import Kernel, State
from ppl.numerics.integrators import velocity
from ppl.semantics.language import deterministic, sample
from ppl.semantics.program import Program


class Place(NamedTuple):
    """A position in R^n with its log density (nats) and gradient."""

    position: Float[Array, "dim"]
    log_density: Float[Array, ""]
    gradient: Float[Array, "dim"]


class Ratio(NamedTuple):
    """The logarithms whose sum is the acceptance ratio: of densities, and of the proposal forth and back."""

    target: Any
    forward: Any
    backward: Any


@dataclass(frozen=True)
class Langevin:
    """What `mala` makes: a maker of kernels, comparable by its settings."""

    step_size: float
    inverse_mass: Mass

    def __call__(self, program: Program) -> Kernel:
        """The kernel of a program."""
        inverse_mass_of(self.inverse_mass, Flat(program).dim)
        return partial(_kernel, self, program)


def mala(step_size: float, inverse_mass: Mass = None) -> Langevin:
    """Metropolis-adjusted Langevin steps on all choices of a program, which must be continuous.

    Args:
        step_size: eps, in R^n; an acceptance near 0.57 is best in high dimensions.
        inverse_mass: A, roughly the posterior's variances in R^n: a tuple by element in the order of the program's
            sites, or a tuple of rows (the covariance); None for ones.

    Returns:
        A maker of kernels. Each records `accepted`, its probability `acceptance`, `diverging` (the log ratio was below
        -1000, or not a number), and `log_density` in R^n (nats).

    Raises:
        ValueError: the step size is not positive.
        MeasureError: from a program with discrete choices, or with choices that are not always made.

    Examples:
        >>> import ppl, ppl.distributions as dist
        >>> @ppl.model
        ... def income():
        ...     return ppl.sample("x", dist.LogNormal(3.0, 0.5))
        >>> step = mala(0.3)(income())(State({"x": jnp.array(20.0)}, {}))
        >>> sorted(step.sites)
        ['accept', 'acceptance', 'accepted', 'diverging', 'log_density', 'proposal']
    """
    positive_number("step_size", step_size)
    return Langevin(step_size, inverse_mass)


def _kernel(maker: Langevin, program: Program, state: State) -> Program:
    return Program.of(step, (program, state, maker))


def step(program: Program, state: State, maker: Langevin, log_ratio: Callable[[Ratio], Any] = sum) -> State:
    """The body of the kernel. `log_ratio` adds up the terms (another than the sum is a wrong kernel, for tests)."""
    flat = Flat(program)
    mass = inverse_mass_of(maker.inverse_mass, flat.dim)

    def place(position: Any) -> Place:
        return Place(position, *jax.value_and_grad(flat.log_density)(position))

    old = place(flat.vector(state.choices))
    forth = proposal(mass, maker.step_size, old)
    new = place(sample("proposal", forth))
    back = proposal(mass, maker.step_size, new)
    ratio = log_ratio(
        Ratio(
            target=new.log_density - old.log_density,
            forward=-jnp.asarray(forth.log_prob(new.position)),
            backward=back.log_prob(old.position),
        )
    )
    deterministic("diverging", ~(ratio >= -DIVERGENCE))
    return decided(flat, state, old, new, ratio)


def proposal(
    inverse_mass: Float[Array, "dim"] | Float[Array, "dim dim"], step_size: float, place: Place
) -> dist.Distribution:
    """Normal(q + eps^2/2 A g, eps^2 A).

    Args:
        inverse_mass: The diagonal of A, or all of it.
        step_size: eps.
        place: q with its gradient g.
    """
    mean = place.position + 0.5 * step_size**2 * velocity(inverse_mass, place.gradient)
    if inverse_mass.ndim == 1:
        return dist.Normal(mean, step_size * jnp.sqrt(inverse_mass)).to_event(1)
    return dist.MultivariateNormal(mean, scale_tril=step_size * jnp.linalg.cholesky(inverse_mass))
