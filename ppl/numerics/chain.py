"""A stretch of one Hamiltonian Markov chain as one compiled loop, with step-size adaptation and recorded positions.

Law: positions and numbers of a chain depend on its key and the number of the transition, not on where the stretches
are cut. All randomness of a block of transitions is drawn at once, outside the loops over leaves; a leaf needs one
hash. The gradient is compiled once: even the first log density is that of a transition with step size zero.

With `lockstep` many chains go side by side under `vmap` in one flat loop over leaves, so that no chain waits for the
longest trajectory of the others; without it the loops are nested, which is faster for one chain on a CPU.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from ppl.numerics.metric import Metric, pull_gradient, to_position
from ppl.numerics.static_trajectory import plant_static, static_leaf
from ppl.numerics.step_size import DualAveraging, updated
from ppl.numerics.trajectory import Point, Tree, ValueAndGrad, leaf, plant, select
from ppl.typing import PRNGKey

STATS = ("log_density", "energy", "acceptance", "step_size", "steps", "tree_depth", "diverging")
"""What is recorded of a transition, in this order."""
JITTER = 0.4
"""Static trajectories are longer or shorter than their mean by up to this share."""
MOST_STEPS = 1024.0
"""The most steps of a static trajectory."""
UNKNOWN = -jnp.inf
"""The log density of a point at which nothing has been evaluated yet."""


class ChainState(NamedTuple):
    """Where a chain stands between two transitions.

    Attributes:
        point: In the coordinates of the metric; its momentum is that of the end of the last trajectory.
        step: The dual averaging of the step size.
        transition: The number of the next transition.
    """

    point: Point
    step: DualAveraging
    transition: Int[Array, ""]


class Recorded(NamedTuple):
    """What a stretch visited; rows beyond its length mean nothing.

    Attributes:
        positions: In the original coordinates.
        gradients: Of the log density, with respect to the coordinates of the metric.
        stats: One column for each of `STATS`.
    """

    positions: Float[Array, "rows dim"]
    gradients: Float[Array, "rows dim"]
    stats: Float[Array, "rows stats"]


class Stretch(NamedTuple):
    """What one call runs: numbers that are values to the compiled code, not part of it.

    Attributes:
        transitions: How many transitions.
        thin: Every how many of them one is recorded.
        target: The acceptance to adapt to.
        adapt: Whether the step size is adapted; if not, the averaged one is used.
        depth: The most doublings, at most those that there is room for.
        scale: A factor on the step size (0 evaluates the density at the start, and moves nowhere).
        length: Of static trajectories, in the coordinates of the metric (not used by those that turn).
    """

    transitions: Int[Any, ""]
    thin: Int[Any, ""]
    target: Float[Any, ""]
    adapt: Any
    depth: Int[Any, ""]
    scale: Float[Any, ""]
    length: Float[Any, ""]


class Sizes(NamedTuple):
    """What is part of the compiled code.

    Attributes:
        rows: Rows of the record.
        block: Transitions a block of noise.
        doublings: The most doublings that there is room for; 0: trajectories are static.
        lockstep: Whether chains go side by side.
    """

    rows: int
    block: int
    doublings: int
    lockstep: bool


def sizes_for(dim: int, doublings: int, *, lockstep: bool) -> Sizes:
    """Sizes that depend on the dimension alone, so that other numbers of draws need no compilation."""
    budget = 1 << 16
    rows = 1 << max(4, min(10, (budget // max(dim, 1)).bit_length() - 1))
    return Sizes(rows, max(1, min(32, budget // max(dim, 1))), doublings, lockstep)


def stretch(
    value_and_grad: ValueAndGrad, metric: Metric, state: ChainState, key: PRNGKey, what: Stretch, sizes: Sizes
) -> tuple[ChainState, Recorded]:
    """Run some transitions of a chain.

    Args:
        value_and_grad: Log density (nats) and gradient of a position in the original coordinates.
        metric: The change of coordinates.
        state: Where the chain stands; a log density of `UNKNOWN` says that nothing has been evaluated there yet.
        key: The chain's key.
        what: How many transitions, and how.
        sizes: The sizes of the record and of the blocks of noise.

    Returns:
        Where the chain stands afterwards, and what it visited.
    """
    within = _within(value_and_grad, metric, lockstep=sizes.lockstep)
    walk = _flat_walk if sizes.lockstep else _nested_walk
    dim, dtype = state.point.position.shape[-1], state.point.position.dtype
    blank = Recorded(*(jnp.zeros((sizes.rows, n), dtype) for n in (dim, dim, len(STATS))))
    put = _recorder(metric, what, sizes)

    def block(carry: Any) -> Any:
        done, state, record = carry
        count = jnp.minimum(sizes.block, what.transitions - done)
        noise = _noise(key, state.transition, sizes.block, dim, dtype)
        state, record = walk(within, put, noise, count, (done, state, record), (what, sizes))
        return done + count, state, record

    start = (jnp.zeros_like(what.transitions), state, blank)
    _, state, record = lax.while_loop(lambda carry: carry[0] < what.transitions, block, start)
    return state, record


def _within(value_and_grad: ValueAndGrad, metric: Metric, *, lockstep: bool) -> ValueAndGrad:
    """The density in the coordinates of the metric."""

    def function(coordinates: Any) -> tuple[Any, Any]:
        value, gradient = value_and_grad(to_position(metric, coordinates, lockstep=lockstep))
        return value, pull_gradient(metric, gradient, lockstep=lockstep)

    return function


# --- noise -----------------------------------------------------------------------------------------------------------


class Noise(NamedTuple):
    """The randomness of a block of transitions: momenta, first directions or lengths, a key for the leaves of each."""

    momenta: Float[Array, "block dim"]
    forward: Array
    jitter: Array
    keys: Any


def _noise(key: PRNGKey, first: Any, block: int, dim: int, dtype: Any) -> Noise:
    keys = jax.vmap(lambda number: jax.random.split(jax.random.fold_in(key, number), 2))(first + jnp.arange(block))
    momenta = jax.vmap(lambda k: jax.random.normal(k, (dim,), dtype))(keys[:, 0])
    words = jax.random.key_data(keys[:, 1])
    jitter = (words[:, 0] >> 8).astype(dtype) * (1.0 / (1 << 24))
    return Noise(momenta, words[:, 0] & 1 == 0, jitter, keys[:, 1])


def _leaf_noise(key: Any, number: Any, dtype: Any) -> tuple[Any, Any, Any]:
    """Two uniform numbers and a coin from one hash: the words of a key folded with a counter are random bits."""
    words = jax.random.key_data(jax.random.fold_in(key, number))
    uniforms = (words >> 8).astype(dtype) * (1.0 / (1 << 24))
    return uniforms[0], uniforms[1], words[1] & 1 == 0


# --- transitions -----------------------------------------------------------------------------------------------------

Walk = tuple[Any, ChainState, Recorded]


def _planted(state: ChainState, noise: Noise, number: Any, setting: tuple[Stretch, Sizes]) -> tuple[Any, Any]:
    what, sizes = setting
    point = state.point._replace(momentum=noise.momenta[number])
    if sizes.doublings:
        return plant(point, noise.forward[number], sizes.doublings)
    length = what.length * (1.0 + JITTER * (2.0 * noise.jitter[number] - 1.0))
    steps = jnp.ceil(length / jnp.maximum(_step_size(state, what), 1e-10))
    return plant_static(point, jnp.minimum(steps, MOST_STEPS))


def _leaf(value_and_grad: ValueAndGrad, step_size: Any, growth: Any, drawn: Any, setting: tuple[Stretch, Sizes]) -> Any:
    what, sizes = setting
    if sizes.doublings:
        return leaf(value_and_grad, step_size, growth, drawn, what.depth, lockstep=sizes.lockstep)
    return static_leaf(value_and_grad, step_size, growth, drawn, lockstep=sizes.lockstep)


def _step_size(state: ChainState, what: Stretch) -> Any:
    return jnp.exp(jnp.where(what.adapt, state.step.log_step, state.step.log_average)) * what.scale


def _landed(state: ChainState, tree: Tree, what: Stretch) -> ChainState:
    """The state after a finished trajectory."""
    acceptance = tree.accepted / tree.leaves
    step = select(what.adapt, updated(state.step, acceptance, what.target), state.step)
    return ChainState(tree.proposal, step, state.transition + 1)


def _nested_walk(
    value_and_grad: ValueAndGrad, put: Callable[..., Recorded], noise: Noise, count: Any, walk: Walk, setting: Any
) -> tuple[ChainState, Recorded]:
    """A loop over transitions around a loop over leaves."""
    what, sizes = setting
    done, start, blank = walk

    def transition(number: Any, carry: tuple[ChainState, Recorded]) -> tuple[ChainState, Recorded]:
        state, record = carry
        step_size, key = _step_size(state, what), noise.keys[number]

        def grow(growth: Any) -> Any:
            drawn = _leaf_noise(key, growth[0].leaves, step_size.dtype)
            return _leaf(value_and_grad, step_size, growth, drawn, setting)

        tree, _ = lax.while_loop(lambda g: ~g[0].finished, grow, _planted(state, noise, number, setting))
        return _landed(state, tree, what), put(record, done + number, tree, step_size)

    return lax.fori_loop(0, count, transition, (start, blank))


def _flat_walk(
    value_and_grad: ValueAndGrad, put: Callable[..., Recorded], noise: Noise, count: Any, walk: Walk, setting: Any
) -> tuple[ChainState, Recorded]:
    """One loop over leaves; a finished trajectory is recorded and the next one planted in its body."""
    what, sizes = setting
    done, start, blank = walk

    def grow(carry: Any) -> Any:
        number, state, record, growth = carry
        step_size = _step_size(state, what)
        drawn = _leaf_noise(noise.keys[number], growth[0].leaves, step_size.dtype)
        growth = _leaf(value_and_grad, step_size, growth, drawn, setting)

        def land(carry: Any) -> Any:
            number, state, record, (tree, _) = carry
            state, record = _landed(state, tree, what), put(record, done + number, tree, step_size)
            following = jnp.minimum(number + 1, sizes.block - 1)
            return number + 1, state, record, _planted(state, noise, following, setting)

        return lax.cond(growth[0].finished, land, lambda carry: carry, (number, state, record, growth))

    first = (jnp.zeros_like(count), start, blank, _planted(start, noise, 0, setting))
    _, state, record, _ = lax.while_loop(lambda carry: carry[0] < count, grow, first)
    return state, record


def _recorder(metric: Metric, what: Stretch, sizes: Sizes) -> Callable[..., Recorded]:
    """Writes a transition into the record; of `thin` transitions the last one stays."""

    def put(record: Recorded, number: Any, tree: Tree, step_size: Any) -> Recorded:
        point, row = tree.proposal, number // what.thin
        numbers = {
            "log_density": point.log_density,
            "energy": point.energy,
            "acceptance": tree.accepted / tree.leaves,
            "step_size": step_size,
            "steps": tree.leaves,
            "tree_depth": tree.depth,
            "diverging": tree.diverging,
        }
        stats = jnp.stack([jnp.asarray(numbers[name], point.position.dtype) for name in STATS])
        values = (to_position(metric, point.position, lockstep=sizes.lockstep), point.gradient, stats)
        return Recorded(*(lax.dynamic_update_index_in_dim(b, v, row, 0) for b, v in zip(record, values, strict=True)))

    return put
