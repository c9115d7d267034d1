"""Bootstrap filters on JAX, one a process: `python -m benchmarks.filters_jax ARM`.

`quasiborel` compiles the user's model through `swept_run`, `quasiborel-infer` is what users call. The others are
written by hand for this model: `hand-error` does what ours does (the genealogy and the evidence's error, resampling
that no rounding can lead astray), `hand` leaves the error out, `hand-bare` also leaves the guards out. All run with
the XLA options that `import ppl` sets.
"""

import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import ppl
import ppl.distributions as dist
from benchmarks.filter_protocol import THRESHOLD, A, Filter, Q, R, serve
from ppl.inference.genealogy import log_evidence_error
from ppl.inference.smc import swept_run
from ppl.numerics.prefix import prefix_count, prefix_sum
from ppl.numerics.resampling import systematic
from ppl.numerics.weights import log_sum_exp


@ppl.model
def walk(observations: Any) -> Any:
    """The user's model."""

    def step(x: Any, y: Any) -> Any:
        x = ppl.sample("x", dist.Normal(A * x, Q**0.5))
        ppl.sample("y", dist.Normal(x, R**0.5), obs=y)
        return x, None

    start = ppl.sample("start", dist.Normal(0.0, 1.0))
    return lax.scan(step, start, observations)[0]


def quasiborel(count: int, observations: np.ndarray) -> Filter:
    """The sweep alone."""
    program, method = walk(jnp.asarray(observations)), ppl.SMC(count, threshold=THRESHOLD, store="none")

    def run(seed: int) -> float:
        return float(swept_run(program, jax.random.key(seed), method.transformer, method.store)["log_evidence"])

    return run


def quasiborel_infer(count: int, observations: np.ndarray) -> Filter:
    """Everything, from the model and the data on."""

    def run(seed: int) -> float:
        method = ppl.SMC(count, threshold=THRESHOLD, store="none")
        return ppl.infer(walk(jnp.asarray(observations)), method, key=seed).log_evidence.estimate

    return run


def bare_systematic(u: Any, weights: Any, log_weights: Any) -> Any:
    """The number of points before each end of a particle's share, their histogram, and its prefix sum."""
    del log_weights
    n, ends = weights.shape[0], prefix_sum(weights)
    before = jnp.ceil(ends * (n / ends[-1]) - u).astype(jnp.int32)
    return prefix_count(jnp.zeros(n, jnp.int32).at[before].add(1, mode="drop"))


def guarded_systematic(u: Any, weights: Any, log_weights: Any) -> Any:
    """As the library has it."""
    return systematic(u, log_weights, weights.shape[0])


def by_hand(resampler: Any, *, error: bool) -> Any:
    """A filter written for this model; it returns the last states and weights too, as ours does."""

    def make(count: int, observations: np.ndarray) -> Filter:
        data = jnp.asarray(observations)

        def step(carry: Any, inputs: Any) -> Any:
            log_weights, state = carry
            y, key = inputs
            key_again, key_move = jax.random.split(key)
            peak = jnp.max(log_weights)
            weights = jnp.exp(log_weights - peak)
            total = jnp.sum(weights)
            poor = total**2 < THRESHOLD * count * jnp.sum(weights**2)

            def again() -> Any:
                ancestors = resampler(jax.random.uniform(key_again), weights, log_weights)
                mean = jnp.full(count, peak + jnp.log(total / count))
                return mean, jax.tree.map(lambda x: x[ancestors], state)

            log_weights, (x, eve) = lax.cond(poor, again, lambda: (log_weights, state))
            x = A * x + Q**0.5 * jax.random.normal(key_move, (count,))
            log_weights += -0.5 * (y - x) ** 2 / R - 0.5 * jnp.log(2 * jnp.pi * R)
            return (log_weights, (x, eve)), poor

        @jax.jit
        def run(key: Any) -> Any:
            key_first, key_steps = jax.random.split(key)
            eve = jnp.arange(count, dtype=jnp.int32) if error else ()
            start = jnp.full(count, -jnp.log(count)), (jax.random.normal(key_first, (count,)), eve)
            keys = jax.random.split(key_steps, len(data))
            (log_weights, (x, eve)), resampled = lax.scan(step, start, (data, keys))
            spread = log_evidence_error(log_weights, eve, resampled)[1] if error else ()
            return log_sum_exp(log_weights), spread, x, log_weights

        return lambda seed: float(run(jax.random.key(seed))[0])

    return make


ARMS = {
    "quasiborel": quasiborel,
    "quasiborel-infer": quasiborel_infer,
    "hand-error": by_hand(guarded_systematic, error=True),
    "hand": by_hand(guarded_systematic, error=False),
    "hand-bare": by_hand(bare_systematic, error=False),
}

if __name__ == "__main__":
    serve(ARMS[sys.argv[1]])
