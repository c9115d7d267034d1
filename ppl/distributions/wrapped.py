"""A distribution with something added to another one, whose shapes, support and draws it has."""

from typing import Any

import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Shaped
from numpyro.distributions.constraints import Constraint


class Wrapped(dist.Distribution):
    """The base of distributions that draw as another one does; they say what their log density is."""

    arg_constraints = {}
    pytree_data_fields = ("base_dist",)
    pytree_aux_fields = ("has_enumerate_support",)

    def __init__(self, base_dist: dist.Distribution) -> None:
        self.base_dist = base_dist
        self.has_enumerate_support = bool(base_dist.has_enumerate_support)
        super().__init__(base_dist.batch_shape, base_dist.event_shape)

    @property
    def support(self) -> Constraint | None:
        """The support of the base distribution."""
        return self.base_dist.support

    @property
    def has_rsample(self) -> bool:
        """Whether draws are differentiable in the base distribution's parameters."""
        return self.base_dist.has_rsample

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Shaped[Array, "..."]:
        """Draw from the base distribution.

        Args:
            key: A JAX key.
            sample_shape: Leading axes of independent draws.

        Returns:
            Shape `(*sample_shape, *batch_shape, *event_shape)`.
        """
        return jnp.asarray(self.base_dist.sample(key, sample_shape))

    def enumerate_support(self, expand: bool = True) -> Shaped[Array, "..."]:  # noqa: FBT001, FBT002
        """The points of the base distribution's support, on a leading axis."""
        return self.base_dist.enumerate_support(expand=expand)
