"""The law of a seed: what a random function draws once, so that all of its later draws are a function of it.

Law: 64 uniform bits; the density *with respect to that law itself* is 1 (log density 0), so that a seed leaves the
joint density of a model to its other choices. It has 2^64 outcomes and does not list them: exact enumeration refuses
it.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, ArrayLike, Float, UInt32
from numpyro.distributions import constraints
from numpyro.distributions.constraints import Constraint


class Seed(dist.Distribution):
    """A uniformly drawn key of the `threefry2x32` generator, as raw data of shape `(2,)` and dtype uint32.

    Examples:
        >>> import jax
        >>> draw = Seed().sample(jax.random.key(0))
        >>> draw.shape, draw.dtype.name, float(Seed().log_prob(draw))
        ((2,), 'uint32', 0.0)
    """

    arg_constraints = {}
    pytree_data_fields = ()
    pytree_aux_fields = ()

    def __init__(self) -> None:
        super().__init__((), (2,))

    @property
    def support(self) -> Constraint:
        """Pairs of unsigned integers."""
        return constraints.independent(constraints.nonnegative_integer, 1)

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> UInt32[Array, "*sample 2"]:
        """Draw key data.

        Args:
            key: A JAX key; one key serves all of `sample_shape`.
            sample_shape: Leading axes of independent draws.

        Returns:
            Shape `(*sample_shape, 2)`.
        """
        return jax.random.bits(key, (*sample_shape, 2), jnp.uint32)

    def log_prob(self, value: ArrayLike, intermediates: Any = None) -> Float[Array, "*sample"]:
        """Zero (nats): the density with respect to the law of 64 uniform bits; `value` ends in two words."""
        del intermediates
        return jnp.zeros(jnp.shape(value)[:-1])
