"""Trajectories of a length that is known beforehand: Hamiltonian Monte Carlo as it was, in the form of `trajectory`.

The end of the trajectory is accepted with probability min(1, exp(-energy error)), else the chain stays. Reference:
Neal (2011), *MCMC using Hamiltonian dynamics*; the random length avoids periodic orbits (his section 3.2).
"""

from typing import Any

import jax.numpy as jnp

from ppl.numerics.trajectory import DIVERGENCE, Growth, Point, ValueAndGrad, leapfrog, plant, select


def plant_static(point: Point, steps: Any) -> Growth:
    """A trajectory of one point that will make a number of steps (kept in `depth` until then)."""
    tree, half = plant(point, jnp.ones((), bool), 0)
    return tree._replace(depth=jnp.maximum(steps, 1).astype(jnp.int32)), half


def static_leaf(
    value_and_grad: ValueAndGrad, step_size: Any, growth: Growth, noise: tuple[Any, Any, Any], *, lockstep: bool
) -> Growth:
    """One more step; at the last one, or where the energy diverges, accept or reject.

    Args:
        value_and_grad: Log density and gradient of a position.
        step_size: Of the integrator.
        growth: The trajectory so far.
        noise: The second number decides on acceptance; the others are not used.
        lockstep: Not used: there is nothing to loop over.

    Returns:
        The trajectory; done where `finished`. `accepted` is the acceptance probability times the number of steps, so
        that their ratio is the acceptance.
    """
    del lockstep
    tree, half = growth
    point = leapfrog(value_and_grad, half.frontier, step_size)
    delta = tree.energy - point.energy
    delta = jnp.where(jnp.isnan(delta), -jnp.inf, delta)
    diverging = delta < -DIVERGENCE
    leaves = tree.leaves + 1
    finished = diverging | (leaves >= tree.depth)
    acceptance = jnp.exp(jnp.minimum(delta, 0.0))
    tree = tree._replace(
        proposal=select(finished & (noise[1] < acceptance), point, tree.proposal),
        accepted=acceptance * leaves,
        leaves=leaves,
        diverging=diverging,
        finished=finished,
    )
    return tree, half._replace(frontier=point)
