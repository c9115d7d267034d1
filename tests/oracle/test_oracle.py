"""The reference enumerator against closed forms and hand computation: the oracle needs a check of its own."""

from fractions import Fraction
from math import comb, prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.oracle.ast import Block, Branch, Cat, Expr, Flip, Loop, Observe, Score, Table, depth, skeleton, table, tables
from tests.oracle.fractions_enumerator import (
    enumerate_program,
    expectation,
    normalized,
    paths,
    score_counts,
    total_mass,
    value_measure,
)
from tests.oracle.generate import SKELETONS, fillings, programs


def frac(text):
    return Fraction(text)


def test_straight_line_by_hand():
    program = Block(
        (Flip("a", table("probability", "1/4")), Score("s", table("weight", ["3", "1/2"], "a"))),
        Expr((("a", 5),), 1),
    )
    assert enumerate_program(program) == {((("a", 0),), 1): frac("9/4"), ((("a", 1),), 6): frac("1/8")}
    assert expectation(value_measure(program), lambda v: v) == frac("9/4") + 6 * frac("1/8")


def test_monty_hall_with_a_biased_host():
    """Player holds door 0; the host opens door 2 with probability 1/4 where both are free: P(car=1 | opens 2) = 4/5."""
    program = Block(
        (
            Cat("car", table("row", ["1/3", "1/3", "1/3"])),
            Observe("opens", table("row", [[0, "3/4", "1/4"], [0, 0, 1], [0, 1, 0]], "car"), 2),
        ),
        Expr((("car", 1),)),
    )
    assert total_mass(enumerate_program(program)) == frac("5/12")
    assert normalized(value_measure(program)) == {0: frac("1/5"), 1: frac("4/5")}


@pytest.mark.parametrize(("red", "black", "draws"), [(1, 1, 3), (2, 3, 4), (5, 1, 3)])
def test_polya_urn_is_beta_binomial(red, black, draws):
    """The number of red draws: C(n, k) red^(k) black^(n-k) / (red + black)^(n), in rising factorials."""
    urn = [[Fraction(red + k, red + black + t) if k <= t else 0 for t in range(draws)] for k in range(draws + 1)]
    body = Block((Flip("x", table("probability", urn, "state", "index")),), Expr((("state", 1), ("x", 1))))
    program = Block((Loop("total", draws, Expr(), body),), Expr((("total", 1),)))
    rising = lambda x, n: prod(range(x, x + n))
    expected = {
        k: Fraction(comb(draws, k) * rising(red, k) * rising(black, draws - k), rising(red + black, draws))
        for k in range(draws + 1)
    }
    assert value_measure(program) == expected


def test_branches_hide_their_variables_and_leave_absent_choices():
    then = Block(
        (Flip("x", table("probability", "1/2")), Score("s", table("weight", ["1", "3"], "x"))), Expr((("x", 1),))
    )
    orelse = Block((), Expr(constant=7))
    program = Block((Flip("c", table("probability", "1/4")), Branch("r", "c", then, orelse)), Expr((("r", 1),)))
    assert enumerate_program(program) == {
        ((("c", 0), ("x", None)), 7): frac("3/4"),
        ((("c", 1), ("x", 0)), 0): frac("1/8"),
        ((("c", 1), ("x", 1)), 1): frac("3/8"),
    }
    assert set(score_counts(program).values()) == {0, 1}
    outside = Score("late", Table("weight", ("x",), (2,), (frac("1"), frac("1"))))
    with pytest.raises(KeyError, match="x"):
        enumerate_program(Block((*program.statements, outside), Expr()))


def test_choices_of_a_branch_in_a_loop_are_absent_step_by_step():
    """u ~ Flip(state ? 1/2 : 1); where u, v is drawn with certainty to be 1. State starts at 0 and becomes v or 0."""
    then = Block((Cat("v", table("row", [0, 1])), Score("s", table("weight", "1/2"))), Expr((("v", 1),)))
    body = Block(
        (Flip("u", table("probability", ["1", "1/2"], "state")), Branch("q", "u", then, Block((), Expr()))),
        Expr((("q", 1),)),
    )
    program = Block((Loop("r", 2, Expr(), body),), Expr((("r", 1),)))
    assert enumerate_program(program) == {
        ((("u", (1, 1)), ("v", (1, 1))), 1): frac("1/8"),
        ((("u", (1, 0)), ("v", (1, None))), 0): frac("1/4"),
    }
    assert score_counts(program) == {(("u", (1, 1)), ("v", (1, 1))): 2, (("u", (1, 0)), ("v", (1, None))): 1}
    never = Block((Flip("c", table("probability", 0)), Branch("r", "c", program, Block((), Expr()))), Expr())
    assert enumerate_program(never) == {((("c", 0), ("u", None), ("v", None)), 0): Fraction(1)}


@given(fillings(SKELETONS["loop"]))
def test_loop_is_the_forward_recursion(program):
    """The measure on (a, last state) by multiplying matrices, with no paths: alpha'[j] = sum_i alpha[i] M[i, j]."""
    start, step, score = (t.values for t in tables(program))
    expected = {}
    for a, p in ((0, 1 - start), (1, start)):
        alpha = [p if state == a else Fraction(0) for state in (0, 1)]
        for _ in range(3):
            alpha = _forward(alpha, step, score)
        for state in (0, 1):
            expected[2 * a + state] = expected.get(2 * a + state, Fraction(0)) + alpha[state]
    assert value_measure(program) == {v: m for v, m in expected.items() if m}


def _forward(alpha, step, score):
    after = [Fraction(0), Fraction(0)]
    for state in (0, 1):
        for x, p in ((0, 1 - step[state]), (1, step[state])):
            after[(state + x) % 2] += alpha[state] * p * score[state][x]
    return after


@given(programs())
def test_priors_sum_to_one_and_paths_are_distinct(program):
    runs = paths(program)
    assert sum(run.prior for run in runs) == 1
    assert len({run.choices for run in runs}) == len(runs)
    assert total_mass(enumerate_program(program)) == sum(run.mass for run in runs)


@given(programs(max_depth=1))
def test_max_depth_and_shared_skeletons(program):
    assert depth(program) == 1
    assert skeleton(program) in SKELETONS.values()


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("straight", {1}),
        ("observed", {3}),
        ("zero_weight", {1}),
        ("branch", {1, 3}),
        ("branch_shared", {1, 2}),
        ("branch_nested", {0, 1, 3}),
        ("loop", {3}),
        ("loop_observed", {2}),
        ("loop_in_branch", {1, 2}),
        ("branch_in_loop", {1, 2, 3}),
        ("nested_loops", {2, 3, 4}),
    ],
)
def test_score_counts_of_the_structures(name, counts):
    @given(fillings(SKELETONS[name]))
    def check(program):
        assert set(score_counts(program).values()) <= counts

    check()


@given(st.data())
def test_numbers_are_dyadic(data):
    program = data.draw(programs())
    for run in paths(program):
        assert run.mass.denominator & (run.mass.denominator - 1) == 0
