"""A compiled stretch of a Hamiltonian chain behind a narrow interface: few arrays in, few out.

Each array that crosses from the host to compiled code and back costs microseconds, as much as several leapfrog steps of
a small model, so numbers cross in a few packed arrays. The host side is NumPy with a leading axis of chains throughout;
one chain alone loses that axis at the border, where many keep it for `vmap`.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ppl import native
from ppl.numerics.chain import CHAINS, ChainState, Recorded, Sizes, Stretch, stretch
from ppl.numerics.metric import Metric
from ppl.numerics.step_size import DualAveraging
from ppl.numerics.trajectory import Point
from ppl.semantics.small_dots import with_small_dots_as_sums
from ppl.typing import PRNGKey


class Packed(NamedTuple):
    """What goes in: integers, numbers, vectors (position, gradient, center, scale), and the metric's directions."""

    integers: Any
    numbers: Any
    vectors: Any
    directions: Any
    stretch: Any


def run(target: Any, key: PRNGKey, chains: Any, metric: Metric, state: ChainState, what: Stretch, sizes: Sizes) -> Any:
    """Run a stretch of some chains; host arrays with a leading axis of chains, in and out.

    Args:
        target: A pytree with `log_density(vector)`.
        key: The run's key; a chain uses it folded with its number.
        chains: The chains' numbers.
        metric: Their metrics.
        state: Where they stand.
        what: What to run, the same for all.
        sizes: What is part of the compiled code.

    Returns:
        The states and records.
    """
    packed = _pack(chains, metric, state, what)
    function = _compiled(jax.default_backend(), lockstep=sizes.lockstep)
    if not sizes.lockstep:
        packed = Packed(*(part[0] for part in packed))
    out = [np.asarray(x) for x in function(target, key, packed, sizes)]
    vectors, numbers, *record = out if sizes.lockstep else [x[None] for x in out]
    point = Point(vectors[:, 0], np.zeros_like(vectors[:, 0]), vectors[:, 1], numbers[:, 0])
    step = DualAveraging(*(numbers[:, i] for i in range(1, numbers.shape[1])))
    return ChainState(point, step, state.transition + np.int32(what.transitions)), Recorded(*record)


def _pack(chains: Any, metric: Metric, state: ChainState, what: Stretch) -> Packed:
    count, dtype = len(chains), metric.scale.dtype
    shared = (what.transitions, what.thin, what.adapt, what.depth)
    integers = np.empty((count, 3 + len(shared)), np.int32)
    integers[:, 0], integers[:, 1], integers[:, 2], integers[:, 3:] = chains, state.transition, metric.rank, shared
    numbers = np.empty((count, 4 + len(DualAveraging._fields)), dtype)
    numbers[:, :3] = what.target, what.scale, what.length
    for column, value in enumerate((state.point.log_density, *state.step), start=3):
        numbers[:, column] = value
    vectors = np.stack([state.point.position, state.point.gradient, metric.center, metric.scale], axis=1)
    return Packed(integers, numbers, vectors, metric.directions, metric.stretch)


@lru_cache(maxsize=8)
def _compiled(backend: str, *, lockstep: bool) -> Any:
    """The one compiled function: a stretch of one chain, or of chains side by side."""

    def many(target: Any, key: PRNGKey, packed: Packed, sizes: Sizes) -> Any:
        return jax.vmap(lambda part: _one(target, key, part, sizes), axis_name=CHAINS)(packed)

    return jax.jit(many if lockstep else _one, static_argnums=3, compiler_options=native.compiler_options(backend))


def _one(target: Any, key: PRNGKey, packed: Packed, sizes: Sizes) -> tuple[Any, ...]:
    chain, transition, rank, transitions, thin, adapt, depth = packed.integers
    aim, scale, length, log_density, *step = packed.numbers
    position, gradient, center, width = packed.vectors
    metric = Metric(center, width, packed.directions, packed.stretch, rank)
    point = Point(position, jnp.zeros_like(position), gradient, log_density)
    state = ChainState(point, DualAveraging(*step), transition)
    what = Stretch(transitions, thin, aim, adapt != 0, depth, scale, length)
    density = jax.value_and_grad(target.log_density)
    if jax.default_backend() == "cpu" and not sizes.lockstep:
        density = with_small_dots_as_sums(density)
    state, record = stretch(density, metric, state, jax.random.fold_in(key, chain), what, sizes)
    vectors = jnp.stack([state.point.position, state.point.gradient])
    return vectors, jnp.stack([state.point.log_density, *state.step]), *record
