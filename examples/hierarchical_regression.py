"""Hierarchical regression: investment of eleven American firms, each with its own line, all lines related.

Each firm's elasticity of investment to its value is a draw from a common normal law, so that what twenty years say of
one firm is read in the light of the others: firms with noisy data are pulled to the mean. As the model is written, some
draws diverge where the elasticities hardly differ; the warning names the place and the cure, which is taken here.

Data: Grunfeld (1958), eleven firms, 1935-1954, from statsmodels (packaged; nothing is downloaded).
"""

import sys
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import matplotlib
import numpy as np
from statsmodels.datasets import grunfeld

import ppl
import ppl.distributions as dist

TABLE: Any = grunfeld.load_pandas().data
FIRMS, FIRM = np.unique(TABLE["firm"].to_numpy(str), return_inverse=True)
LOG_INVESTMENT = np.log(TABLE["invest"].to_numpy(np.float32))
LOG_VALUE = np.log(TABLE["value"].to_numpy(np.float32))
CENTRED = LOG_VALUE - (np.bincount(FIRM, LOG_VALUE) / np.bincount(FIRM))[FIRM].astype(np.float32)


@ppl.model
def investment(log_value: Any, firm: Any, log_investment: Any = None) -> None:
    """A line for each firm; level and elasticity of a firm vary around those of all firms."""
    level = ppl.sample("level", dist.Normal(3.0, 3.0))
    elasticity = ppl.sample("elasticity", dist.Normal(1.0, 1.0))
    level_sd = ppl.sample("level_sd", dist.HalfNormal(3.0))
    elasticity_sd = ppl.sample("elasticity_sd", dist.HalfNormal(1.0))
    noise = ppl.sample("noise", dist.HalfNormal(1.0))
    with ppl.plate("firm", len(FIRMS)):
        a = ppl.sample("a", dist.Normal(level, level_sd))
        b = ppl.sample("b", dist.Normal(elasticity, elasticity_sd))
    with ppl.plate("year_of_firm", len(firm)):
        ppl.sample("log_investment", dist.Normal(a[firm] + b[firm] * log_value, noise), obs=log_investment)


def separate_elasticities() -> np.ndarray:
    """What least squares says of each firm alone."""
    mine = [np.flatnonzero(np.equal(FIRM, f)) for f in range(len(FIRMS))]
    return np.array([np.polyfit(CENTRED[rows], LOG_INVESTMENT[rows], 1)[0] for rows in mine])


def draw(posterior: ppl.Posterior, path: Path) -> None:
    """The elasticities by firm: on its own, and among the others."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    b = np.asarray(posterior.arrays["b"]).reshape(-1, len(FIRMS))
    order, rows = np.argsort(b.mean(axis=0)), np.arange(len(FIRMS))
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    axes.axvline(float(posterior.draws["elasticity"].mean()), color="0.7", label="mean of all firms")
    axes.hlines(rows, *np.quantile(b[:, order], [0.05, 0.95], axis=0), color="#264a73", linewidth=3)
    axes.plot(b.mean(axis=0)[order], rows, "o", color="#d9480f", label="partially pooled, 90% interval")
    axes.plot(separate_elasticities()[order], rows, "kx", label="least squares, firm by firm")
    axes.set_yticks(rows, FIRMS[order])
    axes.set(xlabel="elasticity of investment to the firm's value")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main(*, quick: bool = False, folder: str = "output") -> ppl.Posterior:
    """Print the posterior of what all firms share; draw the elasticities."""
    program = investment(jnp.asarray(CENTRED), jnp.asarray(FIRM), jnp.asarray(LOG_INVESTMENT))
    print(program, "\n")
    length = 500 if quick else 1000
    noncentered = ppl.reparam(program, {"b": ppl.noncentered()})
    posterior = ppl.infer(noncentered, ppl.NUTS(), key=0, chains=4, warmup=length, draws=length)
    print(posterior.summary(addresses=("level", "elasticity", "level_sd", "elasticity_sd", "noise", "b")))
    path = Path(folder) / "hierarchical_regression.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    draw(posterior, path)
    print(f"\nPicture: {path}")
    return posterior


if __name__ == "__main__":
    main(quick="--quick" in sys.argv)
