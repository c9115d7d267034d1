"""A mixture and two hidden Markov models, each written twice: with its labels as choices, and with them summed out.

`ppl.NUTS()` sums the labels of the first form out by itself and draws them afterwards. The second form, by hand, is
the one that `make bench-mcmc` times: `filtered` has no exponential or logarithm inside its loop.
"""

from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

import ppl
import ppl.distributions as dist

Values = Float[Array, "rows"]
Ordered = dist.ImproperUniform(dist.constraints.ordered_vector, (), (2,))
PositiveOrdered = dist.ImproperUniform(dist.constraints.positive_ordered_vector, (), (2,))


def filtered(
    transition: Float[Array, "states states"], log_likelihood: Float[Array, "times states"]
) -> Float[Array, ""]:
    """Log likelihood of a hidden Markov model whose first state has weight 1 in every state (not 1 / states).

    The forward algorithm with its weights normalised at every step; what they are divided by is the likelihood.

    Args:
        transition: Row k holds the probabilities of the states that follow state k.
        log_likelihood: Of each observation in each state, in nats.
    """
    highest = jnp.max(log_likelihood, axis=1, keepdims=True)
    likelihood = jnp.exp(log_likelihood - lax.stop_gradient(highest))

    def step(weights: Any, likelihood_now: Any) -> Any:
        weights = jnp.sum(weights[:, None] * transition, axis=0) * likelihood_now
        total = jnp.sum(weights)
        return weights / total, total

    start = jnp.sum(likelihood[0])
    _, totals = lax.scan(step, likelihood[0] / start, likelihood[1:])
    return jnp.log(start) + jnp.sum(jnp.log(totals)) + jnp.sum(lax.stop_gradient(highest))


# --- mixture of two normal laws --------------------------------------------------------------------------------------


def _components() -> Any:
    mu = ppl.sample("mu", Ordered)
    ppl.factor("mu_prior", dist.Normal(0.0, 2.0).log_prob(mu))
    with ppl.plate("component", 2):
        sigma = ppl.sample("sigma", dist.HalfNormal(2.0))
    theta = ppl.sample("theta", dist.Beta(5.0, 5.0))
    return mu, sigma, theta


@ppl.model
def mixture(y: Values) -> None:
    """Two clusters; label 0 (probability theta) is the one with the smaller mean."""
    mu, sigma, theta = _components()
    with ppl.plate("point", len(y)):
        label = ppl.sample("label", dist.Bernoulli(1.0 - theta))
        ppl.sample("y", dist.Normal(mu[label], sigma[label]), obs=y)


@ppl.model
def mixture_summed(y: Values) -> None:
    """The same with the labels summed out, as one distribution."""
    mu, sigma, theta = _components()
    weights = dist.CategoricalProbs(jnp.stack([theta, 1.0 - theta]))
    with ppl.plate("point", len(y)):
        ppl.sample("y", dist.MixtureSameFamily(weights, dist.Normal(mu, sigma)), obs=y)


# --- hidden Markov models --------------------------------------------------------------------------------------------


def _levels() -> Any:
    theta1 = ppl.sample("theta1", dist.Dirichlet(jnp.ones(2)))
    theta2 = ppl.sample("theta2", dist.Dirichlet(jnp.ones(2)))
    mu = ppl.sample("mu", PositiveOrdered)
    ppl.factor("mu_prior", dist.Normal(jnp.array([3.0, 10.0]), 1.0).log_prob(mu))
    return jnp.stack([theta1, theta2]), mu


@ppl.model
def hmm(y: Values) -> None:
    """Normal noise around the level of a hidden state that stays or switches."""
    transition, mu = _levels()

    def step(state: Any, now: Any) -> Any:
        state = ppl.sample("state", dist.Categorical(transition[state]))
        ppl.sample("y", dist.Normal(mu[state], 1.0), obs=now)
        return state, None

    start = ppl.sample("start", dist.Categorical(jnp.array([0.5, 0.5])))
    ppl.sample("y_start", dist.Normal(mu[start], 1.0), obs=y[0])
    lax.scan(step, start, y[1:])


@ppl.model
def hmm_summed(y: Values) -> None:
    """The same with the states summed out."""
    transition, mu = _levels()
    ppl.factor("y", filtered(transition, dist.Normal(mu, 1.0).log_prob(y[:, None])))


def _rates(alpha: Any) -> Any:
    theta1 = ppl.sample("theta1", dist.Dirichlet(alpha[0]))
    theta2 = ppl.sample("theta2", dist.Dirichlet(alpha[1]))
    phi = ppl.sample("phi", PositiveOrdered)
    rate = ppl.sample("lambda", PositiveOrdered)
    first_and_second = dist.Normal(jnp.array([0.0, 3.0]), 1.0)
    ppl.factor("rate_prior", first_and_second.log_prob(phi) + first_and_second.log_prob(rate))
    return jnp.stack([theta1, theta2]), phi, rate


@ppl.model
def drive(u: Values, v: Values, alpha: Float[Array, "2 2"]) -> None:
    """A basketball player drives or not: speed (1 / u) and distance to the hoop tell the hidden state."""
    transition, phi, rate = _rates(alpha)

    def step(state: Any, now: Any) -> Any:
        state = ppl.sample("state", dist.Categorical(transition[state]))
        ppl.sample("u", dist.Exponential(phi[state]), obs=now[0])
        ppl.sample("v", dist.Exponential(rate[state]), obs=now[1])
        return state, None

    start = ppl.sample("start", dist.Categorical(jnp.array([0.5, 0.5])))
    ppl.sample("u_start", dist.Exponential(phi[start]), obs=u[0])
    ppl.sample("v_start", dist.Exponential(rate[start]), obs=v[0])
    lax.scan(step, start, (u[1:], v[1:]))


@ppl.model
def drive_summed(u: Values, v: Values, alpha: Float[Array, "2 2"]) -> None:
    """The same with the states summed out."""
    transition, phi, rate = _rates(alpha)
    log_likelihood = dist.Exponential(phi).log_prob(u[:, None]) + dist.Exponential(rate).log_prob(v[:, None])
    ppl.factor("u_and_v", filtered(transition, log_likelihood))
