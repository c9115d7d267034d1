"""A minibatch gradient of a variational autoencoder (784-200-10): ours, hand-written JAX, NumPyro's SVI.

Run: `python -m benchmarks.vi.vae [--batches 64 128 ...] [--rounds 15]`. The images are scikit-learn's digits, scaled to
28 x 28 and binarised. Every arm takes `STEPS` steps in one compiled `lax.scan`, with one draw of the latents per image,
and Adam. The arms take turns in one process; what counts is the median of the rounds' ratios.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as npd
import optax
from numpyro.infer import SVI, Trace_ELBO
from sklearn.datasets import load_digits

import ppl
import ppl.distributions as dist
from ppl import vi

PIXELS, HIDDEN, LATENT = 784, 200, 10
STEPS = 20
OPTIMIZER = optax.adam(1e-3)
Step = Callable[[Any, Any, Any], tuple[Any, Any]]


def images() -> Any:
    """Binary images, shape (1797, 784)."""
    small = jnp.asarray(load_digits(return_X_y=True)[0], float).reshape(-1, 8, 8) / 16.0
    return (jax.image.resize(small, (len(small), 28, 28), "linear") > 0.5).reshape(-1, PIXELS).astype(int)


def weights(key: Any) -> dict[str, Any]:
    """Parameters of both networks."""
    shapes = {"in": (PIXELS, HIDDEN), "mean": (HIDDEN, LATENT), "scale": (HIDDEN, LATENT)}
    shapes |= {"up": (LATENT, HIDDEN), "out": (HIDDEN, PIXELS)}
    keys = jax.random.split(key, len(shapes))
    drawn = {name: 0.05 * jax.random.normal(k, shape) for k, (name, shape) in zip(keys, shapes.items(), strict=True)}
    return drawn | {f"{name}_bias": jnp.zeros(shape[1]) for name, shape in shapes.items()}


def layer(params: Any, name: str, x: Any) -> Any:
    """An affine map."""
    return x @ params[name] + params[f"{name}_bias"]


def encoded(params: Any, x: Any) -> tuple[Any, Any]:
    """Mean and standard deviation of the latents of each image."""
    h = jnp.tanh(layer(params, "in", x))
    return layer(params, "mean", h), jnp.exp(layer(params, "scale", h))


def decoded(params: Any, z: Any) -> Any:
    """Logits of the pixels."""
    return layer(params, "out", jnp.tanh(layer(params, "up", z)))


@ppl.model
def model(params: Any, x: Any) -> None:
    """Latents of each image, and its pixels."""

    def image(x: Any) -> None:
        z = ppl.sample("z", dist.Normal(jnp.zeros(LATENT), 1.0).to_event(1))
        ppl.sample("x", dist.Bernoulli(logits=decoded(params, z)).to_event(1), obs=x)

    ppl.vmap(image)(x)


@ppl.model
def guide(params: Any, x: Any) -> None:
    """What the encoder believes of the latents."""

    def image(x: Any) -> None:
        mean, scale = encoded(params, x)
        ppl.sample("z", dist.Normal(mean, scale).to_event(1))

    ppl.vmap(image)(x)


def ours() -> Step:
    """`vi.elbo` of two programs."""
    objective = vi.elbo(model, guide)

    def step(key: Any, params: Any, x: Any) -> tuple[Any, Any]:
        return jax.value_and_grad(lambda p: -objective.surrogate(key, p, x))(params)

    return step


def by_hand() -> Step:
    """The same Monte Carlo ELBO, written out."""

    def normal(z: Any, mean: Any, scale: Any) -> Any:
        return jnp.sum(-0.5 * ((z - mean) / scale) ** 2 - jnp.log(scale) - 0.5 * jnp.log(2 * jnp.pi))

    def loss(params: Any, key: Any, x: Any) -> Any:
        mean, scale = encoded(params, x)
        z = mean + scale * jax.random.normal(key, mean.shape)
        logits = decoded(params, z)
        pixels = jnp.sum(x * logits - jax.nn.softplus(logits))
        return normal(z, mean, scale) - normal(z, jnp.zeros(()), jnp.ones(())) - pixels

    return lambda key, params, x: jax.value_and_grad(loss)(params, key, x)


def scanned(step: Step) -> Callable[..., Any]:
    """`STEPS` steps of Adam in one compiled call."""

    @jax.jit
    def run(params: Any, state: Any, key: Any, x: Any) -> Any:
        def body(carry: Any, key: Any) -> tuple[Any, Any]:
            params, state = carry
            value, grads = step(key, params, x)
            updates, state = OPTIMIZER.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), value

        return jax.lax.scan(body, (params, state), jax.random.split(key, STEPS))[1]

    return run


def bound(step: Step, x: Any) -> Callable[[], Any]:
    """A call of fixed work."""
    params = weights(jax.random.key(0))
    return partial(scanned(step), params, OPTIMIZER.init(params), jax.random.key(1), x)


def peer(x: Any) -> Callable[[], Any]:
    """NumPyro: `SVI.update` of the same model and guide, in the same scan."""
    start = weights(jax.random.key(0))

    def params() -> Any:
        return {name: numpyro.param(name, value) for name, value in start.items()}

    def target(x: Any) -> None:
        p = params()
        with numpyro.plate("images", len(x)):
            z = numpyro.sample("z", npd.Normal(jnp.zeros(LATENT), 1.0).to_event(1))
            numpyro.sample("x", npd.Bernoulli(logits=decoded(p, z)).to_event(1), obs=x)

    def proposal(x: Any) -> None:
        mean, scale = encoded(params(), x)
        with numpyro.plate("images", len(x)):
            numpyro.sample("z", npd.Normal(mean, scale).to_event(1))

    svi = SVI(target, proposal, OPTIMIZER, Trace_ELBO())
    state = svi.init(jax.random.key(1), x)

    @jax.jit
    def run(state: Any, x: Any) -> Any:
        return jax.lax.scan(lambda state, _: svi.update(state, x), state, None, length=STEPS)[1]

    return partial(run, state, x)


def seconds(call: Callable[[], Any]) -> float:
    """One call, to the end."""
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def compare(x: Any, rounds: int) -> dict[str, np.ndarray]:
    """Seconds of each arm in each round; the order is turned from round to round."""
    arms = {"ours": bound(ours(), x), "hand": bound(by_hand(), x), "numpyro": peer(x)}
    first = {name: np.asarray(jax.block_until_ready(call()))[0] / len(x) for name, call in arms.items()}
    print("  loss per image at the start:", {name: round(float(value), 2) for name, value in first.items()})
    times: dict[str, list[float]] = {name: [] for name in arms}
    names = list(arms)
    for turn in range(rounds):
        for name in names[turn % 3 :] + names[: turn % 3]:
            times[name].append(seconds(arms[name]))
    return {name: np.array(values) for name, values in times.items()}


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 128, 256, 512, 1024])
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    data = images()
    for batch in options.batches:
        times = compare(data[:batch], options.rounds)
        ms = {name: round(1e3 * float(np.median(values)) / STEPS, 3) for name, values in times.items()}
        hand, numpyro_ratio = (float(np.median(times["ours"] / times[name])) for name in ("hand", "numpyro"))
        print(f"batch {batch}: ms a step {ms}; ours/hand {hand:.3f}, ours/numpyro {numpyro_ratio:.3f}", flush=True)


if __name__ == "__main__":
    main()
