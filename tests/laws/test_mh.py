"""Laws 26 and 27: single-site trace MH on finite programs, by enumerating the kernel itself. No Monte Carlo error."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings

import ppl
import ppl.distributions as dist
from ppl.distributions.scaled import Scaled
from ppl.inference.kernels import State
from ppl.inference.reachability import irreducible, transitions
from ppl.inference.trace_mh import step, trace_mh_kernel
from ppl.semantics.program import Program
from tests.oracle.fractions_enumerator import enumerate_program, total_mass
from tests.oracle.generate import SKELETONS, fillings, generic
from tests.oracle.render import to_program


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


def errors(moves):
    """How far a transition matrix is from being stochastic, invariant and in detailed balance."""
    flow = moves.posterior[:, None] * moves.matrix
    return {
        "rows": np.abs(moves.matrix.sum(axis=1) - 1).max(),
        "invariance": np.abs(moves.posterior @ moves.matrix - moves.posterior).max(),
        "balance": np.abs(flow - flow.T).max(),
    }


@pytest.mark.parametrize("name", list(SKELETONS))
def test_the_kernel_is_stochastic_invariant_and_in_balance(name):
    @settings(max_examples=6)
    @given(fillings(SKELETONS[name]))
    def check(program):
        assume(total_mass(enumerate_program(program)) > 0)
        found = errors(transitions(to_program(program)))
        assert max(found.values()) < 1e-10, found

    check()


@ppl.model
def plated(weight):
    """Elements of a plate and of lanes are executions of their own; the vector event is one; `s` has unusual draws."""
    with ppl.plate("n", 2):
        x = ppl.sample("x", dist.Bernoulli(0.25))

    def lane(p):
        return ppl.sample("lane", dist.Bernoulli(p))

    z = ppl.vmap(lane)(jnp.array([0.5, 0.125]))
    both = jnp.array([[0.25, 0.75], [0.5, 0.5]])[x[0]]
    pair = ppl.sample("pair", dist.Categorical(jnp.stack([both, both[::-1]])).to_event(1))
    s = ppl.sample("s", Scaled(dist.Bernoulli(0.25), 2.0))
    ppl.factor("f", weight * (x[1] + 2.0 * z[0] - z[1]) * pair[0] + pair[1] * s)


@ppl.model
def indicator(score):
    """A flip whose branches score differently; the choices of the branches do not line up."""
    a = ppl.sample("a", dist.Bernoulli(0.5))

    def yes():
        ppl.factor("yes", score)
        return jnp.int32(0)

    def no():
        return ppl.sample("b", dist.Categorical(jnp.array([0.2, 0.3, 0.5]))).astype(jnp.int32)

    jax.lax.cond(a == 1, yes, no)


def test_elements_of_plates_and_lanes_are_single_executions():
    moves = transitions(plated(jnp.array(-0.5)))
    assert max(errors(moves).values()) < 1e-10
    one_step = moves.matrix > 0
    changed = sum(
        (np.asarray(x)[:, None] != np.asarray(x)[None]).reshape(*one_step.shape, -1).sum(axis=-1)
        for a, x in moves.states.choices.items()
        if a != "pair"
    )
    assert changed[one_step].max() == 1
    assert irreducible(plated(jnp.array(-0.5)))


def test_the_branch_indicator_has_its_exact_posterior():
    moves = transitions(indicator(jnp.array(3.0)))
    assert max(errors(moves).values()) < 1e-10
    a = np.asarray(moves.states.choices["a"])
    limit = np.linalg.matrix_power(moves.matrix, 2000)[0]
    assert limit @ a == pytest.approx(1 / (1 + np.exp(-3.0)), abs=1e-10)
    assert limit @ a == pytest.approx(0.9526, abs=1e-4)


def test_a_state_without_choices_stays():
    @ppl.model
    def constant():
        ppl.factor("f", 0.5)

    trace = trace_mh_kernel(constant())(State({}, {})).simulate(0)
    assert trace.value == State({}, {})
    assert bool(trace.deterministic["accepted"])


# --- mutants ---------------------------------------------------------------------------------------------------------

MUTANTS = {
    "without the counts": lambda r: r.target + r.removed + r.added,
    "without the removed": lambda r: r.target + r.count + r.added,
    "without the added": lambda r: r.target + r.count + r.removed,
    "with the counts inverted": lambda r: r.target - r.count + r.removed + r.added,
    "inverted": lambda r: -sum(r),
}


def wrong_kernel(mutant, program):
    return partial(wrong_step, mutant, program)


def wrong_step(mutant, program, state):
    return Program.of(step, (program, state), {"log_ratio": MUTANTS[mutant]})


@pytest.mark.parametrize("mutant", list(MUTANTS))
@pytest.mark.slow
def test_mutants_die(mutant):
    program = to_program(generic(SKELETONS["branch"]))
    found = errors(transitions(program, partial(wrong_kernel, mutant)))
    assert found["rows"] < 1e-10
    assert found["invariance"] > 1e-4
    assert found["balance"] > 1e-4


# --- law 27 ----------------------------------------------------------------------------------------------------------


@ppl.model
def monty_hall():
    """The host's door is a function of the prize here: no single choice can change alone."""
    prize = ppl.sample("prize", dist.Categorical(jnp.array([0.5, 0.25, 0.25])))
    opened = ppl.sample("opened", dist.Categorical(jnp.ones(3) / 3))
    ppl.factor("rule", jnp.where(opened == (prize + 1) % 3, 0.0, -jnp.inf))


def test_a_kernel_that_cannot_move_is_reported():
    report = irreducible(monty_hall())
    assert not report
    assert sorted(report.masses) == pytest.approx([0.25, 0.25, 0.5])
    assert "3 classes" in repr(report)


@pytest.mark.parametrize("name", ["straight", "branch", "branch_in_loop"])
@pytest.mark.slow
def test_generic_programs_are_irreducible(name):
    assert irreducible(to_program(generic(SKELETONS[name])))
