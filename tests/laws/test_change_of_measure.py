"""Laws 7 to 9: densities change measures, conditioning is one thing, and all representations mean the same."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import ppl
import ppl.distributions as dist
from tests.laws import mutants
from tests.laws.exact import ATOL, DEAD, double, gap, oracle, ours, same, scaled  # noqa: F401
from tests.oracle.generate import SKELETONS, fillings, rows
from tests.oracle.render import to_program

few = settings(max_examples=8)
Z_MILLION = 4.89
"""A standard normal exceeds it in absolute value with probability 1e-6."""

# --- 7: change of measure ---------------------------------------------------------------------------------------------


@ppl.model
def reweighted(nu, log_ratio):
    """x ~ nu, scored."""
    x = ppl.sample("x", dist.Categorical(probs=nu))
    ppl.factor("ratio", log_ratio[x])
    return x


def change_gap(mu, nu, sign=1):
    """x ~ nu; score dmu/dnu(x) against mu."""
    ratio = jnp.where(nu > 0, jnp.log(mu) - jnp.log(jnp.where(nu > 0, nu, 1.0)), 0.0)
    return gap(reweighted(nu, sign * ratio), ppl.FiniteMeasure(jnp.log(mu), jnp.arange(mu.shape[0])))


@given(rows(4), rows(4))
def test_7_change_of_measure(mu, nu):
    assume(all(q > 0 or p == 0 for p, q in zip(mu, nu, strict=True)))
    assert change_gap(jnp.array(mu, float), jnp.array(nu, float)) < ATOL


def test_7_mutants_die():
    mu, nu = jnp.array([0.125, 0.125, 0.5, 0.25]), jnp.array([0.5, 0.125, 0.25, 0.125])
    assert change_gap(mu, nu, sign=-1) > DEAD
    assert change_gap(mu, nu, sign=0) > DEAD


@ppl.model
def tilted(mean, inverted):
    """x ~ Normal(0, 2); score the density of Normal(mean, 1) relative to it: a bounded weight."""
    wide, narrow = dist.Normal(0.0, 2.0), dist.Normal(mean, 1.0)
    x = ppl.sample("x", wide)
    ratio = narrow.log_prob(x) - wide.log_prob(x)
    ppl.factor("ratio", jnp.minimum(-ratio, 2.0) if inverted else ratio)
    return x


def z_score(key, inverted):
    """Distance of the estimate of P(x < 1.5) under Normal(1, 1) from the truth, in standard errors."""
    program = tilted(jnp.array(1.0), inverted)
    traces = jax.vmap(program.simulate)(jax.random.split(key, 20_000))
    terms = np.exp(np.asarray(traces.log_weight)) * (np.asarray(traces.value) < 1.5)
    truth = float(dist.Normal(1.0, 1.0).cdf(1.5))
    return abs(terms.mean() - truth) / (terms.std() / np.sqrt(len(terms)))


def test_7_change_of_measure_by_simulation(key):
    """False alarm rate 1e-6: a z-test on independent, bounded terms."""
    assert z_score(key, inverted=False) < Z_MILLION
    assert z_score(key, inverted=True) > Z_MILLION


# --- 8: hard and soft conditioning ------------------------------------------------------------------------------------


@ppl.model
def softly(program, event, log_inside, log_outside):
    """Score an event of the program's value."""
    value = ppl.sample("program", program)
    ppl.factor("soft", jnp.where(value == event, log_inside, log_outside))
    return value


@ppl.model
def observed_flip(prob, table, seen):
    """a, then an observation of b given a."""
    a = ppl.sample("a", dist.Bernoulli(prob))
    ppl.sample("b", dist.Categorical(probs=table[a]), obs=seen)
    return a


@ppl.model
def latent_flip(prob, table):
    """a, then b given a."""
    a = ppl.sample("a", dist.Bernoulli(prob))
    ppl.sample("b", dist.Categorical(probs=table[a]))
    return a


