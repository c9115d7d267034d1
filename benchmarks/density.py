"""Joint log density and its gradient against densities written by hand in plain JAX.

Each pair evaluates the same function on the same points, checked before it is timed; the evaluations run inside one
`lax.scan` of perturbed points, so that Python's dispatch does not hide a difference.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import ppl
import ppl.distributions as dist
from benchmarks.harness import alternate, report

HALF_LOG_TWO_PI = 0.5 * np.log(2 * np.pi)


def normal(x: Any, loc: Any, scale: Any) -> Any:
    """Log density of a normal distribution."""
    return -0.5 * ((x - loc) / scale) ** 2 - jnp.log(scale) - HALF_LOG_TWO_PI


# --- eight schools ---------------------------------------------------------------------------------------------------

Y = jnp.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
SIGMA = jnp.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


@ppl.model
def eight_schools(sigma: Any, y: Any) -> None:
    """Centred eight schools."""
    mu = ppl.sample("mu", dist.Normal(0.0, 5.0))
    tau = ppl.sample("tau", dist.HalfCauchy(5.0))
    with ppl.plate("school", 8):
        theta = ppl.sample("theta", dist.Normal(mu, tau))
        ppl.sample("y", dist.Normal(theta, sigma), obs=y)


def eight_schools_by_hand(c: Any, sigma: Any, y: Any) -> Any:
    """The same density; minus infinity where tau is negative."""
    cauchy = jnp.log(2.0) - jnp.log(jnp.pi) - jnp.log(5.0) - jnp.log1p((c["tau"] / 5.0) ** 2)
    prior = normal(c["mu"], 0.0, 5.0) + jnp.where(c["tau"] > 0, cauchy, -jnp.inf)
    return prior + jnp.sum(normal(c["theta"], c["mu"], c["tau"])) + jnp.sum(normal(y, c["theta"], sigma))


# --- logistic regression ---------------------------------------------------------------------------------------------


@ppl.model
def logistic(x: Any, y: Any) -> None:
    """Logistic regression with standard normal coefficients."""
    beta = ppl.sample("beta", dist.Normal(jnp.zeros(x.shape[1]), 1.0))
    ppl.sample("y", dist.Bernoulli(logits=x @ beta), obs=y)


def logistic_by_hand(c: Any, x: Any, y: Any) -> Any:
    """The same density."""
    logits = x @ c["beta"]
    likelihood = jnp.sum(y * logits - jnp.logaddexp(0.0, logits))
    return jnp.sum(normal(c["beta"], 0.0, 1.0)) + likelihood


# --- state space -----------------------------------------------------------------------------------------------------


@ppl.model
def state_space(y: Any) -> None:
    """A linear-Gaussian chain, observed with noise at each step, written as a loop."""
    scale = ppl.sample("scale", dist.LogNormal(0.0, 1.0))

    def step(x: Any, observed: Any) -> Any:
        x = ppl.sample("x", dist.Normal(0.9 * x, scale))
        ppl.sample("y", dist.Normal(x, 0.5), obs=observed)
        return x, None

    lax.scan(step, 0.0, y)


def state_space_prior(scale: Any) -> Any:
    """Log density of a standard log-normal."""
    return jnp.where(scale > 0, normal(jnp.log(scale), 0.0, 1.0) - jnp.log(scale), -jnp.inf)


def state_space_by_hand(c: Any, y: Any) -> Any:
    """The same density, vectorised over time as one would by hand."""
    x = c["x"]
    before = jnp.concatenate([jnp.zeros(1), x[:-1]])
    chain = jnp.sum(normal(x, 0.9 * before, c["scale"])) + jnp.sum(normal(y, x, 0.5))
    return state_space_prior(c["scale"]) + chain


def state_space_loop(c: Any, y: Any) -> Any:
    """The same density as a loop."""

    def step(x: Any, pair: Any) -> Any:
        new, observed = pair
        return new, normal(new, 0.9 * x, c["scale"]) + normal(observed, new, 0.5)

    return state_space_prior(c["scale"]) + jnp.sum(lax.scan(step, 0.0, (c["x"], y))[1])


def repeated(function: Callable[..., Any], steps: int) -> Callable[..., Any]:
    """Evaluate value and gradient at `steps` points, one after another, in one compiled call."""
    both = jax.value_and_grad(function)

    @jax.jit
    def run(choices: Any, *data: Any) -> Any:
        def step(point: Any, _: Any) -> Any:
            value, gradient = both(point, *data)
            return jax.tree.map(lambda p, g: p + 1e-7 * jnp.tanh(g), point, gradient), value

        return lax.scan(step, choices, None, length=steps)

    return run


def compare(title: str, model: Any, by_hand: dict[str, Callable[..., Any]], data: tuple[Any, ...], steps: int) -> None:
    """Check that the densities agree, then time value-and-gradient of all of them."""
    choices = model(*data).simulate(jax.random.key(1)).choices
    ours = model(*data).log_density(choices)
    for name, function in by_hand.items():
        np.testing.assert_allclose(ours, function(choices, *data), rtol=2e-5, err_msg=f"{title}: {name}")
    functions = {**by_hand, "quasiborel": lambda c, *d: model(*d).log_density(c)}
    runs = {name: partial(repeated(f, steps), choices, *data) for name, f in functions.items()}
    timings = alternate(runs, per_call=steps)
    report(f"{title}: log density and gradient, one evaluation", timings, next(iter(by_hand)))


def main() -> None:
    """Run all three."""
    key = jax.random.key(0)
    x = jax.random.normal(key, (1000, 20))
    labels = jax.random.bernoulli(jax.random.key(1), 0.4, (1000,)).astype(jnp.int32)
    series = jax.random.normal(jax.random.key(2), (1000,))
    compare("eight schools", eight_schools, {"hand-written JAX": eight_schools_by_hand}, (SIGMA, Y), 2000)
    compare("logistic regression 1000 x 20", logistic, {"hand-written JAX": logistic_by_hand}, (x, labels), 200)
    peers = {"hand-written JAX, vectorised": state_space_by_hand, "hand-written JAX, loop": state_space_loop}
    compare("state space, 1000 steps", state_space, peers, (series,), 200)


if __name__ == "__main__":
    main()
