"""The uniform law on ordered subsets: which members of a population a subsampled plate looks at.

Law: every ordered choice of k different indices out of n is equally likely, and its density *with respect to that law
itself* is 1 (log density 0), so that a subsample leaves the joint density of a model to its other sites.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, ArrayLike, Bool, Float, Int
from numpyro.distributions.constraints import Constraint


class _DistinctIndices(Constraint):
    """Vectors of different integers in `[0, size)`."""

    is_discrete = True
    event_dim = 1

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, x: Int[ArrayLike, "*batch k"]) -> Bool[Array, "*batch"]:
        ordered = jnp.sort(jnp.asarray(x), axis=-1)
        inside = jnp.all((ordered >= 0) & (ordered < self.size), axis=-1)
        return inside & jnp.all(jnp.diff(ordered, axis=-1) > 0, axis=-1)

    def feasible_like(self, prototype: Int[ArrayLike, "*batch k"]) -> Int[Array, "*batch k"]:
        shape = jnp.shape(prototype)
        return jnp.broadcast_to(jnp.arange(shape[-1]), shape)

    def eq(self, other: object, static: bool = False) -> bool:  # noqa: FBT001, FBT002
        del static
        return isinstance(other, _DistinctIndices) and other.size == self.size

    def tree_flatten(self) -> tuple[tuple[()], tuple[tuple[()], dict[str, int]]]:
        return (), ((), {"size": self.size})


class RandomSubset(dist.Distribution):
    """A uniformly drawn ordered subset, without replacement.

    Args:
        size: The number n of members, indexed from 0.
        subsample_size: The number k of different members to draw.

    Examples:
        >>> import jax
        >>> subset = RandomSubset(10, 3)
        >>> draw = subset.sample(jax.random.key(0))
        >>> draw.shape, bool(subset.support(draw)), float(subset.log_prob(draw))
        ((3,), True, 0.0)
    """

    arg_constraints = {}
    pytree_data_fields = ()
    pytree_aux_fields = ("size", "subsample_size")

    def __init__(self, size: int, subsample_size: int) -> None:
        if not 0 < subsample_size <= size:
            raise ValueError(
                f"RandomSubset was given size {size} and subsample_size {subsample_size}.\n"
                "Expected: 0 < subsample_size <= size."
            )
        self.size, self.subsample_size = int(size), int(subsample_size)
        super().__init__((), (self.subsample_size,))

    @property
    def support(self) -> Constraint:
        """Vectors of different indices."""
        return _DistinctIndices(self.size)

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Int[Array, "*sample k"]:
        """Draw indices without replacement.

        Args:
            key: A JAX key; one key serves all of `sample_shape`.
            sample_shape: Leading axes of independent draws.

        Returns:
            Shape `(*sample_shape, subsample_size)`.
        """
        members = jnp.broadcast_to(jnp.arange(self.size), (*sample_shape, self.size))
        return jax.random.permutation(key, members, axis=-1, independent=True)[..., : self.subsample_size]

    def log_prob(self, value: ArrayLike, intermediates: Any = None) -> Float[Array, "*sample"]:
        """Zero (nats): the density with respect to the uniform law on ordered subsets; `value` ends in k indices."""
        del intermediates
        return jnp.zeros(jnp.shape(value)[:-1])
