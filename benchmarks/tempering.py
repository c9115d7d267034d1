"""`python -m benchmarks.tempering`: tempered SMC on two modes in ten dimensions, ours and BlackJAX's, in one process.

    python -m benchmarks.tempering [--particles 1000] [--rounds 15] [--runs 4]

Both start from the prior, reach an effective sample size of one half at every stage, resample systematically, and move
by random walks with the particles' covariance times 2.38^2 / d; BlackJAX (`adaptive_tempered_smc`, all stages in one
compiled loop, given numbers of moves a stage) gets its density as JAX code, ours as a model. The arms take turns, and
the order turns with the round. Printed are seconds a run (medians), the root mean square error of the log evidence, and
what one second buys: 1 / (mean square error * seconds), as a ratio to ours.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
from blackjax.smc import adaptive_tempered, resampling
from jax import lax
from jax.scipy.stats import norm

import ppl
import ppl.distributions as dist
from ppl.inference.tempered_run import adaptive_runs
from ppl.inference.tempering_path import TemperingPath

DIM, SPREAD, CENTRE, WIDTH = 10, 2.0, 1.0, 0.25
VARIANCE = SPREAD**2 + WIDTH**2
TRUE = -0.5 * DIM * (np.log(2 * np.pi * VARIANCE) + CENTRE**2 / VARIANCE)
"""The log evidence: both modes are equally far from the prior's centre."""
MOVES = (10, 25, 50, 100)


def log_likelihood(x: Any) -> Any:
    """Three tenths of a Normal at CENTRE, seven tenths of one at -CENTRE."""
    peaks = [jnp.log(w) + jnp.sum(norm.logpdf(x, m, WIDTH)) for w, m in ((0.3, CENTRE), (0.7, -CENTRE))]
    return jnp.logaddexp(*peaks)


def log_prior(x: Any) -> Any:
    """Independent Normals."""
    return jnp.sum(norm.logpdf(x, 0.0, SPREAD))


@ppl.model
def bimodal() -> None:
    """The same as a model."""
    x = ppl.sample("x", dist.Normal(0.0, SPREAD).expand([DIM]).to_event(1))
    ppl.factor("likelihood", log_likelihood(x))


def ours(method: ppl.TemperedSMC, keys: Any) -> Any:
    """Log evidences of independent runs, and the errors that they report."""
    found = adaptive_runs(method.how, TemperingPath(bimodal()), keys)
    return found.log_evidence, found.error


@partial(jax.jit, static_argnums=(0, 1))
def peer(particles: int, moves: int, keys: Any) -> Any:
    """The same of BlackJAX, which reports no errors."""
    kernel = adaptive_tempered.build_kernel(
        log_prior, log_likelihood, _walk, blackjax.rmh.init, resampling.systematic, 0.5
    )

    def stage(carry: Any) -> Any:
        state, log_evidence, key = carry
        key, own = jax.random.split(key)
        covariance = jnp.cov(state.particles.T, aweights=state.weights)
        factor = 2.38 / DIM**0.5 * jnp.linalg.cholesky(covariance + 1e-6 * jnp.eye(DIM))
        state, info = kernel(own, state, moves, {"factor": factor[None]})
        return state, log_evidence + info.log_likelihood_increment, key

    def one(key: Any) -> Any:
        first, rest = jax.random.split(key)
        state = adaptive_tempered.init(SPREAD * jax.random.normal(first, (particles, DIM)))
        return lax.while_loop(lambda carry: carry[0].tempering_param < 1, stage, (state, jnp.zeros(()), rest))[1]

    return lax.map(one, keys), jnp.full(len(keys), jnp.nan)


_additive = blackjax.additive_step_random_walk.build_kernel()


def _walk(key: Any, state: Any, log_density: Any, factor: Any) -> Any:
    return _additive(key, state, log_density, lambda key, x: factor @ jax.random.normal(key, x.shape))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--particles", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--runs", type=int, default=4)
    options = parser.parse_args()
    n = options.particles
    arms: dict[str, Callable[[Any], Any]] = {
        "ours, random_walk": partial(ours, ppl.TemperedSMC(n, kernel="random_walk")),
        "ours, random_walk, 25 moves": partial(ours, ppl.TemperedSMC(n, kernel="random_walk", moves=25)),
        "ours, hmc": partial(ours, ppl.TemperedSMC(n, kernel="hmc")),
        **{f"BlackJAX, {moves} moves": partial(peer, n, moves) for moves in MOVES},
    }
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    found: dict[str, list[Any]] = {name: [] for name in arms}
    for name, arm in arms.items():
        begin = time.perf_counter()
        jax.block_until_ready(arm(jax.random.split(jax.random.key(0), options.runs)))
        print(f"{name:30} first call {time.perf_counter() - begin:.1f} s", flush=True)
    for number in range(options.rounds):
        for name in list(arms)[:: 1 if number % 2 == 0 else -1]:
            keys = jax.random.split(jax.random.key(number + 1), options.runs)
            begin = time.perf_counter()
            result = jax.block_until_ready(arms[name](keys))
            seconds[name].append((time.perf_counter() - begin) / options.runs)
            found[name].append(np.asarray(result))
    report(seconds, {name: np.concatenate(parts, axis=1) for name, parts in found.items()})


def report(seconds: dict[str, list[float]], found: dict[str, np.ndarray]) -> None:
    """A line for each arm; the first is the base of the ratios."""
    print(f"\nlog evidence {TRUE:.4f}; {next(iter(found.values())).shape[1]} runs of each")
    worth = {}
    for name, (values, errors) in found.items():
        median, mse = statistics.median(seconds[name]), float(np.mean((values - TRUE) ** 2))
        worth[name] = 1.0 / (mse * median)
        ratio = worth[name] / next(iter(worth.values()))
        print(
            f"{name:30} {1e3 * median:8.1f} ms   mean {np.mean(values) - TRUE:+.4f}   rmse {mse**0.5:.4f}   "
            f"reported {np.median(errors):.4f}   worth of a second {ratio:6.3f}"
        )


if __name__ == "__main__":
    main()
