"""Laws 15 to 20: the blocks on populations preserve the measure, particle set by particle set. Exact.

A block is conditioned on the population before it by giving it a certain one; the Fraction oracle
(`tests/oracle/transformers.py`) has the law of the whole particle set.
"""

from fractions import Fraction
from math import ceil, floor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import ppl
from ppl.distributions.ancestors import Ancestors
from ppl.numerics.resampling import RESAMPLERS
from ppl.testing import LawViolation, check_transformer
from tests.laws import mutants
from tests.laws.exact import (  # noqa: F401
    ATOL,
    DEAD,
    double,
    example,
    gap,
    given_population,
    law_gap,
    oracle_law,
    ours,
    same,
    set_law,
)
from tests.oracle import transformers as exact
from tests.oracle.generate import SKELETONS, fillings
from tests.oracle.render import to_program

SCHEMES = sorted(RESAMPLERS)
few = settings(max_examples=8)
small = fillings(SKELETONS["straight"])
weight = st.sampled_from([Fraction(n, 4) for n in (0, 0, 1, 2, 3, 4, 6, 8)])
four = st.tuples(weight, weight, weight, weight)
UNEVEN = (Fraction(1, 4), Fraction(2), Fraction(3, 4), Fraction(0))


def log(weights):
    """Fractions as log weights; zero is minus infinity."""
    with np.errstate(divide="ignore"):
        return jnp.log(jnp.array([float(w) for w in weights]))


def certain(weights):
    """The particle set with values 10, 11, ... and these weights."""
    return given_population(jnp.arange(10, 10 + len(weights)), log(weights))


def certain_oracle(weights):
    return {tuple((10 + j, w) for j, w in enumerate(weights)): Fraction(1)}


def total_weights(population):
    """The total weight of each outcome of a population with positive probability."""
    found = population.program.enumerate()
    totals = np.exp(np.asarray(found.values.log_weight)).sum(axis=-1)
    return totals[np.asarray(found.log_weights) > -np.inf]


# --- 15: spawn --------------------------------------------------------------------------------------------------------


def spawn_gap(program, n, spawn=ppl.spawn):
    return gap(spawn(n)(ppl.weighted(program)), program)


@few
@given(small)
def test_15_spawn_is_valid_and_has_the_oracles_law(drawn):
    spawned = ppl.spawn(2)(ppl.weighted(to_program(drawn)))
    assert spawned.n == 2
    assert spawned.program.staged.out_avals[-1].shape == (2,)
    same(spawned, to_program(drawn))
    assert law_gap(set_law(spawned), oracle_law(exact.spawn(exact.weighted(drawn), 2))) < ATOL


@few
@given(fillings(SKELETONS["zero_weight"]))
def test_15_nested_spawns_multiply(drawn):
    nested = ppl.compose(ppl.spawn(2), ppl.spawn(1))(ppl.weighted(to_program(drawn)))
    flat = ppl.spawn(2)(ppl.weighted(to_program(drawn)))
    assert nested.n == flat.n == 2
    assert law_gap(set_law(nested), set_law(flat)) < ATOL
    assert ppl.spawn(3)(nested).n == 6
    assert ppl.spawn(3)(nested).program.staged.out_avals[-1].shape == (6,)


@pytest.mark.parametrize("spawn", [mutants.spawn_unweighted, mutants.spawn_one_draw])
def test_15_mutants_die(spawn):
    assert spawn_gap(ours("straight"), 2) < ATOL
    assert spawn_gap(ours("straight"), 2, spawn) > DEAD


# --- 16: resampling ---------------------------------------------------------------------------------------------------


def resampling_gap(weights, transformer):
    """The measure of one population against that of its resampled ones, and the total weight of each of them."""
    before = certain(weights)
    after = transformer(before)
    totals = np.abs(total_weights(after) - float(sum(weights))).max()
    return max(gap(after, before), float(totals))


