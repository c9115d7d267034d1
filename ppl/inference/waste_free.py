r"""The error of the evidence of a waste-free run, from the run alone.

A stage's evidence increment is the mean of g = w / mean(w) over M chains of P states each, in equilibrium. With gamma_k
the autocovariance of g along chains, pooled over the chains,

    Var(log Z_t) = (gamma_0 + 2 sum_k gamma_k) / (M P),     Var(log Z) = sum_t Var(log Z_t)

The sum is cut where Geyer's sums of neighbours turn negative. Valid as P grows (Dau and Chopin, "Waste-free sequential
Monte Carlo", JRSS B 84 (2022)): for short chains of a kernel that mixes slowly it is too small, since a stage's first
states then depend on those of the stage before. The first stage has independent draws: gamma_0 alone.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from ppl.numerics.weights import normalize_log_weights


def chain_variance(log_weights: Float[Array, "particles"], keep: int, *, independent: Any) -> Float[Array, ""]:
    """The variance of the log of the mean weight (nats squared).

    Args:
        log_weights: Unnormalised log weights of chains, all first states before all second ones, and so on.
        keep: The number of states of each chain.
        independent: Whether the states are independent instead.

    Examples:
        >>> apart = chain_variance(jnp.log(jnp.array([1.0, 3.0, 1.0, 3.0])), 2, independent=True)
        >>> along = chain_variance(jnp.log(jnp.array([1.0, 3.0, 1.0, 3.0])), 2, independent=False)
        >>> float(apart), float(along)
        (0.0625, 0.1875)
    """
    size = log_weights.shape[0]
    relative = size * jnp.exp(normalize_log_weights(log_weights).log_weights) - 1.0
    covariances = _autocovariances(relative.reshape(keep, size // keep))
    alone = covariances[0] / size
    return jnp.where(independent, alone, jnp.maximum(_long_run(covariances) / size, 0.0))


def _autocovariances(values: Float[Array, "states chains"]) -> Float[Array, "states"]:
    """gamma_k for every lag, by the Fourier transform."""
    keep = values.shape[0]
    spectrum = jnp.abs(jnp.fft.rfft(values, n=2 * keep, axis=0)) ** 2
    sums = jnp.fft.irfft(spectrum, n=2 * keep, axis=0)[:keep]
    pairs = (keep - jnp.arange(keep)) * values.shape[1]
    return jnp.sum(sums, axis=1) / pairs


def _long_run(covariances: Float[Array, "states"]) -> Float[Array, ""]:
    """gamma_0 + 2 sum gamma_k, cut by Geyer's initial positive sequence."""
    keep = covariances.shape[0]
    even = covariances[: keep - keep % 2].reshape(-1, 2)
    pairs = jnp.sum(even, axis=1)
    positive = jnp.cumprod(pairs > 0)
    return jnp.maximum(2.0 * jnp.sum(pairs * positive) - covariances[0], covariances[0] / keep)
