"""Elliptical slice sampling: noise and choices are inverse, points lie on the ellipse, priors are recognised."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ppl
import ppl.distributions as dist
from ppl.errors import MeasureError
from ppl.inference.elliptical import coloured, elliptical_slice, gaussian, whitened
from ppl.inference.kernels import State
from tests.continuous_moves import gaussian_target

Y = jnp.array([4, 1])
CHOICES = {"pair": jnp.array([0.4, -1.3]), "x": jnp.array([2.0, -0.7])}


@pytest.fixture
def program():
    return gaussian_target().condition({"y": Y})


def test_noise_and_choices_are_inverse_and_the_rest_is_likelihood(program):
    noise = whitened(program, CHOICES)
    back, log_likelihood = coloured(program, noise)
    for address, x in CHOICES.items():
        np.testing.assert_allclose(back[address], x, rtol=1e-5)
    terms = program.terms(CHOICES)
    np.testing.assert_allclose(log_likelihood, jnp.sum(terms.likelihood["y"]), rtol=1e-5)
    # Density of x = density of z / |dx/dz|: the priors are standard normal in z.
    cov = jnp.array([[1.0, 0.6], [0.6, 0.8]])
    log_det = 0.5 * jnp.linalg.slogdet(cov)[1] + 2 * 0.3 * CHOICES["pair"][0]
    standard = sum(dist.Normal(0.0, 1.0).log_prob(z).sum() for z in noise.values()) - log_det
    np.testing.assert_allclose(standard, sum(jnp.sum(x) for x in terms.prior.values()), rtol=1e-5)


def test_a_step_lies_on_the_ellipse(program, key):
    step = elliptical_slice()(program)(State(CHOICES, {}))
    runs = jax.vmap(lambda k: step.simulate(k))(jax.random.split(key, 20))
    assert np.asarray(runs.deterministic["accepted"]).all()
    noise = whitened(program, CHOICES)
    z = np.concatenate([noise["pair"], noise["x"]])
    for i in range(20):
        new = whitened(program, {a: x[i] for a, x in runs.value.choices.items()})
        moved = np.concatenate([new["pair"], new["x"]])
        other = np.asarray(runs.choices["ellipse"][i])
        weights, residual, *_ = np.linalg.lstsq(np.stack([z, other], 1), moved, rcond=None)
        assert np.sum(weights**2) == pytest.approx(1.0, abs=1e-4)  # cos^2 + sin^2
        assert np.sqrt(residual.sum()) < 1e-3


def test_gaussians_are_recognised():
    lower = jnp.array([[1.0, 0.0], [0.5, 2.0]])
    full = gaussian(dist.MultivariateNormal(jnp.array([1.0, 2.0]), scale_tril=lower).expand([3]).to_event(1))
    np.testing.assert_allclose(full.value(jnp.ones((3, 2))), jnp.broadcast_to(jnp.array([2.0, 4.5]), (3, 2)))
    np.testing.assert_allclose(full.noise(full.value(jnp.ones((3, 2)))), np.ones((3, 2)))
    for measure in (dist.StudentT(3.0), dist.LogNormal(0.0, 1.0), dist.Normal(0.0, 1.0).mask(jnp.array(True))):
        assert gaussian(measure) is None


def test_other_priors_and_branches_are_refused():
    @ppl.model
    def scaled():
        s = ppl.sample("s", dist.HalfNormal(1.0))
        ppl.sample("x", dist.Normal(0.0, s))

    with pytest.raises(MeasureError, match=r"'s' at test_elliptical.py:\d+ is drawn from HalfNormal, which is not"):
        elliptical_slice()(scaled())
    elliptical_slice()(scaled().substitute({"s": 2.0}))

    @ppl.model
    def branch():
        a = ppl.sample("a", dist.Normal(0.0, 1.0))
        jax.lax.cond(a > 0, lambda: ppl.sample("b", dist.Normal(0.0, 1.0)), lambda: 0.0)

    with pytest.raises(MeasureError, match=r"'b' \(test_elliptical.py:\d+\) of 'branch' lie inside a branch"):
        elliptical_slice()(branch())
