"""`ppl` against the Fraction oracle on random programs: densities, traces, and exact enumeration."""

import math
from dataclasses import replace
from fractions import Fraction

import jax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.oracle.ast import PROBABILITY, WEIGHT, Block, Branch, Expr, Flip, Loop, map_tables, table
from tests.oracle.fractions_enumerator import enumerate_program, paths, total_mass, value_measure
from tests.oracle.generate import SKELETONS, fillings, generic
from tests.oracle.render import choice_arrays, distance, measure_of, path_of, to_program

NAMES = list(SKELETONS)


@pytest.mark.parametrize("name", NAMES)
def test_density_value_and_masks_of_every_path(name):
    """Law 30 and 38: each path of positive prior has the oracle's mass, value and absent choices."""

    @given(fillings(SKELETONS[name]))
    def check(program):
        rendered = to_program(program)
        for path in paths(program):
            choices = choice_arrays(program, path.choices)
            trace = rendered.replay(choices)
            assert math.exp(trace.log_density) == pytest.approx(float(path.mass), abs=1e-10)
            assert math.exp(rendered.log_density(choices)) == pytest.approx(float(path.mass), abs=1e-10)
            assert path_of(trace.choices, trace.masks, trace.value) == (path.choices, path.value)

    with jax.enable_x64(True):
        check()


@pytest.mark.parametrize("name", NAMES)
def test_simulated_traces_are_paths(name):
    """A trace is a path of the oracle; its density and its weight are the path's."""

    @given(fillings(SKELETONS[name]), st.integers(0, 2**31 - 1))
    def check(program, seed):
        trace = to_program(program).simulate(jax.random.key(seed))
        by_key = {(path.choices, path.value): path for path in paths(program)}
        path = by_key[path_of(trace.choices, trace.masks, trace.value)]
        assert math.exp(trace.log_weight) == pytest.approx(float(path.weight), abs=1e-10)
        assert math.exp(trace.log_density) == pytest.approx(float(path.mass), abs=1e-10)

    with jax.enable_x64(True):
        check()


@pytest.mark.parametrize("name", NAMES)
def test_enumeration_is_the_oracles_measure(name):
    """The whole measure on (choices, absent ones, value), point by point, and its mass and its values."""

    @given(fillings(SKELETONS[name]))
    def check(program):
        exact, finite = enumerate_program(program), to_program(program).enumerate()
        assert distance(exact, measure_of(finite)) <= 1e-10
        assert float(finite.mass) == pytest.approx(float(total_mass(exact)), abs=1e-10)
        by_value = sum(v * float(m) for v, m in value_measure(program).items())
        assert float(finite.expectation(lambda v: v)) == pytest.approx(by_value, abs=1e-10)

    with jax.enable_x64(True):
        check()


@pytest.mark.parametrize("name", ["straight", "branch_shared", "loop"])
def test_a_wrong_number_is_seen(name):
    """Mutants: every flip's probability exchanged for its complement; every score left out."""
    program = generic(SKELETONS[name])
    exact = enumerate_program(program)
    assert distance(exact, measure_of(to_program(program).enumerate())) < 1e-6
    for mutant in (_mapped(program, PROBABILITY, lambda p: 1 - p), _mapped(program, WEIGHT, lambda _: Fraction(1))):
        assert distance(exact, measure_of(to_program(mutant).enumerate())) > 1e-3


def test_programs_of_one_skeleton_are_staged_once():
    structure = SKELETONS["branch_in_loop"]
    program = generic(structure)
    other = _mapped(program, PROBABILITY, lambda p: 1 - p)
    assert program != other
    assert to_program(program).staged is to_program(other).staged


@pytest.mark.parametrize("swapped", [False, True])
def test_one_address_is_masked_on_different_axes_in_two_branches(swapped):
    """x has axes (2, 2): one side skips outer step 0 (a mask over one axis), the other inner step 0 (over both)."""
    flip, nothing = Block((Flip("x", table("probability", "1/4")),), Expr((("x", 1),))), Block((), Expr())
    whole = Block((Loop("m", 2, Expr(), flip, index="j"),), Expr((("m", 1),)))
    skips_outer = Block((Branch("q", "i", whole, nothing),), Expr((("q", 1),)))
    part = Block((Branch("q", "j", flip, nothing),), Expr((("q", 1),)))
    skips_inner = Block((Loop("n", 2, Expr(), part, index="j"),), Expr((("n", 1),)))
    bodies = [skips_inner, skips_outer] if swapped else [skips_outer, skips_inner]
    sides = [Block((Loop("l", 2, Expr(), body, index="i"),), Expr((("l", 1),))) for body in bodies]
    program = Block((Flip("c", table("probability", "3/8")), Branch("r", "c", *sides)), Expr((("r", 1),)))
    assert distance(enumerate_program(program), measure_of(to_program(program).enumerate())) < 1e-6


def _mapped(program, kind, f):
    change = lambda t: replace(t, values=_each(t.values, f)) if t.kind == kind else t
    return map_tables(program, change)


def _each(values, f):
    return tuple(_each(v, f) for v in values) if isinstance(values, tuple) else f(values)
