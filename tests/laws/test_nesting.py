"""Algorithms inside models: a nested program means what the program means, exactly."""

import jax.numpy as jnp
import pytest

import ppl
from tests.laws.exact import ATOL, DEAD, double, gap, ours  # noqa: F401


@pytest.mark.parametrize(("structure", "n"), [("straight", 2), ("zero_weight", 2), ("branch_shared", 1)])
def test_a_nested_program_means_the_program(structure, n):
    program = ours(structure)
    assert gap(ppl.nested(program, n), program) < ATOL


@ppl.model
def twice(program):
    return ppl.sample("first", program) + 10 * ppl.sample("second", program)


def test_it_may_stand_for_the_program_in_a_model():
    program = ours("straight")
    assert gap(twice(ppl.nested(program, 2, "multinomial", None)), twice(program)) < ATOL


def test_a_mutant_that_forgets_the_weight_dies():
    program = ours("straight")
    weighted = ppl.proper()(ppl.smc(2)(ppl.suspend(program)))
    assert gap(ppl.unweighed(weighted), program) < ATOL
    assert gap(weighted.program.map(lambda particle: particle.value), program) > DEAD
    assert jnp.isfinite(program.enumerate().log_mass)
