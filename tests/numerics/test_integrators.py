"""Leapfrog: reversible, volume-preserving, of second order; as a naive loop; momenta have their law."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppl.numerics.integrators import Point, energy, leapfrog, momentum_of, scale_noise, trajectory, velocity

DENSE = jnp.array([[1.3, 0.4, -0.2], [0.4, 0.7, 0.1], [-0.2, 0.1, 2.0]])
MASSES = {"diagonal": jnp.array([0.5, 2.0, 1.3]), "dense": DENSE}


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


def log_density(q):
    """Skewed and correlated."""
    return -jnp.exp(0.5 * q[0]) + 0.3 * q[0] - 0.5 * (q[1] - q[0] ** 2) ** 2 - 0.1 * (q[2] + q[1]) ** 4


value_and_grad = jax.value_and_grad(log_density)


def at(position, momentum):
    return Point(position, momentum, *value_and_grad(position))


@pytest.fixture(params=list(MASSES))
def mass(request):
    return MASSES[request.param].astype(jnp.float64)


@pytest.fixture
def start():
    return at(jnp.array([0.3, -0.8, 1.1]), jnp.array([1.0, -0.4, 0.6]))


def test_reversible(mass, start):
    run = jax.jit(lambda point: trajectory(value_and_grad, mass, 0.1, 7, point))
    there = run(start)
    back = run(there._replace(momentum=-there.momentum))
    np.testing.assert_allclose(back.position, start.position, atol=1e-12)
    np.testing.assert_allclose(back.momentum, -start.momentum, atol=1e-12)
    assert abs(float(there.position[0] - start.position[0])) > 0.1


def test_preserves_volume(mass, start):
    def step(z):
        point = leapfrog(value_and_grad, mass, 0.3, at(z[:3], z[3:]))
        return jnp.concatenate([point.position, point.momentum])

    matrix = jax.jit(jax.jacfwd(step))(jnp.concatenate([start.position, start.momentum]))
    assert float(jnp.linalg.det(matrix)) == pytest.approx(1.0, abs=1e-12)


def test_energy_error_is_of_second_order(mass, start):
    run = jax.jit(lambda step, steps: trajectory(value_and_grad, mass, step, steps, start))
    errors = [abs(float(energy(mass, run(0.4 / n, n)) - energy(mass, start))) for n in (20, 40, 80)]
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(4.0, rel=0.05)


def test_is_the_naive_loop(mass, start):
    matrix = np.diag(mass) if mass.ndim == 1 else np.asarray(mass)
    q, p = np.asarray(start.position), np.asarray(start.momentum)
    gradient = jax.grad(log_density)
    for _ in range(3):
        p = p + 0.05 * np.asarray(gradient(q))
        q = q + 0.1 * matrix @ p
        p = p + 0.05 * np.asarray(gradient(q))
    end = trajectory(value_and_grad, mass, 0.1, 3, start)
    np.testing.assert_allclose(end.position, q, atol=1e-12)
    np.testing.assert_allclose(end.momentum, p, atol=1e-12)
    np.testing.assert_allclose(end.log_density, log_density(q), atol=1e-12)


def test_covariances_of_noise_and_momentum(mass):
    matrix = np.diag(mass) if mass.ndim == 1 else np.asarray(mass)
    lower = np.stack([scale_noise(mass, e) for e in jnp.eye(3)], axis=1)
    upper = np.stack([momentum_of(mass, e) for e in jnp.eye(3)], axis=1)
    np.testing.assert_allclose(lower @ lower.T, matrix, atol=1e-12)
    np.testing.assert_allclose(upper @ upper.T, np.linalg.inv(matrix), atol=1e-12)
    np.testing.assert_allclose(velocity(mass, jnp.ones(3)), matrix @ np.ones(3), atol=1e-12)
