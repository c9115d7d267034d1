r"""Metrics of Hamiltonian dynamics as changes of coordinates: diagonal, and a low-rank correction up to dense.

    x = c + S (I + U^T diag(s) U) z,        S diagonal, the rows of U orthonormal

In the coordinates z the momentum is standard normal; the inverse mass matrix in x is $L L^T$ with
$L = S (I + U^T s U)$. With as many rows as dimensions it is dense. The number of rows in use is a value, not a shape: a
correction that is not needed costs nothing, and no new compilation.

Reference: Seyboldt, Carlson, Carpenter (2026), *Preconditioning Hamiltonian Monte Carlo by minimizing Fisher
divergence* (diagonal and low-rank parametrisation).
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float, Int


class Metric(NamedTuple):
    """A change of coordinates.

    Attributes:
        center: c, the position whose coordinates are zero.
        scale: The diagonal of S.
        directions: The rows of U; those beyond `rank` mean nothing.
        stretch: s, by row.
        rank: How many rows are in use.
    """

    center: Float[Any, "dim"]
    scale: Float[Any, "dim"]
    directions: Float[Any, "capacity dim"]
    stretch: Float[Any, "capacity"]
    rank: Int[Any, ""]


def identity(dim: int, capacity: int, dtype: Any) -> Metric:
    """The metric of x = z, with room for `capacity` directions; host arrays."""
    return Metric(
        np.zeros(dim, dtype),
        np.ones(dim, dtype),
        np.zeros((capacity, dim), dtype),
        np.zeros(capacity, dtype),
        np.int32(0),
    )


def to_position(metric: Metric, coordinates: Float[Any, "dim"], *, lockstep: bool = False) -> Float[Any, "dim"]:
    """The position of some coordinates."""
    return metric.center + metric.scale * _stretched(metric, coordinates, lockstep=lockstep)


def pull_gradient(metric: Metric, gradient: Float[Any, "dim"], *, lockstep: bool = False) -> Float[Any, "dim"]:
    """The gradient with respect to z, of the one with respect to x: L^T g."""
    return _stretched(metric, metric.scale * gradient, lockstep=lockstep)


def _stretched(metric: Metric, vector: Any, *, lockstep: bool) -> Any:
    """(I + U^T diag(s) U) v: direction by direction, or all at once where many vectors go side by side."""
    capacity = metric.directions.shape[0]
    if capacity == 0:
        return vector
    if lockstep:
        active = jnp.where(jnp.arange(capacity) < metric.rank, metric.stretch, 0.0)
        return vector + (active * (metric.directions @ vector)) @ metric.directions

    rows, stretch = jnp.asarray(metric.directions), jnp.asarray(metric.stretch)

    def add(row: Any, total: Any) -> Any:
        direction = rows[row]
        return total + stretch[row] * jnp.sum(direction * vector) * direction

    return lax.fori_loop(0, metric.rank, add, vector)
