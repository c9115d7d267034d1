"""Linear regressions: normal noise around a linear predictor. The data come as columns, the priors as in posteriordb.

`FLAT` and `FLAT_POSITIVE` are Lebesgue measure on the reals and on the positive reals: improper priors.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

import ppl
import ppl.distributions as dist

Column = Float[Array, "rows"]

FLAT = dist.ImproperUniform(dist.constraints.real, (), ())
FLAT_POSITIVE = dist.ImproperUniform(dist.constraints.positive, (), ())


def flat_vector(size: int) -> dist.ImproperUniform:
    """Lebesgue measure on R^size."""
    return dist.ImproperUniform(dist.constraints.real, (), (size,))


@ppl.model
def earnings(height: Column, male: Column, log_earn: Column) -> None:
    """Earnings by height and sex, with their interaction."""
    beta = ppl.sample("beta", flat_vector(4))
    sigma = ppl.sample("sigma", FLAT_POSITIVE)
    mean = beta[0] + beta[1] * height + beta[2] * male + beta[3] * height * male
    with ppl.plate("person", len(log_earn)):
        ppl.sample("log_earn", dist.Normal(mean, sigma), obs=log_earn)


@ppl.model
def kid_score(mom_iq: Column, score: Column) -> None:
    """Children's test scores by their mothers' IQ."""
    beta = ppl.sample("beta", flat_vector(2))
    sigma = ppl.sample("sigma", dist.HalfCauchy(2.5))
    with ppl.plate("kid", len(score)):
        ppl.sample("score", dist.Normal(beta[0] + beta[1] * mom_iq, sigma), obs=score)


@ppl.model
def kid_score_interaction(mom_hs: Column, mom_iq: Column, score: Column) -> None:
    """Children's test scores by their mothers' schooling and IQ, both centred, with their interaction."""
    beta = ppl.sample("beta", flat_vector(4))
    sigma = ppl.sample("sigma", FLAT_POSITIVE)
    h, q = mom_hs - jnp.mean(mom_hs), mom_iq - jnp.mean(mom_iq)
    with ppl.plate("kid", len(score)):
        ppl.sample("score", dist.Normal(beta[0] + beta[1] * h + beta[2] * q + beta[3] * h * q, sigma), obs=score)


@ppl.model
def mesquite(volume: Column, area: Column, shape: Column, height: Column, group: Column, log_weight: Column) -> None:
    """Leaf weight of mesquite bushes by logarithms of their size (canopy volume, area, shape, total height)."""
    beta = ppl.sample("beta", flat_vector(6))
    sigma = ppl.sample("sigma", FLAT_POSITIVE)
    size = beta[1] * volume + beta[2] * area + beta[3] * shape + beta[4] * height
    with ppl.plate("bush", len(log_weight)):
        ppl.sample("log_weight", dist.Normal(beta[0] + size + beta[5] * group, sigma), obs=log_weight)


@ppl.model
def party(x: Float[Array, "rows columns"], partyid: Column) -> None:
    """Party identification by ideology, race, age group, education, gender and income."""
    beta = ppl.sample("beta", flat_vector(x.shape[1]))
    sigma = ppl.sample("sigma", FLAT_POSITIVE)
    with ppl.plate("voter", len(partyid)):
        ppl.sample("partyid", dist.Normal(x @ beta, sigma), obs=partyid)


@ppl.model
def blr(x: Float[Array, "rows columns"], y: Column) -> None:
    """Bayesian linear regression with weak priors."""
    with ppl.plate("column", x.shape[1]):
        beta = ppl.sample("beta", dist.Normal(0.0, 10.0))
    sigma = ppl.sample("sigma", dist.HalfNormal(10.0))
    with ppl.plate("row", len(y)):
        ppl.sample("y", dist.Normal(x @ beta, sigma), obs=y)


@ppl.model
def kilpisjarvi(x: Column, y: Column, alpha_prior: Any, beta_prior: Any) -> None:
    """Summer temperature by year, uncentred: intercept and slope are correlated. The priors are (mean, sd)."""
    alpha = ppl.sample("alpha", dist.Normal(*alpha_prior))
    beta = ppl.sample("beta", dist.Normal(*beta_prior))
    sigma = ppl.sample("sigma", FLAT_POSITIVE)
    with ppl.plate("year", len(y)):
        ppl.sample("y", dist.Normal(alpha + beta * x, sigma), obs=y)


@ppl.model
def diamonds(x: Float[Array, "rows columns"], y: Column) -> None:
    """Log price of diamonds by 24 correlated columns, which are centred here."""
    with ppl.plate("column", x.shape[1]):
        b = ppl.sample("b", dist.Normal(0.0, 1.0))
    intercept = ppl.sample("Intercept", dist.StudentT(3.0, 8.0, 10.0))
    sigma = ppl.sample("sigma", dist.FoldedDistribution(dist.StudentT(3.0, 0.0, 10.0)))
    centred = x - jnp.mean(x, axis=0)
    with ppl.plate("diamond", len(y)):
        ppl.sample("y", dist.Normal(intercept + centred @ b, sigma), obs=y)
