"""Eight schools, and a Gaussian process."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

import ppl
import ppl.distributions as dist

Points = Float[Array, "points"]


@ppl.model
def eight_schools(sigma: Float[Array, "schools"], y: Float[Array, "schools"]) -> Any:
    """Effects of coaching in eight schools, not centred: the effects are made of standard normal choices."""
    mu = ppl.sample("mu", dist.Normal(0.0, 5.0))
    tau = ppl.sample("tau", dist.HalfCauchy(5.0))
    with ppl.plate("school", len(y)):
        theta_trans = ppl.sample("theta_trans", dist.Normal(0.0, 1.0))
        theta = ppl.deterministic("theta", mu + tau * theta_trans)
        ppl.sample("y", dist.Normal(theta, sigma), obs=y)
    return theta


@ppl.model
def gaussian_process(x: Points, y: Points) -> None:
    """Regression on a Gaussian process with a squared-exponential kernel; `sigma` is the variance of the noise."""
    rho = ppl.sample("rho", dist.Gamma(25.0, 4.0))
    alpha = ppl.sample("alpha", dist.HalfNormal(2.0))
    sigma = ppl.sample("sigma", dist.HalfNormal(1.0))
    distance = x[:, None] - x[None, :]
    kernel = alpha**2 * jnp.exp(-0.5 * (distance / rho) ** 2)
    covariance = kernel + sigma * jnp.eye(len(x))
    ppl.sample("y", dist.MultivariateNormal(jnp.zeros(len(x)), covariance_matrix=covariance), obs=y)
