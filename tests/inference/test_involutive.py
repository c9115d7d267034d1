"""The involutive kernel's door: messages, the check of an involution, and what of the Jacobian is computed at all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import ppl
import ppl.distributions as dist
from ppl.errors import AddressError, ConvergenceError, LawViolation, MeasureError, ShapeError
from ppl.inference import check_involution, involutive
from ppl.inference.jacobian import Coordinate, linearized, log_abs_det, same_number
from ppl.inference.kernel_sampler import KernelSampler
from ppl.inference.kernels import State

FREE, DISCRETE = Coordinate(continuous=True, masked=False), Coordinate(continuous=False, masked=False)
MASKED = Coordinate(continuous=True, masked=True)


@ppl.model
def normal():
    k = ppl.sample("k", dist.Bernoulli(0.3))
    ppl.sample("x", dist.Normal(2.0 * k, 1.5))


@ppl.model
def step_size(choices):
    del choices
    ppl.sample("u", dist.Normal(0.5, 1.0))


def walk(choices, aux):
    return {**choices, "x": choices["x"] + aux["u"]}, {"u": -aux["u"]}


def drift(choices, aux):
    return {**choices, "x": choices["x"] + aux["u"]}, {"u": aux["u"]}


def state_of(program, **choices):
    values = {a: jnp.asarray(x) for a, x in choices.items()}
    return State(values, {a: m for a, m in program.replay(values).masks.items() if a in values})


# --- the kernel ------------------------------------------------------------------------------------------------------


def test_makers_compare_by_their_functions():
    assert involutive(step_size, walk) == involutive(step_size, walk)
    assert hash(involutive(step_size, walk)) == hash(involutive(step_size, walk))
    assert involutive(step_size, walk) != involutive(step_size, drift)


def visited(kernel, key, draws):
    """States and recorded numbers of three chains from prior draws, the start among the states."""
    sampler = KernelSampler(kernel, normal(), key, 0, draws, 1, lockstep=True)
    start = sampler.start(range(3), None)
    end, batch = sampler.advance(start, draws)
    return start, batch.kept, end.moved


def test_chains_of_a_random_walk_move(key):
    start, kept, moved = visited(involutive(step_size, walk), key, 40)
    assert np.asarray(moved).all()
    assert 0.3 < kept["stats"]["accepted"].mean() < 1.0
    labels = np.asarray(start.states.choices["k"])
    np.testing.assert_array_equal(kept["states"].choices["k"], np.repeat(labels[:, None], 40, axis=1))
    assert not kept["stats"]["not_involutive"].any()


def test_a_map_that_is_no_involution_is_flagged_and_stays(key):
    _, kept, moved = visited(involutive(step_size, drift), key, 10)
    assert kept["stats"]["not_involutive"].all()
    assert not kept["stats"]["accepted"].any()
    assert not np.asarray(moved).any()


@pytest.mark.parametrize(
    ("result", "error", "words"),
    [
        (lambda c, u: {**c}, TypeError, "returned a dict"),
        (lambda c, u: ({"x": c["x"]}, u), AddressError, "missing: 'k'"),
        (lambda c, u: (c, {}), AddressError, "missing: 'u'"),
        (lambda c, u: ({**c, "z": 0.0}, u), AddressError, "'z', which the program does not have"),
        (lambda c, u: ({**c, "x": jnp.ones(2)}, u), ShapeError, "has shape"),
    ],
)
def test_what_does_not_fit_is_named(result, error, words):
    kernel = involutive(step_size, result)(normal())
    with pytest.raises(error, match=words) as caught:
        kernel(state_of(normal(), k=0, x=1.0)).simulate(0)
    assert "test_involutive.py:" in str(caught.value)


def test_an_auxiliary_program_must_only_draw():
    @ppl.model
    def weighs(choices):
        ppl.factor("weight", -choices["x"])
        ppl.sample("u", dist.Normal(0.0, 1.0))

    with pytest.raises(MeasureError, match=r"'weight' \(test_involutive.py:\d+, factor\)"):
        involutive(weighs, walk)(normal())(state_of(normal(), k=0, x=1.0)).simulate(0)


def test_simplexes_may_pass_but_not_move():
    @ppl.model
    def mixed():
        ppl.sample("w", dist.Dirichlet(jnp.array([1.0, 2.0, 3.0])))
        ppl.sample("x", dist.Normal(0.0, 1.0))

    def turn(choices, aux):
        return {**choices, "w": choices["w"][::-1]}, aux

    state = state_of(mixed(), w=jnp.array([0.2, 0.3, 0.5]), x=1.0)
    involutive(step_size, walk)(mixed())(state).simulate(0)
    with pytest.raises(MeasureError, match=r"moves 'w' \(test_involutive.py:\d+\)"):
        involutive(step_size, turn)(mixed())(state).simulate(0)


# --- the check -------------------------------------------------------------------------------------------------------


def test_the_check_passes_an_involution(key):
    check_involution(normal(), step_size, walk, key)


def test_the_check_names_address_expected_and_got(key):
    with pytest.raises(LawViolation, match=r"does not return 'x'") as caught:
        check_involution(normal(), step_size, drift, key)
    text = str(caught.value)
    assert "'drift' (test_involutive.py:" in text
    assert "Expected: " in text
    assert "Got: " in text


def test_the_check_sees_wrong_derivatives(key):
    """The map is that of a scale move; its derivative is made 3 in both directions."""

    def tampered(choices, aux):
        x = choices["x"]
        value = lax.stop_gradient(x * jnp.exp(aux["u"]))
        return {**choices, "x": value + 3.0 * (x - lax.stop_gradient(x))}, {"u": -aux["u"]}

    with pytest.raises(LawViolation, match="not reciprocal") as caught:
        check_involution(normal(), step_size, tampered, key)
    assert "Got: 1.09861 there, 1.09861 back" in str(caught.value)


def test_the_check_says_that_it_saw_nothing(key):
    @ppl.model
    def positive():
        ppl.sample("x", dist.LogNormal(0.0, 1.0))

    def below(choices, aux):
        return {"x": -choices["x"]}, aux

    with pytest.raises(ConvergenceError, match="None of 64 moves"):
        check_involution(positive(), step_size, below, key)


@ppl.model
def branching():
    two = ppl.sample("two", dist.Bernoulli(0.5))
    lax.cond(
        two == 1,
        lambda: ppl.sample("a", dist.Normal(0.0, 1.0)) + ppl.sample("b", dist.Normal(0.0, 2.0)),
        lambda: ppl.sample("c", dist.Normal(0.0, 1.0)),
    )


def test_the_check_counts_dimensions(key):
    """Both ways the auxiliary number is made, so that up goes from 2 to 3."""

    def jump(choices, aux):
        new = {"two": 1 - choices["two"], "a": choices["c"], "b": aux["u"], "c": choices["a"]}
        return new, {"u": choices["b"]}

    with pytest.raises(LawViolation, match="changes the number of continuous choices") as caught:
        check_involution(branching(), step_size, jump, key)
    assert "Made before: 2 (" in str(caught.value) or "Made before: 3 (" in str(caught.value)


# --- the Jacobian ----------------------------------------------------------------------------------------------------


def test_arrays_that_pass_through_have_no_rows():
    """A thousand values pass, two change places, one moves: the matrix is one by one."""

    def function(big, a, b, x, k):
        return [big, b, a, jnp.exp(x * k), 1 - k]

    leaves = [jnp.ones(1000), jnp.ones(7), jnp.zeros(7), jnp.array(0.5), jnp.array(3)]
    found = linearized(function, leaves, [FREE, FREE, FREE, FREE, DISCRETE])
    assert (found.rows, found.columns) == ((3,), (3,))
    np.testing.assert_allclose(found.matrix, [[3 * np.exp(1.5)]], rtol=1e-6)


def test_arrays_that_may_be_not_made_stay():
    leaves = [jnp.array(1.0), jnp.array(2.0)]
    found = linearized(lambda a, b: [b, a], leaves, [MASKED, FREE])
    np.testing.assert_allclose(found.matrix, [[0.0, 1.0], [1.0, 0.0]])


def test_one_input_for_two_outputs_is_singular():
    found = linearized(lambda a, b: [a, a], [jnp.array(1.0), jnp.array(2.0)], [FREE, FREE])
    assert log_abs_det(found.matrix) == -jnp.inf


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_the_determinant_is_that_of_the_made_submatrix(size, rng):
    full = rng.normal(size=(5, 5))
    rows, columns = rng.permutation(5) < size, rng.permutation(5) < size
    with jax.enable_x64(True):
        found = log_abs_det(jnp.array(full), jnp.array(rows), jnp.array(columns))
        assert same_number(jnp.array(rows), jnp.array(columns))
        plain = log_abs_det(jnp.array(full[:size, :size]))
    np.testing.assert_allclose(found, np.linalg.slogdet(full[rows][:, columns])[1], rtol=1e-10)
    np.testing.assert_allclose(plain, np.linalg.slogdet(full[:size, :size])[1], rtol=1e-10)


def test_what_is_not_made_may_be_nan():
    matrix = jnp.array([[2.0, jnp.nan], [jnp.nan, jnp.nan]])
    made = jnp.array([True, False])
    np.testing.assert_allclose(log_abs_det(matrix, made, made), np.log(2.0), rtol=1e-6)
