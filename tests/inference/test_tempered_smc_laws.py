"""Laws 24 and 33 for tempered SMC with a given schedule, exactly: the whole algorithm is enumerated on tiny programs.

E[sum w f] is the integral of f against the program: from the prior, from another program, by chains that keep all their
states, for every number of moves. Mutants: resampling that keeps the old weights, a step with the wrong difference of
inverse temperatures, a move for the wrong one.
"""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import pytest

import ppl
import ppl.distributions as dist
from ppl.distributions.ancestors import Ancestors
from ppl.inference import gibbs, tempered_population, trace_mh_kernel
from ppl.inference.kernel_moves import KernelMoves
from ppl.inference.tempered_stage import Fixed, fixed_run, renewed, reweighed
from ppl.inference.tempering_path import TemperingPath
from tests.laws.exact import ATOL, DEAD, double, gap  # noqa: F401

BETAS = (0.3, 1.0)


@ppl.model
def leaning(weights):
    """A coin and one that depends on it; asymmetric scores."""
    a = ppl.sample("a", dist.Bernoulli(0.25))
    ppl.factor("f", weights[a])
    return {"a": a}


@ppl.model
def branching():
    """Two dependent choices, one pair of which is impossible."""
    a = ppl.sample("a", dist.Bernoulli(0.25))
    b = ppl.sample("b", dist.Bernoulli(jnp.array([0.5, 0.125])[a]))
    ppl.factor("f", jnp.array([[0.5, -jnp.inf], [-1.0, 1.5]])[a, b])
    return {"a": a, "b": b}


@ppl.model
def elsewhere():
    ppl.sample("a", dist.Bernoulli(0.625))
    ppl.factor("mass", 0.5)


def coin():
    return leaning(jnp.array([0.5, -1.25]))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"resampling": "multinomial"},
        {"waste_free": 2},
        {"initial": elsewhere},
    ],
)
def test_24_33_tempering_stands_for_the_program(settings):
    given = {**settings, "initial": settings["initial"]()} if "initial" in settings else settings
    population = tempered_population(coin(), BETAS, trace_mh_kernel, 2, **given)
    assert gap(population, coin()) < ATOL


def test_24_two_moves_a_stage():
    assert gap(tempered_population(coin(), BETAS, gibbs(), 2, moves=2), coin()) < ATOL


def test_24_dead_particles_and_two_choices():
    population = tempered_population(branching(), BETAS, gibbs(), 2)
    assert gap(population, branching()) < ATOL


def test_24_three_particles_kept_of_one_chain():
    population = tempered_population(coin(), BETAS, gibbs(), 3, waste_free=3)
    assert gap(population, coin()) < ATOL


# --- mutants ----------------------------------------------------------------------------------------------------------


def keeping_weights(particles, count, scheme):
    """Resamples, and forgets to reset the weights."""
    ancestors = ppl.sample("ancestors", Ancestors(particles.log_weight, count, scheme))
    return ppl.Particle(jax.tree.map(lambda x: x[ancestors], particles.value), particles.log_weight)


def whole_powers(particles, log_ratios, before, after):
    """Weighs by (p / q)^after instead of (p / q)^(after - before)."""
    del before
    return reweighed(particles, log_ratios, 0.0, after)


@dataclass(frozen=True)
class MovesForTheProgram(KernelMoves):
    """Moves for beta = 1 at every stage."""

    def move(self, path, places, beta, tuning):
        return super().move(path, places, jnp.ones_like(jnp.asarray(beta, float)), tuning)


RIGHT = Fixed(2, KernelMoves(trace_mh_kernel))
MUTANTS = {
    "weights kept at resampling": replace(RIGHT, renew=keeping_weights),
    "wrong difference of beta": replace(RIGHT, reweigh=whole_powers),
    "moves for another beta": replace(RIGHT, moves=MovesForTheProgram(trace_mh_kernel)),
}


def law(how):
    return gap(ppl.Population(fixed_run(TemperingPath(coin()), jnp.array(BETAS), how), how.particles), coin())


def test_24_the_fixed_run_of_the_mutants_is_right_without_a_mistake():
    assert law(replace(RIGHT, renew=renewed)) < ATOL


@pytest.mark.parametrize("name", MUTANTS)
def test_24_mutants_die(name):
    assert law(MUTANTS[name]) > DEAD
