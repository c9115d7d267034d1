"""The oracle's population transformers: valid over Fractions, the invalid one caught; numerics checked by them."""

from fractions import Fraction
from math import ceil, floor

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ppl.numerics.cells import CELLS, JointCells
from tests.oracle.fractions_enumerator import total_mass, value_measure
from tests.oracle.generate import programs
from tests.oracle.transformers import (
    meaning,
    multinomial_law,
    proper,
    push_evidence,
    resample_adaptive,
    resample_multinomial,
    resample_residual,
    resample_stratified,
    resample_systematic,
    residual_law,
    self_normalize,
    sorted_particles,
    spawn,
    spawn_after,
    stratified_law,
    systematic_law,
    weighted,
)

LAWS = {
    "multinomial": multinomial_law,
    "systematic": systematic_law,
    "stratified": stratified_law,
    "residual": residual_law,
}
SCHEMES = [resample_multinomial, resample_systematic, resample_stratified, resample_residual]
small = programs(names=("straight", "zero_weight", "branch_nested"))
weights = st.lists(st.integers(0, 6).map(Fraction), min_size=3, max_size=3).filter(any)


@given(small)
def test_a_program_and_its_spawns_mean_the_same(program):
    alone = weighted(program)
    assert meaning(alone) == value_measure(program)
    assert meaning(spawn(alone, 2)) == meaning(alone) == meaning(spawn_after(alone, 3))
    assert all(len(population) == 2 for population in spawn(alone, 2))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_resampling_preserves_the_measure(scheme):
    @given(small)
    def check(program):
        before = spawn(weighted(program), 2)
        assert meaning(scheme(before)) == meaning(before)
        assert meaning(scheme(before, 3)) == meaning(before)
        assert meaning(resample_adaptive(before, scheme, Fraction(2, 3))) == meaning(before)
        assert total_mass(scheme(before)) == 1

    check()


@given(small)
def test_proper_and_push_evidence_preserve_the_measure(program):
    before = spawn(weighted(program), 2)
    assert meaning(proper(before)) == meaning(push_evidence(before)) == meaning(before)
    assert all(len(population) == 1 for population in proper(before))
    assert all(sum(w for _, w in population) == 1 for population in push_evidence(before))


def test_self_normalizing_is_not_valid():
    """Two particles, one with weight 3 or 1: the average of normalised weights is not the normalised average."""
    before = {
        (("a", Fraction(3)), ("b", Fraction(1))): Fraction(1, 2),
        (("a", Fraction(1)), ("b", Fraction(1))): Fraction(1, 2),
    }
    assert meaning(before) == {"a": 2, "b": 1}
    assert meaning(self_normalize(before)) == {"a": Fraction(5, 8), "b": Fraction(3, 8)}


def test_zero_populations_are_left_alone():
    dead = {(("a", Fraction(0)), ("b", Fraction(0))): Fraction(1)}
    assert all(scheme(dead) == dead for scheme in SCHEMES)
    assert meaning(proper(dead)) == meaning(push_evidence(dead)) == {}


@pytest.mark.parametrize("scheme", list(LAWS))
def test_offspring_are_in_proportion(scheme):
    @given(weights, st.integers(1, 4))
    def check(values, n):
        shares = [w / sum(values) for w in values]
        law = list(LAWS[scheme](shares, n))
        assert sum(p for _, p in law) == 1
        for j, share in enumerate(shares):
            assert sum(p * ancestors.count(j) for ancestors, p in law) == n * share
            if scheme == "systematic":
                assert all(floor(n * share) <= a.count(j) <= ceil(n * share) for a, p in law if p)

    check()


@pytest.mark.parametrize("scheme", list(LAWS))
def test_cells_of_ppl_have_the_oracles_law(scheme):
    """`ppl.numerics.cells` over log weights in float64 against Fractions, as the law of the multiset of ancestors."""

    @given(weights)
    def check(values):
        expected = _by_multiset(LAWS[scheme]([w / sum(values) for w in values], 3))
        with jax.enable_x64(True):
            cells = CELLS[scheme](jnp.log(jnp.array([float(w) for w in values])), 3)
            actual = _by_multiset(_joint(cells))
        for ancestors in expected | actual:
            assert float(expected.get(ancestors, 0)) == pytest.approx(float(actual.get(ancestors, 0)), abs=1e-10)

    check()


def _by_multiset(law):
    collected = {}
    for ancestors, p in law:
        key = tuple(sorted(ancestors))
        collected[key] = collected.get(key, 0) + p
    return collected


def _joint(cells):
    """(ancestors, probability) of all positions together."""
    ancestors, probs = cells.ancestors.tolist(), jnp.exp(cells.log_probs).tolist()
    if isinstance(cells, JointCells):
        return list(zip(map(tuple, ancestors), probs, strict=True))
    law = [((), 1.0)]
    for row, row_probs in zip(ancestors, probs, strict=True):
        law = [((*a, j), p * q) for a, p in law for j, q in zip(row, row_probs, strict=True)]
    return law


def test_sorted_particles_forget_order_only():
    a, b = ("a", Fraction(1)), ("b", Fraction(2))
    assert sorted_particles({(b, a): Fraction(1, 4), (a, b): Fraction(3, 4)}) == {(a, b): Fraction(1)}
