"""Laws 4 to 6: scores multiply, what stands in front multiplies, branches mix. Exact, in double precision."""

from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

import ppl
import ppl.distributions as dist
from tests.laws import mutants
from tests.laws.exact import DEAD, added, double, gap, ours, same, scaled  # noqa: F401
from tests.oracle.generate import SKELETONS, fillings, rows
from tests.oracle.render import to_program

few = settings(max_examples=8)
weights = st.sampled_from([0.0, 0.25, 0.5, 1.0, 1.5, 3.0])

# --- 4: scores --------------------------------------------------------------------------------------------------------


@ppl.model
def scores(log_r, log_s):
    ppl.factor("r", log_r)
    ppl.factor("s", log_s)
    return jnp.int32(3)


@ppl.model
def one_score(log_r):
    ppl.factor("r", log_r)
    return jnp.int32(3)


@ppl.model
def slid(program, weight, late):
    """A score before or after independent code."""
    if not late:
        ppl.factor("w", weight)
    value = ppl.sample("code", program)
    if late:
        ppl.factor("w", weight)
    return value


def itself(program):
    return program


def score_gap(r, s, program, wrong=itself):
    """score r; score s = score rs = rs times the unit, and a score slides past independent code."""
    log_r, log_s, log_rs = (jnp.log(jnp.array(x)) for x in (r, s, r * s))
    both, product = wrong(scores(log_r, log_s)), wrong(one_score(log_rs))
    times = scaled(ppl.unit(jnp.int32(3)), r * s)
    early, late = wrong(slid(program, log_r, late=False)), wrong(slid(program, log_r, late=True))
    return max(gap(both, product), gap(product, times), gap(early, late), gap(late, scaled(program, r)))


@given(weights, weights, fillings(SKELETONS["straight"]))
def test_4_scores_multiply(r, s, drawn):
    assert score_gap(r, s, to_program(drawn)) < 1e-10


def test_4_score_one_is_a_unit_and_score_zero_the_zero_measure():
    same(one_score(jnp.array(0.0)), ppl.unit(jnp.int32(3)))
    assert ppl.meaning(one_score(-jnp.inf)).mass == 0
    assert ppl.meaning(slid(ours("branch"), -jnp.inf, late=True)).mass == 0


@pytest.mark.parametrize("mutant", [mutants.scored_twice, mutants.unscored])
def test_4_mutants_die(mutant):
    assert score_gap(0.5, 3.0, ours("straight"), mutant) > DEAD


# --- 5: something in front --------------------------------------------------------------------------------------------


@ppl.model
def behind(front, program):
    ppl.sample("front", front)
    return ppl.sample("program", program)


def front_gap(front, program, wrong=itself):
    return gap(behind(wrong(front), program), scaled(program, ppl.meaning(front).mass))


@few
@given(rows(3), fillings(SKELETONS["branch_shared"]), fillings(SKELETONS["zero_weight"]))
def test_5_a_program_in_front_multiplies_by_its_mass(row, drawn, scored):
    program = to_program(drawn)
    same(behind(choice(np.array(row, float)), program), program)
    assert front_gap(to_program(scored), program) < 1e-10


def test_5_mutant_dies():
    assert front_gap(ours("observed"), ours("branch_shared"), mutants.unscored) > DEAD


@ppl.model
def choice(row):
    return ppl.sample("x", dist.Categorical(probs=row))


# --- 6: branching -----------------------------------------------------------------------------------------------------


@ppl.model
def flip_between(prob, first, second):
    heads = ppl.sample("flip", dist.Bernoulli(prob)) == 1
    return lax.cond(heads, partial(ppl.sample, "first", first), partial(ppl.sample, "second", second))


@ppl.model
def both_then_select(prob, first, second):
    """NOT branching: both sides score."""
    heads = ppl.sample("flip", dist.Bernoulli(prob)) == 1
    return jnp.where(heads, ppl.sample("first", first), ppl.sample("second", second))


def branching_gap(prob, first, second, flip=flip_between):
    mixture = added(scaled(first, prob), scaled(second, 1 - prob))
    return gap(flip(jnp.array(prob), first, second), mixture)


@few
@given(st.integers(0, 8), fillings(SKELETONS["straight"]), fillings(SKELETONS["zero_weight"]))
def test_6_branching_is_a_mixture(eighths, first, second):
    assert branching_gap(eighths / 8, to_program(first), to_program(second)) < 1e-10


def test_6_mutant_dies():
    assert branching_gap(0.25, ours("straight"), ours("zero_weight"), both_then_select) > DEAD
