"""Every behaviour of a resampler with its exact probability, so that resampling can be enumerated.

A scheme reads uniform noise, but as a function of it the ancestors take finitely many values. Here the noise is
cut into a number of cells that depends on shapes only; a cell of width zero has log probability `-inf`.

Law: the ancestors of a cell are those that `ppl.numerics.resampling` returns for any noise within it, and the
probabilities sum to one. Two shapes of answer: systematic resampling has one u, hence joint cells; the others
have independent positions, hence cells for each of them.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from ppl.numerics.resampling import (
    identity_if_zero_mass,
    residual_parts,
    scaled_cumulative,
    systematic,
    weights_or_uniform,
)
from ppl.numerics.weights import has_mass


class JointCells(NamedTuple):
    """One draw decides all positions.

    Attributes:
        ancestors: for each cell, the ancestor of each position.
        log_probs: log probability of each cell (nats).
    """

    ancestors: Int32[Array, "cells n"]
    log_probs: Float[Array, "cells"]


class PositionCells(NamedTuple):
    """One independent draw for each position.

    Attributes:
        ancestors: for each position and cell, the ancestor.
        log_probs: for each position, the log probability of each cell (nats).
    """

    ancestors: Int32[Array, "n cells"]
    log_probs: Float[Array, "n cells"]


def systematic_cells(log_weights: Float[Array, "particles"], n: int) -> JointCells:
    """Cells of `systematic`: [0, 1) cut at the fractional parts of `n C_j`.

    Args:
        log_weights: unnormalised log weights (nats) of J particles.
        n: the number of positions.

    Returns:
        J + 1 joint cells.

    Examples:
        >>> import jax.numpy as jnp
        >>> cells = systematic_cells(jnp.log(jnp.array([0.75, 0.25])), 2)
        >>> cells.ancestors.tolist(), jnp.exp(cells.log_probs).tolist()
        ([[0, 0], [0, 0], [0, 1]], [0.0, 0.5, 0.5])
    """
    ends = scaled_cumulative(weights_or_uniform(log_weights), n)
    cuts = jnp.sort(ends - jnp.floor(ends))
    edges = jnp.concatenate([jnp.zeros_like(cuts[:1]), cuts, jnp.ones_like(cuts[:1])])
    # Cells are closed on the left, as `u < fraction` is: their left edge stands for all of a cell, unrounded. Of
    # a cell at 1, which is empty, it stands outside [0, 1), and counts for nothing.
    ancestors = jax.vmap(lambda u: systematic(u, log_weights, n))(edges[:-1])
    return JointCells(ancestors, jnp.log(jnp.diff(edges)))


def stratified_cells(log_weights: Float[Array, "particles"], n: int) -> PositionCells:
    """Cells of `stratified`: the share of each particle in each stratum `[i, i + 1)`.

    Args:
        log_weights: unnormalised log weights (nats) of J particles.
        n: the number of positions.

    Returns:
        J cells for each position: cell j is the event that it copies particle j.

    Examples:
        >>> import jax.numpy as jnp
        >>> cells = stratified_cells(jnp.log(jnp.array([0.75, 0.25])), 2)
        >>> jnp.exp(cells.log_probs).tolist()
        [[1.0, 0.0], [0.5, 0.5]]
    """
    ends = scaled_cumulative(weights_or_uniform(log_weights), n)
    inside = jnp.clip(ends[None, :] - jnp.arange(n)[:, None], 0.0, 1.0)
    widths = jnp.diff(inside, axis=1, prepend=0.0)
    return _cells_by_particle(jnp.log(widths), log_weights, n)


def multinomial_cells(log_weights: Float[Array, "particles"], n: int) -> PositionCells:
    """Cells of `multinomial`: the same categorical law at each position.

    Args:
        log_weights: unnormalised log weights (nats) of J particles.
        n: the number of positions.

    Returns:
        J cells for each position: cell j is the event that it copies particle j.
    """
    weights = weights_or_uniform(log_weights)
    log_probs = jnp.broadcast_to(jnp.log(weights)[None, :], (n, weights.shape[0]))
    return _cells_by_particle(log_probs, log_weights, n)


def residual_cells(log_weights: Float[Array, "particles"], n: int) -> PositionCells:
    """Cells of `residual`: certain positions have one outcome, the rest share a categorical law.

    Args:
        log_weights: unnormalised log weights (nats) of J particles.
        n: the number of positions.

    Returns:
        J cells for each position: cell j is the event that it copies particle j.

    Examples:
        >>> import jax.numpy as jnp
        >>> cells = residual_cells(jnp.log(jnp.array([0.75, 0.25])), 2)
        >>> jnp.exp(cells.log_probs).tolist()
        [[1.0, 0.0], [0.5, 0.5]]
    """
    certain, is_certain, remainder = residual_parts(log_weights, n)
    one_outcome = jnp.log(jax.nn.one_hot(certain, log_weights.shape[0], dtype=log_weights.dtype))
    drawn = jnp.log(remainder / jnp.sum(remainder))
    return _cells_by_particle(jnp.where(is_certain[:, None], one_outcome, drawn[None, :]), log_weights, n)


CELLS: dict[str, Callable[[Array, int], JointCells | PositionCells]] = {
    "multinomial": multinomial_cells,
    "systematic": systematic_cells,
    "stratified": stratified_cells,
    "residual": residual_cells,
}


def _cells_by_particle(log_probs: Array, log_weights: Array, n: int) -> PositionCells:
    """Cells of which number j copies particle j; an all-zero population is left alone, for certain."""
    count = log_weights.shape[0]
    index = jnp.arange(count, dtype=jnp.int32)
    identity = identity_if_zero_mass(jnp.zeros(n, jnp.int32), log_weights, n)
    alone = jnp.where(index[None, :] == identity[:, None], 0.0, -jnp.inf)
    chosen = jnp.where(has_mass(log_weights), log_probs, alone.astype(log_probs.dtype))
    return PositionCells(jnp.broadcast_to(index[None, :], (n, count)), chosen)
