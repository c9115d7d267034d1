"""Tracking an object with a range finder that often sees something else, and a compass: sensor fusion by particles.

Seven in ten range readings are about right, two bounce off something near, one is noise; all are cut off to [0, 20], so
that 0 and 20 have probability of their own. No Kalman filter can take that; here the sensor is a small class with
`sample` and `log_prob`, which is all that a measure needs. A particle filter gives the law of the position step by
step, and shows how the cloud splits and joins where the sensors disagree.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from jax import lax
from jax.scipy.stats import norm

import ppl
import ppl.distributions as dist

STEPS, FARTHEST = 100, 20.0
MOVE, PUSH = jnp.array([[1.0, 0.6321], [0.0, 0.3679]]), jnp.array([0.1, 0.2])
"""Position and velocity along one axis a step later, and what a standard normal push adds to them."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RangeFinder:
    """The law of a reading at a true distance: a mixture, cut off to [0, 20]; good readings err in proportion."""

    distance: Any

    def sample(self, key: Any) -> Any:
        """Read once."""
        which, value = jax.random.split(key)
        near, noise = jax.random.exponential(value), FARTHEST * jax.random.uniform(value)
        readings = [self.distance + 0.1 * (self.distance + 1.0) * jax.random.normal(value), near, noise]
        kind = jax.random.choice(which, 3, p=jnp.array([0.7, 0.2, 0.1]))
        return jnp.clip(jnp.stack(readings)[kind], 0.0, FARTHEST)

    def log_prob(self, value: Any) -> Any:
        """Log density inside; at 0 and 20, the log probability of the atom."""
        scale = 0.1 * (self.distance + 1.0)
        z = (value - self.distance) / scale
        inside = 0.7 * norm.pdf(z) / scale + 0.2 * jnp.exp(-value) + 0.1 / FARTHEST
        below, above = 0.7 * norm.cdf(z), 0.7 * norm.sf(z) + 0.2 * jnp.exp(-FARTHEST)
        return jnp.log(jnp.where(value <= 0.0, below, jnp.where(value >= FARTHEST, above, inside)))


def wrapped(angle: Any) -> Any:
    """An angle in (-pi, pi]."""
    return jnp.pi - jnp.mod(jnp.pi - angle, 2.0 * jnp.pi)


@ppl.model
def tracking(ranges: Any, bearings: Any) -> None:
    """An object with velocity and random pushes, seen by both sensors at every step."""
    start = ppl.sample("start", dist.Normal(jnp.array([[1.0, 0.0], [1.0, 0.0]]), 1.0).to_event(2))

    def step(state: Any, seen: Any) -> tuple[Any, None]:
        push = ppl.sample("push", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        state = state @ MOVE.T + push[:, None] * PUSH[None]
        x, y = ppl.deterministic("position", state[:, 0])
        ppl.sample("range", RangeFinder(jnp.hypot(x, y)), obs=seen[0])
        ppl.sample("bearing", dist.Normal(0.0, 0.1), obs=wrapped(seen[1] - jnp.arctan2(x, y)))
        return state, None

    lax.scan(step, start, (ranges, bearings))


def simulated(key: int) -> tuple[Any, Any, Any]:
    """A true path, and what the sensors read along it."""
    path = tracking(jnp.ones(STEPS), jnp.ones(STEPS)).simulate(key).deterministic["position"]
    x, y = path.T
    ranges = jax.vmap(lambda r, k: RangeFinder(r).sample(k))(
        jnp.hypot(x, y), jax.random.split(jax.random.key(1), STEPS)
    )
    return path, ranges, wrapped(jnp.arctan2(x, y) + 0.1 * jax.random.normal(jax.random.key(2), (STEPS,)))


def draw(path: Any, alone: Any, past: Any, where: Path) -> None:
    """Each coordinate over time: the truth, the filter's mean and 90% band, and what the sensors alone would say."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(2, 1, figsize=(8, 5), sharex=True, layout="constrained")
    mean, (low, high) = past.moments("position").mean, past.quantiles("position", [0.05, 0.95])
    for i, axes in enumerate(panels):
        axes.fill_between(np.arange(STEPS), low[:, i], high[:, i], color="#d9480f", alpha=0.2, lw=0, label="90% band")
        axes.plot(alone[:, i], "x", color="0.6", markersize=4, label="readings")
        axes.plot(path[:, i], color="black", linewidth=1.2, label="truth")
        axes.plot(mean[:, i], color="#d9480f", linewidth=1.2, label="mean of the filter")
        axes.set(ylabel="xy"[i], ylim=(path[:, i].min() - 2.0, path[:, i].max() + 2.0))
    panels[0].legend(frameon=False, ncols=4, loc="upper right")
    panels[1].set(xlabel="step")
    figure.savefig(where, dpi=150)
    plt.close(figure)


def main(*, quick: bool = False, folder: str = "output") -> ppl.Posterior:
    """Print how far the filter and the readings are from the truth; draw both."""
    path, ranges, bearings = map(np.asarray, simulated(3))
    posterior = ppl.infer(tracking(ranges, bearings), ppl.ParticleFilter(2_000 if quick else 20_000), key=0)
    past, alone = posterior.history, np.stack([ranges * np.sin(bearings), ranges * np.cos(bearings)], axis=1)
    for name, guess in (("readings alone", alone), ("filter", past.moments("position").mean)):
        print(f"{name:>15}: root mean squared error {np.sqrt(((guess - path) ** 2).sum(axis=1).mean()):.3f}")
    print(f"Log evidence {past.log_evidence[-1]:.2f}; least effective sample size {past.ess.min():.0f}")
    Path(folder).mkdir(parents=True, exist_ok=True)
    draw(path, alone, past, Path(folder) / "tracking.png")
    return posterior


if __name__ == "__main__":
    main(quick="--quick" in sys.argv)
