"""Time series: autoregression, moving average, changing volatility. A recursion over time is a `lax.scan`."""

from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

import ppl
import ppl.distributions as dist
from benchmarks.posteriordb.regressions import FLAT, FLAT_POSITIVE

Series = Float[Array, "times"]


@ppl.model
def autoregressive(y: Series, order: int) -> None:
    """Autoregression: each value depends on the `order` values before it."""
    alpha = ppl.sample("alpha", dist.Normal(0.0, 10.0))
    with ppl.plate("lag", order):
        beta = ppl.sample("beta", dist.Normal(0.0, 10.0))
    sigma = ppl.sample("sigma", dist.HalfCauchy(2.5))
    mean = alpha + sum(beta[k] * y[order - 1 - k : len(y) - 1 - k] for k in range(order))
    with ppl.plate("time", len(y) - order):
        ppl.sample("y", dist.Normal(mean, sigma), obs=y[order:])


@ppl.model
def arma(y: Series) -> None:
    """ARMA(1, 1): what is left of one value moves the mean of the next."""
    mu = ppl.sample("mu", dist.Normal(0.0, 10.0))
    phi = ppl.sample("phi", dist.Normal(0.0, 2.0))
    theta = ppl.sample("theta", dist.Normal(0.0, 2.0))
    sigma = ppl.sample("sigma", dist.HalfCauchy(2.5))

    def step(error: Any, pair: Any) -> Any:
        before, now = pair
        mean = mu + phi * before + theta * error
        return now - mean, mean

    first = mu + phi * mu
    _, means = lax.scan(step, y[0] - first, (y[:-1], y[1:]))
    with ppl.plate("time", len(y)):
        ppl.sample("y", dist.Normal(jnp.append(first, means), sigma), obs=y)


@ppl.model
def garch(y: Series, first_sd: Any) -> None:
    """GARCH(1, 1): the variance of one value depends on the size of the one before. Stationary: alpha1 + beta1 < 1."""
    mu = ppl.sample("mu", FLAT)
    alpha0 = ppl.sample("alpha0", FLAT_POSITIVE)
    alpha1 = ppl.sample("alpha1", dist.Uniform(0.0, 1.0))
    beta1 = ppl.sample("beta1", dist.ImproperUniform(dist.constraints.interval(0.0, 1.0 - alpha1), (), ()))

    def step(variance: Any, before: Any) -> Any:
        variance = alpha0 + alpha1 * (before - mu) ** 2 + beta1 * variance
        return variance, variance

    _, variances = lax.scan(step, first_sd**2, y[:-1])
    with ppl.plate("time", len(y)):
        ppl.sample("y", dist.Normal(mu, jnp.sqrt(jnp.append(first_sd**2, variances))), obs=y)
