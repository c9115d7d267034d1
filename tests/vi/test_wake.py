"""Reweighted wake-sleep on a finite program: the sum over all particles, with the weights held fixed."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ppl
import ppl.distributions as dist
from ppl import vi
from ppl.errors import StrategyError

VALUES = {"a": np.arange(3, dtype=np.int32)}
AT = 0.4
PARTICLES = 2


pytestmark = pytest.mark.usefixtures("float64")


@ppl.model
def model(t):
    a = ppl.sample("a", dist.Categorical(jnp.array([0.2, 0.3, 0.5])))
    ppl.sample("y", dist.Normal(0.7 * a + t, 1.0), obs=1.3)


@ppl.model
def guide(t):
    ppl.sample("a", dist.Categorical(logits=jnp.array([0.0, 1.0, 0.5]) * t), grad=vi.score())


def log_p(t):
    return jax.vmap(model(t).log_density)(VALUES)


def log_q(t):
    return jax.vmap(guide(t).log_density)(VALUES)


def brute(log_density, at):
    """-E over all tuples of particles, drawn and weighed at `at`, of the weighted mean of a log density."""
    tuples = np.array(list(itertools.product(range(3), repeat=PARTICLES)))
    q = log_q(at)
    weights = jax.nn.softmax((log_p(at) - q)[tuples], axis=1)
    return lambda t: -jnp.exp(q[tuples].sum(1)) @ jnp.sum(weights * log_density(t)[tuples], axis=1)


@pytest.mark.parametrize(("make", "log_density"), [(vi.q_wake, log_q), (vi.p_wake, log_p)])
def test_a_phase_moves_one_program_under_the_sir_of_the_present_parameters(make, log_density):
    objective = make(model, guide, PARTICLES)
    value, slope = jax.jit(jax.value_and_grad(objective.expect))(AT)
    wanted = brute(log_density, AT)
    assert np.isclose(value, wanted(AT), atol=1e-12)
    difference = (wanted(AT + 1e-5) - wanted(AT - 1e-5)) / 2e-5
    assert np.isclose(slope, difference, atol=1e-8)
    whole = (brute(log_density, AT + 1e-5)(AT + 1e-5) - brute(log_density, AT - 1e-5)(AT - 1e-5)) / 2e-5
    assert abs(slope - whole) > 1e-3  # mutant: the SIR is differentiated too


def test_wake_needs_a_guide_that_covers_the_model():
    @ppl.model
    def line():
        ppl.sample("a", dist.Normal(0.0, 1.0))

    @ppl.model
    def half(t):
        ppl.sample("a", dist.HalfNormal(t))

    with pytest.raises(StrategyError, match="do not nest"):
        vi.q_wake(line(), half, 2).value(0, AT)
