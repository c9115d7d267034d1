"""When did the economy calm down? A level and a spread of growth that change at unknown quarters, by particles.

Quarterly growth of the real gross domestic product of the United States, 1959-2009 (statsmodels). In each quarter a
new regime begins with a small probability, with a mean and a standard deviation of its own:
    change_t ~ Bernoulli(1/60),    (mean, sd)_t = new ones if change_t, else those of t - 1,    y_t ~ N(mean_t, sd_t).
The program says no more than that; `ppl.ParticleFilter` finds the loop. The filter knows what one could know in the
quarter itself; the particles' whole paths, kept with it, say what the later quarters have added. Economists date the
Great Moderation to 1984. The evidence compares the model with the same one without changes.
"""

import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from statsmodels.datasets import macrodata

import ppl
import ppl.distributions as dist

TABLE: Any = macrodata.load_pandas().data  # pyright: ignore[reportAttributeAccessIssue]
GROWTH = np.asarray(100.0 * np.diff(np.log(TABLE.realgdp)), np.float32)  # per cent a quarter
TIME = np.asarray(TABLE.year + (TABLE.quarter - 1.0) / 4.0)[1:]
CHANCE = 1.0 / 60.0  # of a new regime in a quarter: one in fifteen years
PROBS = (0.05, 0.5, 0.95)


def regime() -> tuple[Any, Any]:
    """A new mean and standard deviation (per cent a quarter)."""
    return ppl.sample("mean", dist.Normal(0.75, 0.5)), ppl.sample("sd", dist.LogNormal(-0.2, 0.6))


@ppl.model
def first() -> tuple[Any, Any]:
    """The regime before the first quarter."""
    return regime()


@ppl.model
def economy(growth: Any, chance: Any) -> None:
    """Quarter by quarter."""

    def quarter(state: Any, seen: Any) -> Any:
        change, new = ppl.sample("change", dist.Bernoulli(chance)), regime()
        level, spread = (jnp.where(change == 1, x, old) for x, old in zip(new, state, strict=True))
        ppl.deterministic("level", level)
        ppl.deterministic("spread", spread)
        ppl.sample("growth", dist.Normal(level, spread), obs=seen)
        return (level, spread), None

    jax.lax.scan(quarter, ppl.sample("first", first()), growth)


def around(chance: np.ndarray, begin: float, end: float) -> float:
    """The expected number of changes between two times."""
    return float(chance[(begin <= TIME) & (end > TIME)].sum())


def draw(posterior: ppl.Posterior, paths: ppl.Posterior, path: Path) -> None:
    """Growth within its regimes; the spread as known then and now; where it changed."""
    figure = Figure(figsize=(10, 8), layout="constrained")
    top, middle, bottom = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 2))
    level, spread = (np.quantile(paths.deterministic[a][0], PROBS, axis=0) for a in ("level", "spread"))
    top.fill_between(TIME, level[1] - 2 * spread[1], level[1] + 2 * spread[1], color="#1971c2", alpha=0.2, linewidth=0)
    top.plot(TIME, level[1], color="#1971c2", label="mean and two standard deviations, given all quarters")
    top.plot(TIME, GROWTH, color="0.25", linewidth=0.8, marker=".", markersize=3)
    top.set(ylabel="growth (% a quarter)", title="Real GDP of the United States: regimes of growth")
    top.legend(loc="upper right", frameon=False)
    then = posterior.history.quantiles("spread", PROBS)
    for quantiles, color, label in ((then, "#d9480f", "known in the quarter"), (spread, "#1971c2", "known now")):
        middle.fill_between(TIME, quantiles[0], quantiles[2], color=color, alpha=0.2, linewidth=0)
        middle.plot(TIME, quantiles[1], color=color, label=label)
    middle.set(ylabel="standard deviation\nmedian and 90%", ylim=(0.0, 2.5))
    middle.legend(loc="upper right", frameon=False)
    bottom.bar(TIME, paths.draws["change"][0].mean(axis=0), width=0.25, color="#1971c2")
    bottom.set(ylabel="probability of\na new regime", xlabel="year")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def main(*, quick: bool = False, folder: str = "output") -> ppl.Posterior:
    """Print the evidence with and without changes, and when they were; draw it."""
    method = ppl.ParticleFilter(4000 if quick else 40_000)
    with_changes, without = (ppl.infer(economy(GROWTH, p), method, key=0) for p in (jnp.array(CHANCE), jnp.array(0.0)))
    for name, posterior in (("with changes", with_changes), ("without", without)):
        estimate, error = posterior.log_evidence or (np.nan, np.nan)
        print(f"{name:<13} log evidence {estimate:.2f} +- {error:.2f}")
    paths = with_changes.resample(1)
    chance = np.mean(paths.draws["change"][0], axis=0)
    print(
        f"Expected number of changes: {chance.sum():.2f}; of them from 1981 to 1986: {around(chance, 1981, 1987):.2f}"
    )
    path = Path(folder) / "great_moderation.png"
    draw(with_changes, paths, path)
    print(f"Picture: {path}")
    return with_changes


if __name__ == "__main__":
    main(quick="--quick" in sys.argv)
