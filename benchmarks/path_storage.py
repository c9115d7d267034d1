"""Memory and time of path storage: a tree of ancestors against full storage, T = 3000 steps, N = 10,000 particles.

Each way runs in a process of its own, because the peak of resident memory is that of a process. `python -m
benchmarks.path_storage`; a smaller size: `python -m benchmarks.path_storage 500 1000`.
"""

import json
import resource
import subprocess
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import ppl
import ppl.distributions as dist
from ppl.inference.smc import swept_run

STEPS, PARTICLES = 3_000, 10_000
WAYS = ("none", "tree", "paths")


@ppl.model
def walk(ys: Any) -> Any:
    """A linear-Gaussian state-space model."""

    def step(x: Any, y: Any) -> Any:
        x = ppl.sample("x", dist.Normal(0.9 * x, 0.45))
        ppl.sample("y", dist.Normal(x, 0.55), obs=y)
        return x, None

    return jax.lax.scan(step, jnp.float32(0.0), ys)[0]


def measured(store: str, steps: int, particles: int) -> dict[str, float]:
    """One way, in this process: bytes of what is stored, peak of resident memory, seconds of the second run."""
    program = walk(np.random.default_rng(0).normal(size=steps).astype(np.float32))
    method: Any = ppl.SMC(particles, store=store)  # type: ignore[arg-type]

    def run(key: int) -> Any:
        return jax.block_until_ready(swept_run(program, jax.random.key(key), method.transformer, store))

    found = run(0)
    stored = jax.tree.leaves((found["choices"], found["kept"]))
    live = [int(tree.used) for tree in found["kept"].values()] if store == "tree" else [0]
    size = sum(x.size * x.dtype.itemsize for x in stored)
    del found, stored
    start = time.perf_counter()
    run(1)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"stored": size / 2**20, "peak": peak, "seconds": seconds, "live": live[0]}


def main(steps: int = STEPS, particles: int = PARTICLES) -> None:
    """Measure every way and print the table."""
    print(f"\npath storage, T = {steps}, N = {particles} (MiB; peak: of the process)")
    for store in WAYS:
        command = [sys.executable, "-m", "benchmarks.path_storage", "--measure", store, str(steps), str(particles)]
        answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
        found = json.loads(answer)
        print(
            f"  {store:<6} stored {found['stored']:9.2f}   peak {found['peak']:8.1f}   run {found['seconds']:7.2f} s"
            + (f"   most nodes alive {int(found['live'])}" if store == "tree" else "")
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measured(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
    else:
        main(*map(int, sys.argv[1:]))
