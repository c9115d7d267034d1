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
import matplotlib
import numpy as np
from jax import lax
from sklearn.datasets import load_iris

import ppl
import ppl.distributions as dist
from ppl.inference import check_involution, cycle, involutive

LENGTHS = np.asarray(load_iris(return_X_y=True)[0], np.float32)[:, 2]
MOST = 5


@ppl.model
def petals(lengths: Any = None, flowers: int = len(LENGTHS)) -> Any:
    """One to five parts, each with a weight (not normalised), a mean (cm) and a variance; labels are summed out."""
    extra = ppl.sample("extra", dist.Categorical(jnp.ones(MOST) / MOST))

    def part() -> Any:
        weight = ppl.sample("weight", dist.Gamma(3.0, 1.0))
        return weight, ppl.sample("mean", dist.Normal(4.0, 2.0)), ppl.sample("variance", dist.LogNormal(-1.5, 1.0))

    nothing = (jnp.zeros(()), jnp.zeros(()), jnp.ones(()))
    weight, mean, variance = ppl.vmap(lambda j: lax.cond(j <= extra, part, lambda: nothing))(jnp.arange(MOST))
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

    def division() -> None:
        ppl.sample("share", dist.Beta(2.0, 2.0))
        ppl.sample("apart", dist.Uniform(-1.0, 1.0))
        ppl.sample("spread", dist.Beta(2.0, 2.0))

    lax.cond(split == 1, division, lambda: None)


def divide(weight: Any, mean: Any, variance: Any, share: Any, apart: Any, spread: Any) -> Any:
    """Two parts of the same weight, mean and variance together; `apart` is the way between the means."""
    left = share * weight, mean - apart * jnp.sqrt(variance * (1 - share) / share), spread / share
    right = weight - left[0], mean + apart * jnp.sqrt(variance * share / (1 - share)), (1 - spread) / (1 - share)
    within = variance * (1 - apart**2)
    return (*left[:2], left[2] * within), (*right[:2], right[2] * within)


def unite(left: Any, right: Any) -> Any:
    """The one part, and how it was divided."""
    weight, share = left[0] + right[0], left[0] / (left[0] + right[0])
    within = share * left[2] + (1 - share) * right[2]
    between = share * (1 - share) * (right[1] - left[1]) ** 2
    mean, variance = share * left[1] + (1 - share) * right[1], within + between
    apart = (right[1] - left[1]) * jnp.sqrt(share * (1 - share) / variance)
    return (weight, mean, variance), (share, apart, share * left[2] / within)


NAMES, DIVISION = ("weight", "mean", "variance"), ("share", "apart", "spread")


def split_merge(now: Any, aux: Any) -> Any:
    """A split puts the right half behind the last part; a merge takes it from there."""
    split, part = aux["split"] == 1, aux["part"]
    last = now["extra"] + jnp.where(split, 1, 0)
    left, right = divide(*(now[a][part] for a in NAMES), *(aux[a] for a in DIVISION))
    one, division = unite(*([now[a][i] for a in NAMES] for i in (part, last)))
    new = {
        a: now[a].at[last].set(jnp.where(split, right[i], 0.0)).at[part].set(jnp.where(split, left[i], one[i]))
        for i, a in enumerate(NAMES)
    }
    back = {"split": 1 - aux["split"], "part": part, **dict(zip(DIVISION, division, strict=True))}
    return {**new, "extra": now["extra"] + jnp.where(split, 1, -1)}, back


@ppl.model
def steps(now: Any) -> None:
    """Steps for all parts, and two parts to change places."""
    here = jnp.where(jnp.arange(MOST) <= now["extra"], 1.0 / (now["extra"] + 1), 0.0)
    ppl.sample("pair", dist.CategoricalProbs(jnp.stack([here, here])).to_event(1))
    ppl.sample("step", dist.Normal(jnp.zeros((3, MOST)), jnp.array([[0.2], [0.07], [0.2]])).to_event(2))


def walk(now: Any, aux: Any) -> Any:
    """Add to the means, multiply the rest, then change places; the opposite steps in the other places lead back."""
    order = jnp.arange(MOST).at[aux["pair"]].set(aux["pair"][::-1])
    weight, mean, variance = aux["step"]
    new = {"weight": now["weight"] * jnp.exp(weight), "mean": now["mean"] + mean}
    new |= {"variance": now["variance"] * jnp.exp(variance)}
    return {**{a: x[order] for a, x in new.items()}, "extra": now["extra"]}, {**aux, "step": -aux["step"][:, order]}


MOVES = (involutive(split_or_merge, split_merge), involutive(steps, walk), involutive(steps, walk))


def draw(posterior: ppl.Posterior, path: Path) -> None:
    """The lengths with the density of the mixture, and how probable each number of parts is."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    share, mean, variance = (np.asarray(x).reshape(-1, MOST)[::4, :, None] for x in posterior.values)
    grid = np.linspace(0.5, 7.5, 200)
    curves = np.sum(share * np.exp(-0.5 * (grid - mean) ** 2 / variance) / np.sqrt(2 * np.pi * variance), axis=1)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8), width_ratios=(3, 1), layout="constrained")
    left.hist(LENGTHS, 40, density=True, color="0.8", label="flowers")
    left.fill_between(grid, *np.quantile(curves, [0.05, 0.95], axis=0), alpha=0.3, label="90% of the density")
    left.plot(grid, curves.mean(axis=0), label="mean density")
    left.set(xlabel="petal length (cm)", ylabel="density")
    left.legend(frameon=False)
    right.bar(np.arange(MOST) + 1, probabilities(posterior))
    right.set(xlabel="number of parts", ylabel="posterior probability", xticks=np.arange(MOST) + 1)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def probabilities(posterior: ppl.Posterior) -> Any:
    """The posterior probability of 1, 2, ... parts."""
    return np.bincount(np.ravel(posterior.draws["extra"]), minlength=MOST) / posterior.draws["extra"].size


def main(*, quick: bool = False, folder: str = "output") -> ppl.Posterior:
    """Print the probabilities of the numbers of parts, and draw the density."""
    program = petals(LENGTHS)
    check_involution(program, MOVES[0].aux, MOVES[0].involution, jax.random.key(1))
    posterior = ppl.infer(
        program, ppl.MCMC(cycle(*MOVES), thin=5), key=0, chains=4, warmup=400, draws=400 if quick else 4000
    )
    print("Number of parts:", "  ".join(f"{k}: {p:.3f}" for k, p in enumerate(probabilities(posterior), 1)))
    print(f"Accepted splits and merges: {posterior.stats['0/accepted'].mean():.3f}")
    path = Path(folder) / "split_merge.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    draw(posterior, path)
    print(f"Picture: {path}")
    return posterior


if __name__ == "__main__":
    main(quick="--quick" in sys.argv)
