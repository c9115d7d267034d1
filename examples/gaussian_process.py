"""A Gaussian process: carbon dioxide at Mauna Loa, its rise, its seasons, and a forecast with honest bands.

A curve is the sum of a straight line, a slow bend (Matern 3/2) and a season that repeats each year with its own shape;
each is a Gaussian process, so their sum is one with the sum of their kernels. `ppl.NUTS` samples the kernels' scales.
Given them the curve is normal, and two more years are predicted in closed form, draw by draw. The chains keep all cores
busy already, so the linear algebra inside each is told to use one thread: it would spend its time waiting otherwise.

Data: monthly means of the weekly series of Keeling and Whorf from statsmodels (packaged), 1980-1987; 1988-1989 are
held out.
"""

import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from jax.scipy.linalg import cho_factor, cho_solve
from statsmodels.datasets import co2 as co2_data

import ppl
import ppl.distributions as dist

WEEKS: Any = co2_data.load_pandas().data
MONTHS = WEEKS["co2"].resample("MS").mean()["1980":"1989"]
YEAR = (1980.0 + (np.arange(len(MONTHS)) + 0.5) / 12.0).astype(np.float32)
LEVEL = 345.0
CO2 = (MONTHS.to_numpy() - LEVEL).astype(np.float32)
SEEN = YEAR < 1988.0


def kernel(scales: Any, s: Any, t: Any) -> Any:
    """Covariance (ppm^2) of the curve at years `s` (rows) and `t` (columns)."""
    apart = s[:, None] - t[None, :]
    line = 10.0**2 + 2.0**2 * jnp.outer(s - 1985.0, t - 1985.0)
    far = jnp.sqrt(3.0) * jnp.abs(apart) / scales["bend_years"]
    bend = scales["bend"] ** 2 * (1.0 + far) * jnp.exp(-far)
    season = scales["season"] ** 2 * jnp.exp(-2.0 * (jnp.sin(jnp.pi * apart) / scales["season_width"]) ** 2)
    return line + bend + season


@ppl.model
def concentration(year: Any, co2: Any = None) -> None:
    """Monthly means of carbon dioxide (ppm above a level) are a smooth curve with normal noise."""
    scales = {
        "bend": ppl.sample("bend", dist.HalfNormal(3.0)),
        "bend_years": ppl.sample("bend_years", dist.LogNormal(1.0, 0.5)),
        "season": ppl.sample("season", dist.HalfNormal(4.0)),
        "season_width": ppl.sample("season_width", dist.LogNormal(0.0, 0.5)),
    }
    noise = ppl.sample("noise", dist.HalfNormal(1.0))
    covariance = kernel(scales, year, year) + noise**2 * jnp.eye(len(year))
    ppl.sample("co2", dist.MultivariateNormal(jnp.zeros(len(year)), covariance), obs=co2)


def forecast(draws: dict[str, Any], key: Any) -> Any:
    """One draw of all months, seen and not, given those that were seen and one draw of the scales."""
    seen, every = jnp.asarray(YEAR[SEEN]), jnp.asarray(YEAR)
    root = cho_factor(kernel(draws, seen, seen) + draws["noise"] ** 2 * jnp.eye(len(seen)))
    across = kernel(draws, every, seen)
    mean = across @ cho_solve(root, jnp.asarray(CO2[SEEN]))
    left = kernel(draws, every, every) - across @ cho_solve(root, across.T)
    spread = left + (draws["noise"] ** 2 + 1e-3) * jnp.eye(len(every))
    return mean + jnp.linalg.cholesky(spread) @ jax.random.normal(key, mean.shape)


def predicted(posterior: ppl.Posterior, count: int = 400) -> np.ndarray:
    """Draws of all months (ppm), a row a draw."""
    draws = posterior.sample(1, (count,))
    return np.asarray(jax.jit(jax.vmap(forecast))(draws, jax.random.split(jax.random.key(2), count))) + LEVEL


def draw(curves: np.ndarray, path: Path) -> None:
    """What was measured, and the band of what was predicted."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 4), layout="constrained")
    axes.fill_between(YEAR, *np.quantile(curves, [0.05, 0.95], axis=0), alpha=0.35, label="90% of months")
    axes.plot(YEAR, curves.mean(axis=0), label="mean")
    axes.plot(YEAR[SEEN], CO2[SEEN] + LEVEL, "k.", markersize=5, label="seen")
    axes.plot(YEAR[~SEEN], CO2[~SEEN] + LEVEL, "x", color="#d9480f", markersize=5, label="held out")
    axes.set(xlabel="year", ylabel="carbon dioxide (ppm)")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main(*, quick: bool = False, folder: str = "output") -> ppl.Posterior:
    """Print the posterior of the scales, and how good the forecast was; draw it."""
    program = concentration(jnp.asarray(YEAR[SEEN]), jnp.asarray(CO2[SEEN]))
    print(program, "\n")
    length = 300 if quick else 1000
    posterior = ppl.infer(program, ppl.NUTS(0.95), key=0, chains=4, warmup=length, draws=length)
    print(posterior.summary(), "\n")
    curves = predicted(posterior)
    low, high = np.quantile(curves[:, ~SEEN], [0.05, 0.95], axis=0) - LEVEL
    error = np.sqrt(np.mean((curves.mean(axis=0) - LEVEL - CO2)[~SEEN] ** 2))
    inside = np.mean((low < CO2[~SEEN]) & (CO2[~SEEN] < high))
    print(f"Held out: root mean square error {error:.2f} ppm, {inside:.0%} of months inside their 90% band")
    path = Path(folder) / "gaussian_process.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    draw(curves, path)
    print(f"\nPicture: {path}")
    return posterior


if __name__ == "__main__":
    main(quick="--quick" in sys.argv)