def soft_gap(program, event, constant, outside=0.0):
    """Restriction to the event against a score of `constant` on it, up to scale."""
    hard = ppl.meaning(program).condition(lambda value: value == event)
    soft = softly(program, jnp.int32(event), jnp.log(constant), jnp.log(jnp.array(outside)))
    return max(gap(soft, scaled(hard, constant)), gap(ppl.meaning(soft).normalize(), hard.normalize()))


@few
@given(fillings(SKELETONS["branch_shared"]), st.integers(0, 5), st.sampled_from([0.25, 1.0, 3.0]))
def test_8_a_score_on_an_event_conditions_on_it(drawn, event, constant):
    program = to_program(drawn)
    assume(float(ppl.meaning(program).condition(lambda value: value == event).mass) > 0)
    assert soft_gap(program, event, constant) < ATOL


def condition_gap(prob, table, seen, conditioned=ppl.Program.condition):
    """`obs=`, `.condition`, and the restriction of the measure to the choice."""
    joint = latent_flip(prob, table)
    restricted = joint.enumerate().condition({"b": seen})
    by_condition = conditioned(joint, {"b": seen})
    return max(gap(by_condition, observed_flip(prob, table, seen)), gap(by_condition, restricted))


@few
@given(st.integers(0, 8), rows(3), rows(3), st.integers(0, 2))
def test_8_observing_is_restricting(eighths, first, second, seen):
    table = jnp.array([first, second], float)
    assert condition_gap(jnp.array(eighths / 8), table, jnp.array(seen)) < ATOL


def test_8_mutants_die():
    assert soft_gap(ours("branch_shared"), 3, 2.0, outside=0.125) > DEAD
    table = jnp.array([[0.25, 0.5, 0.25], [0.125, 0.125, 0.75]])
    assert condition_gap(jnp.array(0.375), table, jnp.array(2), ppl.Program.intervene) > DEAD


# --- 9: one meaning ---------------------------------------------------------------------------------------------------


def finished(program):
    """finish . Suspended: run to the end with all yields dropped."""
    return ppl.finish()(ppl.suspend(program))


def marginal_of_trace(program):
    """marginal . Traced: the trace measure pushed forward by the value."""
    return ppl.Traced(program)


THROUGH = {
    "enum": ppl.meaning,
    "weighted": ppl.weighted,
    "population": partial(ppl.population, n=2),
    "suspended": ppl.suspend,
    "finished": finished,
    "traced": marginal_of_trace,
}
CHEAP = ("straight", "observed", "zero_weight", "branch_shared", "loop_observed")
"""Structures that go through every representation in a default run; the others do in a slow one."""


def through(name, structure):
    marks = [] if structure in CHEAP or name in ("enum", "finished") else [pytest.mark.slow]
    return pytest.param(name, structure, marks=marks, id=f"{name}-{structure}")


@pytest.mark.parametrize(("name", "structure"), [through(n, s) for n in THROUGH for s in SKELETONS])
def test_9_one_program_means_the_same_through_every_representation(name, structure):
    @settings(max_examples=5)
    @given(fillings(SKELETONS[structure]))
    def check(drawn):
        same(THROUGH[name](to_program(drawn)), oracle(drawn))

    check()


@pytest.mark.parametrize("structure", range(4))
def test_9_the_battery_of_ppl_testing_too(structure):
    for program in ppl.testing.finite_programs()[2 * structure : 2 * structure + 2]:
        for name in ("weighted", "finished", "traced"):
            same(THROUGH[name](program), program)


@pytest.mark.parametrize("mutant", [mutants.weighted_without_weights, mutants.weighted_by_joint])
def test_9_mutants_die(mutant):
    program = ours("observed")
    assert gap(ppl.weighted(program), program) < ATOL
    assert gap(mutant(program), program) > DEAD


def test_9_meaning_refuses_what_is_no_representation():
    with pytest.raises(ppl.errors.MeasureError, match="No meaning is known for 'dict'"):
        ppl.meaning({})
