"""Every behaviour of a resampler with its exact probability, so that resampling can be enumerated.

A scheme reads uniform noise, but as a function of it the ancestors take finitely many values. Here the noise is
cut into a number of cells that depends on shapes only; a cell of width zero has log probability `-inf`.

Law: the ancestors of a cell are those that `ppl.numerics.resampling` returns for any noise within it, and the
probabilities sum to one. Two shapes of answer: systematic resampling has one u, hence joint cells, and so has SSP
resampling, whose positions depend on each other; the others have independent positions, hence cells for each of them.
Those of conditional resampling are in `ppl.numerics.conditional_cells`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32

from ppl.numerics.killing import keeping
from ppl.numerics.metropolis_resampling import DEFAULT_STEPS, metropolis_step
from ppl.numerics.prefix import prefix_count
from ppl.numerics.resampling import resampler, residual_parts, systematic
from ppl.numerics.shares import Ends, count_ends, identity_if_zero_mass, share_ends, weights_or_uniform
from ppl.numerics.ssp import Rounding, rounding
from ppl.numerics.weights import has_mass

JOINT_LIMIT = 2**20
"""The most joint cells that are ever listed."""


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
    edges = edges_of(share_ends(weights_or_uniform(log_weights), n))
    # Cells are closed on the left, as `u < fraction` is: their left edge stands for all of a cell, unrounded. Of
    # a cell at 1, which is empty, it stands outside [0, 1), and counts for nothing.
    ancestors = jax.vmap(lambda u: systematic(u, log_weights, n))(edges[:-1])
    return JointCells(ancestors, jnp.log(jnp.diff(edges)))


def edges_of(ends: Ends) -> Float[Array, "edges"]:
    """The edges of the cells of one number in [0, 1) that is compared with the fractions of all ends.

    Args:
        ends: see `ppl.numerics.shares.share_ends`.

    Returns:
        0, the fractions in rising order, 1.
    """
    cuts = jnp.sort(ends.fraction)
    return jnp.concatenate([jnp.zeros_like(cuts[:1]), cuts, jnp.ones_like(cuts[:1])])


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
    widths = overlaps(share_ends(weights_or_uniform(log_weights), n), n)
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


def killing_cells(log_weights: Float[Array, "particles"], n: int) -> PositionCells:
    """Cells of `killing`: a position keeps its particle, or draws one.

    Args:
        log_weights: unnormalised log weights (nats) of J particles.
        n: the number of positions.

    Returns:
        J cells for each position: cell j is the event that it copies particle j.

    Examples:
        >>> import jax.numpy as jnp
        >>> cells = killing_cells(jnp.log(jnp.array([0.75, 0.25])), 2)
        >>> [[round(p, 4) for p in row] for row in jnp.exp(cells.log_probs).tolist()]
        [[1.0, 0.0], [0.5, 0.5]]
    """
    return _cells_by_particle(jnp.log(killing_law(weights_or_uniform(log_weights), n)), log_weights, n)


def killing_law(weights: Float[Array, "particles"], n: int) -> Float[Array, "{n} particles"]:
    """The law of the ancestor of each position under `killing`.

    Args:
        weights: normalised weights.
        n: the number of positions.

    Returns:
        A row of probabilities for each position.
    """
    keep = keeping(weights, n)[:, None]
    own = jax.nn.one_hot(jnp.arange(n) % weights.shape[0], weights.shape[0], dtype=weights.dtype)
    return keep * own + (1 - keep) * weights[None, :]


def metropolis_cells(log_weights: Float[Array, "particles"], n: int, steps: int = DEFAULT_STEPS) -> PositionCells:
    """Cells of `metropolis`: after some steps from particle `i mod J`.

    Args:
        log_weights: unnormalised log weights (nats) of J particles.
        n: the number of positions.
        steps: the number of Metropolis steps.

    Returns:
        J cells for each position: cell j is the event that it copies particle j.
    """
    walked = jnp.linalg.matrix_power(metropolis_step(weights_or_uniform(log_weights)), steps)
    return _cells_by_particle(jnp.log(walked[jnp.arange(n) % log_weights.shape[0]]), log_weights, n)


def ssp_cells(log_weights: Float[Array, "particles"], n: int) -> JointCells | None:
    """Cells of `ssp`: every sequence of particles for the positions that are left to draw.

    Args:
        log_weights: unnormalised log weights (nats) of J particles.
        n: the number of positions.

    Returns:
        J^n joint cells; None where these are more than `JOINT_LIMIT`.
    """
    count = log_weights.shape[0]
    choices = sequences(count, n)
    if choices is None:
        return None
    parts = rounding(log_weights, n)
    drawn = jnp.arange(n)[None, :] < parts.left
    copies = jnp.sum(jax.nn.one_hot(choices, count, dtype=jnp.int32) * drawn[:, :, None], axis=1, dtype=jnp.int32)
    ancestors = jax.vmap(lambda total: count_ends(prefix_count(total), n))(parts.copies[None, :] + copies)
    return joint_cells(ancestors, _log_prob_of_draws(choices, parts), log_weights, n)


def sequences(count: int, length: int) -> Int32[np.ndarray, "sequences {length}"] | None:
    """All sequences of particles.

    Args:
        count: the number of particles.
        length: the number of positions.

    Returns:
        `count ** length` rows; None where these are more than `JOINT_LIMIT`.

    Examples:
        >>> sequences(2, 2).tolist()
        [[0, 0], [0, 1], [1, 0], [1, 1]]
    """
    if count**length > JOINT_LIMIT:
        return None
    return np.indices((count,) * length, dtype=np.int32).reshape(length, count**length).T


CELLS: dict[str, Callable[[Array, int], JointCells | PositionCells | None]] = {
    "multinomial": multinomial_cells,
    "systematic": systematic_cells,
    "stratified": stratified_cells,
    "residual": residual_cells,
    "ssp": ssp_cells,
    "killing": killing_cells,
}


def cells_of(scheme: str, log_weights: Float[Array, "particles"], n: int) -> JointCells | PositionCells | None:
    """The cells of a scheme.

    Args:
        scheme: see `ppl.numerics.resampling.resampler`.
        log_weights: unnormalised log weights (nats).
        n: the number of positions.

    Returns:
        Its cells; None where they are too many to list.
    """
    if scheme in CELLS:
        return CELLS[scheme](log_weights, n)
    steps = resampler(scheme).noise_shape(n)[0]
    return metropolis_cells(log_weights, n, steps)


def overlaps(ends: Ends, n: int) -> Float[Array, "{n} particles"]:
    """The length of each particle's share in each stratum `[i, i + 1)`.

    Args:
        ends: the ends of the shares.
        n: the number of strata.

    Returns:
        A row of lengths for each stratum.
    """
    inside = jnp.clip(ends.whole[None, :] - jnp.arange(n)[:, None] + ends.fraction[None, :], 0.0, 1.0)
    return jnp.diff(inside, axis=1, prepend=0.0)


def joint_cells(ancestors: Array, log_probs: Array, log_weights: Float[Array, "particles"], n: int) -> JointCells:
    """Joint cells, but the identity for certain where no particle has weight.

    Args:
        ancestors: for each cell, the ancestor of each position.
        log_probs: log probability of each cell (nats).
        log_weights: unnormalised log weights (nats).
        n: the number of positions.

    Returns:
        The cells.
    """
    alone = identity_if_zero_mass(jnp.zeros(n, jnp.int32), log_weights, n)
    certain = jnp.where(jnp.arange(len(log_probs)) == 0, 0.0, -jnp.inf).astype(log_probs.dtype)
    alive = has_mass(log_weights)
    return JointCells(jnp.where(alive, ancestors, alone[None, :]), jnp.where(alive, log_probs, certain))


def _log_prob_of_draws(choices: Any, parts: Rounding) -> Array:
    """The chain over the strata: whether the particle that crosses a border has been drawn below it matters above."""
    stratum = jnp.arange(choices.shape[1])
    overlap = overlaps(parts.ends, len(stratum))
    crosses_in = jnp.pad(overlap[:-1] > 0, ((1, 0), (0, 0))) & (overlap > 0)
    crosses_out = jnp.pad(overlap[1:] > 0, ((0, 1), (0, 0))) & (overlap > 0)
    others = jnp.where(crosses_in, 0.0, overlap) / (1 - parts.entering)[:, None]
    fresh = jnp.where(crosses_in, parts.retry[:, None], (1 - parts.retry)[:, None] * others)
    drawn_before = jnp.pad(crosses_out[stratum[:-1], choices[:, :-1]], ((0, 0), (1, 0)))
    probs = jnp.where(drawn_before, others[stratum, choices], fresh[stratum, choices])
    unused = stratum[None, :] >= parts.left
    return jnp.sum(jnp.log(jnp.where(unused, choices == 0, probs)), axis=1)


def _cells_by_particle(log_probs: Array, log_weights: Array, n: int) -> PositionCells:
    """Cells of which number j copies particle j; an all-zero population is left alone, for certain."""
    count = log_weights.shape[0]
    index = jnp.arange(count, dtype=jnp.int32)
    identity = identity_if_zero_mass(jnp.zeros(n, jnp.int32), log_weights, n)
    alone = jnp.where(index[None, :] == identity[:, None], 0.0, -jnp.inf)
    chosen = jnp.where(has_mass(log_weights), log_probs, alone.astype(log_probs.dtype))
    return PositionCells(jnp.broadcast_to(index[None, :], (n, count)), chosen)
