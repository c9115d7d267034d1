"""Attend-infer-repeat: scenes of 0 to 3 digits, a model that places objects, a recurrent guide that finds them.

Model: three times, while objects go on: a coin (chance .05) says whether there is one more; where ~ N((3, 0, 0),
(.2, 1, 1)) is its scale and shift, what ~ N(0, 1) its look; the sum of the objects is seen with sd .3 a pixel.
Guide: an LSTM that sees the scene and what it found so far. Where there is no object the guide draws from the prior, so
that the terms cancel.

Eslami et al., *Attend, infer, repeat* (2016). One scene is one program; `vi.with_strategies` says how its coins are
differentiated, and nothing else changes between the estimators.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits

import ppl
import ppl.distributions as dist
from ppl import vi

STEPS = 3
WHERE_MEAN, WHERE_SD = jnp.array([3.0, 0.0, 0.0]), jnp.array([0.2, 1.0, 1.0])
PIXEL_SD = 0.3
CHANCE = 0.05
"""Of one more object. At .5 training ends where the guide finds dark objects besides, which cost it little."""
EAGER = 2.0
"""Log odds that the guide looks on at the start: a step that is not taken learns nothing."""
COINS = tuple(f"present_{t}" for t in range(STEPS))


class Size(NamedTuple):
    """Pixels of the canvas's and a window's side, length of an object's look, width of the networks."""

    canvas: int
    window: int
    what: int
    hidden: int


SMALL = Size(canvas=24, window=8, what=10, hidden=128)
PAPER = Size(canvas=50, window=20, what=50, hidden=256)


# --- the data --------------------------------------------------------------------------------------------------------


class Scenes(NamedTuple):
    """Images with values in [0, 1], and how many digits each holds."""

    images: Any
    counts: Any


def scenes(seed: int, number: int, canvas: int, *, held_out: bool = False) -> Scenes:
    """Digits of a third of the canvas's side at places of their own, in boxes that do not overlap."""
    rng = np.random.default_rng(seed)
    side = canvas // STEPS
    digits = np.asarray(load_digits(return_X_y=True)[0]).reshape(-1, 8, 8) / 16.0
    digits = digits[1500:] if held_out else digits[:1500]
    digits = np.asarray(jax.image.resize(digits, (len(digits), side, side), "linear"))
    counts = rng.integers(0, STEPS + 1, number)
    images = np.zeros((number, canvas, canvas), np.float32)
    for image, count in zip(images, counts, strict=True):
        for row, column in places(rng, count, side, canvas):
            image[row : row + side, column : column + side] = digits[rng.integers(len(digits))]
    return Scenes(jnp.asarray(images), jnp.asarray(counts))


def places(rng: np.random.Generator, count: int, side: int, canvas: int) -> np.ndarray:
    """Corners of boxes that do not overlap: drawn until they do not."""
    while True:
        corners = rng.integers(0, canvas - side + 1, (count, 2))
        apart = np.abs(corners[:, None] - corners[None]).max(axis=-1) >= side
        if apart[np.triu_indices(count, 1)].all():
            return corners


# --- the networks ----------------------------------------------------------------------------------------------------


