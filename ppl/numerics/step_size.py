r"""Dual averaging of the step size: the stochastic approximation that brings a mean acceptance to a target.

Reference: Hoffman & Gelman (2014), *The No-U-Turn Sampler*, eq. (6) and Algorithm 5; constants as there.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Float

SHRINKAGE = 0.05
"""gamma: how strongly log step sizes are drawn to their anchor."""
DELAY = 10.0
"""t0: how little the first iterations count."""
FORGETTING = 0.75
"""kappa: how fast old iterates are forgotten in the average."""


class DualAveraging(NamedTuple):
    """The state.

    Attributes:
        log_step: The log step size to use next.
        log_average: The averaged log step size, to use after the warm-up.
        error: The mean error of the acceptance.
        anchor: Where log step sizes are drawn to.
        iterations: Iterations that the error is a mean of: as it grows, the step size calms down.
        averaged: Iterations that the average is over.
    """

    log_step: Float[Any, ""]
    log_average: Float[Any, ""]
    error: Float[Any, ""]
    anchor: Float[Any, ""]
    iterations: Float[Any, ""]
    averaged: Float[Any, ""]


def updated(state: DualAveraging, acceptance: Any, target: Any) -> DualAveraging:
    r"""One iteration: $\log\epsilon = \mu - \sqrt{m}/\gamma \; \bar H_m$, averaged with weights $m^{-\kappa}$.

    Args:
        state: The state after m - 1 iterations.
        acceptance: The mean acceptance probability of the trajectory.
        target: What it should be on average.
    """
    iterations = state.iterations + 1
    share = 1.0 / (iterations + DELAY)
    error = (1 - share) * state.error + share * (target - acceptance)
    log_step = state.anchor - jnp.sqrt(iterations) / SHRINKAGE * error
    averaged = state.averaged + 1
    weight = averaged**-FORGETTING
    average = weight * log_step + (1 - weight) * state.log_average
    return DualAveraging(log_step, average, error, state.anchor, iterations, averaged)
