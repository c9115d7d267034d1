"""Arithmetic on log weights that never yields NaN.

Law: a population stands for the measure `sum_i exp(log_weights[i]) delta(x_i)`. A weight that is NaN counts
as zero (`-inf`), and a population whose weights are all zero has mass zero: `-inf`, an ordinary value that
passes through every function here, with a zero gradient. Populations run along the last axis.

It does not resample (see `ppl.numerics.resampling`) and does not smooth weights (see `ppl.diagnostics`).
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float


class NormalizedWeights(NamedTuple):
    """Log weights that sum to one, and the mass that was taken out of them.

    Attributes:
        log_weights: normalised log weights (nats); all `-inf` where the mass is zero.
        log_mass: log of the sum of the weights given (nats); `-inf` where all are zero.
    """

    log_weights: Float[Array, "*batch particles"]
    log_mass: Float[Array, "*batch"]


class LogEvidence(NamedTuple):
    """An estimate of a log evidence with its error.

    Attributes:
        value: log of the mean weight (nats). Its exponential is unbiased, it itself is biased downwards.
        standard_error: standard error of `value` (nats); `inf` where the weights cannot tell it.
    """

    value: Float[Array, "*batch"]
    standard_error: Float[Array, "*batch"]


def nan_to_zero_weight(
    log_weights: Float[Array, "*shape"],
) -> Float[Array, "*shape"]:
    """Replace NaN by `-inf`: a particle whose weight is unknown counts for nothing.

    Args:
        log_weights: log weights (nats).

    Returns:
        The same weights, with `-inf` where there was a NaN.
    """
    return jnp.where(jnp.isnan(log_weights), -jnp.inf, log_weights)


def count_nan(log_weights: Float[Array, "*batch particles"]) -> Array:
    """Count the weights that are NaN, so that whoever drops them can say so.

    Args:
        log_weights: log weights (nats).

    Returns:
        The number of NaN weights of each population, an integer array of shape `batch`.
    """
    return jnp.sum(jnp.isnan(log_weights), axis=-1)


def log_sum_exp(log_values: Float[Array, "*batch particles"]) -> Float[Array, "*batch"]:
    """Log of the sum of exponentials along the last axis.

    Unlike `jax.nn.logsumexp`, its gradient is zero, not NaN, where every value is `-inf`, and NaN counts as zero.

    Args:
        log_values: values (nats).

    Returns:
        `log(sum(exp(log_values)))`, `-inf` for an all-zero row.

    Examples:
        >>> import jax.numpy as jnp
        >>> float(log_sum_exp(jnp.array([-jnp.inf, -jnp.inf])))
        -inf
    """
    values = nan_to_zero_weight(log_values)
    peak = lax.stop_gradient(jnp.max(values, axis=-1, keepdims=True, initial=-jnp.inf))
    peak = jnp.where(jnp.isfinite(peak), peak, 0.0)
    total = jnp.sum(jnp.exp(values - peak), axis=-1)
    # The inner `where` keeps the derivative of log away from zero: 0 * inf would make the gradient NaN.
    log_total = jnp.log(jnp.where(total > 0, total, 1.0)) + jnp.squeeze(peak, axis=-1)
    return jnp.where(total > 0, log_total, -jnp.inf)


def log_mean_exp(log_values: Float[Array, "*batch particles"]) -> Float[Array, "*batch"]:
    """Log of the mean of exponentials along the last axis: the evidence that a population estimates.

    Args:
        log_values: values (nats), at least one on the last axis.

    Returns:
        `log(mean(exp(log_values)))`, `-inf` for an all-zero row.

    Examples:
        >>> import jax.numpy as jnp
        >>> round(float(log_mean_exp(jnp.log(jnp.array([1.0, 3.0])))), 4)
        0.6931
    """
    return log_sum_exp(log_values) - jnp.log(float(log_values.shape[-1]))


def normalize_log_weights(log_weights: Float[Array, "*batch particles"]) -> NormalizedWeights:
    """Divide the weights by their sum, and keep the sum.

    A weight of `+inf` is the limit of a growing one: particles that have it share all the weight equally.

    Args:
        log_weights: unnormalised log weights (nats).

    Returns:
        The normalised weights and the log mass; for an all-zero population every entry is `-inf`.

    Examples:
        >>> import jax.numpy as jnp
        >>> normalized = normalize_log_weights(jnp.log(jnp.array([1.0, 3.0])))
        >>> [round(float(weight), 3) for weight in jnp.exp(normalized.log_weights)]
        [0.25, 0.75]
    """
    weights = nan_to_zero_weight(log_weights)
    log_mass = log_sum_exp(weights)
    infinite = jnp.isposinf(log_mass)[..., None]
    weights = jnp.where(infinite, jnp.where(jnp.isposinf(weights), 0.0, -jnp.inf), weights)
    mass = jnp.where(infinite[..., 0], log_sum_exp(weights), log_mass)[..., None]
    normalized = weights - jnp.where(jnp.isfinite(mass), mass, 0.0)
    return NormalizedWeights(normalized, log_mass)


def has_mass(log_weights: Float[Array, "*batch particles"]) -> Bool[Array, "*batch"]:
    """Say whether some particle has a weight above zero.

    Args:
        log_weights: log weights (nats).

    Returns:
        True where the population stands for more than the zero measure.
    """
    return jnp.any(nan_to_zero_weight(log_weights) > -jnp.inf, axis=-1)


def effective_sample_size(log_weights: Float[Array, "*batch particles"]) -> Float[Array, "*batch"]:
    """Kish's effective sample size, `(sum w)^2 / sum w^2`.

    Args:
        log_weights: unnormalised log weights (nats).

    Returns:
        A number of particles in [1, n], or 0 for an all-zero population.

    Examples:
        >>> import jax.numpy as jnp
        >>> float(effective_sample_size(jnp.array([0.0, 0.0, -jnp.inf])))
        2.0
    """
    weights = jnp.exp(normalize_log_weights(log_weights).log_weights)
    squares = jnp.sum(jnp.square(weights), axis=-1)
    return jnp.where(squares > 0, 1.0 / jnp.where(squares > 0, squares, 1.0), 0.0)


def log_evidence(log_weights: Float[Array, "*batch particles"]) -> LogEvidence:
    """Log of the mean weight, with its standard error by the delta method.

    For independent weights `w_i` with mean `Z`, `Var(log mean(w)) ~ Var(w) / (n Z^2)`; with `W_i` the normalised
    weights that is estimated by `sum_i (n W_i - 1)^2 / (n (n - 1))`. It is valid for independent draws only, and
    too small where the weights have no variance to speak of (see the Pareto k of `ppl.diagnostics`).

    Args:
        log_weights: unnormalised log weights of independent draws (nats).

    Returns:
        The estimate and its standard error, which is `inf` for a single particle or an all-zero population.

    Examples:
        >>> import jax.numpy as jnp
        >>> estimate = log_evidence(jnp.log(jnp.array([1.0, 2.0, 3.0])))
        >>> round(float(estimate.value), 4), round(float(estimate.standard_error), 4)
        (0.6931, 0.2887)
    """
    count = log_weights.shape[-1]
    value = log_mean_exp(log_weights)
    if count < 2:
        return LogEvidence(value, jnp.full_like(value, jnp.inf))
    relative = count * jnp.exp(normalize_log_weights(log_weights).log_weights)
    variance = jnp.sum(jnp.square(relative - 1.0), axis=-1) / (count * (count - 1.0))
    return LogEvidence(value, jnp.where(jnp.isfinite(value), jnp.sqrt(variance), jnp.inf))