class Networks(eqx.Module):
    """The weights of model and guide, and those of a learned baseline."""

    size: Size = eqx.field(static=True)
    embed: eqx.nn.Linear
    cell: eqx.nn.LSTMCell
    predict: eqx.nn.Linear
    look: eqx.nn.Linear
    looked: eqx.nn.Linear
    imagine: eqx.nn.Linear
    draw: eqx.nn.Linear
    expect: eqx.nn.Linear
    expected: eqx.nn.Linear

    def __init__(self, key: Any, size: Size) -> None:
        keys = iter(jax.random.split(key, 9))
        pixels, window, hidden = size.canvas**2, size.window**2, size.hidden
        found = 1 + 3 + size.what
        self.size = size
        self.embed = eqx.nn.Linear(pixels, hidden, key=next(keys))
        self.cell = eqx.nn.LSTMCell(hidden + found, hidden, key=next(keys))
        self.predict = eqx.nn.Linear(hidden, 7, key=next(keys))
        self.look = eqx.nn.Linear(window, hidden, key=next(keys))
        self.looked = eqx.nn.Linear(hidden, 2 * size.what, key=next(keys))
        self.imagine = eqx.nn.Linear(size.what, hidden, key=next(keys))
        self.draw = eqx.nn.Linear(hidden, window, key=next(keys))
        self.expect = eqx.nn.Linear(pixels + found, hidden, key=next(keys))
        self.expected = eqx.nn.Linear(hidden, 1, key=next(keys))

    def attend(self, hidden: Any) -> tuple[Any, Any, Any]:
        """Chance of one more object; mean and sd of where it is."""
        logit, shift, spread = jnp.split(self.predict(hidden), (1, 4))
        return jax.nn.sigmoid(logit[0] + EAGER), WHERE_MEAN + shift, WHERE_SD * jax.nn.softplus(spread + 0.5)

    def encode(self, window: Any) -> tuple[Any, Any]:
        """Mean and sd of the look of what a window shows."""
        mean, spread = jnp.split(self.looked(jax.nn.relu(self.look(window.ravel()))), 2)
        return mean, jax.nn.softplus(spread)

    def decode(self, what: Any) -> Any:
        """The window that an object of some look fills; dark at the start."""
        side = self.size.window
        return jax.nn.sigmoid(self.draw(jax.nn.relu(self.imagine(what))) - 2.0).reshape(side, side)

    def baseline(self, image: Any, found: Any) -> Any:
        """What the rest of a scene is expected to cost, from the scene and the last object."""
        seen = jax.lax.stop_gradient(jnp.concatenate([image.ravel(), found]))
        return 100.0 * self.expected(jax.nn.relu(self.expect(seen)))[0]


def centres(side: int) -> Any:
    """Centres of pixels, from -1 to 1."""
    return (2.0 * jnp.arange(side) + 1.0) / side - 1.0


def bilinear(points: Any, side: int) -> Any:
    """Weights of `side` pixels at points of their line; none outside."""
    places = ((points + 1.0) * side - 1.0) / 2.0
    return jnp.maximum(1.0 - jnp.abs(places[:, None] - jnp.arange(side)[None]), 0.0)


def paste(window: Any, where: Any, canvas: int) -> Any:
    """The window on an empty canvas: the point c of the canvas shows the window's point `scale c + shift`."""
    scale, column, row = where
    rows, columns = (bilinear(scale * centres(canvas) + shift, len(window)) for shift in (row, column))
    return rows @ window @ columns.T


def crop(image: Any, where: Any, window: int) -> Any:
    """What the window shows of the image: the inverse map."""
    scale, column, row = where
    rows, columns = (bilinear((centres(window) - shift) / scale, len(image)) for shift in (row, column))
    return rows @ image @ columns.T


# --- the programs ----------------------------------------------------------------------------------------------------


@ppl.model
def model(params: Networks, image: Any) -> None:
    """Objects, one after the other, and the scene that they make."""
    present, canvas = 1.0, jnp.zeros_like(image)
    for t in range(STEPS):
        present = ppl.sample(f"present_{t}", dist.Bernoulli(CHANCE * present)).astype(float)
        where = ppl.sample(f"where_{t}", dist.Normal(WHERE_MEAN, WHERE_SD).to_event(1))
        what = ppl.sample(f"what_{t}", dist.Normal(jnp.zeros(params.size.what), 1.0).to_event(1))
        canvas += present * paste(params.decode(what), where, len(image))
    ppl.sample("image", dist.Normal(canvas, PIXEL_SD).to_event(2), obs=image)


