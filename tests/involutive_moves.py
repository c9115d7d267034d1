"""Involutive moves, the targets that they leave invariant, and their mutants: for the catalogue and the laws."""

from functools import partial

import jax.numpy as jnp
from jax import lax

import ppl
import ppl.distributions as dist
from ppl.inference.involutive import involutive, step
from ppl.semantics.program import Program

MUTANTS = {
    "without the Jacobian": lambda r: r.target + r.auxiliary,
    "without the auxiliary density": lambda r: r.target + r.jacobian,
    "with the Jacobian inverted": lambda r: r.target + r.auxiliary - r.jacobian,
    "inverted": lambda r: -sum(r),
}


def wrong_kernel(mutant, move, program):
    return partial(wrong_step, mutant, move, program)


def wrong_step(mutant, move, program, state):
    return Program.of(step, (program, state, move), {"log_ratio": MUTANTS[mutant]})


# --- finite, the number of choices varies ---


GENERIC = (1.0, 0.25, 2.0, 0.5, 3.0, 0.125, 1.5, 0.75, 0.3)


@ppl.model
def one_or_two(weights):
    """One choice of three values, or two of two and three; `weights` scores all nine."""
    two = ppl.sample("two", dist.Bernoulli(0.3))

    def yes():
        b = ppl.sample("b", dist.Bernoulli(0.4))
        return 3 + 3 * b + ppl.sample("c", dist.Categorical(jnp.array([0.2, 0.3, 0.5])))

    def no():
        return ppl.sample("a", dist.Categorical(jnp.array([0.5, 0.3, 0.2])))

    ppl.factor("f", jnp.log(weights)[lax.cond(two == 1, yes, no)])


@ppl.model
def to_two(choices):
    """A coin only on the way up, biased by `a`, and a shift always."""

    def up():
        ppl.sample("u", dist.Bernoulli(jnp.array([0.1, 0.6, 0.7])[choices["a"]]))

    lax.cond(choices["two"] == 0, up, lambda: None)
    ppl.sample("shift", dist.Categorical(jnp.array([0.2, 0.3, 0.5])))


def split_or_merge(choices, aux):
    """(a, u) to (b, c) = (u, a + shift) and back."""
    up, shift = choices["two"] == 0, aux["shift"]
    new = {"two": 1 - choices["two"], "a": (choices["c"] - shift) % 3, "b": aux["u"], "c": (choices["a"] + shift) % 3}
    return new, {"u": jnp.where(up, 0, choices["b"]), "shift": shift}


FINITE = involutive(to_two, split_or_merge)


# --- continuous, the number of choices varies ---


@ppl.model
def pair_or_single(y=None):
    """One mean for both data, or one each; the second above the first with chance other than a half."""
    two = ppl.sample("two", dist.Bernoulli(0.4))

    def yes():
        return jnp.stack([ppl.sample("low", dist.Normal(-4.0, 4.0)), ppl.sample("high", dist.Normal(4.0, 6.0))])

    def no():
        return ppl.sample("mean", dist.Normal(2.0, 5.0)) * jnp.ones(2)

    means = lax.cond(two == 1, yes, no)
    ppl.sample("y", dist.Normal(means, 3.0).to_event(1), obs=y)


@ppl.model
def half_width(choices):
    """The log of half the distance between the two means, made only on the way up."""
    lax.cond(choices["two"] == 0, lambda: ppl.sample("log", dist.Normal(1.2, 0.6)), lambda: jnp.zeros(()))


def widen(choices, aux):
    """(mean, log) to (mean - 1.5 e^log, mean + e^log): the log determinant is log 2.5 + log."""
    width = jnp.exp(aux["log"])
    low, high = choices["low"], choices["high"]
    new = {
        "two": 1 - choices["two"],
        "mean": (low + 1.5 * high) / 2.5,
        "low": choices["mean"] - 1.5 * width,
        "high": choices["mean"] + width,
    }
    return new, {"log": jnp.log((high - low) / 2.5)}


SPLIT = involutive(half_width, widen)


# --- a scale move ---


@ppl.model
def durations(y=None):
    rate = ppl.sample("rate", dist.Gamma(jnp.array([2.0, 3.0]), 1.5).to_event(1))
    ppl.sample("y", dist.Exponential(rate).to_event(1), obs=y)


@ppl.model
def log_factor(choices):
    del choices
    ppl.sample("log", dist.Normal(0.2, 0.5))


def scale(choices, aux):
    return {"rate": choices["rate"] * jnp.exp(aux["log"])}, {"log": -aux["log"]}


SCALE = involutive(log_factor, scale)
