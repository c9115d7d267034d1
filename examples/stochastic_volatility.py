"""Stochastic volatility of an exchange rate: a particle filter's fan of the days that were, and a forecast of the next.

The log variance of the daily returns is a stationary autoregression that nobody sees,
    x_t ~ N(mu + rho (x_(t-1) - mu), sigma^2),    y_t ~ N(0, exp(x_t)).
`day` is one step of it; `ppl.OnlineFilter` makes of it a filter that takes one return at a time, and the program of a
whole series, of which `ppl.ParticleFilter` keeps the particles of every day: the fan is of what was known of a day's
volatility on its evening. The forecast starts from the last day's particles.

Data: pounds for a dollar, 750 daily log returns from 1997 on (see data/gbp_usd.csv for their source).
"""

import sys
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import matplotlib
import numpy as np

import ppl
import ppl.distributions as dist

TABLE = np.genfromtxt(Path(__file__).with_name("data") / "gbp_usd.csv", delimiter=",", skip_header=4, dtype=None)
DATES = np.array([row[0].replace("/", "-") for row in TABLE[1:]], "datetime64[D]")
RETURNS = (100.0 * np.diff(np.log([row[1] for row in TABLE]))).astype(np.float32)  # per cent
AHEAD = 60  # days of the forecast


class Parameters(NamedTuple):
    """Of the log variance: mean, persistence, noise."""

    mu: float
    rho: float
    sigma: float


REFERENCES = {  # log evidence of the returns (nats) by very long runs of other software
    Parameters(-1.02, 0.9702, 0.178): -492.454243,
    Parameters(-1.0, 0.95, 0.3): -497.975919,
    Parameters(0.0, 0.9, 0.5): -540.299925,
}


@ppl.model
def stationary(parameters: Parameters) -> Any:
    """The log variance before the first day."""
    mu, rho, sigma = parameters
    return ppl.sample("x", dist.Normal(mu, sigma / (1.0 - rho**2) ** 0.5))


@ppl.model
def day(x: Any, observed: Any, parameters: Parameters) -> Any:
    """One more day: the log variance moves, a return is seen."""
    mu, rho, sigma = parameters
    x = ppl.sample("x", dist.Normal(mu + rho * (x - mu), sigma))
    volatility = ppl.deterministic("volatility", jnp.exp(0.5 * x))
    ppl.sample("return", dist.Normal(0.0, volatility), obs=observed)
    return x


def online_filter(parameters: Parameters, particles: int) -> ppl.OnlineFilter:
    """Of one return at a time."""
    return ppl.OnlineFilter(stationary(parameters), partial(day, parameters=parameters), particles)


def filtered(parameters: Parameters, particles: int) -> ppl.Posterior:
    """Filter all returns, and keep every day's particles."""
    return ppl.infer(online_filter(parameters, particles).program(RETURNS), ppl.ParticleFilter(particles), key=0)


def forecast(parameters: Parameters, particles: int) -> np.ndarray:
    """Volatilities of futures, shaped (particles, days)."""
    online = online_filter(parameters, particles)
    state = online.steps(online.init(0), RETURNS)
    return np.exp(0.5 * np.asarray(online.forecast(state, AHEAD, 1, jnp.zeros(AHEAD)).states))


def fan(axes: Any, dates: np.ndarray, quantiles: np.ndarray, color: str, label: str) -> None:
    """Bands of 90% and 50%, and the median."""
    axes.fill_between(dates, quantiles[0], quantiles[4], color=color, alpha=0.2, linewidth=0)
    axes.fill_between(dates, quantiles[1], quantiles[3], color=color, alpha=0.35, linewidth=0)
    axes.plot(dates, quantiles[2], color=color, linewidth=1.2, label=label)


def draw(posterior: ppl.Posterior, futures: np.ndarray, path: Path) -> None:
    """The returns above, the fans of their volatility below."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    probs = (0.05, 0.25, 0.5, 0.75, 0.95)
    known, ahead = posterior.history.quantiles("step/volatility", probs), np.quantile(futures, probs, axis=0)
    days = np.busday_offset(DATES[-1], np.arange(AHEAD + 1), roll="backward")
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(10, 6), sharex=True, layout="constrained")
    top.vlines(DATES, 0.0, RETURNS, color="0.35", linewidth=0.7)
    top.set(ylabel="daily return (%)", title="Pounds for a dollar: returns and their volatility")
    fan(bottom, DATES, known, "#1971c2", "filtered: known on the evening of the day")
    fan(bottom, days, np.concatenate([known[:, -1:], ahead], axis=1), "#d9480f", f"forecast of {AHEAD} days")
    bottom.axvline(DATES[-1], color="0.4", linewidth=0.8, linestyle=":")
    bottom.set(ylabel="volatility (% a day)\nmedian, 50% and 90%", ylim=(0.0, 1.25))
    bottom.legend(loc="upper left", frameon=False, ncols=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def main(*, quick: bool = False, folder: str = "output") -> ppl.Posterior:
    """Print the evidence of three settings of the parameters; draw the fans of the first."""
    particles, found = 2000 if quick else 20_000, {}
    for parameters, reference in REFERENCES.items():
        found[parameters] = filtered(parameters, particles)
        estimate, error = found[parameters].log_evidence
        print(f"{parameters}: log evidence {estimate:.3f} +- {error:.3f} (reference {reference:.3f})")
    best, path = next(iter(REFERENCES)), Path(folder) / "stochastic_volatility.png"
    draw(found[best], forecast(best, particles), path)
    print(f"Picture: {path}")
    return found[best]


if __name__ == "__main__":
    main(quick="--quick" in sys.argv)
