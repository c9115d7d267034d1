"""Resampling as a random choice: the ancestors of a population are drawn from a measure that can be enumerated.

Law: the outcomes, with their log probabilities, are the exact law of the draws.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float, Int32

from ppl.distributions.finite import Outcomes
from ppl.numerics.cells import CELLS, JointCells
from ppl.numerics.resampling import RESAMPLERS


@jax.tree_util.register_pytree_node_class
class Ancestors:
    """The law of the ancestors of `n` particles.

    Args:
        log_weights: Unnormalised log weights of the particles, in nats.
        n: The number of positions to fill.
        scheme: `"multinomial"`, `"systematic"`, `"stratified"` or `"residual"`.
    """

    def __init__(self, log_weights: Float[Array, "particles"], n: int, scheme: str = "systematic") -> None:
        self.log_weights = log_weights
        self.n = n
        self.scheme = scheme

    def tree_flatten(self) -> tuple[tuple[Any], tuple[int, str]]:
        """The weights are the leaf."""
        return (self.log_weights,), (self.n, self.scheme)

    @classmethod
    def tree_unflatten(cls, static: tuple[int, str], children: tuple[Any]) -> "Ancestors":
        """Rebuild from leaves."""
        return cls(children[0], *static)

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Int32[Array, "... n"]:
        """Draw the ancestor of every position."""
        noise = () if self.scheme == "systematic" else (self.n,)
        uniforms = jax.random.uniform(key, (*sample_shape, *noise), dtype=jnp.result_type(float))
        resample = RESAMPLERS[self.scheme].ancestors

        def draw(u: Any) -> Any:
            return resample(u, self.log_weights, self.n)

        for _ in sample_shape:
            draw = jax.vmap(draw)
        return draw(uniforms)

    def outcomes(self) -> Outcomes:
        """All outcomes: joint ones for systematic resampling, one list a position otherwise."""
        cells = CELLS[self.scheme](self.log_weights, self.n)
        if isinstance(cells, JointCells):
            return Outcomes(cells.ancestors, cells.log_probs)
        return Outcomes(cells.ancestors.T, cells.log_probs.T)

    def log_prob(self, value: Int32[Array, "n"]) -> Float[Array, ""]:
        """Log probability of ancestors, in nats."""
        values, log_probs = self.outcomes()
        if log_probs.ndim == 1:
            return logsumexp(jnp.where(jnp.all(values == value[None], axis=1), log_probs, -jnp.inf))
        return jnp.sum(logsumexp(jnp.where(values == value[None], log_probs, -jnp.inf), axis=0))
