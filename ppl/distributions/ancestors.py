"""Resampling as a random choice: the ancestors of a population are drawn from a measure that can be enumerated.

Law: the outcomes, with their log probabilities, are the exact law of the draws. Schemes whose positions depend on each
other in too many ways (SSP and conditional killing of more than a few particles) list none.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float, Int32

from ppl.distributions.finite import Outcomes
from ppl.errors import NotFiniteError
from ppl.numerics.cells import JOINT_LIMIT, JointCells, PositionCells, cells_of
from ppl.numerics.conditional_cells import CONDITIONAL_CELLS
from ppl.numerics.conditional_resampling import conditional_resampler
from ppl.numerics.resampling import Resampler, resampler


@jax.tree_util.register_pytree_node_class
class Ancestors:
    """The law of the ancestors of `n` particles.

    Args:
        log_weights: Unnormalised log weights of the particles, in nats.
        n: The number of positions to fill.
        scheme: See `ppl.resample`.
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
        return _draws(resampler(self.scheme), key, self.log_weights, self.n, sample_shape)

    def outcomes(self) -> Outcomes | None:
        """All outcomes, joint ones for systematic and SSP resampling, or one list a position; None if too many."""
        return _outcomes(cells_of(self.scheme, self.log_weights, self.n))

    def log_prob(self, value: Int32[Array, "n"]) -> Float[Array, ""]:
        """Log probability of ancestors, in nats."""
        return _log_prob(self.outcomes(), value, self)


@jax.tree_util.register_pytree_node_class
class ConditionalAncestors(Ancestors):
    """The law of the ancestors of `n` particles, given that position 0 holds a copy of particle 0.

    With the positions of `Ancestors` shifted cyclically by a uniform amount, it is the law of these given that the
    first of them is 0 (`ppl.numerics.conditional_resampling`): what conditional SMC draws from.

    Args:
        log_weights: Unnormalised log weights of the particles, in nats; the first is the retained particle's.
        n: The number of positions to fill.
        scheme: `"multinomial"`, `"systematic"` or `"killing"`.
    """

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Int32[Array, "... n"]:
        """Draw the ancestor of every position; the first is 0."""
        return _draws(conditional_resampler(self.scheme), key, self.log_weights, self.n, sample_shape)

    def outcomes(self) -> Outcomes | None:
        """All outcomes; None if too many."""
        return _outcomes(CONDITIONAL_CELLS[self.scheme](self.log_weights, self.n))


def _draws(scheme: Resampler, key: Any, log_weights: Any, n: int, sample_shape: tuple[int, ...]) -> Any:
    """Ancestors with fresh noise, a batch of them for a sample shape."""
    uniforms = jax.random.uniform(key, (*sample_shape, *scheme.noise_shape(n)), dtype=jnp.result_type(float))

    def draw(u: Any) -> Any:
        return scheme.ancestors(u, log_weights, n)

    for _ in sample_shape:
        draw = jax.vmap(draw)
    return draw(uniforms)


def _outcomes(cells: JointCells | PositionCells | None) -> Outcomes | None:
    """Cells as the outcomes of one choice, or of one for each position."""
    if cells is None:
        return None
    if isinstance(cells, JointCells):
        return Outcomes(cells.ancestors, cells.log_probs)
    return Outcomes(cells.ancestors.T, cells.log_probs.T)


def _log_prob(outcomes: Outcomes | None, value: Any, measure: Ancestors) -> Any:
    """The mass of the outcomes that are equal to a value."""
    if outcomes is None:
        raise NotFiniteError(
            f"The probability of {type(measure).__name__} of {measure.n} positions and {len(measure.log_weights)} "
            f"particles by the scheme {measure.scheme!r} was asked, which sums over all joint outcomes.\n"
            f"Expected: at most {JOINT_LIMIT} of them. Use fewer particles, or a scheme with independent positions, "
            "such as 'multinomial'."
        )
    values, log_probs = outcomes
    if log_probs.ndim == 1:
        return logsumexp(jnp.where(jnp.all(values == value[None], axis=1), log_probs, -jnp.inf))
    return jnp.sum(logsumexp(jnp.where(values == value[None], log_probs, -jnp.inf), axis=0))
