"""A start by Pathfinder: the way uphill from a point of finite density, and a draw from the best Gaussian along it.

The Gaussian is that with the largest evidence lower bound, E_q[log density - log q], so the start lies where the mass
is, not at the mode. First a point of finite density is looked for, among uniform ones at several widths and prior
draws. It is a start, not an answer: nothing is claimed of the draw's law. A start depends on the run's key and the
number of the chain alone.

Reference: Zhang, Carpenter, Gelman, Vehtari, "Pathfinder: parallel quasi-Newton variational inference", JMLR 23 (2022),
algorithm 1 with one path.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float

from ppl import native
from ppl.inference.population import population
from ppl.numerics.lbfgs_path import Gaussian, Height, gaussian_at, path
from ppl.typing import PRNGKey

LOOKS = 4096
"""How many points are looked at for one of finite density."""
WIDTHS = (2.0, 0.2, 10.0)
"""Half-widths of the cubes around the origin of the unconstrained space, in turn; every fourth look is a prior draw."""
DRAWS = 10
"""Draws by which an evidence lower bound is estimated."""
TAG = 0x70617468


class Climb(NamedTuple):
    """A way uphill.

    Attributes:
        highest: Its last point.
        gaussian: The Gaussian on it with the largest evidence lower bound; None: rounding left none.
        places: The draws of it by which the bound was estimated.
        bound: The bound (nats).
    """

    highest: Height
    gaussian: Gaussian | None
    places: Float[np.ndarray, "draws dim"]
    bound: float


def pathfinder_start(target: Any, key: PRNGKey, chain: int) -> np.ndarray | None:
    """A vector of finite density and gradient, about where the mass is; None where no look found such a point.

    Args:
        target: A pytree with `program`, `dim`, `log_density(vector)` and `vector(choices)`.
        key: The run's key.
        chain: The number of the chain.
    """
    found = climb(target, key, chain)
    if found is None:
        return None
    _, evaluate, _ = _compiled(jax.default_backend())
    for place in found.places:
        if _height(place, *evaluate(target, place)).sound:
            return place
    return found.highest.position.astype(found.places.dtype)


def climb(target: Any, key: PRNGKey, chain: int) -> Climb | None:
    """The way uphill from the first sound point, and the best Gaussian on it; None where no look found such a point.

    Args:
        target: As in `pathfinder_start`.
        key: The run's key.
        chain: The number of the way.
    """
    own = jax.random.fold_in(jax.random.fold_in(key, TAG), chain)
    look, evaluate, _ = _compiled(jax.default_backend())
    position, *found = look(target, own)
    start = _height(position, *found)
    if not start.sound:
        return None
    dtype = np.asarray(position).dtype

    def evaluated(vector: np.ndarray) -> tuple[float, np.ndarray]:
        return _height(vector, *evaluate(target, vector.astype(dtype)))[1:]

    rng = np.random.default_rng(np.asarray(jax.random.key_data(own)).reshape(-1).tolist())
    best = Climb(start, None, np.zeros((0, target.dim), dtype), -np.inf)
    for here, curvature in path(evaluated, start):
        best = best._replace(highest=here)
        gaussian = gaussian_at(here, curvature)
        noise = rng.standard_normal((DRAWS, target.dim))
        if gaussian is None:
            continue
        places, bound = _bound(target, gaussian, noise, dtype)
        if bound > best.bound:
            best = Climb(here, gaussian, places, bound)
    return best


def densities(target: Any, places: Float[np.ndarray, "draws dim"]) -> Float[np.ndarray, "draws"]:
    """Log densities (nats) of vectors."""
    return np.asarray(_compiled(jax.default_backend())[2](target, places), np.float64)


def _height(position: Any, log_density: Any, gradient: Any) -> Height:
    return Height(np.asarray(position, np.float64), float(log_density), np.asarray(gradient, np.float64))


def _bound(
    target: Any, gaussian: Gaussian, noise: Float[np.ndarray, "draws dim"], dtype: np.dtype
) -> tuple[Float[np.ndarray, "draws dim"], float]:
    """Draws of the Gaussian, and the evidence lower bound by them (nats)."""
    places, log_q = gaussian.draws(noise)
    places = places.astype(dtype)
    bound = float(np.mean(densities(target, places) - log_q))
    return places, bound if np.isfinite(bound) else -np.inf


@lru_cache(maxsize=8)
def _compiled(backend: str) -> tuple[Any, Any, Any]:
    options = native.compiler_options(backend, quick=True)
    look, evaluate, many = (jax.jit(f, compiler_options=options) for f in (_look, _evaluate, _densities))
    return look, evaluate, many


def _evaluate(target: Any, vector: Any) -> Any:
    return jax.value_and_grad(target.log_density)(vector)


def _densities(target: Any, vectors: Any) -> Any:
    return lax.map(target.log_density, vectors)


def _look(target: Any, key: PRNGKey) -> Any:
    """Points one after another, up to the first one of finite density and gradient."""

    def sound(height: Any) -> Any:
        return jnp.isfinite(height[1]) & jnp.all(jnp.isfinite(height[2]))

    def body(carry: Any) -> Any:
        index, _ = carry
        vector = _candidate(target, jax.random.fold_in(key, index), index)
        return index + 1, (vector, *_evaluate(target, vector))

    zeros = jnp.zeros(target.dim)
    first = (zeros, jnp.full((), -jnp.inf, zeros.dtype), zeros)
    return lax.while_loop(lambda c: (c[0] < LOOKS) & ~sound(c[1]), body, (jnp.int32(0), first))[1]


def _candidate(target: Any, key: PRNGKey, index: Any) -> Any:
    kind = index % (len(WIDTHS) + 1)
    width = jnp.array([*WIDTHS, 0.0])[kind]
    uniform = jax.random.uniform(key, (target.dim,), minval=-1.0, maxval=1.0) * width
    drawn = jax.tree.map(lambda x: x[0], population(target.program, key, 1).choices)
    return jnp.where(kind < len(WIDTHS), uniform, target.vector(drawn))
