r"""How long trajectories should be, learnt from many chains at once: gradient ascent on the squared jump per length.

With m and m' the means over chains of the positions before and after trajectories of length $\tau$,

    C = E[(|x' - m'|^2 - |x - m|^2)^2] / 4,        d log(C / tau) / d log tau = tau E[D (x' - m') . v'] / C - 1,

where D is the difference in brackets and v' the velocity at the end. C itself is the ChEES criterion; dividing it by
the length, which is the cost, gives shorter trajectories and more effective draws a gradient (docs/decisions/0010).

References: Hoffman, Radul, Sountsov (2021), *An adaptive-MCMC scheme for setting trajectory lengths in Hamiltonian
Monte Carlo*, eq. (8); Kingma & Ba (2015), *Adam*.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

RATE = 0.05
"""How much the log length changes in one iteration."""
MEMORY = (0.9, 0.95)
"""How slowly the averages of Adam forget."""
STEEPEST = 2.0
"""Slopes are clipped at it."""
FORGETTING = 0.75
"""How fast old lengths are forgotten in the average."""


class LengthAdaptation(NamedTuple):
    """The state.

    Attributes:
        log_length: The log length to use next.
        log_average: The averaged one, to use after the warm-up.
        slope, square: Averages of the slope and of its square.
        iterations: Iterations so far.
        averaged: Iterations that the average is over.
    """

    log_length: Float[Any, ""]
    log_average: Float[Any, ""]
    slope: Float[Any, ""]
    square: Float[Any, ""]
    iterations: Float[Any, ""]
    averaged: Float[Any, ""]


def jump_slope(
    before: Float[Array, "chains dim"],
    after: Float[Array, "chains dim"],
    velocity: Float[Array, "chains dim"],
    weights: Float[Array, "chains"],
    length: Any,
) -> Any:
    """The slope of log(C / length) in the log length; zero where it is not known.

    Args:
        before: Positions at the starts of trajectories.
        after: Positions at their ends; rows of weight zero may hold anything.
        velocity: At the end.
        weights: Acceptance probabilities.
        length: Of the trajectories.
    """
    sound = (weights > 1e-4)[:, None]
    weights = jnp.where(sound[:, 0], weights, 0.0) / jnp.maximum(jnp.sum(weights), 1e-6)
    after, velocity = jnp.where(sound, after, before), jnp.where(sound, velocity, 0.0)
    centred = after - jnp.sum(weights[:, None] * after, axis=0, keepdims=True)
    start = before - jnp.mean(before, axis=0, keepdims=True)
    change = jnp.sum(centred**2, axis=1) - jnp.sum(start**2, axis=1)
    jump = 0.25 * jnp.sum(weights * change**2)
    growth = jnp.sum(weights * change * jnp.sum(centred * velocity, axis=1))
    slope = length * growth / jnp.maximum(jump, 1e-12) - 1.0
    return jnp.where(jnp.isfinite(slope), jnp.clip(slope, -STEEPEST, STEEPEST), 0.0)


def lengthened(state: LengthAdaptation, slope: Any, shortest: Any) -> LengthAdaptation:
    """One iteration of Adam on the log length, upwards.

    Args:
        state: The state before it.
        slope: Of the criterion in the log length.
        shortest: Lengths stay above a third of it (the step size: no trajectory is shorter).
    """
    count, averaged = state.iterations + 1, state.averaged + 1
    mean = MEMORY[0] * state.slope + (1 - MEMORY[0]) * slope
    square = MEMORY[1] * state.square + (1 - MEMORY[1]) * slope**2
    ascent = (mean / (1 - MEMORY[0] ** count)) / (jnp.sqrt(square / (1 - MEMORY[1] ** count)) + 1e-8)
    log_length = jnp.maximum(state.log_length + RATE * ascent, jnp.log(shortest) - 1.0)
    weight = averaged**-FORGETTING
    average = weight * log_length + (1 - weight) * state.log_average
    return LengthAdaptation(log_length, average, mean, square, count, averaged)
