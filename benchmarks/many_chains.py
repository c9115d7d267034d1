"""A thousand chains side by side on a ten-dimensional target, on the CPU or a GPU: `python -m benchmarks.many_chains`.

The target is a Gaussian with correlations 0.9^|i - j|, so every answer is known. Each sampler runs in this process,
vectorised over chains; the first call compiles, the second is timed. ESS is bulk ESS over all chains together.
"""

import ppl  # before the peers, one of which starts JAX's backend: the option for native loops then holds for all

# isort: split
import argparse
import time
from collections.abc import Callable
from typing import Any

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpyro.infer import MCMC, NUTS

from benchmarks.peers.numpyro_models import gaussian as numpyro_gaussian
from benchmarks.synthetic import gaussian
from ppl.diagnostics.convergence import effective_sample_size

DIM = 10


def square_root() -> np.ndarray:
    """A square root of the precision matrix."""
    index = np.arange(DIM)
    covariance = 0.9 ** np.abs(index[:, None] - index[None, :])
    return np.linalg.cholesky(np.linalg.inv(covariance)).T.astype(np.float32)


def ours(method: Any, root: Any, options: argparse.Namespace, layout: str = "vmap") -> Callable[[int], Any]:
    """A method of ours, with its chains side by side or one a thread."""
    program = gaussian(jnp.asarray(root))
    lengths = {"chains": options.chains, "warmup": options.warmup, "draws": options.draws, "layout": layout}
    return lambda seed: ppl.infer(program, method, key=seed, progress=False, **lengths).draws["x"]


def numpyro_vectorized(root: Any, options: argparse.Namespace) -> Callable[[int], Any]:
    """NumPyro's `chain_method="vectorized"`."""
    kernel = NUTS(numpyro_gaussian)
    lengths = {"num_warmup": options.warmup, "num_samples": options.draws, "num_chains": options.chains}
    mcmc = MCMC(kernel, **lengths, chain_method="vectorized", progress_bar=False)

    def run(seed: int) -> Any:
        mcmc.run(jax.random.key(seed), root)
        return mcmc.get_samples(group_by_chain=True)["x"]

    return run


def blackjax_vmapped(root: Any, options: argparse.Namespace) -> Callable[[int], Any]:
    """BlackJAX's window adaptation and NUTS under `vmap`, all in one `jit`."""
    precision_root = jnp.asarray(root)

    def log_density(x: Any) -> Any:
        return -0.5 * jnp.sum((precision_root @ x) ** 2)

    def chain(key: Any) -> Any:
        start_key, warmup_key, key = jax.random.split(key, 3)
        start = jax.random.uniform(start_key, (DIM,), minval=-2.0, maxval=2.0)
        warmup = blackjax.window_adaptation(blackjax.nuts, log_density)
        (state, parameters), _ = warmup.run(warmup_key, start, num_steps=options.warmup)
        kernel = blackjax.nuts(log_density, **parameters).step

        def step(state: Any, key: Any) -> Any:
            state, _ = kernel(key, state)
            return state, state.position

        return lax.scan(step, state, jax.random.split(key, options.draws))[1]

    run = jax.jit(jax.vmap(chain))
    return lambda seed: run(jax.random.split(jax.random.key(seed), options.chains))


def figures(run: Callable[[int], Any]) -> tuple[float, float, float, float]:
    """Seconds of the first and the second call, minimum bulk ESS, and the largest error of a standard deviation."""
    seconds = []
    for seed in (0, 1):
        started = time.perf_counter()
        draws = np.asarray(run(seed))
        seconds.append(time.perf_counter() - started)
    spread = np.abs(draws.reshape(-1, DIM).std(axis=0) - 1.0).max()
    return *seconds, float(effective_sample_size(draws).min()), float(spread)


def main() -> None:
    """Run all, ours first."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in (("chains", 1000), ("warmup", 300), ("draws", 100)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--only", default="", help="candidates whose names hold this")
    options, root = parser.parse_args(), square_root()
    candidates = {
        "ppl.MAMS()": ours(ppl.MAMS(), root, options),
        "ppl.NUTS(), threads": ours(ppl.NUTS(), root, options, "threads"),
        "ppl.NUTS(), vmap": ours(ppl.NUTS(), root, options),
        "NumPyro, vectorized": numpyro_vectorized(root, options),
        "BlackJAX, vmap": blackjax_vmapped(root, options),
    }
    print(f"{options.chains} chains, {options.warmup} + {options.draws}, {jax.default_backend()}: {jax.devices()[0]}")
    print(f"{'':<24}{'first s':>10}{'repeat s':>10}{'min ESS':>12}{'ESS/s':>12}{'error of sd':>13}")
    for name, run in candidates.items():
        if options.only not in name:
            continue
        first, repeat, ess, error = figures(run)
        print(f"{name:<24}{first:10.2f}{repeat:10.2f}{ess:12,.0f}{ess / repeat:12,.0f}{error:13.4f}", flush=True)


if __name__ == "__main__":
    main()
