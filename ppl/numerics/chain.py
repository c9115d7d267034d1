"""A stretch of one Hamiltonian Markov chain as one compiled loop, with step-size adaptation and recorded positions.

Law: positions and numbers of a chain depend on its key and the number of the transition, not on where the stretches
are cut. All randomness of a block of transitions is drawn at once, outside the loops over leaves; a leaf needs one
hash. The gradient is compiled once: even the first log density is that of a transition with step size zero.

With `lockstep` many chains go side by side under `jax.vmap(..., axis_name=CHAINS)` in one flat loop over leaves, so
that no chain waits for the longest trajectory of the others; without it the loops are nested, which is faster for one
chain on a CPU. A loop that many chains share goes on while any of them needs it, and is written so that its condition
is one number for all: else `vmap` would copy the whole record at every leaf, to keep it for chains that are done.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float, Int

from ppl.numerics.metric import Metric, pull_gradient, to_position
from ppl.numerics.static_trajectory import plant_static, static_leaf
from ppl.numerics.step_size import DualAveraging, updated
from ppl.numerics.trajectory import Point, Tree, ValueAndGrad, leaf, plant, select
from ppl.typing import PRNGKey

STATS = (
    *("log_density", "energy", "acceptance", "step_size"),
    *("steps", "tree_depth", "diverging", "max_tree_depth_reached"),
)
"""What is recorded of a transition, in this order."""
CHAINS = "chains"
"""The name of the mapped axis of chains that go side by side."""
BUDGET, MANY_BUDGET = 1 << 16, 1 << 21
"""How many numbers the positions in a record may hold, of one chain and of chains side by side together."""
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
    transition: Int[Any, ""]


class Recorded(NamedTuple):
    """What a stretch visited; rows beyond its length mean nothing.

    Attributes:
        positions: In the original coordinates.
        gradients: Of the log density, with respect to the coordinates of the metric.
        stats: One column for each of `STATS`.
    """

    positions: Float[Any, "rows dim"]
    gradients: Float[Any, "rows dim"]
    stats: Float[Any, "rows stats"]


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


def sizes_for(dim: int, doublings: int, *, chains: int = 1) -> Sizes:
    """Sizes that depend on the dimension and the chains side by side, so that other draws need no compilation."""
    budget = BUDGET // max(dim, 1)
    each = budget if chains == 1 else MANY_BUDGET // (max(dim, 1) * chains)
    rows = 1 << max(4, min(10, each.bit_length() - 1))
    return Sizes(rows, max(1, min(32, budget)), doublings, chains > 1)


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
    rows = sizes.rows + sizes.lockstep  # side by side, a row more for what is not to be recorded
    blank = Recorded(*(jnp.zeros((rows, n), dtype) for n in (dim, dim, len(STATS))))
    put = _recorder(metric, what, sizes)

    def block(carry: Any) -> Any:
        done, state, record = carry
        count = jnp.minimum(sizes.block, what.transitions - done)
        noise = _noise(key, state.transition, sizes.block, dim, dtype)
        state, record = walk(within, put, noise, count, (done, state, record), (what, sizes))
        return done + count, state, record

    def go_on(carry: Any) -> Any:
        return _any(carry[0] < what.transitions, lockstep=sizes.lockstep)

    _, state, record = lax.while_loop(go_on, block, (jnp.zeros_like(what.transitions), state, blank))
    return state, _positions(metric, record, sizes) if sizes.lockstep else record


def _positions(metric: Metric, record: Recorded, sizes: Sizes) -> Recorded:
    """A record of coordinates as one of positions, without its last row."""
    places = jax.vmap(lambda row: to_position(metric, row, lockstep=True))(record.positions)
    return Recorded(places[: sizes.rows], record.gradients[: sizes.rows], record.stats[: sizes.rows])


def _any(flag: Any, *, lockstep: bool) -> Any:
    """Whether any of the chains side by side says so: one answer for all."""
    return lax.pmax(flag.astype(jnp.int32), CHAINS) > 0 if lockstep else flag


def _within(value_and_grad: ValueAndGrad, metric: Metric, *, lockstep: bool) -> ValueAndGrad:
    """The density in the coordinates of the metric."""

    def function(coordinates: Any) -> tuple[Any, Any]:
        value, gradient = value_and_grad(to_position(metric, coordinates, lockstep=lockstep))
        return value, pull_gradient(metric, gradient, lockstep=lockstep)

    return function


# --- noise -----------------------------------------------------------------------------------------------------------


class Noise(NamedTuple):
    """The randomness of a block of transitions: momenta, first directions or lengths, a key for the leaves of each."""

    momenta: Float[Any, "block dim"]
    forward: Any
    jitter: Any
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
    """One loop over leaves; a finished trajectory is recorded and the next one planted in its body.

    A chain that is done with the block goes on growing a trajectory that is never recorded.
    """
    what, sizes = setting
    done, start, record = walk
    unused = sizes.rows * what.thin  # its row lies behind the last one, where nothing is written

    def grow(carry: Any) -> Any:
        number, state, record, growth = carry
        step_size, index = _step_size(state, what), jnp.minimum(number, sizes.block - 1)
        drawn = _leaf_noise(noise.keys[index], growth[0].leaves, step_size.dtype)
        tree, half = _leaf(value_and_grad, step_size, growth, drawn, setting)
        landing = tree.finished & (number < count)
        record = put(record, jnp.where(landing, done + number, unused), tree, step_size)
        state = select(landing, _landed(state, tree, what), state)
        following = jnp.minimum(number + 1, sizes.block - 1)
        growth = select(tree.finished, _planted(state, noise, following, setting), (tree, half))
        return number + landing, state, record, growth

    first = (jnp.zeros_like(count), start, record, _planted(start, noise, 0, setting))
    _, state, record, _ = lax.while_loop(lambda carry: _any(carry[0] < count, lockstep=True), grow, first)
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
            "max_tree_depth_reached": tree.cut,
        }
        stats = jnp.stack([jnp.asarray(numbers[name], point.position.dtype) for name in STATS])
        place = point.position if sizes.lockstep else to_position(metric, point.position)
        values = (place, point.gradient, stats)
        return Recorded(*(lax.dynamic_update_index_in_dim(b, v, row, 0) for b, v in zip(record, values, strict=True)))

    return put
