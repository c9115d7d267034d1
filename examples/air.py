"""Attend, infer, repeat: how many digits are in a scene, and where? The strategy at one choice decides what is learned.

A scene has 0 to 3 digits. The model puts objects on a canvas, one after the other, while a coin says that there is one
more; the guide is a recurrent network that looks for them. Everything is differentiated through the draws but the
coins: there the estimator is chosen, and nothing else changes (Becker et al., PLDI 2024, section 8; Eslami et al.,
*Attend, infer, repeat*, 2016).

    python examples/air.py                       # measure-valued coins, one or two minutes; writes output/air.png
    python examples/air.py score                 # REINFORCE: coins that hardly learn
    python examples/air.py enumerate
"""

import sys
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from matplotlib.patches import Rectangle
from sklearn.datasets import load_digits

import ppl
import ppl.distributions as dist
from ppl import vi

STEPS, CANVAS, SIDE, WHAT, HIDDEN = 3, 24, 8, 10, 128
WHERE = (jnp.array([3.0, 0.0, 0.0]), jnp.array([0.2, 1.0, 1.0]))
COINS = [f"present_{t}" for t in range(STEPS)]
STRATEGIES = {"measure_valued": vi.measure_valued(), "enumerate": vi.enumerate(), "score": vi.score()}
OUTPUT = Path(__file__).resolve().parents[1] / "output"


def scenes(seed: int, digits: np.ndarray, number: int) -> tuple[Any, Any]:
    """Images of digits whose boxes do not overlap, and how many there are."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, STEPS + 1, number)
    images = np.zeros((number, CANVAS, CANVAS), np.float32)
    for image, count in zip(images, counts, strict=True):
        placed = 0
        while placed < count:
            row, column = rng.integers(0, CANVAS - SIDE + 1, 2)
            box = image[row : row + SIDE, column : column + SIDE]
            if not box.any():
                box[:] = digits[rng.integers(len(digits))] + 1e-6
                placed += 1
    return jnp.asarray(images), jnp.asarray(counts)


class Networks(eqx.Module):
    """All weights."""

    embed: eqx.nn.Linear
    cell: eqx.nn.LSTMCell
    attend: eqx.nn.Linear
    look: eqx.nn.Linear
    encode: eqx.nn.Linear
    imagine: eqx.nn.Linear
    decode: eqx.nn.Linear

    def __init__(self, key: Any) -> None:
        keys = iter(jax.random.split(key, 7))
        self.embed = eqx.nn.Linear(CANVAS**2, HIDDEN, key=next(keys))
        self.cell = eqx.nn.LSTMCell(HIDDEN + 4 + WHAT, HIDDEN, key=next(keys))
        self.attend = eqx.nn.Linear(HIDDEN, 7, key=next(keys))
        self.look = eqx.nn.Linear(SIDE**2, HIDDEN, key=next(keys))
        self.encode = eqx.nn.Linear(HIDDEN, 2 * WHAT, key=next(keys))
        self.imagine = eqx.nn.Linear(WHAT, HIDDEN, key=next(keys))
        self.decode = eqx.nn.Linear(HIDDEN, SIDE**2, key=next(keys))


def drawn(net: Networks, what: Any, where: Any) -> Any:
    """An object on an empty canvas."""
    window = jax.nn.sigmoid(net.decode(jax.nn.relu(net.imagine(what))) - 2.0).reshape(SIDE, SIDE)
    rows, columns = (bilinear(where[0] * centres(CANVAS) + shift, SIDE) for shift in (where[2], where[1]))
    return rows @ window @ columns.T


def seen(net: Networks, image: Any, where: Any) -> tuple[Any, Any]:
    """Mean and sd of the look of what is at a place."""
    rows, columns = (bilinear((centres(SIDE) - shift) / where[0], CANVAS) for shift in (where[2], where[1]))
    window = rows @ image @ columns.T
    mean, spread = jnp.split(net.encode(jax.nn.relu(net.look(window.ravel()))), 2)
    return mean, jax.nn.softplus(spread)


def centres(side: int) -> Any:
    """Centres of pixels, from -1 to 1."""
    return (2.0 * jnp.arange(side) + 1.0) / side - 1.0


def bilinear(points: Any, side: int) -> Any:
    """Weights of a line's pixels at some points."""
    places = ((points + 1.0) * side - 1.0) / 2.0
    return jnp.maximum(1.0 - jnp.abs(places[:, None] - jnp.arange(side)[None]), 0.0)


@ppl.model
def model(net: Networks, image: Any) -> None:
    """Objects, and the scene that they make."""
    present, canvas = 1.0, jnp.zeros((CANVAS, CANVAS))
    for t in range(STEPS):
        present = ppl.sample(f"present_{t}", dist.Bernoulli(0.05 * present)).astype(float)
        where = ppl.sample(f"where_{t}", dist.Normal(*WHERE).to_event(1))
        what = ppl.sample(f"what_{t}", dist.Normal(jnp.zeros(WHAT), 1.0).to_event(1))
        canvas += present * drawn(net, what, where)
    ppl.sample("image", dist.Normal(canvas, 0.3).to_event(2), obs=image)


