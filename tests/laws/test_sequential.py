"""Laws 21 to 25: suspended runs, and sequential Monte Carlo made of the blocks. Exact: whole algorithms are enumerated.

Two particles, programs with up to four scores that need not line up: what a wrong SMC does is visible there already.
"""

from dataclasses import replace
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

import ppl
from ppl.numerics.resampling import RESAMPLERS
from ppl.numerics.weights import log_sum_exp
from ppl.semantics.blocks import identity
from tests.laws import mutants
from tests.laws.exact import (  # noqa: F401
    ATOL,
    DEAD,
    double,
    example,
    gap,
    law_gap,
    oracle,
    oracle_law,
    ours,
    same,
    scaled,
    set_law,
)
from tests.oracle import transformers as exact
from tests.oracle.ast import Block, Score, table
from tests.oracle.fractions_enumerator import total_mass, value_measure
from tests.oracle.generate import SKELETONS, fillings
from tests.oracle.render import to_program

SCHEMES = sorted(RESAMPLERS)
few = settings(max_examples=5)
Z_MILLION = 4.89
"""A standard normal exceeds it in absolute value with probability 1e-6."""


def with_yields(program):
    """A score of weight one after each statement: extra yields, the same measure (as data of the oracle)."""
    statements = []
    for number, statement in enumerate(program.statements):
        statements += [statement, Score(f"yield_{number}", table("weight", "1"))]
    return Block(tuple(statements), program.result)


def advanced(suspended, times, advance=None):
    for _ in range(times):
        suspended = (advance or ppl.advance())(suspended)
    return suspended


# --- 21: advance and finish -------------------------------------------------------------------------------------------


def finish_gap(program, times, advance=None):
    """finish . advance^times against finish, both at m."""
    return gap(ppl.finish()(advanced(ppl.suspend(program), times, advance)), program)


@pytest.mark.parametrize(("structure", "stages"), [("straight", 2), ("branch_shared", 2), ("loop_observed", 3)])
def test_21_finish_after_advance_is_finish(structure, stages):
    @few
    @given(fillings(SKELETONS[structure]))
    def check(drawn):
        program = to_program(drawn)
        for times in range(stages):
            assert finish_gap(program, times) < ATOL

    check()


@pytest.mark.parametrize("structure", ["straight", "zero_weight", "loop"])
def test_21_advance_at_the_end_does_nothing(structure):
    suspended = ppl.suspend(ours(structure))
    end = advanced(suspended, suspended.advances)
    assert end.finished
    assert not advanced(suspended, suspended.advances - 1).finished
    assert ppl.advance(3)(end) is end
    same(end, oracle(example(structure)))


def test_21_a_layer_holds_the_weight_so_far():
    """Between stages the total weight is that of the scores met: 1, then the first score, then both."""
    suspended = ppl.suspend(ours("observed"))
    by_hand = [Fraction(1)]
    for count in (1, 2, 3):
        kept = [s for s in example("observed").statements if not isinstance(s, Score) and s.name != "y"]
        scoring = [s for s in example("observed").statements if isinstance(s, Score) or s.name == "y"][:count]
        order = [s for s in example("observed").statements if s in kept or s in scoring]
        by_hand.append(total_mass(value_measure(Block(tuple(order), example("observed").result))))
    for times, wanted in enumerate(by_hand):
        layer = advanced(suspended, times).layer
        found = layer.program.enumerate()
        mass = jnp.sum(jnp.exp(found.log_weights + found.values.log_weight))
        assert abs(float(mass) - float(wanted)) < ATOL


@pytest.mark.parametrize("structure", ["straight", "branch_shared"])
def test_21_a_yield_is_a_unit_under_finish(structure):
    @few
    @given(fillings(SKELETONS[structure]))
    def check(drawn):
        more = ppl.suspend(to_program(with_yields(drawn)))
        assert more.advances > ppl.suspend(to_program(drawn)).advances
        same(ppl.finish()(more), oracle(drawn))

    check()


@pytest.mark.parametrize(
    ("mutant", "times"),
    [
        (mutants.advance_multiplying, 1),
        (mutants.advance_skipping, 2),
        (mutants.advance_multiplying_at_the_end, 5),
    ],
)
def test_21_mutants_die(mutant, times):
    assert finish_gap(ours("observed"), times, mutant) > DEAD


# --- 22: hoist --------------------------------------------------------------------------------------------------------


