"""The cost of drawing one choice of a model with 10, 100 and 1,000: a block evaluates what its choice reaches.

Many updates of one choice run inside one compiled loop; the states pass through. A call costs microseconds an array
whatever it does (2,000 arrays go in and out), so that the time of one update is the difference between calls with many
and with few updates, over the difference of their numbers.
"""

import statistics
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import ppl
import ppl.distributions as dist
from benchmarks.harness import alternate
from ppl.inference.conjugate import conjugate
from ppl.inference.gibbs import drawn_element, gibbs
from ppl.inference.kernels import State
from ppl.semantics.handlers import Simulate
from ppl.semantics.language import deterministic

SIZES = (10, 100, 1000)
FEW, MANY = 2_000, 42_000


@ppl.model
def separate(data):
    """Every choice and its observation at addresses of their own, from a Python loop."""
    for i in range(len(data)):
        z = ppl.sample(f"z{i}", dist.Bernoulli(0.25))
        x = ppl.sample(f"x{i}", dist.Normal(0.0, 1.0))
        ppl.sample(f"y{i}", dist.Normal(jnp.where(z == 1, 2.0, x), 1.0), obs=data[i])


@ppl.model
def lanes(data):
    """The same choices as lanes."""

    def lane(y):
        z = ppl.sample("z", dist.Bernoulli(0.25))
        x = ppl.sample("x", dist.Normal(0.0, 1.0))
        ppl.sample("y", dist.Normal(jnp.where(z == 1, 2.0, x), 1.0), obs=y)

    ppl.vmap(lane)(data)


def in_a_lane(program):
    """A kernel on the middle lane alone."""
    return partial(_lane_kernel, program)


def _lane_kernel(program, state):
    return ppl.Program.of(_lane_step, (program, state, jnp.array(state.choices["z"].shape[0] // 2)))


def _lane_step(program, state, index):
    deterministic("accepted", jnp.ones((), bool))
    return State({**state.choices, "z": drawn_element(program, "z", state.choices, index)}, state.masks)


@partial(jax.jit, static_argnums=(0, 1))
def updates(maker, count, program, start):
    """Updates in one loop."""
    state, key = start

    def one(index, state):
        return maker(program)(state).run(Simulate(jax.random.fold_in(key, index)))[0]

    return lax.fori_loop(0, count, one, state)


def measure(title, model, maker_of):
    """Time a kernel on models of all sizes."""
    print(f"\n{title}")
    base = None
    for size in SIZES:
        program = model(jnp.asarray(np.random.default_rng(0).normal(size=size), jnp.float32))
        infos = {a: info for a, info in program.sites.items() if info.kind == "latent"}
        state = State({a: jnp.zeros(info.shape, info.dtype) for a, info in infos.items()}, {})
        start = state, jax.random.key(1)
        runs = {str(n): partial(updates, maker_of(size), n, program, start) for n in (FEW, MANY)}
        timings = alternate(runs, rounds=9)
        rounds = zip(timings[str(FEW)].rounds, timings[str(MANY)].rounds, strict=True)
        cost = statistics.median((many - few) / (MANY - FEW) for few, many in rounds)
        base = cost if base is None else base
        print(f"  {size:>5} latents {cost * 1e6:10.3f} us an update   ratio {cost / base:7.3f}")


def main():
    """All of them."""
    measure("Gibbs, one of n separate finite choices", separate, lambda n: gibbs(f"z{n // 2}"))
    measure("conjugate, one of n separate choices", separate, lambda n: conjugate(f"x{n // 2}"))
    measure("Gibbs, one of n lanes", lanes, lambda n: in_a_lane)


if __name__ == "__main__":
    main()
