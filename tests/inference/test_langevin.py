"""MALA: its ratio is the naive formula, and the energy error of one leapfrog step; it balances two points."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal

from ppl.inference.flat import Flat
from ppl.inference.kernels import State
from ppl.inference.langevin import mala
from ppl.numerics.integrators import Point, energy, leapfrog, momentum_of
from tests.continuous_moves import COVARIANCE, spread_target

EPS = 0.7


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("mass", [(0.5, 0.7), COVARIANCE], ids=["diagonal", "dense"])
def test_detailed_balance_by_the_naive_formula(mass):
    program = spread_target().condition({"y": jnp.array([1.0, -0.3, 1.7])})
    flat = Flat(program)
    log_density, gradient = jax.jit(flat.log_density), jax.jit(jax.grad(flat.log_density))
    matrix = np.diag(mass) if np.ndim(mass) == 1 else np.array(mass)
    points = [jnp.array([0.3, 0.9]), jnp.array([-0.2, 0.4])]

    def flow(a, b):
        """Log of p(a) k(b | a) and the kernel's own probability of accepting b from a."""
        mean = np.asarray(a) + 0.5 * EPS**2 * matrix @ np.asarray(gradient(a))
        naive = float(log_density(a)) + multivariate_normal(mean, EPS**2 * matrix).logpdf(np.asarray(b))
        kernel = mala(EPS, mass)(program)(State(flat.choices(a), {}))
        trace = kernel.replay({"proposal": b, "accept": jnp.array(1)})
        density = kernel.log_density({"proposal": b, "accept": jnp.array(1)})
        acceptance = float(trace.deterministic["acceptance"])
        assert float(density) == pytest.approx(naive - float(log_density(a)) + np.log(acceptance), abs=1e-9)
        return naive, acceptance

    (there, accept_there), (back, accept_back) = flow(*points), flow(*points[::-1])
    assert accept_there == pytest.approx(min(1.0, np.exp(back - there)), abs=1e-10)
    assert there + np.log(accept_there) == pytest.approx(back + np.log(accept_back), abs=1e-9)
    assert min(accept_there, accept_back) < 0.99


def test_the_ratio_is_the_energy_error_of_a_leapfrog_step():
    program = spread_target().condition({"y": jnp.array([1.0, -0.3, 1.7])})
    flat, mass = Flat(program), jnp.array(COVARIANCE)
    value_and_grad = jax.value_and_grad(flat.log_density)
    start = jnp.array([0.3, 0.9])
    old = Point(start, momentum_of(mass, jnp.array([1.9, -1.2])), *value_and_grad(start))
    new = leapfrog(value_and_grad, mass, EPS, old)
    kernel = mala(EPS, COVARIANCE)(program)(State(flat.choices(start), {}))
    trace = kernel.replay({"proposal": new.position, "accept": jnp.array(1)})
    expected = min(1.0, float(jnp.exp(energy(mass, old) - energy(mass, new))))
    assert expected < 0.999
    assert float(trace.deterministic["acceptance"]) == pytest.approx(expected, abs=1e-10)


def test_refusals():
    with pytest.raises(ValueError, match="step_size is -1"):
        mala(-1.0)