def layers_of(structure):
    """How many layers a run of a structure has: before each stage, and at the end."""
    return ppl.suspend(ours(structure)).advances + 1


def hoist_gap(structure, hoist=ppl.hoist):
    """A hoisted transformation acts on every layer once, two in a row as their composition; the identity not at all."""
    program, layers = ours(structure), layers_of(structure)
    hoisted = lambda *fs: ppl.compose(*[hoist(f) for f in fs])(ppl.suspend(program))
    wanted = scaled(program, 6.0**layers)
    return max(
        gap(hoisted(identity), program),
        gap(hoisted(mutants.double), scaled(program, 2.0**layers)),
        gap(hoisted(mutants.double, mutants.triple), wanted),
        gap(hoisted(ppl.compose(mutants.double, mutants.triple)), wanted),
    )


@pytest.mark.parametrize("structure", ["straight", "branch_shared"])
def test_22_hoist_of_identity_and_composition(structure):
    assert hoist_gap(structure) < ATOL


@pytest.mark.parametrize("structure", ["straight", "zero_weight"])
def test_22_hoist_of_a_valid_transformation_is_valid(structure):
    population = ppl.hoist_first(ppl.spawn(2))(ppl.suspend(ours(structure)))
    same(ppl.hoist(ppl.resample("systematic"))(population), ours(structure))
    same(ppl.hoist(ppl.push_evidence())(population), ours(structure))


def test_22_hoist_first_acts_once():
    suspended = advanced(ppl.suspend(ours("straight")), 1)
    same(ppl.hoist_first(mutants.double)(suspended), scaled(ours("straight"), 2.0))
    same(ppl.hoist_first(identity)(suspended), ours("straight"))


@pytest.mark.parametrize("mutant", [mutants.hoist_dropping, mutants.hoist_once])
def test_22_mutants_die(mutant):
    assert hoist_gap("straight", mutant) > DEAD


# --- 23: sequential Monte Carlo ---------------------------------------------------------------------------------------

COVER = [
    ("straight", 0, "systematic"),
    ("straight", 1, "stratified"),
    ("straight", 2, "residual"),
    ("straight", 3, "multinomial"),
    ("zero_weight", 1, "systematic"),
    ("zero_weight", 3, "multinomial"),
    ("branch_shared", 1, "multinomial"),
    ("branch_shared", 2, "systematic"),
    ("loop_observed", 1, "residual"),
    ("loop_observed", 2, "stratified"),
    ("observed", 2, "systematic"),
]
"""Steps below, at and above the number of scores, every resampler, scores that do not line up."""

LONG = [(structure, steps, scheme) for structure in ("branch_nested", "loop") for steps in (1, 3) for scheme in SCHEMES]


def smc_case(case):
    return pytest.param(*case, marks=[pytest.mark.slow] if case in LONG else [], id="-".join(map(str, case)))


@pytest.mark.parametrize(("structure", "steps", "scheme"), [smc_case(case) for case in COVER + LONG])
@pytest.mark.slow
def test_23_smc_means_the_program(structure, steps, scheme):
    @few
    @given(fillings(SKELETONS[structure]))
    def check(drawn):
        same(ppl.smc(2, steps, scheme)(ppl.suspend(to_program(drawn))), oracle(drawn))

    check()


@pytest.mark.parametrize("structure", ["straight", "zero_weight"])
def test_23_adaptive_smc_means_the_program(structure):
    @few
    @given(fillings(SKELETONS[structure]))
    def check(drawn):
        same(ppl.smc(2, 2, "systematic", threshold=0.9)(ppl.suspend(to_program(drawn))), oracle(drawn))

    check()


@pytest.mark.parametrize("scheme", ["multinomial", "systematic"])
def test_23_the_oracle_has_the_law_of_the_particle_set(scheme):
    """spawn, run the one score, resample: the law of the resulting set itself, against Fractions."""

    @few
    @given(fillings(SKELETONS["straight"]))
    def check(drawn):
        run = ppl.compose(ppl.hoist_first(ppl.resample(scheme)), ppl.advance(2), ppl.hoist_first(ppl.spawn(2)))
        wanted = getattr(exact, f"resample_{scheme}")(exact.spawn(exact.weighted(drawn), 2))
        finished = ppl.finish()(run(ppl.suspend(to_program(drawn))))
        assert law_gap(set_law(finished), oracle_law(wanted)) < ATOL

    check()


