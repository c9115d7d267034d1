"""How many groups of flowers? A normal mixture with an unknown number of parts, by splitting and merging them.

Petal lengths of 150 irises (scikit-learn); their three species are not told. A split replaces a part by two of the same
weight, mean and variance together, a merge is the same move backwards (Richardson and Green, "On Bayesian analysis of
mixtures with an unknown number of components", 1997, section 3.2). `ppl.inference.involutive` finds the Jacobian.
"""

import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from matplotlib.figure import Figure
from scipy.stats import norm
from sklearn.datasets import load_iris

import ppl
import ppl.distributions as dist
from ppl.inference import check_involution, cycle, involutive

LENGTHS = np.asarray(load_iris(return_X_y=True)[0], np.float32)[:, 2]
MOST, NAMES = 5, ("weight", "mean", "variance")


@ppl.model
def petals(lengths: Any = None, flowers: int = len(LENGTHS)) -> Any:
    """One to five parts, each with a weight (not normalised), a mean (cm) and a variance; labels are summed out."""
    extra = ppl.sample("extra", dist.Categorical(jnp.ones(MOST) / MOST))

    def part() -> Any:
        weight = ppl.sample("weight", dist.Gamma(3.0, 1.0))
        return weight, ppl.sample("mean", dist.Normal(4.0, 2.0)), ppl.sample("variance", dist.LogNormal(-1.5, 1.0))

    weight, mean, variance = ppl.vmap(lambda j: lax.cond(j <= extra, part, lambda: (0.0, 0.0, 1.0)))(jnp.arange(MOST))
    share = weight / jnp.sum(weight)
    shares, means, spreads = (jnp.broadcast_to(x, (flowers, MOST)) for x in (share, mean, jnp.sqrt(variance)))
    mixture = dist.MixtureSameFamily(dist.Categorical(shares), dist.Normal(means, spreads))
    ppl.sample("lengths", mixture.to_event(1), obs=lengths)
    return share, mean, variance


@ppl.model
def split_or_merge(now: Any) -> None:
    """Split a part, or merge one with the last; for a split, how weight, mean and variance are divided."""
    extra = now["extra"]
    split = ppl.sample("split", dist.Bernoulli(jnp.where(extra == 0, 1.0, jnp.where(extra == MOST - 1, 0.0, 0.5))))
    ppl.sample("part", dist.Categorical(jnp.where(jnp.arange(MOST) < extra + split, 1.0 / (extra + split), 0.0)))
    division = dist.Uniform(jnp.array([0.0, -1.0, 0.0]), 1.0).to_event(1)
    lax.cond(split == 1, lambda: ppl.sample("division", division), lambda: jnp.zeros(3))


def split_merge(now: Any, aux: Any) -> Any:
    """A split puts the right half behind the last part; a merge takes it from there. `apart` tells the means apart."""
    split, part, (share, apart, spread) = aux["split"] == 1, aux["part"], aux["division"]
    last, parts = now["extra"] + jnp.where(split, 1, 0), jnp.stack([now[a] for a in NAMES])
    weight, mean, variance = parts[:, part]
    within, offset, odds = variance * (1 - apart**2), apart * jnp.sqrt(variance), jnp.sqrt((1 - share) / share)
    left = jnp.stack([share * weight, mean - offset * odds, within * spread / share])
    right = jnp.stack([(1 - share) * weight, mean + offset / odds, within * (1 - spread) / (1 - share)])

    (w1, m1, v1), (w2, m2, v2) = parts[:, part], parts[:, last]
    share = w1 / (w1 + w2)
    within, between = share * v1 + (1 - share) * v2, share * (1 - share) * (m2 - m1) ** 2
    whole = jnp.stack([w1 + w2, share * m1 + (1 - share) * m2, within + between])
    apart = (m2 - m1) * jnp.sqrt(share * (1 - share) / (within + between))
    back = {"split": 1 - aux["split"], "part": part, "division": jnp.stack([share, apart, share * v1 / within])}
    parts = parts.at[:, last].set(jnp.where(split, right, 0.0)).at[:, part].set(jnp.where(split, left, whole))
    return {**dict(zip(NAMES, parts, strict=True)), "extra": now["extra"] + jnp.where(split, 1, -1)}, back


@ppl.model
def steps(now: Any) -> None:
    """Steps for all parts, and two parts to change places."""
    here = jnp.where(jnp.arange(MOST) <= now["extra"], 1.0 / (now["extra"] + 1), 0.0)
    ppl.sample("pair", dist.CategoricalProbs(jnp.stack([here, here])).to_event(1))
    ppl.sample("step", dist.Normal(jnp.zeros((3, MOST)), jnp.array([[0.2], [0.07], [0.2]])).to_event(2))


def walk(now: Any, aux: Any) -> Any:
    """Add to the means, multiply the rest, then change places; the opposite steps in the other places lead back."""
    order = jnp.arange(MOST).at[aux["pair"]].set(aux["pair"][::-1])
    steps = zip(NAMES, aux["step"], strict=True)
    new = {a: now[a] + step if a == "mean" else now[a] * jnp.exp(step) for a, step in steps}
    return {**{a: x[order] for a, x in new.items()}, "extra": now["extra"]}, {**aux, "step": -aux["step"][:, order]}


MOVES = (involutive(split_or_merge, split_merge), involutive(steps, walk), involutive(steps, walk))


def main(*, quick: bool = False, folder: str = "output") -> ppl.Posterior:
    """Print the probabilities of the numbers of parts; draw the lengths with the density of the mixture."""
    program = petals(LENGTHS)
    check_involution(program, MOVES[0].aux, MOVES[0].involution, jax.random.key(1))
    method = ppl.MCMC(cycle(*MOVES), thin=5)
    posterior = ppl.infer(program, method, key=0, chains=4, warmup=400, draws=400 if quick else 4000)
    chance = np.bincount(np.ravel(posterior.draws["extra"]), minlength=MOST) / posterior.draws["extra"].size
    print("Number of parts:", "  ".join(f"{k}: {p:.3f}" for k, p in enumerate(chance, 1)))
    print(f"Accepted splits and merges: {posterior.stats['0/accepted'].mean():.3f}")
    share, mean, variance = (np.reshape(x, (-1, MOST, 1))[::4] for x in posterior.values)
    grid = np.linspace(0.5, 7.5, 200)
    curves = np.sum(share * norm.pdf(grid, mean, np.sqrt(variance)), axis=1)
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 1))
    left.hist(LENGTHS, 40, density=True, color="0.8", label="flowers")
    left.fill_between(grid, *np.quantile(curves, [0.05, 0.95], axis=0), alpha=0.3, label="90% of the density")
    left.plot(grid, curves.mean(axis=0), label="mean density")
    left.set(xlabel="petal length (cm)", ylabel="density")
    left.legend(frameon=False)
    right.bar(np.arange(MOST) + 1, chance)
    right.set(xlabel="number of parts", ylabel="posterior probability", xticks=np.arange(MOST) + 1)
    Path(folder).mkdir(parents=True, exist_ok=True)
    figure.savefig(Path(folder) / "split_merge.png", dpi=150)
    return posterior


if __name__ == "__main__":
    main(quick="--quick" in sys.argv)
