"""Summing out the states of a hidden Markov model (1,000 steps, 10 states) against a forward algorithm written by
hand."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import logsumexp

import ppl
import ppl.distributions as dist
from benchmarks.density import normal, repeated
from benchmarks.harness import alternate, report

STATES = 10


@ppl.model
def hmm(transition: Any, levels: Any, series: Any) -> None:
    """Normal emissions around the level of a hidden state."""
    scale = ppl.sample("scale", dist.LogNormal(0.0, 1.0))

    def step(state: Any, observed: Any) -> Any:
        state = ppl.sample("state", dist.Categorical(probs=transition[state]))
        ppl.sample("y", dist.Normal(levels[state], scale), obs=observed)
        return state, None

    start = ppl.sample("start", dist.Categorical(probs=jnp.full(STATES, 1.0 / STATES)))
    lax.scan(step, start, series)


def forward(choices: Any, transition: Any, levels: Any, series: Any) -> Any:
    """The forward algorithm in log space."""
    scale = choices["scale"]
    log_transition = jnp.log(transition)

    def step(log_weights: Any, observed: Any) -> Any:
        moved = logsumexp(log_weights[:, None] + log_transition, axis=0)
        return moved + normal(observed, levels, scale), None

    last, _ = lax.scan(step, jnp.full(STATES, -jnp.log(STATES)), series)
    return normal(jnp.log(scale), 0.0, 1.0) - jnp.log(scale) + logsumexp(last)


def main() -> None:
    """Check agreement, then time value and gradient."""
    for length in (250, 1000, 4000):
        keys = jax.random.split(jax.random.key(0), 2)
        transition = jax.nn.softmax(jax.random.normal(keys[0], (STATES, STATES)))
        data = (transition, jnp.arange(float(STATES)), 4.0 + 3.0 * jax.random.normal(keys[1], (length,)))
        choices = {"scale": jnp.array(1.3)}

        def ours(c: Any, *d: Any) -> Any:
            return hmm(*d).marginal("scale", method=ppl.Exact()).log_density(c)

        np.testing.assert_allclose(ours(choices, *data), forward(choices, *data), rtol=1e-4)
        runs = {"forward algorithm by hand": forward, "quasiborel, Exact()": ours}
        calls = {name: partial(repeated(f, 10), choices, *data) for name, f in runs.items()}
        timings = alternate(calls, rounds=11, per_call=10)
        report(f"HMM, T = {length}, K = {STATES}: marginal density and gradient", timings, "forward algorithm by hand")


if __name__ == "__main__":
    main()
