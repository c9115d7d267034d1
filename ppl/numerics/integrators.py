r"""Leapfrog steps of Hamiltonian dynamics with an inverse mass matrix, as arrays.

    H(q, p) = -log density(q) + p^T A p / 2,        A the inverse mass: a vector (its diagonal) or a matrix

Laws: a step is undone by flipping the momentum, stepping and flipping again; it preserves volume (the determinant of
its Jacobian is 1); the energy error over a fixed time falls with the square of the step size. Accepting and drawing
momenta is not done here. (The No-U-Turn sampler has a step of its own, in coordinates where A = I.)

Reference: Leimkuhler & Reich, *Simulating Hamiltonian Dynamics* (2004), section 2.6 (velocity Verlet).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

ValueAndGrad = Callable[[Any], tuple[Any, Any]]
InverseMass = Float[Array, "dim"] | Float[Array, "dim dim"]


class Point(NamedTuple):
    """A point of phase space, with the log density (nats) and its gradient at the position."""

    position: Float[Array, "dim"]
    momentum: Float[Array, "dim"]
    log_density: Float[Array, ""]
    gradient: Float[Array, "dim"]


def velocity(inverse_mass: InverseMass, momentum: Float[Array, "dim"]) -> Float[Array, "dim"]:
    """A p.

    Args:
        inverse_mass: The diagonal of A, or all of it (symmetric and positive definite).
        momentum: p.
    """
    return inverse_mass * momentum if inverse_mass.ndim == 1 else inverse_mass @ momentum


def energy(inverse_mass: InverseMass, point: Point) -> Float[Array, ""]:
    """H at a point, in nats."""
    kinetic = 0.5 * jnp.sum(point.momentum * velocity(inverse_mass, point.momentum))
    return kinetic - point.log_density


def scale_noise(inverse_mass: InverseMass, noise: Float[Array, "dim"]) -> Float[Array, "dim"]:
    """L z with L L^T = A: standard normal noise becomes Normal(0, A), the noise of a preconditioned Langevin step."""
    return jnp.sqrt(inverse_mass) * noise if inverse_mass.ndim == 1 else jnp.linalg.cholesky(inverse_mass) @ noise


def momentum_of(inverse_mass: InverseMass, noise: Float[Array, "dim"]) -> Float[Array, "dim"]:
    """L^-T z with L L^T = A: standard normal noise becomes a momentum, Normal(0, A^-1)."""
    if inverse_mass.ndim == 1:
        return noise / jnp.sqrt(inverse_mass)
    lower = jnp.linalg.cholesky(inverse_mass)
    return jax.scipy.linalg.solve_triangular(lower, noise, trans=1, lower=True)


def leapfrog(
    value_and_grad: ValueAndGrad, inverse_mass: InverseMass, step_size: Float[Array, ""] | float, point: Point
) -> Point:
    """One step of velocity Verlet: half a kick, a drift, half a kick. One gradient.

    Args:
        value_and_grad: Log density (nats) and gradient of a position.
        inverse_mass: The diagonal of A, or all of it.
        step_size: A negative one goes back in time.
        point: Where to start.

    Examples:
        >>> def standard_normal(q):
        ...     return -0.5 * jnp.sum(q**2), -q
        >>> start = Point(jnp.array([1.0]), jnp.array([0.5]), jnp.array(-0.5), jnp.array([-1.0]))
        >>> there = leapfrog(standard_normal, jnp.ones(1), 0.5, start)
        >>> back = leapfrog(standard_normal, jnp.ones(1), -0.5, there)
        >>> there.position.tolist(), back.position.tolist()
        ([1.125], [1.0])
    """
    half = point.momentum + 0.5 * step_size * point.gradient
    position = point.position + step_size * velocity(inverse_mass, half)
    log_density, gradient = value_and_grad(position)
    return Point(position, half + 0.5 * step_size * gradient, log_density, gradient)


def trajectory(
    value_and_grad: ValueAndGrad,
    inverse_mass: InverseMass,
    step_size: Float[Array, ""] | float,
    steps: Int[Array, ""] | int,
    point: Point,
) -> Point:
    """The end of so many leapfrog steps.

    Args:
        value_and_grad: Log density (nats) and gradient of a position.
        inverse_mass: The diagonal of A, or all of it.
        step_size: Of each step.
        steps: How many.
        point: Where to start.
    """

    def step(index: Any, at: Point) -> Point:
        del index
        return leapfrog(value_and_grad, inverse_mass, step_size, at)

    return lax.fori_loop(0, steps, step, point)
