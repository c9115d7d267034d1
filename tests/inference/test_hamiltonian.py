"""HMC: the kernel is a leapfrog trajectory and a coin; divergences and NaN; what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ppl
import ppl.distributions as dist
from ppl.errors import MeasureError, ShapeError
from ppl.inference.flat import Flat
from ppl.inference.hamiltonian import hmc
from ppl.inference.kernels import State
from tests.continuous_moves import spread_target

Y = jnp.array([1.0, -0.3, 1.7])
START = {"scale": jnp.array(1.4), "shift": jnp.array(0.9)}


@pytest.fixture
def program():
    return spread_target().condition({"y": Y})


def moved(maker, program, momentum, start=None):
    """The step with a given momentum that is always accepted."""
    kernel = maker(program)(State(start or START, {}))
    return kernel.replay({"momentum": momentum, "accept": jnp.array(1)})


def test_a_trajectory_is_retraced(program):
    with jax.enable_x64(True):
        start = {a: x.astype(jnp.float64) for a, x in START.items()}
        program = spread_target().condition({"y": Y.astype(jnp.float64)})
        maker = hmc(0.2, 5, jitter=0.0)
        momentum = jnp.array([0.7, -1.1])
        gradient = jax.grad(Flat(program).log_density)
        q, p = Flat(program).vector(start), momentum
        for _ in range(5):
            p = p + 0.1 * gradient(q)
            q = q + 0.2 * p
            p = p + 0.1 * gradient(q)
        there = moved(maker, program, momentum, start)
        back = moved(maker, program, -p, there.value.choices)
        for address, x in Flat(program).choices(q).items():
            np.testing.assert_allclose(there.value.choices[address], x, rtol=1e-12)
            np.testing.assert_allclose(back.value.choices[address], start[address], rtol=1e-10)
        energies = [
            0.5 * m @ m - Flat(program).log_density(Flat(program).vector(c))
            for m, c in ((momentum, start), (p, there.value.choices))
        ]
        expected = min(1.0, float(jnp.exp(energies[0] - energies[1])))
        assert float(there.deterministic["acceptance"]) == pytest.approx(expected, abs=1e-10)
        assert float(back.deterministic["acceptance"]) == pytest.approx(
            1.0 if expected < 1 else float(jnp.exp(energies[1] - energies[0]))
        )


def test_it_accepts_most_moves_and_keeps_what_it_refuses(program, key):
    step = hmc(0.3, 4)(program)(State(START, {}))
    runs = jax.vmap(lambda k: step.simulate(k))(jax.random.split(key, 50))
    accepted = np.asarray(runs.deterministic["accepted"])
    same = np.asarray(runs.value.choices["scale"]) == float(START["scale"])
    assert 0.7 < accepted.mean() <= 1.0
    assert (same == ~accepted).all()
    assert not np.asarray(runs.deterministic["diverging"]).any()


@pytest.mark.parametrize("maker", [hmc(40.0, 3, jitter=0.0), hmc(1e30, 3)], ids=["divergent", "overflow"])
def test_divergences_are_flagged_and_refused(maker, program, key):
    trace = maker(program)(State(START, {})).simulate(key)
    assert bool(trace.deterministic["diverging"])
    assert not bool(trace.deterministic["accepted"])
    assert float(trace.deterministic["acceptance"]) == 0.0
    assert float(trace.value.choices["scale"]) == float(START["scale"])


def test_nan_is_never_accepted(key):
    @ppl.model
    def root():
        x = ppl.sample("x", dist.Normal(1.0, 0.5))
        ppl.factor("root", jnp.sqrt(x - 1.0))

    step = hmc(2.0, 1)(root())(State({"x": jnp.array(1.2)}, {}))
    runs = jax.vmap(lambda k: step.simulate(k))(jax.random.split(key, 60))
    x = np.asarray(runs.value.choices["x"])
    assert (x >= 1.0).all()
    assert np.asarray(runs.deterministic["diverging"]).any()


def test_refusals(program):
    with pytest.raises(ValueError, match=r"step_size is 0.0"):
        hmc(0.0, 3)
    with pytest.raises(ValueError, match="steps is 0"):
        hmc(0.1, 0)
    with pytest.raises(ValueError, match="jitter is 1.0"):
        hmc(0.1, 3, jitter=1.0)
    with pytest.raises(ShapeError, match=r"shape \(3,\), but the program's choices have 2 elements"):
        hmc(0.1, 3, inverse_mass=(1.0, 2.0, 3.0))(program)

    @ppl.model
    def coin():
        ppl.sample("c", dist.Bernoulli(0.5))

    with pytest.raises(MeasureError, match="'c'"):
        hmc(0.1, 3)(coin())
