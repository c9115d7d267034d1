"""Metrics are changes of coordinates: equal to dense matrices, and one by one equal to side by side."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppl.numerics.metric import Metric, identity, pull_gradient, to_position

DIM, CAPACITY, RANK = 5, 4, 2


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


def some_metric(rng, rank=RANK):
    """Rows beyond the rank hold rubbish."""
    directions = np.linalg.qr(rng.normal(size=(DIM, CAPACITY)))[0].T
    numbers = rng.normal(size=DIM), np.exp(rng.normal(size=DIM)), directions, rng.uniform(-0.9, 3.0, CAPACITY)
    return Metric(*(jnp.asarray(x) for x in numbers), jnp.int32(rank))


def matrix(metric):
    """L = S (I + U^T s U)."""
    rows, s = np.asarray(metric.directions)[: int(metric.rank)], np.asarray(metric.stretch)[: int(metric.rank)]
    return np.diag(np.asarray(metric.scale)) @ (np.eye(DIM) + rows.T @ np.diag(s) @ rows)


@pytest.mark.parametrize("lockstep", [True, False])
@pytest.mark.parametrize("rank", [0, RANK, CAPACITY])
def test_dense_algebra(rank, lockstep, rng):
    metric, vector = some_metric(rng, rank), rng.normal(size=DIM)
    found = to_position(metric, jnp.asarray(vector), lockstep=lockstep)
    np.testing.assert_allclose(found, np.asarray(metric.center) + matrix(metric) @ vector, rtol=1e-12)
    pulled = pull_gradient(metric, jnp.asarray(vector), lockstep=lockstep)
    np.testing.assert_allclose(pulled, matrix(metric).T @ vector, rtol=1e-12)


@pytest.mark.parametrize("lockstep", [True, False])
def test_the_pulled_gradient_is_that_of_the_composition(lockstep, rng):
    metric, z = some_metric(rng), jnp.asarray(rng.normal(size=DIM))

    def density(x):
        return jnp.sum(jnp.sin(x) * jnp.arange(1.0, DIM + 1))

    whole = jax.jacfwd(lambda z: density(to_position(metric, z, lockstep=lockstep)))(z)
    x = to_position(metric, z, lockstep=lockstep)
    np.testing.assert_allclose(pull_gradient(metric, jax.grad(density)(x), lockstep=lockstep), whole, rtol=1e-12)


@pytest.mark.parametrize("capacity", [0, 3])
def test_the_identity(capacity, rng):
    z = jnp.asarray(rng.normal(size=DIM))
    metric = identity(DIM, capacity, z.dtype)
    for lockstep in (True, False):
        np.testing.assert_array_equal(to_position(metric, z, lockstep=lockstep), z)
        np.testing.assert_array_equal(pull_gradient(metric, z, lockstep=lockstep), z)