@pytest.mark.parametrize("scheme", SCHEMES)
@given(weights=four)
def test_16_resampling_preserves_each_population(scheme, weights):
    assert resampling_gap(weights, ppl.resample(scheme)) < ATOL
    wanted = getattr(exact, f"resample_{scheme}")(certain_oracle(weights))
    assert law_gap(set_law(ppl.resample(scheme)(certain(weights))), oracle_law(wanted)) < ATOL


@pytest.mark.parametrize("scheme", SCHEMES)
@given(weights=four)
def test_16_total_weight_to_an_ulp(scheme, weights):
    assume(any(weights))
    found = ppl.resample(scheme)(certain(weights)).program.enumerate()
    totals = np.asarray(jax.vmap(jax.nn.logsumexp)(found.values.log_weight))
    wanted = float(jax.nn.logsumexp(log(weights)))
    made = totals[np.asarray(found.log_weights) > -np.inf]
    assert np.abs(made - wanted).max() <= 4 * np.spacing(max(1.0, abs(wanted)))


@pytest.mark.parametrize("scheme", SCHEMES)
@given(weights=four)
def test_16_offspring_are_in_proportion(scheme, weights):
    assume(any(weights))
    n, total = len(weights), sum(weights)
    found = ppl.Program.of(_ancestors, (log(weights),), {"scheme": scheme}).enumerate()
    counts = (np.asarray(found.values)[:, :, None] == np.arange(n)).sum(axis=1)
    probabilities = np.exp(np.asarray(found.log_weights))
    shares = np.array([float(n * w / total) for w in weights])
    assert np.abs(probabilities @ counts - shares).max() < ATOL
    if scheme in ("ssp", "systematic"):
        possible = counts[probabilities > ATOL]
        low = np.array([floor(n * w / total) for w in weights])
        high = np.array([ceil(n * w / total) for w in weights])
        assert np.all((possible >= low) & (possible <= high))


def _ancestors(log_weights, scheme):
    return ppl.sample("ancestors", Ancestors(log_weights, log_weights.shape[0], scheme))


MUTANTS_16 = [
    mutants.resample_unweighted,
    mutants.resample_keeping_weights,
    mutants.resample_to_one,
    mutants.resample_biased_towards_first,
]


@pytest.mark.parametrize("mutant", MUTANTS_16)
@pytest.mark.parametrize("scheme", ["multinomial", "systematic"])
def test_16_mutants_die(scheme, mutant):
    assert resampling_gap(UNEVEN, mutant(scheme)) > DEAD


def test_16_a_mutant_is_reported_to_the_user():
    programs = [ours("straight")]
    with pytest.raises(LawViolation, match="does not preserve the measure of the program 'rendered': a mass is off by"):
        check_transformer(mutants.resample_unweighted("systematic"), programs=programs)


# --- 17: adaptive resampling ------------------------------------------------------------------------------------------

THRESHOLD = 0.7


@pytest.mark.parametrize("scheme", ["systematic", "residual"])
@given(weights=four)
def test_17_adaptive_resampling_preserves_measure_and_evidence(scheme, weights):
    adaptive = ppl.resample(scheme, THRESHOLD)
    assert resampling_gap(weights, adaptive) < ATOL
    squares = sum(w * w for w in weights)
    assume(sum(weights) ** 2 != Fraction(7, 10) * len(weights) * squares)
    scheme_of_oracle = getattr(exact, f"resample_{scheme}")
    wanted = exact.resample_adaptive(certain_oracle(weights), scheme_of_oracle, Fraction(7, 10))
    assert law_gap(set_law(adaptive(certain(weights))), oracle_law(wanted)) < ATOL


def test_17_it_does_both():
    """One population above the threshold stays as it was; one below it is levelled."""
    even = (Fraction(1), Fraction(3, 4), Fraction(1), Fraction(1))
    kept = set_law(ppl.resample("systematic", THRESHOLD)(certain(even)))
    assert list(kept) == [((10, 1.0), (11, 0.75), (12, 1.0), (13, 1.0))]
    levelled = set_law(ppl.resample("systematic", THRESHOLD)(certain(UNEVEN)))
    assert all({w for _, w in particles} == {0.75} for particles in levelled)