@ppl.model
def guide(net: Networks, image: Any) -> None:
    """Attend, infer, repeat; where there is no object, the prior."""
    context = jax.nn.relu(net.embed(image.ravel()))
    state = (jnp.zeros(HIDDEN), jnp.zeros(HIDDEN))
    present, found = jnp.ones(()), jnp.zeros(4 + WHAT)
    for t in range(STEPS):
        state = net.cell(jnp.concatenate([context, found]), state)
        logit, shift, spread = jnp.split(net.attend(state[0]), (1, 4))
        chance = jax.nn.sigmoid(logit[0] + 2.0)  # it looks on at the start: a step not taken learns nothing
        present = ppl.sample(f"present_{t}", dist.Bernoulli(chance * present)).astype(float)
        place = (WHERE[0] + shift, WHERE[1] * jax.nn.softplus(spread + 0.5))
        where = ppl.sample(f"where_{t}", if_present(present, place, WHERE))
        what = ppl.sample(f"what_{t}", if_present(present, seen(net, image, where), (0.0, 1.0)))
        found = jnp.concatenate([present[None], where, what])


def if_present(present: Any, law: Any, prior: Any) -> dist.Distribution:
    """One normal law or the other."""
    mean, sd = (present * a + (1.0 - present) * b for a, b in zip(law, prior, strict=True))
    return dist.Normal(mean, sd).to_event(1)


def minibatch(strategy: Any) -> vi.Objective:
    """The mean ELBO of some scenes; each scene is an expectation of its own."""
    chosen: dict[str, Any] = dict(zip(COINS, [strategy] * STEPS, strict=True))
    scene = vi.elbo(model, lambda net, image: vi.with_strategies(guide(net, image), chosen))

    @vi.objective(maximize=True)
    def mean_elbo(net: Networks, images: Any) -> Any:
        return ppl.vmap(lambda image: vi.expect("scene", scene(net, image)))(images).mean()

    return mean_elbo


@eqx.filter_jit
def found(net: Networks, key: Any, images: Any) -> Any:
    """One draw of the guide for each image."""
    keys = jax.random.split(key, len(images))
    return jax.vmap(lambda key, image: guide(net, image).simulate(key).choices)(keys, images)


def picture(net: Networks, images: Any, choices: Any, path: Path) -> None:
    """Scenes with a frame around each object that was found, and the scenes drawn again."""
    figure, axes = plt.subplots(2, len(images), figsize=(len(images) * 1.4, 3.0))
    for i, (top, bottom) in enumerate(axes.T):
        again = np.zeros((CANVAS, CANVAS))
        for t in range(STEPS):
            if choices[f"present_{t}"][i]:
                where = choices[f"where_{t}"][i]
                scale, *corner = np.asarray(where)
                left, low = (((-1.0 - shift) / scale + 1.0) * CANVAS / 2.0 - 0.5 for shift in corner)
                top.add_patch(Rectangle((left, low), CANVAS / scale, CANVAS / scale, fill=False, color=f"C{t}"))
                again += np.asarray(drawn(net, choices[f"what_{t}"][i], where))
        for axis, pixels in ((top, images[i]), (bottom, again)):
            axis.imshow(pixels, cmap="gray_r", vmin=0, vmax=1)
            axis.set_axis_off()
    path.parent.mkdir(exist_ok=True)
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main(strategy: str = "measure_valued", quick: bool = False, folder: str | None = None) -> float:  # noqa: FBT001, FBT002
    """Train, and count the digits of scenes that were not seen.

    Args:
        strategy: How the coins are differentiated.
        quick: Fewer steps.
        folder: Where the picture goes.

    Returns:
        How often the count is right.
    """
    digits = np.asarray(load_digits(return_X_y=True)[0]).reshape(-1, SIDE, SIDE) / 16.0
    images, _ = scenes(1, digits[:1500], 10_000)
    unseen, counts = scenes(2, digits[1500:], 1000)
    optimizer = optax.chain(optax.clip_by_global_norm(100.0), optax.adam(1e-3))
    fit = vi.fit(
        minibatch(STRATEGIES[strategy]), Networks(jax.random.key(0)), optimizer=optimizer,
        steps=2000 if quick else 5000, key=1, args=(images,), batch_size=64,
    )  # fmt: skip
    print(fit)
    choices = found(fit.params, jax.random.key(2), unseen)
    right = float(jnp.mean(sum(choices[name] for name in COINS) == counts))
    print(f"{strategy}: the count is right in {right:.1%} of {len(counts)} unseen scenes")
    picture(fit.params, unseen[:10], choices, (Path(folder) if folder else OUTPUT) / "air.png")
    return right


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "measure_valued")
