"""A Dirichlet-process mixture without truncation: its endless tail of atoms is a random function.

How many clusters of galaxies are there? A draw from the Dirichlet process is a sum over infinitely many atoms. The
atoms that the data move are choices (`ppl.random_table`); all others are values of a function of their number
(`ppl.random_function`) and come into being when the stick that is left over is still long enough to matter.
The program returns the density: a function. The posterior is a population of functions, one batched pytree.

    python examples/dirichlet_process.py        writes dirichlet_process.png

Data: velocities of 82 galaxies in the Corona Borealis region, in 1000 km/s (Postman, Huchra, Geller, "Probes of
large-scale structure in the Corona Borealis region", Astronomical Journal 92, 1986; as in Roeder, "Density estimation
with confidence sets", JASA 85, 1990).
"""

import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int

import ppl
import ppl.distributions as dist

VELOCITIES = """
9172 9350 9483 9558 9775 10227 10406 16084 16170 18419 18552 18600 18927 19052 19070 19330 19343 19349 19440 19473 19529
19541 19547 19663 19846 19856 19863 19914 19918 19973 19989 20166 20175 20179 20196 20215 20221 20415 20629 20795 20821
20846 20875 20986 21137 21492 21701 21814 21921 21960 22185 22209 22242 22249 22314 22374 22495 22746 22747 22888 22914
23206 23241 23263 23484 23538 23542 23666 23706 23711 24129 24285 24289 24366 24717 24990 25633 26960 26995 32065 32789
34279
"""
CONCENTRATION = 1.0
HEAD = 8
"""How many atoms are choices of their own, which the sampler can move one by one."""
NEGLIGIBLE = 1e-6


@ppl.model
def atom() -> dict[str, Any]:
    """One atom: the part that it breaks off the stick, and the normal law that it stands for."""
    part = ppl.sample("part", dist.Kumaraswamy(1.0, CONCENTRATION))  # the law Beta(1, concentration)
    mean = ppl.sample("mean", dist.Normal(21.0, 6.0))
    sd = ppl.sample("sd", dist.LogNormal(0.0, 0.7))
    return {"part": part, "mean": mean, "sd": sd}


def density(head: Partial, tail: Partial, y: Float[Array, "points"]) -> Float[Array, "points"]:
    """The density of a draw from the process; atoms are asked for until what is left of the stick is negligible."""

    def add(state: tuple[Any, Any, Any], atom_at: Partial) -> tuple[Any, Any, Any]:
        k, left, total = state
        here = atom_at(k)
        value = jnp.exp(dist.Normal(here["mean"], here["sd"]).log_prob(y))
        return k + 1, left * (1.0 - here["part"]), total + left * here["part"] * value

    start = (jnp.int32(0), jnp.asarray(1.0), jnp.zeros_like(y))
    state = lax.fori_loop(0, HEAD, lambda _, state: add(state, head), start)
    return lax.while_loop(lambda state: state[1] > NEGLIGIBLE, lambda state: add(state, tail), state)[2]


@ppl.model
def galaxies(y: Float[Array, "points"]) -> Partial:
    """A Dirichlet-process mixture of normal laws; its value is the density, a function."""
    head = ppl.random_table("head", atom(), HEAD)
    tail = ppl.random_function("tail", lambda key, k: atom().sample(key))
    drawn = Partial(density, head, tail)
    ppl.factor("likelihood", jnp.sum(jnp.log(drawn(y))))
    return drawn


def weights(parts: Float[np.ndarray, "... atoms"]) -> Float[np.ndarray, "... atoms"]:
    """Weights of atoms from the parts that they break off the stick."""
    left = np.cumprod(1.0 - parts, axis=-1) / (1.0 - parts)
    return parts * left


def clusters(posterior: Any, threshold: float = 0.02) -> Int[np.ndarray, "chains draws"]:
    """How many of the first atoms have more than a threshold of the mass, in each draw."""
    return np.sum(weights(np.asarray(posterior.draws["head/part"])) > threshold, axis=-1)


def plot(y: Any, grid: Any, curves: Any, path: str) -> None:
    """Draw the data, some functions of the posterior, and their mean."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    axes.hist(y, bins=40, density=True, color="0.85", label="82 galaxies")
    axes.plot(grid, curves[:: max(1, len(curves) // 40)].T, color="#4c78a8", alpha=0.2, linewidth=0.8)
    axes.plot(grid, curves.mean(axis=0), color="#d9480f", linewidth=2, label="posterior mean")
    axes.set(xlabel="velocity (1000 km/s)", ylabel="density", title="A population of random functions")
    axes.legend(frameon=False)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(*, quick: bool = False, path: str = "output/dirichlet_process.png") -> dict[str, Any]:
    """Infer the density of velocities, print what is known of the number of clusters, and draw it."""
    y = jnp.array(VELOCITIES.split(), float) / 1000.0
    warmup, draws, thin = (40, 20, 5) if quick else (500, 500, 20)
    posterior = ppl.infer(galaxies(y), ppl.MH(thin=thin), key=1, chains=4, warmup=warmup, draws=draws)
    grid = jnp.linspace(5.0, 40.0, 281)
    functions = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), posterior.values)
    curves = np.asarray(jax.jit(jax.vmap(lambda f: f(grid)))(functions))
    counts = clusters(posterior)
    print(galaxies(y))
    for k in np.unique(counts):
        print(f"atoms with more than 2% of the mass: {k}   probability {np.mean(counts == k):.2f}")
    plot(np.asarray(y), np.asarray(grid), curves, path)
    return {"posterior": posterior, "grid": grid, "curves": curves, "clusters": counts}


if __name__ == "__main__":
    main(quick="--quick" in sys.argv)
