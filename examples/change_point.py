"""How often did the Nile's flow change? A level with an unknown number of changes, by a dimension-changing move.

Yearly flow at Aswan, 1871-1970 (statsmodels). The number of changes is a choice, and each change is made in a branch.
A birth draws a year and a jump and lowers the base so that the mean stays; a death is the same move backwards:
`ppl.inference.involutive` finds the Jacobian, and which choices are made. A walk moves the rest.
"""

import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from matplotlib.figure import Figure
from statsmodels.datasets import nile as nile_data

import ppl
import ppl.distributions as dist
from ppl.inference import check_involution, cycle, involutive

FLOW = np.asarray(nile_data.load_pandas().data.volume, np.float32) / 10.0  # pyright: ignore[reportAttributeAccessIssue]
YEARS, MOST = len(FLOW), 3


def after(year: Any) -> Any:
    """For each change, one from the year after it on, zero before."""
    return jnp.cumsum(jax.nn.one_hot(year + 1, YEARS), axis=-1)


@ppl.model
def nile(flow: Any = None) -> Any:
    """A level (10^9 cubic metres a year) with up to three jumps; returns the level of each year."""
    changes = ppl.sample("changes", dist.Categorical(jnp.ones(MOST + 1) / (MOST + 1)))
    base = ppl.sample("base", dist.Normal(90.0, 30.0))
    noise = ppl.sample("noise", dist.LogNormal(2.7, 0.3))

    def change() -> Any:
        year = ppl.sample("year", dist.Categorical(jnp.ones(YEARS - 1) / (YEARS - 1)))
        return ppl.sample("jump", dist.Normal(0.0, 20.0)) * after(year)

    jumps = ppl.vmap(lambda j: lax.cond(j < changes, change, lambda: jnp.zeros(YEARS)))(jnp.arange(MOST))
    level = base + jnp.sum(jumps, axis=0)
    ppl.sample("flow", dist.Normal(level, noise).to_event(1), obs=flow)
    return level


@ppl.model
def birth_or_death(now: Any) -> None:
    """Up or down, which of the changes, and for a birth a year and a jump near what the residuals say."""
    count = now["changes"]
    birth = ppl.sample("birth", dist.Bernoulli(jnp.where(count == 0, 1.0, jnp.where(count == MOST, 0.0, 0.5))))
    ppl.sample("place", dist.Categorical(jnp.where(jnp.arange(MOST) < count + birth, 1.0 / (count + birth), 0.0)))

    def newborn() -> None:
        late = after(ppl.sample("year", dist.Categorical(jnp.ones(YEARS - 1) / (YEARS - 1))))
        residual, late = FLOW - now["jump"] @ after(now["year"]), late - jnp.mean(late)
        ppl.sample("jump", dist.Normal(residual @ late / (late @ late), 6.0))

    lax.cond(birth == 1, newborn, lambda: None)


def add_or_remove(now: Any, aux: Any) -> Any:
    """A new change goes to its place, and what was there behind the last; a death undoes it."""
    born, place = aux["birth"] == 1, aux["place"]
    last = now["changes"] - jnp.where(born, 0, 1)
    moved = {a: jnp.where(born, aux[a], now[a][place]) for a in ("year", "jump")}
    swap = jnp.arange(MOST).at[jnp.stack([place, last])].set(jnp.stack([last, place]))
    new = {a: now[a][swap].at[jnp.where(born, place, last)].set(jnp.where(born, aux[a], 0)) for a in moved}
    shift = moved["jump"] * jnp.mean(after(moved["year"])) * jnp.where(born, -1.0, 1.0)
    new |= {"changes": now["changes"] + jnp.where(born, 1, -1), "base": now["base"] + shift, "noise": now["noise"]}
    return new, {"birth": 1 - aux["birth"], "place": place, **moved}


@ppl.model
def steps(now: Any) -> None:
    """A step for each choice but the number; years stay with chance 0.6, or move by at most four."""
    ppl.sample("base", dist.Normal(0.0, 1.5))
    ppl.sample("noise", dist.Normal(0.0, 0.07))
    ppl.sample("jump", dist.Normal(jnp.zeros(MOST), 2.0).to_event(1))
    ppl.sample("year", dist.CategoricalProbs(jnp.full((MOST, 9), 0.05).at[:, 4].set(0.6)).to_event(1))


def walk(now: Any, aux: Any) -> Any:
    """Make the steps (a factor for the noise); the opposite ones lead back. Four stands for a step of no year."""
    new = {"base": now["base"] + aux["base"], "jump": now["jump"] + aux["jump"], "changes": now["changes"]}
    new |= {"noise": now["noise"] * jnp.exp(aux["noise"]), "year": now["year"] + aux["year"] - 4}
    return new, {"year": 8 - aux["year"], **{a: -aux[a] for a in ("base", "jump", "noise")}}


MOVES = (involutive(birth_or_death, add_or_remove), involutive(steps, walk), involutive(steps, walk))


def main(*, quick: bool = False, folder: str = "output") -> ppl.Posterior:
    """Print the probabilities of the numbers of changes; draw the flow with its level."""
    program = nile(FLOW)
    check_involution(program, MOVES[0].aux, MOVES[0].involution, jax.random.key(1))
    method = ppl.MCMC(cycle(*MOVES), thin=4)
    posterior = ppl.infer(program, method, key=0, chains=4, warmup=200, draws=500 if quick else 4000)
    changes, levels = np.ravel(posterior.draws["changes"]), np.reshape(posterior.values, (-1, YEARS))
    chance = np.bincount(changes, minlength=MOST + 1) / changes.size
    print("Number of changes:", "  ".join(f"{k}: {p:.3f}" for k, p in enumerate(chance)))
    print(f"Accepted births and deaths: {posterior.stats['0/accepted'].mean():.2f}")
    figure, years = Figure(figsize=(9, 3.8), layout="constrained"), 1871 + np.arange(YEARS)
    left, right = figure.subplots(1, 2, width_ratios=(3, 1))
    left.fill_between(years, *np.quantile(levels, [0.05, 0.95], axis=0), alpha=0.25, label="90% of the level")
    left.plot(years, levels.mean(axis=0), label="mean level")
    left.plot(years, FLOW, "k.", markersize=4, label="flow")
    left.set(xlabel="year", ylabel="flow at Aswan (10$^9$ m$^3$ a year)")
    left.legend(frameon=False)
    right.bar(np.arange(MOST + 1), chance)
    right.set(xlabel="number of changes", ylabel="posterior probability", xticks=np.arange(MOST + 1))
    Path(folder).mkdir(parents=True, exist_ok=True)
    figure.savefig(Path(folder) / "change_point.png", dpi=150)
    return posterior


if __name__ == "__main__":
    main(quick="--quick" in sys.argv)
