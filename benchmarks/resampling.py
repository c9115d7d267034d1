"""Resampling, ancestors only, at N = 1e3 to 1e6: each scheme, `jnp.searchsorted`, and BlackJAX's.

Every candidate draws its own noise from one key, from the same log weights. A population of 64 filters of 1000
particles is timed under `jax.vmap` and as a loop. Run `python -m benchmarks.resampling`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import blackjax.smc.resampling as peer
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness import alternate, report
from ppl.numerics.conditional_resampling import CONDITIONAL
from ppl.numerics.resampling import RESAMPLERS, systematic
from ppl.numerics.resampling import resampler as named

FEW, MANY = 31, 7
STEPS = "metropolis 16"


def by_search(key: Any, log_weights: Any, n: int) -> Any:
    """Systematic resampling as it is usually written."""
    ends = jnp.cumsum(jax.nn.softmax(log_weights))
    return jnp.searchsorted(ends, (jnp.arange(n) + jax.random.uniform(key)) / n)


def blackjax(scheme: Any, key: Any, log_weights: Any, n: int) -> Any:
    """BlackJAX's schemes take weights."""
    return scheme(key, jax.nn.softmax(log_weights), n)


def candidates() -> dict[str, Callable[[Any, Any, int], Any]]:
    """Functions of a key, log weights and n."""
    ours = {name: scheme.draw for name, scheme in RESAMPLERS.items()} | {STEPS: named(STEPS).draw}
    conditional = {f"conditional {name}": scheme.draw for name, scheme in CONDITIONAL.items()}
    peers = {f"blackjax {f.__name__}": partial(blackjax, f) for f in (peer.systematic, peer.stratified)}
    return {**ours, **conditional, "jnp.searchsorted, systematic": by_search, **peers}


def misplaced(n: int) -> float:
    """The share of systematic resampling's ancestors in float32 that differ from float64 arithmetic."""
    log_weights, u = jax.random.normal(jax.random.key(1), (n,)), jnp.float32(0.3)
    weights = np.exp(np.asarray(log_weights, np.float64))
    exact = np.searchsorted(np.cumsum(weights) / weights.sum() * n, np.arange(n) + float(u), side="right")
    return float(np.mean(exact != np.asarray(jax.jit(systematic, static_argnums=2)(u, log_weights, n))))


def under_vmap(filters: int = 64, n: int = 1000) -> None:
    """A population of filters at once, against one after the other."""
    log_weights = jax.random.normal(jax.random.key(2), (filters, n))
    keys = jax.random.split(jax.random.key(3), filters)
    for name in RESAMPLERS:
        draw = partial(RESAMPLERS[name].draw, n=n)
        together = jax.jit(jax.vmap(draw))
        loop = jax.jit(lambda k, w, draw=draw: jax.lax.map(lambda pair: draw(*pair), (k, w)))
        calls = {"loop": partial(loop, keys, log_weights), "vmap": partial(together, keys, log_weights)}
        report(f"{filters} populations of {n}, {name}", alternate(calls, rounds=FEW), "loop")


def main() -> None:
    """Time all of them."""
    for n in (1_000, 10_000, 100_000, 1_000_000):
        log_weights, key = jax.random.normal(jax.random.key(1), (n,)), jax.random.key(0)
        calls = {name: partial(jax.jit(f, static_argnums=2), key, log_weights, n) for name, f in candidates().items()}
        report(f"resampling, N = {n}", alternate(calls, rounds=FEW if n < 1_000_000 else MANY), "systematic")
        print(f"  systematic ancestors that differ from float64: {100 * misplaced(n):.3f}%")
    under_vmap()


if __name__ == "__main__":
    main()
