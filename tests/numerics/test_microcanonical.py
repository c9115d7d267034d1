"""Microcanonical moves: reversible, of known change of volume, and stationary on a target (law 34 for one transition).

The volume is compared with autodiff in an orthonormal frame of the sphere's tangent space; the joint test has a
false-alarm rate of 1e-6, and kills a move without the change of volume.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppl.diagnostics.calibration import one_step_joint
from ppl.errors import LawViolation
from ppl.numerics import many_chains
from ppl.numerics.many_chains import Ensemble, Order, transition
from ppl.numerics.microcanonical import Motion, turned_velocity, unit_speed_leapfrog
from ppl.numerics.step_size import DualAveraging
from ppl.numerics.trajectory_length import LengthAdaptation, jump_slope, lengthened


def log_density(x):
    """Skewed, and of three scales."""
    return -0.5 * x[0] ** 2 - jnp.exp(0.7 * x[1] + 0.3 * x[0]) + x[1] - 2.0 * (x[2] - 0.5 * x[0]) ** 2


def motion_at(position, velocity):
    value, gradient = jax.value_and_grad(log_density)(position)
    return Motion(position, velocity, gradient, value, jnp.zeros_like(value))


def trajectory(position, velocity, step=0.4, steps=3):
    motion = motion_at(position, velocity)
    for _ in range(steps):
        motion = unit_speed_leapfrog(jax.value_and_grad(log_density), motion, step)
    return motion


@pytest.fixture
def _double():
    with jax.enable_x64(True):
        yield


def start(rng):
    velocity = rng.normal(size=3)
    return jnp.asarray(rng.normal(size=3)), jnp.asarray(velocity / np.linalg.norm(velocity))


def tangents(unit):
    """Two orthonormal vectors orthogonal to a unit vector."""
    return np.linalg.svd(np.asarray(unit)[None])[2][1:]


@pytest.mark.usefixtures("_double")
def test_trajectories_go_back(rng):
    position, velocity = start(rng)
    end = trajectory(position, velocity)
    back = trajectory(end.position, -end.velocity)
    np.testing.assert_allclose(back.position, position, atol=1e-10)
    np.testing.assert_allclose(-back.velocity, velocity, atol=1e-10)
    np.testing.assert_allclose(back.kinetic, -end.kinetic, atol=1e-10)


@pytest.mark.usefixtures("_double")
def test_the_change_of_volume_is_that_of_autodiff(rng):
    position, velocity = start(rng)
    end = trajectory(position, velocity)
    before, after = tangents(velocity), tangents(end.velocity)

    def chart(parameters):
        moved = velocity + parameters[3:] @ before
        ended = trajectory(position + parameters[:3], moved / jnp.sqrt(jnp.sum(moved**2)))
        return jnp.concatenate([ended.position, after @ ended.velocity])

    _, log_volume = np.linalg.slogdet(jax.jacobian(chart)(jnp.zeros(5)))
    np.testing.assert_allclose(log_volume, -end.kinetic, atol=1e-10)


def test_long_turns_stay_finite():
    velocity, factor = turned_velocity(jnp.array([0.8, 0.6]), jnp.array([-1e6, 0.0]), 1.0)
    np.testing.assert_allclose(velocity, [-1.0, 0.0], atol=1e-3)
    np.testing.assert_allclose(factor, 1e6 + np.log(0.1), rtol=1e-6)  # log(cosh s - 0.8 sinh s)


def test_a_turn_that_rounding_hides_is_refused():
    _, factor = turned_velocity(jnp.array([1.0, 0.0]), jnp.array([-1e6, 0.0]), 1.0)
    assert factor == np.inf


def test_no_gradient_is_no_turn():
    velocity, factor = turned_velocity(jnp.array([0.6, 0.8]), jnp.zeros(2), 1.0)
    np.testing.assert_allclose(velocity, [0.6, 0.8], rtol=1e-6)
    np.testing.assert_allclose(factor, 0.0, atol=1e-6)


# --- the length ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_double")
def test_the_slope_is_the_derivative_of_the_criterion(rng):
    before, velocity = (jnp.asarray(rng.normal(size=(6, 3))) for _ in range(2))
    weights = jnp.asarray(rng.uniform(0.2, 1.0, size=6))

    after = before + 0.3 * velocity
    centre = jnp.sum((weights / weights.sum())[:, None] * after, axis=0, keepdims=True)

    def criterion(log_length):  # its centre is held fixed: the mean velocity at the end is zero
        centred = before + jnp.exp(log_length) * velocity - centre
        change = jnp.sum(centred**2, axis=1) - jnp.sum((before - before.mean(0, keepdims=True)) ** 2, axis=1)
        return jnp.log(jnp.sum(weights * change**2)) - log_length

    slope = jump_slope(before, after, velocity, weights, 0.3)
    np.testing.assert_allclose(slope, jax.grad(criterion)(jnp.log(0.3)), rtol=1e-8)


def test_rejected_trajectories_do_not_count(rng):
    before, velocity = (jnp.asarray(rng.normal(size=(6, 3)), jnp.float32) for _ in range(2))
    after, weights = before + velocity, jnp.array([1.0, 1.0, 1.0, 1.0, 0.0, 1.0])
    slope = jump_slope(before, after, velocity, weights, 1.0)
    wild = jump_slope(before, after.at[4].set(jnp.nan), velocity.at[4].set(jnp.inf), weights, 1.0)
    np.testing.assert_array_equal(slope, wild)


def length_state(log_length=0.0):
    return LengthAdaptation(*(jnp.float32(x) for x in (log_length, log_length, 0.0, 0.0, 0.0, 0.0)))


def test_lengths_grow_up_the_slope_to_its_zero():
    state = length_state()
    for _ in range(400):
        state = lengthened(state, jnp.clip(1.5 - state.log_length, -2.0, 2.0), 0.1)
    np.testing.assert_allclose(state.log_average, 1.5, atol=0.1)


# --- law 34 ----------------------------------------------------------------------------------------------------------


def joint_test(key):
    """X ~ N(0, I) in two dimensions, y ~ N(sum of exp(x / 2), 1): one transition of one chain, length fixed."""

    def draw(key):
        own, other = jax.random.split(key)
        x = jax.random.normal(own, (2,))
        return {"x": x, "y": jnp.sum(jnp.exp(x / 2)) + jax.random.normal(other)}

    def move(key, joint):
        function = jax.vmap(jax.value_and_grad(lambda x: log_joint(x, joint["y"])))
        value, gradient = function(joint["x"][None])
        fixed = jnp.log(jnp.float32(0.9))
        step = DualAveraging(fixed, fixed, *[jnp.float32(0.0)] * 4)
        state = Ensemble(joint["x"][None], gradient, value, step, length_state(1.2), jnp.int32(0))
        order = Order(jnp.int32(1), jnp.int32(1), jnp.float32(0.8), jnp.bool_(False), jnp.int32(100))
        moved, _, _ = transition(function, state, key, jax.random.split(key, 1), order)
        return joint | {"x": moved.position[0]}

    def log_joint(x, y):
        return -0.5 * jnp.sum(x**2) - 0.5 * (y - jnp.sum(jnp.exp(x / 2))) ** 2

    def quantities(joint):
        x, y = joint["x"], joint["y"]
        return {"x0": x[0], "x1": x[1], "log density": log_joint(x, y)}

    return one_step_joint(draw, move, key=key, replicates=3000, steps=4, quantities=quantities)


def test_the_joint_law_stays(key):
    joint_test(key).check(1e-6)


def test_a_move_that_forgets_the_volume_dies(key, monkeypatch):
    def forgetful(function, motion, step):
        return unit_speed_leapfrog(function, motion, step)._replace(kinetic=motion.kinetic)

    monkeypatch.setattr(many_chains, "unit_speed_leapfrog", forgetful)
    with pytest.raises(LawViolation):
        joint_test(key).check(1e-6)
