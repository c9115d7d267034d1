"""Random Fourier features: a smooth curve as a random function, built from infinitely many lazily drawn waves.

Wave number j has a frequency and a phase, the value at j of `ppl.random_function`: a model that asks for more waves
finds the first ones unchanged. A weighted sum of waves is a Gaussian process (its kernel is squared-exponential in
the limit). The weights are summed out of the likelihood in closed form and drawn from their law given the data, so
importance sampling has three numbers and one seed to find. The program returns the curve: a function of the year.

    python examples/random_features.py        writes random_features.png

Data: annual flow of the Nile at Aswan, 1871-1970, in 1e8 cubic metres (Cobb, "The problem of the Nile: conditional
solution to a changepoint problem", Biometrika 65, 1978).

Reference: Rahimi, Recht, "Random features for large-scale kernel machines", NeurIPS 2007, theorem 1.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from jax.tree_util import Partial
from jaxtyping import Array, Float, Key

import ppl
import ppl.distributions as dist

FLOW = """
1120 1160 963 1210 1160 1160 813 1230 1370 1140 995 935 1110 994 1020 960 1180 799 958 1140 1100 1210 1150 1250 1260
1220 1030 1100 774 840 874 694 940 833 701 916 692 1020 1050 969 831 726 456 824 702 1120 1100 832 764 821 768 845
864 862 698 845 744 796 1040 759 781 865 845 944 984 897 822 1010 771 676 649 846 812 742 801 1040 860 874 848 890
744 749 838 1050 918 986 797 923 975 815 1020 906 901 1170 912 746 919 718 714 740
"""
FIRST_YEAR, LEVEL, LEVEL_SD = 1871.0, 900.0, 300.0


def wave(key: Key[Array, ""], _: Any) -> Float[Array, "2"]:
    """The frequency (for a length scale of one) and the phase of one wave."""
    frequency, phase = jax.random.split(key)
    return jnp.stack([jax.random.normal(frequency), jax.random.uniform(phase, maxval=2.0 * jnp.pi)])


def features(waves: Float[Array, "waves 2"], scale: Any, years: Float[Array, "years"]) -> Float[Array, "years columns"]:
    """One column a wave, and a constant one for the level; the prior of each column's weight is standard normal."""
    amplitude, length = scale
    decades = (years - FIRST_YEAR) / 10.0
    angles = decades[:, None] * (waves[:, 0] / length)[None, :] + waves[:, 1][None, :]
    columns = amplitude * jnp.sqrt(2.0 / waves.shape[0]) * jnp.cos(angles)
    return jnp.concatenate([jnp.full((years.shape[0], 1), LEVEL_SD), columns], axis=1)


def curve(
    waves: Any, scale: Any, weights: Float[Array, "columns"], years: Float[Array, "years"]
) -> Float[Array, "years"]:
    """The mean flow in each year."""
    return LEVEL + features(waves, scale, years) @ weights


@ppl.model
def nile(years: Float[Array, "years"], flow: Float[Array, "years"], count: int) -> Partial:
    """A noisy smooth curve; its value is the curve, a function of years."""
    amplitude = ppl.sample("amplitude", dist.LogNormal(jnp.log(150.0), 0.5))
    length = ppl.sample("length", dist.LogNormal(0.5, 0.8))
    noise = ppl.sample("noise", dist.LogNormal(jnp.log(150.0), 0.3))
    waves = jax.vmap(ppl.random_function("wave", wave))(jnp.arange(count))
    design = features(waves, (amplitude, length), years)
    # p(weights, flow) = p(flow) p(weights | flow). The second is normal with precision L L' = I + scaled' scaled and
    # mean L'^-1 half; the first follows from the matrix determinant lemma and the Woodbury identity.
    scaled, residual = design / noise, (flow - LEVEL) / noise
    lower = jnp.linalg.cholesky(jnp.eye(count + 1) + scaled.T @ scaled)
    half = solve_triangular(lower, scaled.T @ residual, lower=True)
    log_det = jnp.sum(jnp.log(jnp.diagonal(lower))) + len(flow) * jnp.log(noise * jnp.sqrt(2.0 * jnp.pi))
    ppl.factor("flow", -0.5 * (residual @ residual - half @ half) - log_det)
    normal = ppl.sample("normal", dist.Normal(0.0, 1.0).expand((count + 1,)).to_event(1))
    weights = solve_triangular(lower, half + normal, lower=True, trans=1)
    return Partial(curve, waves, (amplitude, length), weights)


def plot(years: Any, flow: Any, curves: Any, path: str) -> None:
    """Draw the data, some functions of the posterior, and their mean."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    axes.plot(years, flow, "o", color="0.6", markersize=4, label="flow at Aswan")
    axes.plot(years, curves[:60].T, color="#4c78a8", alpha=0.2, linewidth=0.8)
    axes.plot(years, curves.mean(axis=0), color="#d9480f", linewidth=2, label="posterior mean")
    axes.set(xlabel="year", ylabel="1e8 cubic metres a year", title="The Nile: curves drawn from the posterior")
    axes.legend(frameon=False)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(*, quick: bool = False, path: str = "output/random_features.png") -> dict[str, Any]:
    """Infer the curve, print the summary of its three numbers, and draw some curves of the posterior."""
    flow = jnp.array(FLOW.split(), float)
    years = FIRST_YEAR + jnp.arange(len(flow), dtype=flow.dtype)
    program = nile(years, flow, 20 if quick else 60)
    posterior = ppl.infer(program, ppl.Importance(200 if quick else 4000), key=0)
    print(program)
    numbers = {address: posterior.draws[address] for address in ("amplitude", "length", "noise")}
    print(dataclasses.replace(posterior, draws=numbers).summary())
    log_weights = jnp.asarray(posterior.log_weights).reshape(-1)
    picked = jax.random.categorical(jax.random.key(1), log_weights, shape=(200,))
    functions = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[picked], posterior.values)
    curves = np.asarray(jax.jit(jax.vmap(lambda f: f(years)))(functions))
    plot(np.asarray(years), np.asarray(flow), curves, path)
    return {"posterior": posterior, "years": years, "curves": curves}


if __name__ == "__main__":
    main(quick="--quick" in sys.argv)
