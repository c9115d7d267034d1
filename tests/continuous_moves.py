"""Targets of the continuous kernels, joint programs of parameters and data `y`, and wrong kernels of them."""

from functools import partial

import jax.numpy as jnp

import ppl
import ppl.distributions as dist
from ppl.inference import elliptical, hamiltonian, langevin, tempering
from ppl.inference.slice_sampling import slice_sampling
from ppl.inference.slice_sampling import step as slice_step
from ppl.inference.trace_mh import trace_mh_kernel


@ppl.model
def spread(x):
    """A Gamma choice is the scale of a Normal one: correlated, skewed, one support is the half-line."""
    scale = ppl.sample("scale", dist.Gamma(3.0, 2.0))
    shift = ppl.sample("shift", dist.Normal(0.5, scale))
    return ppl.sample("y", dist.Normal(shift * x, 0.5 + 0.5 * scale))


def spread_target():
    return spread(jnp.array([1.0, -0.5, 2.0]))


@ppl.model
def gaussians():
    """Means that are not zero, a covariance, a plate, and a prior that depends on another choice; counts as data."""
    cov = jnp.array([[1.0, 0.6], [0.6, 0.8]])
    pair = ppl.sample("pair", dist.MultivariateNormal(jnp.array([1.0, -0.5]), cov))
    with ppl.plate("n", 2):
        x = ppl.sample("x", dist.Normal(pair[1] + 1.0, jnp.exp(0.3 * pair[0])))
        ppl.sample("y", dist.Poisson(jnp.exp(0.3 * x + 0.5 * pair[0])))


def gaussian_target():
    return gaussians()


@ppl.model
def leaning(weight):
    """One coin, leaning."""
    x = ppl.sample("x", dist.Bernoulli(0.25))
    ppl.factor("f", weight * x)
    ppl.sample("seen", dist.Bernoulli(jnp.where(x == 1, 0.875, 0.5)), obs=jnp.array(1))


def replicas_target():
    return tempering.replicated(leaning(jnp.array(1.5)), (1.0, 0.4, 0.1))


# --- kernels ---------------------------------------------------------------------------------------------------------

COVARIANCE = ((0.3, 0.05), (0.05, 0.4))
MAKERS = {
    "hmc": hamiltonian.hmc(0.4, 4, inverse_mass=COVARIANCE),
    "mala": langevin.mala(0.8, inverse_mass=(0.5, 0.7)),
    "slice": slice_sampling(1.5, max_steps_out=3),
    "elliptical": elliptical.elliptical_slice(),
    "tempered": tempering.tempered(trace_mh_kernel),
}


def _zero(terms):
    return 0.0 * terms[0]


def _no_backward(ratio):
    return ratio.target + ratio.forward


def _always(log_density, level):
    return log_density == log_density


def _forget_mean(program, choices):
    zeros = {a: 0.0 * x for a, x in choices.items()}
    noise, of_zero = elliptical.whitened(program, choices), elliptical.whitened(program, zeros)
    return {a: noise[a] - of_zero[a] for a in noise}


def _swapped_sign(swap):
    return -tempering.metropolis(swap)


def _program(step, args, mutant, program, state):
    return ppl.Program.of(step, (program, state, *args), mutant)


def _mutant(step, args, mutant, program):
    return partial(_program, step, args, mutant, program)


WRONG_HMC = hamiltonian.hmc(1.0, 2)
MUTANTS = {
    "hmc": partial(_mutant, hamiltonian.step, (WRONG_HMC,), {"log_ratio": _zero}),
    "mala": partial(_mutant, langevin.step, (MAKERS["mala"],), {"log_ratio": _no_backward}),
    "slice": partial(_mutant, slice_step, (MAKERS["slice"],), {"inside": _always}),
    "elliptical": partial(_mutant, elliptical.step, (), {"whiten": _forget_mean}),
}


class WrongSwap:
    """Tempering that swaps the wrong way round."""

    def __call__(self, program):
        return partial(_program, tempering.step, (trace_mh_kernel,), {"log_ratio": _swapped_sign}, program)


TARGETS = {"hmc": spread_target, "mala": spread_target, "slice": spread_target, "elliptical": gaussian_target}
