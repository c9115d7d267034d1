"""Linear regression: stopping distance of cars against their speed (Ezekiel 1930; R's `cars`), with a proposal program.

The prior is far too wide to propose from, so the proposal is a program of our own over the same addresses: heavy-tailed
draws around the least-squares fit. Importance weights make up exactly for whatever it gets wrong, and Pareto k says
whether they could. The picture shows the fitted line with its uncertainty and the predictive band.
"""

import sys
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import matplotlib
import numpy as np

import ppl
import ppl.distributions as dist
from ppl.plots import plot_posterior

SPEED = jnp.array(
    [4, 4, 7, 7, 8, 9, 10, 10, 10, 11, 11, 12, 12, 12, 12, 13, 13, 13, 13, 14, 14, 14, 14, 15, 15]
    + [15, 16, 16, 17, 17, 17, 18, 18, 18, 18, 19, 19, 19, 20, 20, 20, 20, 20, 22, 23, 24, 24, 24, 24, 25],
    float,
)
DISTANCE = jnp.array(
    [2, 10, 4, 22, 16, 10, 18, 26, 34, 17, 28, 14, 20, 24, 28, 26, 34, 34, 46, 26, 36, 60, 80, 20, 26]
    + [54, 32, 40, 32, 40, 50, 42, 56, 76, 84, 36, 46, 68, 32, 48, 52, 56, 64, 66, 54, 70, 92, 93, 120, 85],
    float,
)


@ppl.model
def braking(speed: Any, distance: Any = None) -> Any:
    """Distance (feet) is linear in speed (miles an hour, centred at 15) with normal noise."""
    level = ppl.sample("level", dist.Normal(40.0, 30.0))
    slope = ppl.sample("slope", dist.Normal(0.0, 10.0))
    noise = ppl.sample("noise", dist.HalfNormal(30.0))
    with ppl.plate("car", speed.shape[0]):
        return ppl.sample("distance", dist.Normal(level + slope * (speed - 15.0), noise), obs=distance)


@ppl.model
def around_least_squares(speed: Any, distance: Any) -> None:
    """A proposal: wide Student t around the least-squares fit, at the model's own addresses."""
    design = jnp.stack([jnp.ones_like(speed), speed - 15.0], axis=1)
    fit = jnp.linalg.lstsq(design, distance)[0]
    spread = jnp.std(distance - design @ fit)
    errors = spread * jnp.sqrt(jnp.diag(jnp.linalg.inv(design.T @ design)))
    ppl.sample("level", dist.StudentT(5.0, fit[0], errors[0]))
    ppl.sample("slope", dist.StudentT(5.0, fit[1], errors[1]))
    ppl.sample("noise", dist.LogNormal(jnp.log(spread), 0.15))


def draw_fit(posterior: ppl.Posterior, path: Path) -> None:
    """Data, fitted line with its 90% interval, and the 90% predictive band."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    grid = jnp.linspace(3.0, 26.0, 60)
    predicted = posterior.resample(1, 4000).predict(braking(grid), key=2)["distance"].reshape(-1, grid.shape[0])
    equal = posterior.resample(1, 4000).draws
    level, slope = equal["level"].reshape(-1, 1), equal["slope"].reshape(-1, 1)
    lines = np.asarray(level + slope * (grid - 15.0)[None, :])
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    axes.fill_between(grid, *np.quantile(predicted, [0.05, 0.95], axis=0), alpha=0.15, label="90% of new cars")
    axes.fill_between(grid, *np.quantile(lines, [0.05, 0.95], axis=0), alpha=0.4, label="90% for the mean")
    axes.plot(grid, lines.mean(axis=0), label="posterior mean")
    axes.plot(SPEED, DISTANCE, "k.", label="cars")
    axes.set(xlabel="speed (miles an hour)", ylabel="stopping distance (feet)")
    axes.legend(loc="upper left", frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main(*, quick: bool = False, folder: str = "output") -> ppl.Posterior:
    """Print the posterior; draw it and the fit."""
    program = braking(SPEED, DISTANCE)
    print(program, "\n")
    method = ppl.Importance(4_000 if quick else 100_000, proposal=around_least_squares(SPEED, DISTANCE))
    posterior = ppl.infer(program, method, key=0)
    print(posterior.summary())
    Path(folder).mkdir(parents=True, exist_ok=True)
    plot_posterior(posterior, Path(folder) / "regression.png")
    draw_fit(posterior, Path(folder) / "regression_fit.png")
    print(f"\nPictures: {folder}/regression.png, {folder}/regression_fit.png")
    return posterior


if __name__ == "__main__":
    main(quick="--quick" in sys.argv)
