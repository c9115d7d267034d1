r"""Smoothing: what later observations say of earlier choices, from a filter's particles.

`LagKeeper` carries every particle's last L steps along and gives moments of each step's choices given the observations
up to L steps later: biased where more than L steps matter, without the degeneracy of whole paths. `backward_simulation`
draws whole paths from the end to the start,

    i_T ~ W_T,    i_t ~ W_t(i) p(x_{t+1}, y_{t+1} | x_t(i)),

from stored particles (Godsill, Doucet, West, *Monte Carlo smoothing for nonlinear time series*, JASA 2004):
consistent as the number of particles grows, at a cost of N for each step of each path.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ppl.numerics.weights import normalize_log_weights
from ppl.semantics.keeping import Step
from ppl.semantics.language import deterministic


class Moments(NamedTuple):
    """Mean and variance of a choice at each step; NaN where no particle made it."""

    mean: Float[Array, "..."]
    variance: Float[Array, "..."]


class Recent(NamedTuple):
    """The last steps of all particles, the oldest first, and where the particles were before the loop."""

    written: Any
    masks: Any
    origin: Any


@dataclass(frozen=True)
class LagKeeper:
    """Keeps the last steps; records `lagged`, moments of the step that leaves, `last`, those at the end, and `origin`.

    Args:
        lag: How many steps more than the one at hand.
    """

    lag: int

    def start(self, n: int, written: Any, length: int) -> Recent:
        """Nothing yet."""
        del length
        values, masks = jax.tree.map(lambda x: jnp.zeros((self.lag + 1, *x.shape), x.dtype), written)
        return Recent(values, masks, jnp.arange(n, dtype=jnp.int32))

    def step(self, state: Recent, step: Step) -> Recent:
        """Follow the ancestors, take the step in, let the oldest go."""

        def moved(recent: Any, new: Any) -> Any:
            return jnp.concatenate([recent[1:, step.ancestors], new[None]])

        written, masks = jax.tree.map(moved, (state.written, state.masks), step.written)
        state = Recent(written, masks, state.origin[step.ancestors])
        deterministic("lagged", _moments(jax.tree.map(lambda x: x[:1], state), step.log_weight))
        return state

    def end(self, state: Recent, log_weight: Any) -> None:
        """Record the moments of the steps that are still there."""
        deterministic("last", _moments(jax.tree.map(lambda x: x[1:], state), log_weight))
        deterministic("origin", state.origin)


def _moments(state: Recent, log_weight: Any) -> dict[str, Any]:
    """Weighted mean and variance by address, over the particles that made the choice."""
    weights = jnp.exp(normalize_log_weights(log_weight).log_weights)
    return {
        address: jax.tree.map(lambda x, a=address: _moment(x, weights, state.masks.get(a)), value)
        for address, value in state.written.items()
    }


def _moment(x: Array, weights: Array, mask: Array | None) -> Moments:
    """Of values (steps, particles, ...)."""
    w = weights.reshape(1, -1, *(1,) * (x.ndim - 2))
    if mask is not None:
        w = w * mask.reshape(*mask.shape, *(1,) * (x.ndim - mask.ndim))
    x = jnp.where(w > 0, x, 0).astype(weights.dtype)
    total = jnp.sum(jnp.broadcast_to(w, x.shape), axis=1)
    mean = jnp.sum(w * x, axis=1) / total
    return Moments(mean, jnp.sum(w * (x - mean[:, None]) ** 2, axis=1) / total)
