"""Many chains side by side in one compiled loop, with one step size, one metric and one trajectory length for all.

Every chain makes the same number of steps, so none waits. During warm-up the mean acceptance adapts the step size and
the mean jump adapts the length, after every transition: chains are then not independent; afterwards they are, given
what was learnt. Law: what is visited does not depend on where stretches are cut. The moves are microcanonical
(`ppl.numerics.microcanonical`); `docs/decisions/0010` says why.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float, Int

from ppl.numerics.metric import Metric, pull_gradient, to_position
from ppl.numerics.microcanonical import Motion, unit_speed_leapfrog
from ppl.numerics.step_size import DualAveraging, updated
from ppl.numerics.trajectory import DIVERGENCE, select
from ppl.numerics.trajectory_length import LengthAdaptation, jump_slope, lengthened
from ppl.typing import PRNGKey

EACH = ("log_density", "acceptance", "diverging")
"""What is recorded of a transition of one chain, in this order."""
SHARED = ("step_size", "steps", "length")
"""What is recorded of a transition of all chains."""
JITTER = 0.4
"""Trajectories are longer or shorter than their mean by up to this share, all chains alike."""
MANY = 1 << 19
"""Numbers that the record of a stretch holds, about."""


class Ensemble(NamedTuple):
    """Where the chains stand between two transitions, in the coordinates of the metric.

    Attributes:
        position, gradient: By chain.
        log_density: By chain, in nats.
        step: The dual averaging of the step size.
        length: The adaptation of the trajectory length.
        transition: The number of the next transition.
    """

    position: Float[Any, "chains dim"]
    gradient: Float[Any, "chains dim"]
    log_density: Float[Any, "chains"]
    step: DualAveraging
    length: LengthAdaptation
    transition: Int[Any, ""]


class Record(NamedTuple):
    """What a stretch visited; rows beyond its length mean nothing.

    Attributes:
        positions: In the original coordinates.
        gradients: With respect to the coordinates of the metric.
        each: One column for each of `EACH`.
        shared: One column for each of `SHARED`.
    """

    positions: Float[Any, "rows chains dim"]
    gradients: Float[Any, "rows chains dim"]
    each: Float[Any, "rows chains columns"]
    shared: Float[Any, "rows shared"]


class Order(NamedTuple):
    """What one call runs: values to the compiled code, not part of it.

    Attributes:
        transitions: How many.
        thin: Every how many of them one is recorded.
        target: The mean acceptance to adapt to.
        adapt: Whether step size and length are adapted; if not, the averaged ones are used.
        most_steps: The most steps of a trajectory.
    """

    transitions: Int[Any, ""]
    thin: Int[Any, ""]
    target: Float[Any, ""]
    adapt: Any
    most_steps: Int[Any, ""]


def rows_for(chains: int, dim: int) -> int:
    """Rows of the record."""
    return max(8, min(256, MANY // max(chains * dim, 1)))


def within(value_and_grad: Callable[[Any], tuple[Any, Any]], metric: Metric) -> Callable[[Any], tuple[Any, Any]]:
    """The density of all chains in the coordinates of the metric."""

    def one(coordinates: Any) -> tuple[Any, Any]:
        value, gradient = value_and_grad(to_position(metric, coordinates, lockstep=True))
        return value, pull_gradient(metric, gradient, lockstep=True)

    return jax.vmap(one)


def ensemble_stretch(
    value_and_grad: Callable[[Any], tuple[Any, Any]],
    metric: Metric,
    state: Ensemble,
    key: PRNGKey,
    chains: Int[Any, "chains"],
    order: Order,
    rows: int,
) -> tuple[Ensemble, Record]:
    """Run some transitions of all chains.

    Args:
        value_and_grad: Log density (nats) and gradient of one position in the original coordinates.
        metric: The change of coordinates.
        state: Where the chains stand.
        key: The run's key; chain i uses it folded with i, the jitter uses it alone.
        chains: The numbers of the chains.
        order: How many transitions, and how.
        rows: Rows of the record.

    Returns:
        Where the chains stand afterwards, and what they visited.
    """
    function, (count, dim), dtype = within(value_and_grad, metric), state.position.shape, state.position.dtype
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, chains)
    places = jax.vmap(lambda z: to_position(metric, z, lockstep=True))
    shapes = ((count, dim), (count, dim), (count, len(EACH)), (len(SHARED),))

    def go(carry: Any) -> Any:
        number, state, record = carry
        state, each, shared = transition(function, state, key, keys, order)
        row = (places(state.position), state.gradient, each, shared)
        put = [lax.dynamic_update_index_in_dim(a, b, number // order.thin, 0) for a, b in zip(record, row, strict=True)]
        return number + 1, state, Record(*put)

    blank = Record(*(jnp.zeros((rows, *shape), dtype) for shape in shapes))
    start = (jnp.zeros_like(order.transitions), state, blank)
    _, state, record = lax.while_loop(lambda carry: carry[0] < order.transitions, go, start)
    return state, record


def transition(
    function: Callable[[Any], tuple[Any, Any]], state: Ensemble, key: PRNGKey, keys: Any, order: Order
) -> tuple[Ensemble, Any, Any]:
    """One transition of all chains: new directions, a trajectory, acceptance chain by chain, adaptation.

    Args:
        function: Log densities and gradients in the coordinates of the metric.
        state: Where the chains stand.
        key: For what all chains share.
        keys: By chain.
        order: How.

    Returns:
        The next state, and the columns of `EACH` (by chain) and of `SHARED`.
    """
    velocity, uniform = _noise(keys, state)
    jitter = jax.random.uniform(jax.random.fold_in(key, state.transition), (), velocity.dtype, -JITTER, JITTER)
    step, length = _settings(state, order)
    steps = jnp.clip(jnp.ceil((1.0 + jitter) * length / step), 1, order.most_steps).astype(jnp.int32)
    start = Motion(state.position, velocity, state.gradient, state.log_density, jnp.zeros_like(state.log_density))
    end = lax.fori_loop(0, steps, lambda _, motion: unit_speed_leapfrog(function, motion, step), start)
    delta = end.log_density - start.log_density - end.kinetic
    delta = jnp.where(jnp.isnan(delta), -jnp.inf, delta)
    acceptance = jnp.exp(jnp.minimum(delta, 0.0))
    slope = jump_slope(start.position, end.position, end.velocity, acceptance, steps * step)
    adapted = state._replace(
        step=updated(state.step, jnp.mean(acceptance), order.target), length=lengthened(state.length, slope, step)
    )
    take = uniform < acceptance
    moved = select(order.adapt, adapted, state)._replace(
        position=jnp.where(take[:, None], end.position, state.position),
        gradient=jnp.where(take[:, None], end.gradient, state.gradient),
        log_density=jnp.where(take, end.log_density, state.log_density),
        transition=state.transition + 1,
    )
    each = jnp.stack([moved.log_density, acceptance, (delta < -DIVERGENCE).astype(acceptance.dtype)], axis=1)
    return moved, each, jnp.stack([step, steps.astype(step.dtype), length])


def _settings(state: Ensemble, order: Order) -> tuple[Any, Any]:
    """Step size and mean length."""
    step = jnp.where(order.adapt, state.step.log_step, state.step.log_average)
    length = jnp.where(order.adapt, state.length.log_length, state.length.log_average)
    return jnp.exp(step), jnp.exp(length)


def _noise(keys: Any, state: Ensemble) -> tuple[Any, Any]:
    """Directions, uniform on the sphere, and uniform numbers, by chain."""
    dim, dtype = state.position.shape[1], state.position.dtype
    pairs = jax.vmap(lambda k: jax.random.split(jax.random.fold_in(k, state.transition), 2))(keys)
    normal = jax.vmap(lambda k: jax.random.normal(k, (dim,), dtype))(pairs[:, 0])
    velocity = normal / jnp.sqrt(jnp.sum(normal**2, axis=1, keepdims=True))
    return velocity, jax.vmap(lambda k: jax.random.uniform(k, (), dtype))(pairs[:, 1])
