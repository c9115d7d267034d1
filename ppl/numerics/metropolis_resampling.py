"""Metropolis resampling: position i walks over the particles by Metropolis steps, from particle i on. Biased.

No sum over weights is needed, which suits hardware on which sums are dear. After finitely many steps the law is not
yet in proportion to weight: `E[O_j]` is too large for particles of small weight, by a factor that falls geometrically
with the number of steps, at a rate of `1 - mean w / max w` or faster. So it keeps no law of resampling exactly, and an
evidence estimated with it is biased.

Lawrence Murray, Anthony Lee and Pierre Jacob, "Parallel resampling in the particle filter", JCGS 25 (2016),
algorithm 3 and section 3.3 on the number of steps.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int32

from ppl.numerics.shares import identity_if_zero_mass, weights_or_uniform

DEFAULT_STEPS = 32


def metropolis(
    uniforms: Float[Array, "steps 2 n"], log_weights: Float[Array, "particles"], n: int
) -> Int32[Array, "n"]:
    """Metropolis steps with uniform proposals for each position, which begins at particle `i mod J`. Biased.

    Args:
        uniforms: for each step and position, the number in [0, 1) that proposes and the one that accepts.
        log_weights: unnormalised log weights (nats).
        n: the number of positions to fill.

    Returns:
        The ancestor of each position; of weight zero where no step has met a particle with weight.

    Examples:
        >>> import jax.numpy as jnp
        >>> noise = jnp.array([[[0.9, 0.1], [0.5, 0.5]]])
        >>> metropolis(noise, jnp.log(jnp.array([0.25, 0.75])), 2).tolist()
        [1, 1]
    """
    weights = weights_or_uniform(log_weights)
    count = log_weights.shape[0]

    def step(here: Array, noise: Array) -> tuple[Array, None]:
        proposed = jnp.minimum((noise[0] * count).astype(jnp.int32), count - 1)
        accepted = noise[1] * weights[here] < weights[proposed]
        return jnp.where(accepted, proposed, here), None

    ancestors, _ = lax.scan(step, jnp.arange(n, dtype=jnp.int32) % count, uniforms)
    return identity_if_zero_mass(ancestors, log_weights, n)


def metropolis_step(weights: Float[Array, "particles"]) -> Float[Array, "particles particles"]:
    """The transition matrix of one step.

    Args:
        weights: normalised weights.

    Returns:
        Row k is the law of the particle after one step from particle k.
    """
    count = weights.shape[0]
    ratio = weights[None, :] / jnp.where(weights > 0, weights, 1.0)[:, None]
    accepted = jnp.where(weights[:, None] > 0, jnp.minimum(ratio, 1.0), weights[None, :] > 0) / count
    moves = jnp.where(jnp.eye(count, dtype=bool), 0.0, accepted)
    return moves + jnp.diag(1 - jnp.sum(moves, axis=1))
