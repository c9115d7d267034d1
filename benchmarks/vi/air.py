"""Attend-infer-repeat: the time of a step with each estimator, and the accuracy of counts over the time of training.

    python -m benchmarks.vi.air                                     # relative step times, small scenes
    python -m benchmarks.vi.air --train ENUM MVD --seconds 180      # accuracy over time
    python -m benchmarks.vi.air --paper --train ENUM MVD --epochs 41 --rate 1e-4   # the paper's size; wants a GPU

Small: 10,000 scenes of 24 x 24 pixels with digits of 8 x 8, looks of length 10, networks of width 128. The paper's
size: 60,000 scenes of 50 x 50, looks of length 50, width 256. Batches of 64; Adam. Accuracy is that of one draw of the
guide on 1000 scenes made of digits that were not trained on. Published seconds are those of an epoch of 60,000 on an
RTX 4090 (Becker et al., PLDI 2024); the relative times are what can be compared.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.vi import air_model as air

TIMED = 10
"""Steps in a timed call."""


class State(NamedTuple):
    """Weights and the optimiser's state."""

    params: Any
    optimizer: Any


class Budget(NamedTuple):
    """When training ends: seconds of steps (compilation and evaluation apart), or epochs."""

    seconds: float
    epochs: int


def stepper(estimator: air.Estimator, optimizer: Any, size: int) -> Callable[..., Any]:
    """Some minibatches in one compiled loop: `(state, key, images, order) -> (state, losses)`."""

    @jax.jit
    def run(state: State, key: Any, images: Any, order: Any) -> Any:
        def body(state: State, each: Any) -> Any:
            key, batch = each
            objective = partial(air.loss, estimator, key=key, images=images[batch])
            value, grads = jax.value_and_grad(lambda params: objective(params=params))(state.params)
            updates, after = optimizer.update(grads, state.optimizer, state.params)
            return State(optax.apply_updates(state.params, updates), after), value

        batches = order[: len(order) // size * size].reshape(-1, size)
        return jax.lax.scan(body, state, (jax.random.split(key, len(batches)), batches))

    return run


def begun(options: Any, seed: int = 0) -> tuple[Any, State]:
    """The optimiser, and the state at the start."""
    optimizer = optax.chain(optax.clip_by_global_norm(options.clip), optax.adam(options.rate))
    params = air.Networks(jax.random.key(seed), options.size)
    return optimizer, State(params, optimizer.init(params))


def times(names: list[str], options: Any, images: Any) -> dict[str, np.ndarray]:
    """Milliseconds a step of each estimator, one row a round; the order turns from round to round."""
    found = air.estimators(options.particles, options.wake)
    order, calls = jnp.arange(TIMED * options.batch) % len(images), {}
    for name in names:
        optimizer, state = begun(options)
        calls[name] = partial(stepper(found[name], optimizer, options.batch), state, jax.random.key(1), images, order)
        start = time.perf_counter()
        jax.block_until_ready(calls[name]())
        print(f"  {name}: compiled in {time.perf_counter() - start:.1f} s", flush=True)
    rows: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(options.rounds):
        for name in [*names[turn % len(names) :], *names[: turn % len(names)]]:
            start = time.perf_counter()
            jax.block_until_ready(calls[name]())
            rows[name].append(1e3 * (time.perf_counter() - start) / TIMED)
    return {name: np.array(row) for name, row in rows.items()}


def report(names: list[str], options: Any, images: Any) -> None:
    """The table of step times, relative to REINFORCE, next to the published ones."""
    found, measured = air.estimators(options.particles, options.wake), times(names, options, images)
    base, published = measured[names[0]], found[names[0]].published_seconds
    print(f"| estimator | ms a step | relative to {names[0]} | published, relative |\n|---|---|---|---|")
    for name, row in measured.items():
        theirs = found[name].published_seconds
        told = f"{theirs / published:.2f}" if theirs and published else ""
        print(f"| {name} | {np.median(row):.2f} | {np.median(row / base):.2f} | {told} |")


def accuracy(params: Any, key: Any, test: air.Scenes) -> tuple[float, list[float]]:
    """How often the guide counts right, in all and for each true count."""
    right = np.asarray(jax.jit(air.counted)(params, key, test.images) == test.counts)
    counts = np.asarray(test.counts)
    return float(right.mean()), [float(right[counts == n].mean()) for n in range(air.STEPS + 1)]


def train(name: str, options: Any, data: air.Scenes, test: air.Scenes) -> list[tuple[int, float, float, float]]:
    """Train with one estimator; rows of epoch, seconds of steps, loss, accuracy."""
    optimizer, state = begun(options, options.seed)
    run = stepper(air.estimators(options.particles, options.wake)[name], optimizer, options.batch)
    budget, spent, rows = Budget(options.seconds, options.epochs), 0.0, []
    run = run.lower(state, jax.random.key(0), data.images, jnp.arange(len(data.images))).compile()
    for epoch in range(1, budget.epochs + 1):
        to_run, to_order, to_test = jax.random.split(jax.random.fold_in(jax.random.key(options.seed), epoch), 3)
        order, start = jax.random.permutation(to_order, len(data.images)), time.perf_counter()
        state, losses = jax.block_until_ready(run(state, to_run, data.images, order))
        spent += time.perf_counter() - start
        done = spent > budget.seconds or epoch == budget.epochs
        if done or epoch % options.every == 0:
            right, by_count = accuracy(state.params, to_test, test)
            rows.append((epoch, spent, float(losses.mean()), right))
            told = " ".join(f"{part:.3f}" for part in by_count)
            print(f"{name}: epoch {epoch} {spent:.0f} s loss {rows[-1][2]:.2f} right {right:.3f} ({told})", flush=True)
        if done:
            break
    return rows


def parsed() -> Any:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--paper", action="store_true", help="the paper's size")
    parser.add_argument("--train", nargs="*", default=None, metavar="ESTIMATOR", help="train with these (default all)")
    parser.add_argument("--scenes", type=int, default=None)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--clip", type=float, default=100.0, help="largest norm of a gradient")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="of steps, for each estimator")
    parser.add_argument("--epochs", type=int, default=41)
    parser.add_argument("--every", type=int, default=5, help="epochs between tests")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--particles", type=int, default=2, help="of IWELBO")
    parser.add_argument("--wake", type=int, default=10, help="particles of RWS")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.size = air.PAPER if options.paper else air.SMALL
    options.scenes = options.scenes or (60_000 if options.paper else 10_000)
    return options


def main() -> None:
    """Step times, or training."""
    options, names = parsed(), list(air.estimators(2, 2))
    print(f"{jax.devices()[0].device_kind}; {options.size}, {options.scenes} scenes, batches of {options.batch}")
    data = air.scenes(1, options.scenes, options.size.canvas)
    if options.train is None:
        report(names, options, data.images)
        return
    test = air.scenes(2, 1000, options.size.canvas, held_out=True)
    for name in options.train or names:
        train(name, options, data, test)


if __name__ == "__main__":
    main()
