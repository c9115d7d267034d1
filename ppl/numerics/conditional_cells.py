"""Every behaviour of conditional resampling with its exact probability: see `ppl.numerics.cells`."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ppl.numerics.cells import (
    JOINT_LIMIT,
    JointCells,
    PositionCells,
    edges_of,
    joint_cells,
    killing_law,
    multinomial_cells,
    overlaps,
    sequences,
)
from ppl.numerics.conditional_resampling import first_copied
from ppl.numerics.resampling import systematic
from ppl.numerics.shares import share_ends, weights_or_uniform


def conditional_multinomial_cells(log_weights: Float[Array, "particles"], n: int) -> PositionCells:
    """Cells of `conditional_multinomial`.

    Args:
        log_weights: unnormalised log weights (nats) of J particles.
        n: the number of positions.

    Returns:
        J cells for each position: cell j is the event that it copies particle j.

    Examples:
        >>> import jax.numpy as jnp
        >>> cells = conditional_multinomial_cells(jnp.log(jnp.array([0.25, 0.75])), 2)
        >>> jnp.exp(cells.log_probs).tolist()
        [[1.0, 0.0], [0.25, 0.75]]
    """
    cells = multinomial_cells(log_weights, n)
    retained = jnp.where(jnp.arange(log_weights.shape[0]) == 0, 0.0, -jnp.inf)
    return PositionCells(cells.ancestors, cells.log_probs.at[0].set(retained))


def conditional_systematic_cells(log_weights: Float[Array, "particles"], n: int) -> JointCells:
    """Cells of `conditional_systematic`: those of `systematic`, within the share of particle 0.

    Args:
        log_weights: unnormalised log weights (nats) of J particles.
        n: the number of positions.

    Returns:
        n (J + 1) joint cells.
    """
    ends = share_ends(weights_or_uniform(log_weights), n)
    edges = edges_of(ends)
    rising = jax.vmap(lambda u: systematic(u, log_weights, n))(edges[:-1])
    # A retained particle without weight has no share: its point is the one at the beginning.
    own = jnp.where(ends.whole[0] + ends.fraction[0] > 0, overlaps(ends, n)[:, 0], jnp.arange(n) == 0)
    widths = jnp.diff(jnp.minimum(edges[None, :], own[:, None]), axis=1) / jnp.sum(own)
    start, place = jnp.arange(n)[:, None, None], jnp.arange(n)[None, None, :]
    shifted = rising[jnp.arange(rising.shape[0])[None, :, None], (start + place) % n].at[:, :, 0].set(0)
    return joint_cells(shifted.reshape(-1, n), jnp.log(widths).reshape(-1), log_weights, n)


def conditional_killing_cells(log_weights: Float[Array, "particles"], n: int) -> JointCells | None:
    """Cells of `conditional_killing`: the position that is retained, and the particles of all others.

    Args:
        log_weights: unnormalised log weights (nats) of J particles.
        n: the number of positions.

    Returns:
        `n J^(n - 1)` joint cells; None where these are more than `JOINT_LIMIT`.
    """
    count = log_weights.shape[0]
    if n * count ** (n - 1) > JOINT_LIMIT:
        return None
    others = jnp.asarray(sequences(count, n - 1))
    log_law = jnp.log(killing_law(weights_or_uniform(log_weights), n))
    copied = first_copied(log_weights, n)
    places = (jnp.arange(n)[:, None] + jnp.arange(1, n)[None, :]) % n
    log_probs = jnp.sum(log_law[places[:, None, :], others[None, :, :]], axis=-1)
    log_probs = log_probs + jnp.log(copied / jnp.sum(copied))[:, None]
    ancestors = jnp.broadcast_to(jnp.pad(others, ((0, 0), (1, 0)))[None], (n, len(others), n))
    return joint_cells(ancestors.reshape(-1, n), log_probs.reshape(-1), log_weights, n)


CONDITIONAL_CELLS: dict[str, Callable[[Array, int], JointCells | PositionCells | None]] = {
    "multinomial": conditional_multinomial_cells,
    "systematic": conditional_systematic_cells,
    "killing": conditional_killing_cells,
}
