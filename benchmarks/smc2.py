"""`python -m benchmarks.smc2`: SMC^2 on stochastic volatility, GBP/USD 1997-98; seconds, memory, and how it scales.

Particles of parameters times particles of states times observations; the first figure has the compilation in it. With
`--evidence`, four independent runs of the largest size against the reference's values. Assumes a quiet machine.
"""

import argparse
import resource
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import ppl
import ppl.distributions as dist

SERIES = Path(__file__).resolve().parents[1] / "examples" / "data" / "gbp_usd.csv"
PARAMETERS = ("mu", "rho", "sigma")
SIZES = [(100, 200, 750), (250, 200, 750), (500, 200, 750), (500, 100, 750), (500, 200, 375)]
REFERENCE = "log Z -487.808 +- .013; means (sd) mu -1.686 (.09), sigma .436 (.13), rho .663 (.14)"


@ppl.model
def volatility(returns: Any) -> None:
    """Log variance as a stationary autoregression of order one; returns in per cent."""
    mu = ppl.sample("mu", dist.Normal(0.0, 2.0))
    rho = ppl.sample("rho", dist.Beta(9.0, 1.0))
    sigma = ppl.sample("sigma", dist.Gamma(2.0, 2.0))
    start = ppl.sample("start", dist.Normal(mu, sigma / jnp.sqrt(1.0 - rho**2)))

    def step(x: Any, y: Any) -> tuple[Any, None]:
        ppl.sample("y", dist.Normal(0.0, jnp.exp(x / 2.0)), obs=y)
        return ppl.sample("x", dist.Normal(mu + rho * (x - mu), sigma)), None

    lax.scan(step, start, returns)


def log_returns() -> Any:
    """The 750 log returns, in per cent."""
    rows = [line for line in SERIES.read_text().splitlines() if not line.startswith("#")][1:]
    rates = np.array([float(row.split(",")[1]) for row in rows])
    return jnp.asarray(100.0 * np.diff(np.log(rates)), jnp.float32)


def memory() -> float:
    """The most memory that the process has held, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def one(method: ppl.SMC2, observations: int, key: int) -> tuple[float, ppl.inference.Posterior]:
    """Seconds of a run, and its posterior."""
    program = volatility(log_returns()[:observations])
    start = time.perf_counter()
    posterior = ppl.infer(program, method, key=key)
    return time.perf_counter() - start, posterior


def report(posterior: ppl.inference.Posterior) -> str:
    """Evidence and moments."""
    measure = posterior.summary(addresses=list(PARAMETERS))
    evidence = posterior.log_evidence
    assert evidence is not None
    return f"log Z {evidence.estimate:.3f} +- {evidence.standard_error:.3f}\n{measure}"


def scaling() -> None:
    """A row for each size: seconds with compilation, without, memory so far."""
    print(f"{'parameters':>10} {'states':>7} {'T':>5} {'first':>9} {'again':>9} {'moves at':>9} {'GB':>6}")
    for particles, inner, observations in SIZES:
        method = ppl.SMC2(particles, inner, parameters=PARAMETERS)
        first, _ = one(method, observations, 0)
        again, posterior = one(method, observations, 1)
        moves = int(posterior.diagnostics["rejuvenations"])
        row = (
            f"{particles:>10} {inner:>7} {observations:>5} {first:>7.1f} s {again:>7.1f} s {moves:>9} {memory():>6.2f}"
        )
        print(row, flush=True)


def evidence() -> None:
    """Four runs of 500 x 200 particles over the whole series."""
    seconds, posterior = one(ppl.SMC2(500, 200, parameters=PARAMETERS, replicates=4), 750, 2)
    print(f"{seconds:.0f} s for four runs\n{report(posterior)}\nReference: {REFERENCE}")


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--evidence", action="store_true", help="four runs against the reference's values")
    print(f"jax {jax.__version__}, {jax.default_backend()}")
    (evidence if parser.parse_args().evidence else scaling)()


if __name__ == "__main__":
    main()
