"""A hidden Markov model: calm and nervous days of an exchange rate, the regimes written as choices in a `lax.scan`.

Each day is in one of two regimes, drawn from a law that depends on the regime of the day before. There is no forward
algorithm in this file: `ppl.NUTS` finds that the regimes form a chain, sums them out by forward elimination (750 small
matrix products, not 2^750 terms) and afterwards draws whole paths of regimes from their exact law, backwards.

Data: pounds for a dollar, 750 daily log returns from 1997 on (see data/gbp_usd.csv for their source).
"""

import sys
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import matplotlib
import numpy as np
from jax import lax

import ppl
import ppl.distributions as dist

TABLE = np.genfromtxt(Path(__file__).with_name("data") / "gbp_usd.csv", delimiter=",", skip_header=4, dtype=None)
DATES = np.array([row[0].replace("/", "-") for row in TABLE[1:]], "datetime64[D]")
RETURNS = (100.0 * np.diff(np.log([row[1] for row in TABLE]))).astype(np.float32)
"""Daily log returns in per cent."""


@ppl.model
def regimes(returns: Any) -> None:
    """Returns are normal around zero; the regime says how wide. Regime 0 is the calm one."""
    stay = ppl.sample("stay", dist.Beta(jnp.array([20.0, 20.0]), jnp.array([2.0, 2.0])).to_event(1))
    calm = ppl.sample("calm_sd", dist.LogNormal(-1.0, 0.5))
    ratio = ppl.sample("ratio", dist.TruncatedNormal(2.0, 1.0, low=1.0))
    sd = jnp.stack([calm, calm * ratio])
    rows = jnp.array([[0.0, 1.0], [1.0, 0.0]]) + jnp.array([[1.0, -1.0], [-1.0, 1.0]]) * stay[:, None]

    def day(regime: Any, today: Any) -> tuple[Any, None]:
        regime = ppl.sample("regime", dist.Categorical(rows[regime]))
        ppl.sample("return", dist.Normal(0.0, sd[regime]), obs=today)
        return regime, None

    lax.scan(day, jnp.int32(0), returns)


def nervous(posterior: ppl.Posterior) -> np.ndarray:
    """The probability of each day that it was in the nervous regime."""
    return np.asarray(posterior.draws["regime"]).mean(axis=(0, 1))


def draw(posterior: ppl.Posterior, path: Path) -> None:
    """The returns above, the probability of the nervous regime below."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (top, bottom) = plt.subplots(2, 1, figsize=(9, 4.5), sharex=True, layout="constrained")
    top.plot(DATES, RETURNS, color="0.3", linewidth=0.7)
    top.set(ylabel="daily return (%)", title="Pounds for a dollar")
    bottom.fill_between(DATES, nervous(posterior), color="#d9480f", alpha=0.7, linewidth=0)
    bottom.set(ylabel="probability\nof the nervous regime", ylim=(0, 1))
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main(*, quick: bool = False, folder: str = "output") -> ppl.Posterior:
    """Print the posterior of the regimes' laws; draw how probable the nervous one was, day by day."""
    program = regimes(jnp.asarray(RETURNS))
    print(program, "\n")
    length = 300 if quick else 1000
    posterior = ppl.infer(program, ppl.NUTS(), key=0, chains=4, warmup=length, draws=length)
    print(posterior.summary(addresses=("stay", "calm_sd", "ratio")), "\n")
    print(f"Days more probably nervous than calm: {(nervous(posterior) > 0.5).sum()} of {len(RETURNS)}")
    path = Path(folder) / "hmm.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    draw(posterior, path)
    print(f"\nPicture: {path}")
    return posterior


if __name__ == "__main__":
    main(quick="--quick" in sys.argv)
