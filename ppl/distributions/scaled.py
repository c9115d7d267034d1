"""A distribution whose log density is multiplied by a number: what subsampled plates and `handlers.scale` mean.

Law: `Scaled(d, s).log_prob(x) = s * d.log_prob(x)`; draws, shapes and support are those of `d`. It is not normalised
unless `s = 1`: as the law of a latent choice it is a density to be scored, not the law of its own draws.
"""

from typing import Any

import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, ArrayLike, Float, Shaped

from ppl.distributions.wrapped import Wrapped


class Scaled(Wrapped):
    r"""The density of a distribution raised to a power: $\log p_s(x) = s \log p(x)$.

    Args:
        base_dist: The distribution that draws come from.
        scale: The power s, a number or an array that broadcasts to the batch shape; a dynamic leaf.

    Examples:
        >>> import numpyro.distributions as dist
        >>> one = dist.Normal(1.0, 2.0)
        >>> float(Scaled(one, 2.5).log_prob(3.0) / one.log_prob(3.0))
        2.5
    """

    pytree_data_fields = ("scale",)

    def __init__(self, base_dist: dist.Distribution, scale: ArrayLike) -> None:
        self.scale = scale
        super().__init__(base_dist)

    @property
    def mean(self) -> Shaped[Array, "..."]:
        """The mean of a draw (of the base distribution)."""
        return self.base_dist.mean

    @property
    def variance(self) -> Shaped[Array, "..."]:
        """The variance of a draw (of the base distribution)."""
        return self.base_dist.variance

    def log_prob(self, value: ArrayLike, intermediates: list[Any] | None = None) -> Float[Array, "..."]:
        """`scale` times the base distribution's log density (nats), batch-shaped."""
        base = self.base_dist.log_prob(value) if not intermediates else self.base_dist.log_prob(value, intermediates)
        return jnp.broadcast_to(self.scale, jnp.shape(base)) * base
