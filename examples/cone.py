"""A point somewhere on a ring: what a guide can say depends on its family and on the objective.

A point (x, y) is seen through the noisy square of its distance from the origin: the posterior is a ring. Two
independent normals must choose a place on it (ELBO) or spread over an arc of it (importance-weighted bound). A guide
that turns a hidden angle into a point covers the ring; its density sums over the angles that could have made the point,
which `ppl.SIR` estimates inside the guide. Becker et al., *Probabilistic programming with programmable variational
inference* (PLDI 2024), figure 2; the log evidence is -5.323.
"""

import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax

import ppl
import ppl.distributions as dist
from ppl import vi

Z = 5.0


@ppl.model
def cone(z: Any) -> None:
    """The squared distance of a point, seen with an error of a hundredth of it."""
    x = ppl.sample("x", dist.Normal(0.0, 10.0))
    y = ppl.sample("y", dist.Normal(0.0, 10.0))
    squared = x**2 + y**2
    ppl.sample("z", dist.Normal(squared, 0.1 + squared / 100), obs=z)


@ppl.model
def naive(params: Any) -> None:
    """Two independent normals."""
    ppl.sample("x", dist.Normal(params["means"][0], jnp.exp(params["log_scales"][0])))
    ppl.sample("y", dist.Normal(params["means"][1], jnp.exp(params["log_scales"][1])))


@ppl.model
def ring(log_scales: Any) -> None:
    """A point near the ring, at a hidden angle."""
    angle = 2 * jnp.pi * ppl.sample("u", dist.Uniform(0.0, 1.0))
    ppl.sample("x", dist.Normal(jnp.sqrt(Z) * jnp.cos(angle), jnp.exp(log_scales[0])))
    ppl.sample("y", dist.Normal(jnp.sqrt(Z) * jnp.sin(angle), jnp.exp(log_scales[1])))


@ppl.model
def any_angle() -> None:
    """A guess of the angle, blind to the point."""
    ppl.sample("u", dist.Uniform(0.0, 1.0))


def points(log_scales: Any) -> ppl.Program:
    """The ring's law of the point alone, its density estimated with five angles."""
    return ring(log_scales).marginal(["x", "y"], ppl.SIR(5, lambda kept: any_angle()))


def objectives() -> dict[str, tuple[vi.Objective, Any, Any]]:
    """Each with a start, and the guide that it fits."""
    model = cone(jnp.array(Z))
    start = {"means": jnp.zeros(2), "log_scales": jnp.ones(2)}
    aside = {**start, "means": jnp.array([3.0, 0.0])}
    return {
        "ELBO, two normals": (vi.elbo(model, naive), start, naive),
        "IWELBO (5), two normals": (vi.iwelbo(model, naive, 5), aside, naive),
        "ELBO, ring, 5 angles": (vi.elbo(model, points), jnp.zeros(2), ring),
        "IWELBO (5), ring, 5 angles": (vi.iwelbo(model, points, 5), jnp.zeros(2), ring),
    }


def draw(fits: dict[str, tuple[float, np.ndarray]], path: Path) -> None:
    """Draws of each fitted guide over the contours of the posterior."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    axis = jnp.linspace(-3.4, 3.4, 301)
    grid = jnp.stack(jnp.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    log_p = jax.vmap(lambda xy: cone(jnp.array(Z)).log_density({"x": xy[0], "y": xy[1]}))(grid).reshape(301, 301)
    figure, axes = plt.subplots(2, 2, figsize=(7.5, 8), sharex=True, sharey=True, layout="constrained")
    for place, (name, (value, draws)) in zip(axes.flat, fits.items(), strict=True):
        place.contourf(axis, axis, jnp.exp(log_p - log_p.max()), levels=6, cmap="Greys")
        place.scatter(*draws.T, s=3, alpha=0.5, color="tab:red", linewidths=0)
        place.set(title=f"{name}\n{value:.2f}", aspect="equal", xlim=(-3.4, 3.4), ylim=(-3.4, 3.4))
    figure.supxlabel("x")
    figure.supylabel("y")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(*, quick: bool = False, folder: str = "output") -> dict[str, float]:
    """Fit each guide, print the value of its objective, draw what it says of the point."""
    found: dict[str, tuple[float, np.ndarray]] = {}
    steps = 1500 if quick else 5000
    for name, (objective, start, guide) in objectives().items():
        fit = vi.fit(objective.average(64), start, optimizer=optax.sgd(1e-3), steps=steps, key=0, progress=False)
        value = float(objective.average(20_000).value(1, fit.params))
        keys = jax.random.split(jax.random.key(2), 1000)
        choices = jax.vmap(lambda key, guide=guide, fit=fit: guide(fit.params).simulate(key).choices)(keys)
        found[name] = value, np.stack([choices["x"], choices["y"]], axis=1)
        print(f"{name:<28} {value:8.3f}")
    path = Path(folder) / "cone.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    draw(found, path)
    print(f"\nPicture: {path}")
    return {name: value for name, (value, _) in found.items()}


if __name__ == "__main__":
    main(quick="--quick" in sys.argv)
