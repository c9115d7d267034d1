"""Laws 28 and 29: involutive Metropolis-Hastings, exactly on finite programs and by one-step joint tests elsewhere.

Each statistical test has a false-alarm rate of 1e-6 and kills the mutants that drop a term of the ratio.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import ppl
import ppl.distributions as dist
from ppl.diagnostics.calibration import one_step_joint
from ppl.errors import LawViolation
from ppl.inference.involutive import applied, involutive, propose
from ppl.inference.kernels import State
from ppl.inference.reachability import irreducible, transitions
from ppl.semantics.program import Program
from tests.involutive_moves import (
    FINITE,
    GENERIC,
    MUTANTS,
    SCALE,
    SPLIT,
    durations,
    one_or_two,
    pair_or_single,
    wrong_kernel,
)

# --- law 28: finite, the number of choices varies --------------------------------------------------------------------


WEIGHTS = st.lists(st.sampled_from([0.0, 0.125, 0.5, 1.0, 3.0]), min_size=9, max_size=9)


@pytest.fixture
def double():
    with jax.enable_x64(True):
        yield


def errors(moves):
    flow = moves.posterior[:, None] * moves.matrix
    rows = np.abs(moves.matrix.sum(axis=1) - 1).max()
    return {"rows": rows, "balance": np.abs(flow - flow.T).max()}


@settings(max_examples=15)
@given(WEIGHTS)
def test_the_finite_kernel_is_stochastic_and_in_balance(weights):
    assume(sum(weights) > 0)
    with jax.enable_x64(True):
        found = errors(transitions(one_or_two(jnp.array(weights)), FINITE))
    assert max(found.values()) < 1e-10, found


def test_the_finite_kernel_reaches_everything(double):
    assert irreducible(one_or_two(jnp.array(GENERIC)), FINITE)


@pytest.mark.parametrize("mutant", ["without the auxiliary density", "inverted"])
def test_finite_mutants_die(mutant, double):
    found = errors(transitions(one_or_two(jnp.array(GENERIC)), partial(wrong_kernel, mutant, FINITE)))
    assert found["rows"] < 1e-10
    assert found["balance"] > 1e-3


def there_and_back(program, state, move):
    """The log ratio of a move, that of the move after it, and whether both are possible."""
    there = propose(program, state, move)
    again = applied(program, move, there.new)
    gain = there.new.log_density - there.old.log_density + there.log_det
    return gain, again.new.log_density - again.old.log_density + again.log_det, there.possible


def test_ratios_there_and_back_are_reciprocal(double):
    program = one_or_two(jnp.array(GENERIC))
    states = transitions(program, FINITE).states

    def one(state):
        return Program.of(there_and_back, (program, state, FINITE)).enumerate().values

    there, back, possible = jax.vmap(one)(states)
    assert there.shape[0] == 9
    assert possible.all()
    np.testing.assert_allclose(there + back, 0.0, atol=1e-10)
    assert jnp.abs(there).max() > 1.0


# --- a map that is no involution is refused, move by move ------------------------------------------------------------


@ppl.model
def five():
    ppl.sample("x", dist.Categorical(jnp.array([0.1, 0.15, 0.2, 0.25, 0.3])))


@ppl.model
def nothing(choices):
    del choices


def cycles(choices, aux):
    """Zero and one change places (an involution); two, three and four turn round (none)."""
    return {"x": jnp.array([1, 0, 3, 4, 2])[choices["x"]]}, aux


def test_moves_that_do_not_return_are_never_accepted(double):
    moves = transitions(five(), involutive(nothing, cycles))
    assert max(errors(moves).values()) < 1e-10
    np.testing.assert_allclose(np.diag(moves.matrix)[2:], 1.0)
    np.testing.assert_allclose(moves.matrix[:2, :2], [[0.0, 1.0], [2 / 3, 1 / 3]], atol=1e-10)


# --- law 29: continuous, the number of choices varies ----------------------------------------------------------------


def joint(key):
    return pair_or_single().simulate(key).choices


def moved(maker, key, joint):
    rest = {a: x for a, x in joint.items() if a != "y"}
    program = pair_or_single(joint["y"])
    return {**maker(program)(State(rest, program.replay(rest).masks)).simulate(key).value.choices, "y": joint["y"]}


def seen(joint):
    """What is compared: the number of means, the means of those who have them, and how they go with the data."""
    means = jnp.where(joint["two"] == 1, jnp.stack([joint["low"], joint["high"]]), joint["mean"])
    return {"two": joint["two"], "means": means, "error": joint["y"] - means}


def test_the_dimension_changing_move_leaves_the_joint_law(key):
    found = one_step_joint(joint, partial(moved, SPLIT), key=key, replicates=6000, steps=6, quantities=seen)
    found.check()


@pytest.mark.parametrize("mutant", list(MUTANTS))
@pytest.mark.slow
def test_dimension_changing_mutants_die(mutant, key):
    move = partial(moved, partial(wrong_kernel, mutant, SPLIT))
    with pytest.raises(LawViolation):
        one_step_joint(joint, move, key=key, replicates=6000, steps=6, quantities=seen).check()


def log_det_of(program, state, move):
    found = propose(program, state, move)
    return found.log_det, found.matched, found.old.choices, found.new.choices


def test_the_determinant_is_the_closed_form_in_both_directions(key, double):
    program = pair_or_single(jnp.array([1.3, 4.1]))
    up = program.generate(key, {"two": jnp.array(0)})
    probe = Program.of(log_det_of, (program, State(up.choices, up.masks), SPLIT))
    log_det, matched, (_, aux), (new, _) = probe.simulate(key).value
    assert matched
    np.testing.assert_allclose(log_det, np.log(2.5) + aux["log"], rtol=1e-10)
    down = program.replay(new)
    log_det, matched, _, (back, aux) = (
        Program.of(log_det_of, (program, State(new, down.masks), SPLIT)).simulate(0).value
    )
    assert matched
    np.testing.assert_allclose(log_det, -np.log(2.5) - aux["log"], rtol=1e-10)
    np.testing.assert_allclose(back["mean"], up.choices["mean"], rtol=1e-10)
    assert back["low"] == 0.0


# --- a scale move ----------------------------------------------------------------------------------------------------


def scaled(maker, key, joint):
    program = durations(joint["y"])
    state = maker(program)(State({"rate": joint["rate"]}, {})).simulate(key).value
    return {**state.choices, "y": joint["y"]}


def product(joint):
    return {**joint, "mean": joint["rate"] * joint["y"]}


def run_scale(maker, key):
    def draw(k):
        return durations().simulate(k).choices

    return one_step_joint(draw, partial(scaled, maker), key=key, replicates=4000, steps=3, quantities=product)


@pytest.mark.slow
def test_the_scale_move_leaves_the_joint_law(key):
    run_scale(SCALE, key).check()


@pytest.mark.parametrize("mutant", ["without the Jacobian", "without the auxiliary density"])
def test_scale_mutants_die(mutant, key):
    with pytest.raises(LawViolation):
        run_scale(partial(wrong_kernel, mutant, SCALE), key).check()
