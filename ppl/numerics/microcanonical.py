r"""Microcanonical dynamics: motion at unit speed that bends towards high density.

A velocity u on the unit sphere turns along the gradient g of the log density, and the position moves along u. The map
of a leapfrog step is reversible (u to -u) and changes volume by a known factor; with the log density p and the log
factors k summed over a trajectory,

    min(1, exp(p' - p - k)),    k = (d - 1) sum of log(cosh s + (u . e) sinh s),    s = eps |g| / (d - 1),  e = g / |g|,

is the acceptance of its end: then the target and the uniform law of u stay as they are. Not for one dimension, where
the sphere has two points.

References: Robnik, De Luca, Silverstein, Seljak (2023), *Microcanonical Hamiltonian Monte Carlo*; Robnik, Cohn-Gordon,
Seljak (2025), *Metropolis adjusted microcanonical Hamiltonian Monte Carlo*.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

LOG_TWO = 0.6931471805599453
SMALLEST = 1e-30
"""Gradients are taken to be at least this long."""


class Motion(NamedTuple):
    """Chains under way.

    Attributes:
        position, velocity, gradient: Vectors; velocities have length one.
        log_density: Of the position, in nats.
        kinetic: The log factors k so far, in nats.
    """

    position: Float[Array, "*chains dim"]
    velocity: Float[Array, "*chains dim"]
    gradient: Float[Array, "*chains dim"]
    log_density: Float[Array, "*chains"]
    kinetic: Float[Array, "*chains"]


def turned_velocity(
    velocity: Float[Array, "*chains dim"], gradient: Float[Array, "*chains dim"], time: Any
) -> tuple[Float[Array, "*chains dim"], Float[Array, "*chains"]]:
    """A velocity after some time along a constant gradient, and the log factor of the turn (nats; infinite: reject)."""
    freedom = velocity.shape[-1] - 1
    size = jnp.maximum(jnp.sqrt(jnp.sum(gradient * gradient, axis=-1)), SMALLEST)
    towards = gradient / size[..., None]
    turn = time * size / freedom
    cosine = jnp.clip(jnp.sum(velocity * towards, axis=-1), -1.0, 1.0)
    # cosh and sinh, times 2 exp(-turn), so that long turns do not overflow
    faded = jnp.exp(-turn)
    along = (1.0 - faded) * (1.0 + faded + cosine * (1.0 - faded))
    raw = along[..., None] * towards + 2.0 * faded[..., None] * velocity
    stretch = jnp.maximum(1.0 + cosine + (1.0 - cosine) * faded * faded, SMALLEST)
    length = jnp.sqrt(jnp.sum(raw * raw, axis=-1))
    lost = length < SMALLEST  # straight against a steep gradient, to rounding: which way it turned is not known
    factor = freedom * (turn - LOG_TWO + jnp.log(stretch))
    return raw / jnp.maximum(length, SMALLEST)[..., None], jnp.where(lost, jnp.inf, factor)


def unit_speed_leapfrog(value_and_grad: Callable[[Any], tuple[Any, Any]], motion: Motion, step: Any) -> Motion:
    """One step: half a turn, a move of length `step`, half a turn.

    Args:
        value_and_grad: Log density (nats) and gradient of positions.
        motion: Where the chains are.
        step: The length of the move, positive.
    """
    velocity, first = turned_velocity(motion.velocity, motion.gradient, 0.5 * step)
    position = motion.position + step * velocity
    log_density, gradient = value_and_grad(position)
    velocity, second = turned_velocity(velocity, gradient, 0.5 * step)
    return Motion(position, velocity, gradient, log_density, motion.kinetic + first + second)
