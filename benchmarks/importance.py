"""Importance sampling of a ten-flip beta-Bernoulli with 1e5 traces, against the same draws written by hand.

GenJAX reports parity with raw JAX on this task; the ratio to raw JAX printed here is the figure to set beside it.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as npdist

import ppl
import ppl.distributions as dist
from benchmarks.harness import alternate, report
from ppl.inference.population import population

COUNT = 100_000
FLIPS = jnp.array([1, 1, 0, 1, 1, 0, 1, 1, 0, 1])
LOG_EVIDENCE = -6.977748


@ppl.model
def beta_bernoulli(flips: Any) -> Any:
    """A coin of unknown weight, flipped ten times."""
    p = ppl.sample("p", dist.Beta(2.0, 2.0))
    ppl.sample("flips", dist.Bernoulli(p).expand([10]).to_event(1), obs=flips)
    return p


@jax.jit
def by_hand(key: Any, flips: Any) -> Any:
    """Draw COUNT weights at once and score the flips."""
    p = npdist.Beta(2.0, 2.0).sample(key, (COUNT,))
    heads = flips[None, :] == 1
    log_weights = jnp.sum(jnp.where(heads, jnp.log(p)[:, None], jnp.log1p(-p)[:, None]), axis=1)
    return p, log_weights


@jax.jit
def ours(program: Any, key: Any) -> Any:
    """The same from the user's model."""
    particles = population(program, key, COUNT)
    return particles.choices["p"], particles.log_weight


def main() -> None:
    """Check both against the exact evidence, then time them."""
    key, program = jax.random.key(0), beta_bernoulli(FLIPS)
    for _, log_weights in (by_hand(key, FLIPS), ours(program, key)):
        estimate = jax.scipy.special.logsumexp(log_weights) - jnp.log(COUNT)
        np.testing.assert_allclose(estimate, LOG_EVIDENCE, atol=0.02)
    method = ppl.Importance(COUNT)
    candidates = {
        "hand-written JAX": lambda: by_hand(key, FLIPS),
        "quasiborel": lambda: ours(program, key),
        "ppl.infer (checks, smoothing, k)": lambda: ppl.infer(program, method, key=key).log_weights,
    }
    report(f"beta-Bernoulli, 10 flips, {COUNT} traces", alternate(candidates, rounds=25), "hand-written JAX")


if __name__ == "__main__":
    main()
