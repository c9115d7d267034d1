"""What the exact laws share: double precision, equality at m, the law of a particle set, and small programs.

A law is a function of what it is about that returns a *gap*: the largest difference of mass. Ours must stay below
`ATOL`, a mutant must exceed `DEAD` on some program.
"""

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ppl
from tests.oracle.fractions_enumerator import value_measure
from tests.oracle.generate import SKELETONS, generic
from tests.oracle.render import to_program

ATOL = 1e-10
DEAD = 1e-3


@pytest.fixture(autouse=True, scope="module")
def double():
    """Import it into a module: all its tests run in double precision."""
    with jax.enable_x64(True):
        yield


@lru_cache
def example(name):
    """The fixed program of a structure of the oracle, as data."""
    return generic(SKELETONS[name])


def ours(name):
    """The fixed program of a structure, as a `ppl.Program`."""
    return to_program(example(name))


def gap(left, right):
    """The largest difference of mass between two representations, at m; nothing may be single or NaN."""
    left, right = ppl.meaning(left), ppl.meaning(right)
    for measure in (left, right):
        assert measure.log_weights.dtype == jnp.float64
    return left.distance(right)


def same(left, right):
    """Assert that two representations mean the same."""
    difference = gap(left, right)
    assert difference <= ATOL, difference


def scaled(representation, factor):
    """The meaning times a number."""
    measure = ppl.meaning(representation)
    return ppl.FiniteMeasure(measure.log_weights + jnp.log(factor), measure.values)


def added(left, right):
    """The sum of two meanings."""
    left, right = ppl.meaning(left), ppl.meaning(right)
    values = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), left.values, right.values)
    return ppl.FiniteMeasure(jnp.concatenate([left.log_weights, right.log_weights]), values)


def oracle(program):
    """The Fraction enumerator's measure on the return values, for comparison."""
    exact = value_measure(program)
    values = jnp.array(list(exact) or [0], jnp.int32)
    weights = jnp.array([float(mass) for mass in exact.values()] or [0.0])
    return ppl.FiniteMeasure(jnp.log(weights), values)


# --- laws of particle sets --------------------------------------------------------------------------------------------


def set_law(population):
    """The law of the random particle set itself: {sorted (value, weight) pairs: probability}."""
    found = population.program.enumerate()
    masses = np.exp(np.asarray(found.log_weights))
    weights = np.exp(np.asarray(found.values.log_weight))
    values = np.asarray(found.values.value)
    if weights.ndim == 1:
        weights, values = weights[:, None], values[:, None]
    law = {}
    for mass, row, row_weights in zip(masses, values, weights, strict=True):
        if mass:
            key = tuple(sorted((int(v), round(float(w), 9)) for v, w in zip(row, row_weights, strict=True)))
            law[key] = law.get(key, 0.0) + float(mass)
    return law


def oracle_law(outcomes):
    """The oracle's law of a population in the form of `set_law`."""
    law = {}
    for population, probability in outcomes.items():
        key = tuple(sorted((value, round(float(weight), 9)) for value, weight in population))
        law[key] = law.get(key, 0.0) + float(probability)
    return law


def law_gap(left, right):
    """The largest difference of probability over single particle sets."""
    return max((abs(left.get(k, 0.0) - right.get(k, 0.0)) for k in left.keys() | right.keys()), default=0.0)


def given_population(values, log_weights):
    """The population that is certain: what a block is conditioned on."""
    particles = ppl.Particle(jnp.asarray(values), jnp.asarray(log_weights))
    return ppl.Population(ppl.Program.of(_particles, (particles,)), len(values))


def _particles(particles):
    return jax.tree.map(jnp.asarray, particles)
