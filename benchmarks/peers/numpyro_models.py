"""The targets as NumPyro models: the same distributions and the same arguments as ours, statement by statement.

The hidden Markov models use the same forward algorithm as ours, and the mixture the same distribution.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import lax

numpyro.enable_validation(False)
"""Else some starting points stop the run: an ARMA recursion overflows where theta is 2."""

FLAT = dist.ImproperUniform(dist.constraints.real, (), ())
FLAT_POSITIVE = dist.ImproperUniform(dist.constraints.positive, (), ())
Ordered = dist.ImproperUniform(dist.constraints.ordered_vector, (), (2,))
PositiveOrdered = dist.ImproperUniform(dist.constraints.positive_ordered_vector, (), (2,))


def flat_vector(size: int) -> dist.Distribution:
    return dist.ImproperUniform(dist.constraints.real, (), (size,))


def eight_schools(sigma: Any, y: Any) -> None:
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    with numpyro.plate("school", len(y)):
        theta_trans = numpyro.sample("theta_trans", dist.Normal(0.0, 1.0))
        theta = numpyro.deterministic("theta", mu + tau * theta_trans)
        numpyro.sample("y", dist.Normal(theta, sigma), obs=y)


def autoregressive(y: Any, order: int) -> None:
    alpha = numpyro.sample("alpha", dist.Normal(0.0, 10.0))
    with numpyro.plate("lag", order):
        beta = numpyro.sample("beta", dist.Normal(0.0, 10.0))
    sigma = numpyro.sample("sigma", dist.HalfCauchy(2.5))
    mean = alpha + sum(beta[k] * y[order - 1 - k : len(y) - 1 - k] for k in range(order))
    with numpyro.plate("time", len(y) - order):
        numpyro.sample("y", dist.Normal(mean, sigma), obs=y[order:])


def arma(y: Any) -> None:
    mu = numpyro.sample("mu", dist.Normal(0.0, 10.0))
    phi = numpyro.sample("phi", dist.Normal(0.0, 2.0))
    theta = numpyro.sample("theta", dist.Normal(0.0, 2.0))
    sigma = numpyro.sample("sigma", dist.HalfCauchy(2.5))

    def step(error: Any, pair: Any) -> Any:
        before, now = pair
        mean = mu + phi * before + theta * error
        return now - mean, mean

    first = mu + phi * mu
    _, means = lax.scan(step, y[0] - first, (y[:-1], y[1:]))
    with numpyro.plate("time", len(y)):
        numpyro.sample("y", dist.Normal(jnp.append(first, means), sigma), obs=y)


def garch(y: Any, first_sd: Any) -> None:
    mu = numpyro.sample("mu", FLAT)
    alpha0 = numpyro.sample("alpha0", FLAT_POSITIVE)
    alpha1 = numpyro.sample("alpha1", dist.Uniform(0.0, 1.0))
    beta1 = numpyro.sample("beta1", dist.ImproperUniform(dist.constraints.interval(0.0, 1.0 - alpha1), (), ()))

    def step(variance: Any, before: Any) -> Any:
        variance = alpha0 + alpha1 * (before - mu) ** 2 + beta1 * variance
        return variance, variance

    _, variances = lax.scan(step, first_sd**2, y[:-1])
    with numpyro.plate("time", len(y)):
        numpyro.sample("y", dist.Normal(mu, jnp.sqrt(jnp.append(first_sd**2, variances))), obs=y)


def earnings(height: Any, male: Any, log_earn: Any) -> None:
    beta = numpyro.sample("beta", flat_vector(4))
    sigma = numpyro.sample("sigma", FLAT_POSITIVE)
    mean = beta[0] + beta[1] * height + beta[2] * male + beta[3] * height * male
    with numpyro.plate("person", len(log_earn)):
        numpyro.sample("log_earn", dist.Normal(mean, sigma), obs=log_earn)


def kid_score(mom_iq: Any, score: Any) -> None:
    beta = numpyro.sample("beta", flat_vector(2))
    sigma = numpyro.sample("sigma", dist.HalfCauchy(2.5))
    with numpyro.plate("kid", len(score)):
        numpyro.sample("score", dist.Normal(beta[0] + beta[1] * mom_iq, sigma), obs=score)


def kid_score_interaction(mom_hs: Any, mom_iq: Any, score: Any) -> None:
    beta = numpyro.sample("beta", flat_vector(4))
    sigma = numpyro.sample("sigma", FLAT_POSITIVE)
    h, q = mom_hs - jnp.mean(mom_hs), mom_iq - jnp.mean(mom_iq)
    with numpyro.plate("kid", len(score)):
        mean = beta[0] + beta[1] * h + beta[2] * q + beta[3] * h * q
        numpyro.sample("score", dist.Normal(mean, sigma), obs=score)


def mesquite(volume: Any, area: Any, shape: Any, height: Any, group: Any, log_weight: Any) -> None:
    beta = numpyro.sample("beta", flat_vector(6))
    sigma = numpyro.sample("sigma", FLAT_POSITIVE)
    size = beta[1] * volume + beta[2] * area + beta[3] * shape + beta[4] * height
    with numpyro.plate("bush", len(log_weight)):
        numpyro.sample("log_weight", dist.Normal(beta[0] + size + beta[5] * group, sigma), obs=log_weight)


def party(x: Any, partyid: Any) -> None:
    beta = numpyro.sample("beta", flat_vector(x.shape[1]))
    sigma = numpyro.sample("sigma", FLAT_POSITIVE)
    with numpyro.plate("voter", len(partyid)):
        numpyro.sample("partyid", dist.Normal(x @ beta, sigma), obs=partyid)


def blr(x: Any, y: Any) -> None:
    with numpyro.plate("column", x.shape[1]):
        beta = numpyro.sample("beta", dist.Normal(0.0, 10.0))
    sigma = numpyro.sample("sigma", dist.HalfNormal(10.0))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(x @ beta, sigma), obs=y)


def kilpisjarvi(x: Any, y: Any, alpha_prior: Any, beta_prior: Any) -> None:
    alpha = numpyro.sample("alpha", dist.Normal(*alpha_prior))
    beta = numpyro.sample("beta", dist.Normal(*beta_prior))
    sigma = numpyro.sample("sigma", FLAT_POSITIVE)
    with numpyro.plate("year", len(y)):
        numpyro.sample("y", dist.Normal(alpha + beta * x, sigma), obs=y)


def diamonds(x: Any, y: Any) -> None:
    with numpyro.plate("column", x.shape[1]):
        b = numpyro.sample("b", dist.Normal(0.0, 1.0))
    intercept = numpyro.sample("Intercept", dist.StudentT(3.0, 8.0, 10.0))
    sigma = numpyro.sample("sigma", dist.FoldedDistribution(dist.StudentT(3.0, 0.0, 10.0)))
    centred = x - jnp.mean(x, axis=0)
    with numpyro.plate("diamond", len(y)):
        numpyro.sample("y", dist.Normal(intercept + centred @ b, sigma), obs=y)


def gaussian_process(x: Any, y: Any) -> None:
    rho = numpyro.sample("rho", dist.Gamma(25.0, 4.0))
    alpha = numpyro.sample("alpha", dist.HalfNormal(2.0))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))
    distance = x[:, None] - x[None, :]
    covariance = alpha**2 * jnp.exp(-0.5 * (distance / rho) ** 2) + sigma * jnp.eye(len(x))
    numpyro.sample("y", dist.MultivariateNormal(jnp.zeros(len(x)), covariance_matrix=covariance), obs=y)


def filtered(transition: Any, log_likelihood: Any) -> Any:
    highest = jnp.max(log_likelihood, axis=1, keepdims=True)
    likelihood = jnp.exp(log_likelihood - lax.stop_gradient(highest))

    def step(weights: Any, likelihood_now: Any) -> Any:
        weights = jnp.sum(weights[:, None] * transition, axis=0) * likelihood_now
        total = jnp.sum(weights)
        return weights / total, total

    start = jnp.sum(likelihood[0])
    _, totals = lax.scan(step, likelihood[0] / start, likelihood[1:])
    return jnp.log(start) + jnp.sum(jnp.log(totals)) + jnp.sum(lax.stop_gradient(highest))


def mixture(y: Any) -> None:
    mu = numpyro.sample("mu", Ordered)
    numpyro.factor("mu_prior", dist.Normal(0.0, 2.0).log_prob(mu))
    with numpyro.plate("component", 2):
        sigma = numpyro.sample("sigma", dist.HalfNormal(2.0))
    theta = numpyro.sample("theta", dist.Beta(5.0, 5.0))
    weights = dist.CategoricalProbs(jnp.stack([theta, 1.0 - theta]))
    with numpyro.plate("point", len(y)):
        numpyro.sample("y", dist.MixtureSameFamily(weights, dist.Normal(mu, sigma)), obs=y)


def hmm(y: Any) -> None:
    theta1 = numpyro.sample("theta1", dist.Dirichlet(jnp.ones(2)))
    theta2 = numpyro.sample("theta2", dist.Dirichlet(jnp.ones(2)))
    mu = numpyro.sample("mu", PositiveOrdered)
    numpyro.factor("mu_prior", dist.Normal(jnp.array([3.0, 10.0]), 1.0).log_prob(mu))
    numpyro.factor("y", filtered(jnp.stack([theta1, theta2]), dist.Normal(mu, 1.0).log_prob(y[:, None])))


def drive(u: Any, v: Any, alpha: Any) -> None:
    theta1 = numpyro.sample("theta1", dist.Dirichlet(alpha[0]))
    theta2 = numpyro.sample("theta2", dist.Dirichlet(alpha[1]))
    phi = numpyro.sample("phi", PositiveOrdered)
    rate = numpyro.sample("lambda", PositiveOrdered)
    first_and_second = dist.Normal(jnp.array([0.0, 3.0]), 1.0)
    numpyro.factor("rate_prior", first_and_second.log_prob(phi) + first_and_second.log_prob(rate))
    log_likelihood = dist.Exponential(phi).log_prob(u[:, None]) + dist.Exponential(rate).log_prob(v[:, None])
    numpyro.factor("u_and_v", filtered(jnp.stack([theta1, theta2]), log_likelihood))


def gaussian(root: Any) -> None:
    x = numpyro.sample("x", flat_vector(root.shape[0]))
    numpyro.factor("density", -0.5 * jnp.sum((root @ x) ** 2))


def logistic(x: Any, y: Any) -> None:
    beta = numpyro.sample("beta", dist.Normal(jnp.zeros(x.shape[1]), 1.0))
    numpyro.sample("y", dist.Bernoulli(logits=x @ beta), obs=y)


MODELS: dict[str, Callable[..., None]] = {
    "eight_schools-eight_schools_noncentered": eight_schools,
    "arK-arK": autoregressive,
    "arma-arma11": arma,
    "earnings-logearn_interaction": earnings,
    "kidiq-kidscore_momiq": kid_score,
    "kidiq_with_mom_work-kidscore_interaction_c": kid_score_interaction,
    "mesquite-logmesquite_logvash": mesquite,
    "garch-garch11": garch,
    "gp_pois_regr-gp_regr": gaussian_process,
    "hmm_example-hmm_example": hmm,
    "low_dim_gauss_mix-low_dim_gauss_mix": mixture,
    "nes1972-nes": party,
    "sblrc-blr": blr,
    "kilpisjarvi_mod-kilpisjarvi": kilpisjarvi,
    "bball_drive_event_0-hmm_drive_0": drive,
    "diamonds-diamonds": diamonds,
    "gaussian-100-correlated": gaussian,
    "gaussian-100-condition-1e4": gaussian,
    "logistic-1000x20": logistic,
}
