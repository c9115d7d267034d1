"""Start-up costs: importing the package, and tracing a program of 40 sites. Each figure is taken in fresh processes."""

import statistics
import subprocess
import sys

ROUNDS = 7

IMPORT = """
import time
import jax, numpyro.distributions
start = time.perf_counter()
import ppl
print(time.perf_counter() - start)
"""

TRACE = """
import time
import jax, jax.numpy as jnp, ppl, ppl.distributions as dist

@ppl.model
def chain(x):
    for i in range(10):
        x = ppl.sample(f"normal{i}", dist.Normal(x, 1.0))
        scale = ppl.sample(f"scale{i}", dist.HalfNormal(1.0))
        with ppl.plate(f"plate{i}", 5):
            z = ppl.sample(f"z{i}", dist.StudentT(4.0, x, scale))
            ppl.sample(f"y{i}", dist.Normal(z, scale), obs=jnp.zeros(5))
    return x

jnp.zeros(()).block_until_ready()
start = time.perf_counter()
chain(jnp.array(0.0)).sites
print(time.perf_counter() - start)
"""


def seconds(script: str) -> float:
    """The median of what a script prints, over fresh processes."""
    runs = [
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        for _ in range(ROUNDS)
    ]
    return statistics.median(float(run.stdout) for run in runs)


def main() -> None:
    """Print both."""
    print(f"\nStart-up (median of {ROUNDS} fresh processes)")
    print(f"  import ppl, over jax and numpyro.distributions: {seconds(IMPORT):.3f} s")
    print(f"  trace a program of 40 sites, the first time:    {seconds(TRACE):.3f} s")


if __name__ == "__main__":
    main()