def finding(params: Networks, image: Any, coin: Any) -> None:
    """The guide: attend, infer, repeat. `coin` makes the law of a presence from its chance and what is known."""
    seen = jax.nn.relu(params.embed(image.ravel()))
    state = (jnp.zeros(params.size.hidden), jnp.zeros(params.size.hidden))
    present, found = jnp.ones(()), jnp.zeros(1 + 3 + params.size.what).at[0].set(1.0)
    for t in range(STEPS):
        state = params.cell(jnp.concatenate([seen, found]), state)
        chance, *place = params.attend(state[0])
        present = ppl.sample(f"present_{t}", coin(chance * present, image, found)).astype(float)
        where = ppl.sample(f"where_{t}", if_present(present, place, (WHERE_MEAN, WHERE_SD)))
        look = params.encode(crop(image, where, params.size.window))
        what = ppl.sample(f"what_{t}", if_present(present, look, (0.0, 1.0)))
        found = jnp.concatenate([present[None], where, what])


def if_present(present: Any, law: Any, prior: Any) -> dist.Distribution:
    """A normal law where there is an object, the prior where there is none."""
    mean, sd = (present * a + (1.0 - present) * b for a, b in zip(law, prior, strict=True))
    return dist.Normal(mean, sd).to_event(1)


@ppl.model
def guide(params: Networks, image: Any) -> None:
    """The guide with plain coins."""
    finding(params, image, lambda chance, *_: dist.Bernoulli(chance))


@ppl.model
def baselined(params: Networks, image: Any) -> None:
    """The guide whose coins carry a learned baseline."""

    def coin(chance: Any, image: Any, found: Any) -> dist.Distribution:
        return vi.baseline(dist.Bernoulli(chance), params.baseline(image, found))

    finding(params, image, coin)


# --- the estimators --------------------------------------------------------------------------------------------------


class Estimator(NamedTuple):
    """Objectives of one scene whose losses are added, and what was published: seconds an epoch, accuracy of counts."""

    objectives: tuple[vi.Objective, ...]
    published_seconds: float | None = None
    published_accuracy: float | None = None


def using(*strategies: Any, program: Any = guide) -> Any:
    """The guide with these strategies at its coins."""
    chosen: Mapping[str, Any] = dict(zip(COINS, strategies, strict=True))
    return lambda params, image: vi.with_strategies(program(params, image), chosen)


def estimators(particles: int, wake: int) -> dict[str, Estimator]:
    """All of them; `particles` of the importance-weighted bounds, `wake` of reweighted wake-sleep."""
    score, enum, mvd = vi.score(), vi.enumerate(), vi.measure_valued()
    weighted = {name: vi.iwelbo(model, using(s, s, s), particles) for name, s in (("score", score), ("mvd", mvd))}
    learned = using(score, score, score, program=baselined)
    return {
        "REINFORCE": Estimator((vi.elbo(model, using(score, score, score)),), 1.52, 0.275),
        "REINFORCE, learned baseline": Estimator((vi.elbo(model, learned),)),
        "ENUM": Estimator((vi.elbo(model, using(enum, enum, enum)),), 6.22, 0.984),
        "MVD": Estimator((vi.elbo(model, using(mvd, mvd, mvd)),), 1.74, 0.984),
        "hybrid": Estimator((vi.elbo(model, using(mvd, mvd, enum)),), None, 0.950),
        "IWELBO + REINFORCE": Estimator((weighted["score"],), 2.28, 0.479),
        "IWELBO + MVD": Estimator((weighted["mvd"],), 3.74, 0.984),
        "RWS": Estimator((vi.p_wake(model, guide, wake), vi.q_wake(model, guide, wake)), None, 0.975),
    }


def loss(estimator: Estimator, params: Networks, key: Any, images: Any) -> Any:
    """The mean over a minibatch, each scene with a key of its own; to be made small."""

    def scene(key: Any, image: Any) -> Any:
        keys = jax.random.split(key, len(estimator.objectives))
        parts = zip(estimator.objectives, keys, strict=True)
        return sum(-objective.sign * objective.surrogate(k, params, image) for objective, k in parts)

    return jnp.mean(jax.vmap(scene)(jax.random.split(key, len(images)), images))


def counted(params: Networks, key: Any, images: Any) -> Any:
    """How many objects one draw of the guide finds in each image."""

    def scene(key: Any, image: Any) -> Any:
        choices = guide(params, image).simulate(key).choices
        return sum(choices[name] for name in COINS)

    return jax.vmap(scene)(jax.random.split(key, len(images)), images)