@pytest.mark.parametrize(
    "resampler",
    [
        mutants.resample_unweighted("systematic"),
        mutants.resample_keeping_weights("systematic"),
        mutants.resample_to_one("systematic"),
        mutants.adaptive_forgetting("systematic", 0.7),
    ],
    ids=["unweighted", "keeping weights", "to one", "adaptive"],
)
def test_23_mutants_die(resampler):
    program = ours("straight")
    assert gap(mutants.smc_with(resampler, 2, 2)(ppl.suspend(program)), program) > DEAD


# --- 24: proper weighting ---------------------------------------------------------------------------------------------


def estimates(population):
    """E[Z] and E[sum of w f(x)], f(x) = (x + 1)^2, over the coin flips of an algorithm."""
    return np.asarray(ppl.Program.of(_estimates, (population.program,)).enumerate().expectation(lambda value: value))


def _estimates(program):
    particles = ppl.sample("run", program)
    weights = jnp.exp(particles.log_weight)
    return jnp.stack([jnp.exp(log_sum_exp(particles.log_weight)), jnp.sum(weights * (particles.value + 1.0) ** 2)])


def truth(drawn):
    measure = value_measure(drawn)
    return [float(total_mass(measure)), float(sum(m * (v + 1) ** 2 for v, m in measure.items()))]


@pytest.mark.parametrize(("structure", "scheme"), [("straight", "residual"), ("branch_shared", "stratified")])
def test_24_evidence_and_weighted_sums_are_unbiased(structure, scheme):
    @few
    @given(fillings(SKELETONS[structure]))
    def check(drawn):
        found = estimates(ppl.smc(2, 2, scheme)(ppl.suspend(to_program(drawn))))
        np.testing.assert_allclose(found, truth(drawn), rtol=0, atol=1e-9)

    check()


def test_24_mutant_dies():
    run = mutants.smc_with(mutants.resample_keeping_weights("systematic"), 2, 2)
    found = estimates(run(ppl.suspend(ours("straight"))))
    assert np.abs(found - truth(example("straight"))).max() > DEAD


def z_score(key, run):
    """Distance of the mean evidence of 4,000 runs with 16 particles from the truth, in standard errors."""
    program = run(ppl.suspend(ours("observed"))).program
    log_weights = jax.vmap(program.sample)(jax.random.split(key, 4_000)).log_weight
    evidence = np.exp(np.asarray(log_weights)).sum(axis=1)
    return abs(evidence.mean() - truth(example("observed"))[0]) / (evidence.std() / np.sqrt(len(evidence)))


def test_24_the_evidence_of_many_particles_by_simulation(key):
    """False alarm rate 1e-6: a z-test on independent runs with bounded weights."""
    assert z_score(key, ppl.smc(16, 2)) < Z_MILLION
    keeping = mutants.resample_keeping_weights("systematic")
    assert z_score(key, mutants.smc_with(keeping, 16, 2)) > Z_MILLION


# --- 25: more of both -------------------------------------------------------------------------------------------------


def resampled_often(scheme, wrong=None):
    """SMC with a second resampling at the start of each step and one at the end."""
    again = ppl.hoist_first(wrong or ppl.resample(scheme))
    step = ppl.compose(ppl.advance(), again, ppl.hoist_first(ppl.resample("systematic")))
    start = ppl.hoist_first(ppl.spawn(2))
    return ppl.compose(wrong or ppl.resample(scheme), ppl.finish(), step, step, start)


@few
@given(fillings(SKELETONS["straight"]))
def test_25_extra_yields_change_nothing(drawn):
    same(ppl.smc(2, 3)(ppl.suspend(to_program(with_yields(drawn)))), oracle(drawn))


@few
@given(fillings(SKELETONS["straight"]))
def test_25_extra_resampling_changes_nothing(drawn):
    same(resampled_often("multinomial")(ppl.suspend(to_program(drawn))), oracle(drawn))


def test_25_mutants_die():
    program = ours("straight")
    wrong = resampled_often("systematic", mutants.resample_to_one("systematic"))
    assert gap(wrong(ppl.suspend(program)), program) > DEAD
    more = ppl.suspend(to_program(with_yields(example("straight"))))
    multiplied = advanced(more, 3, mutants.advance_multiplying)
    assert gap(ppl.finish()(replace(multiplied, hooks=())), program) > DEAD
