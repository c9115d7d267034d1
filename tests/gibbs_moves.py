"""Gibbs kernels of the catalogue: targets, and wrong kernels that the laws must kill."""

from functools import partial

import jax.numpy as jnp

import ppl
import ppl.distributions as dist
from ppl.inference import gibbs
from ppl.inference.conjugate import conditional
from ppl.inference.conjugate import step as conjugate_step


@ppl.model
def labels(y):
    """A plate of labels that are independent given the first choice."""
    k = ppl.sample("k", dist.Bernoulli(0.375))
    with ppl.plate("n", 2):
        z = ppl.sample("z", dist.Bernoulli(jnp.array([0.25, 0.625])[k]))
        ppl.sample("y", dist.Normal(jnp.array([-1.0, 0.5])[z] + k, 1.0), obs=y)


def labels_target():
    """Eight states; the elements of `z` are drawn at once."""
    return labels(jnp.array([0.25, 1.5]))


@ppl.model
def pairs():
    """A Normal mean, a Poisson rate and a coin's bias, with the data of each."""
    mean = ppl.sample("mean", dist.Normal(0.5, 1.5))
    rate = ppl.sample("rate", dist.Gamma(2.0, 0.75))
    bias = ppl.sample("bias", dist.Beta(1.5, 3.0))
    with ppl.plate("n", 2):
        a = ppl.sample("a", dist.Normal(2.0 * mean - 1.0, 0.75))
        b = ppl.sample("b", dist.Poisson(3.0 * rate))
    c = ppl.sample("c", dist.Binomial(5, bias))
    return a, b, c


def pairs_target():
    """The joint program of parameters and data."""
    return pairs()


def forgetful(program):
    """Gibbs by enumeration from slices that forget the observations."""
    return partial(_forgetful, program)


def forgetful_of_seen(program):
    """The default Gibbs kernel of the program without its observation `seen`."""
    return partial(_forgetful_of_seen, program)


def _forgetful_of_seen(program, state):
    return ppl.Program.of(_forgetful_of_seen_step, (program, state))


def _forgetful_of_seen_step(program, state):
    return ppl.sample("move", gibbs()(program.intervene({"seen": jnp.array(1)}))(state))


def _forgetful(program, state):
    return ppl.Program.of(_forgetful_step, (program, state))


def _forgetful_step(program, state):
    return ppl.sample("move", gibbs("z")(program.intervene({"y": jnp.zeros(2)}))(state))


class Narrow:
    """Conjugate draws that take a Normal conditional at half its spread."""

    def __call__(self, program):
        return partial(_narrow_kernel, program)

    def __eq__(self, other):
        return isinstance(other, Narrow)

    def __hash__(self):
        return hash(Narrow)


def _narrow_kernel(program, state):
    return ppl.Program.of(conjugate_step, (program, state, ("mean", "rate", "bias"), _narrow))


def _narrow(program, address, choices):
    law = conditional(program, address, choices)
    return dist.Normal(law.loc, 0.5 * jnp.asarray(law.scale)) if isinstance(law, dist.Normal) else law
