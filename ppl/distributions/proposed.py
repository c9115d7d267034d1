"""A distribution whose draws come from another one: what a choice of a guided program is.

Law: `Proposed(p, q)` has the density, the shapes and the support of p, and draws from q; where q covers p, a draw with
the weight p(x) / q(x) stands for p (`ppl.distributions.drawn` finds that weight).
"""

from typing import Any

import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, ArrayLike, Float, Shaped
from numpyro.distributions.constraints import Constraint

from ppl.distributions.density import log_prob
from ppl.distributions.drawn import law_of_draws


class Proposed(dist.Distribution):
    """The density of `target` with draws from `proposal`.

    Args:
        target: The distribution p that is meant.
        proposal: The distribution q that is drawn from; draws have the shape and dtype of those of `target`.

    Examples:
        >>> import jax, numpyro.distributions as dist
        >>> both = Proposed(dist.Normal(0.0, 1.0), dist.Normal(100.0, 1.0))
        >>> float(both.log_prob(0.5)) == float(dist.Normal(0.0, 1.0).log_prob(0.5))
        True
        >>> bool(both.sample(jax.random.key(0)) > 50.0)
        True
    """

    arg_constraints = {}
    pytree_data_fields = ("target", "proposal")
    pytree_aux_fields = ("has_enumerate_support",)

    def __init__(self, target: dist.Distribution, proposal: dist.Distribution) -> None:
        self.target = target
        self.proposal = proposal
        self.has_enumerate_support = bool(target.has_enumerate_support)
        super().__init__(target.batch_shape, target.event_shape)

    @property
    def support(self) -> Constraint | None:
        """The support of the target."""
        return self.target.support

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Shaped[Array, "..."]:
        """Draw from the proposal.

        Args:
            key: A JAX key.
            sample_shape: Leading axes of independent draws.
        """
        return jnp.asarray(law_of_draws(self.proposal).sample(key, sample_shape))

    def log_prob(self, value: ArrayLike, intermediates: list[Any] | None = None) -> Float[Array, "..."]:
        """The target's log density (nats), batch-shaped; minus infinity outside its support."""
        del intermediates
        return log_prob(self.target, value)

    def enumerate_support(self, expand: bool = True) -> Shaped[Array, "..."]:  # noqa: FBT001, FBT002
        """The points of the target's support, on a leading axis."""
        return self.target.enumerate_support(expand=expand)


@law_of_draws.register
def _proposed(distribution: Proposed) -> dist.Distribution:
    """The proposal, or the law that its own draws come from."""
    return law_of_draws(distribution.proposal)