def test_17_mutant_dies():
    even = (Fraction(1), Fraction(1, 2), Fraction(1), Fraction(5, 4))
    assert resampling_gap(even, ppl.resample("systematic", THRESHOLD)) < ATOL
    assert resampling_gap(even, mutants.adaptive_forgetting("systematic", THRESHOLD)) > DEAD


# --- 18: nothing left -------------------------------------------------------------------------------------------------


def dead_gap(transformer):
    """Zero mass where there is none, and no NaN among the outcomes; infinite where there is one."""
    after = transformer(certain((Fraction(0),) * 3))
    found = after.program.enumerate()
    bad = any(bool(jnp.isnan(x).any()) for x in (found.log_weights, found.values.log_weight))
    return np.inf if bad else float(ppl.meaning(after).mass)


BLOCKS = {
    **{scheme: ppl.resample(scheme) for scheme in SCHEMES},
    "adaptive": ppl.resample("systematic", 0.5),
    "proper": ppl.proper(),
    "push_evidence": ppl.push_evidence(),
    "spawn": ppl.spawn(2),
    "all of them": ppl.compose(ppl.proper(), ppl.push_evidence(), ppl.resample("stratified"), ppl.resample()),
}


@pytest.mark.parametrize("name", list(BLOCKS))
def test_18_all_zero_weights_are_an_ordinary_value(name):
    assert dead_gap(BLOCKS[name]) == 0.0


@pytest.mark.parametrize("name", SCHEMES)
def test_18_resampling_leaves_a_dead_population_alone(name):
    assert list(set_law(BLOCKS[name](certain((Fraction(0),) * 3)))) == [((10, 0.0), (11, 0.0), (12, 0.0))]


def test_18_mutant_dies():
    assert dead_gap(mutants.naive_normalise) > DEAD


# --- 19 and 20: the evidence ------------------------------------------------------------------------------------------

ORACLE_BLOCKS = {"proper": (ppl.proper(), exact.proper), "push_evidence": (ppl.push_evidence(), exact.push_evidence)}


@pytest.mark.parametrize("name", list(ORACLE_BLOCKS))
@given(weights=four)
def test_19_proper_and_push_evidence_preserve_each_population(name, weights):
    ours_, oracles = ORACLE_BLOCKS[name]
    before = certain(weights)
    same(ours_(before), before)
    if any(weights):
        assert law_gap(set_law(ours_(before)), oracle_law(oracles(certain_oracle(weights)))) < ATOL


@few
@given(small)
def test_19_proper_and_push_evidence_of_random_populations(drawn):
    before = ppl.population(to_program(drawn), 2)
    for block in (ppl.proper(), ppl.push_evidence()):
        same(block(before), to_program(drawn))


@pytest.mark.parametrize("mutant", [mutants.proper_without_sum, mutants.proper_uniform])
def test_19_mutants_die(mutant):
    assert gap(mutant(certain(UNEVEN)), certain(UNEVEN)) > DEAD


def test_20_self_normalising_is_not_valid():
    """The negative test of the whole suite: the law must reject it, though it is what most systems return."""
    with pytest.raises(LawViolation, match="self_normalise does not preserve the measure"):
        check_transformer(mutants.self_normalise)
    before = ppl.population(ours("straight"), 2)
    posterior = ppl.meaning(before).normalize()
    after = ppl.meaning(mutants.self_normalise(before))
    assert abs(float(after.mass) - 1) < ATOL
    assert after.distance(posterior) > DEAD  # biased for two particles, not only unnormalised


def test_20_the_oracle_agrees_on_the_bias():
    before = exact.spawn(exact.weighted(example("straight")), 2)
    wanted = exact.meaning(exact.self_normalize(before))
    after = ppl.meaning(mutants.self_normalise(ppl.population(ours("straight"), 2))).merged()
    got = dict(zip(np.asarray(after.values).tolist(), np.exp(after.log_weights), strict=True))
    assert all(abs(got.get(v, 0.0) - float(m)) < ATOL for v, m in wanted.items())
