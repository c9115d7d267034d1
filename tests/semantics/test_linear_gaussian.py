"""Linear-Gaussian programs in closed form, and programs integrated out inside a particle."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ppl
import ppl.distributions as dist
from ppl.errors import MeasureError

YS = (0.5, 1.0, 0.2)
LOG_EVIDENCE = -2.981926
"""Kalman filter, A = .8, Q = .2, R = .3 (variances): see docs/benchmarks.md."""
MEANS, VARIANCES = (0.542987, 0.605958, 0.370860), (0.170387, 0.133521, 0.150763)


@ppl.model
def walk(ys):
    x0 = ppl.sample("x0", dist.Normal(0.0, 1.0))
    ppl.sample("y0", dist.Normal(x0, 0.3**0.5), obs=ys[0])

    def step(x, y):
        x = ppl.sample("x", dist.Normal(0.8 * x, 0.2**0.5))
        ppl.sample("y", dist.Normal(x, 0.3**0.5), obs=y)
        return x, None

    return jax.lax.scan(step, x0, ys[1:])[0]


@pytest.fixture(scope="module")
def posterior():
    return ppl.infer(walk(jnp.array(YS)), ppl.Kalman(), key=0, draws=20_000)


def test_the_evidence_and_the_smoothed_moments(posterior):
    assert abs(posterior.log_evidence.estimate - LOG_EVIDENCE) < 1e-5
    draws = np.concatenate([posterior.draws["x0"][0][:, None], posterior.draws["x"][0]], axis=1)
    errors = np.sqrt(np.array(VARIANCES) / len(draws))
    assert np.all(np.abs(draws.mean(axis=0) - MEANS) < 5 * errors)  # false alarm 2e-6: the key is fixed
    np.testing.assert_allclose(draws.var(axis=0), VARIANCES, rtol=0.05)


@pytest.mark.slow
def test_a_marginal_is_the_posterior_times_the_evidence():
    marginal = walk(jnp.array(YS)).marginal("x0", method=ppl.Kalman())
    wanted = dist.Normal(MEANS[0], VARIANCES[0] ** 0.5).log_prob(0.3) + LOG_EVIDENCE
    assert abs(float(marginal.log_density({"x0": jnp.array(0.3)})) - float(wanted)) < 1e-4


@pytest.mark.slow
def test_normalising_divides_by_the_evidence():
    program = walk(jnp.array(YS))
    choices = {"x0": jnp.array(0.3), "x": jnp.array([0.1, -0.4])}
    found = program.normalize(method=ppl.Kalman()).log_density(choices)
    np.testing.assert_allclose(found, program.log_density(choices) - LOG_EVIDENCE, atol=1e-4)


@ppl.model
def vectors(y):
    x = ppl.sample("x", dist.MultivariateNormal(jnp.array([1.0, -1.0]), jnp.array([[2.0, 0.5], [0.5, 1.0]])))
    with ppl.plate("rows", 3):
        ppl.sample("y", dist.Normal(jnp.stack([x[0], x[1], x[0] - 2.0 * x[1]]), jnp.array([0.5, 1.0, 2.0])), obs=y)
    return x


@pytest.mark.slow
def test_vectors_and_plates_against_a_grid_free_formula():
    y, h = jnp.array([0.3, 0.1, 2.0]), jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, -2.0]])
    prior, noise = jnp.array([[2.0, 0.5], [0.5, 1.0]]), jnp.diag(jnp.array([0.25, 1.0, 4.0]))
    law = dist.MultivariateNormal(h @ jnp.array([1.0, -1.0]), h @ prior @ h.T + noise)
    evidence, posterior = ppl.Kalman().collapsed(vectors(y))
    np.testing.assert_allclose(evidence, law.log_prob(y), rtol=1e-5)
    precision = jnp.linalg.inv(prior) + h.T @ jnp.linalg.inv(noise) @ h
    np.testing.assert_allclose(posterior.covariance_matrix, jnp.linalg.inv(precision), rtol=1e-4)
    mean = jnp.linalg.solve(
        precision, jnp.linalg.solve(prior, jnp.array([1.0, -1.0])) + h.T @ jnp.linalg.solve(noise, y)
    )
    np.testing.assert_allclose(posterior.loc, mean, rtol=1e-4)


# --- what is refused --------------------------------------------------------------------------------------------------


@ppl.model
def curved():
    a = ppl.sample("a", dist.Normal(0.0, 1.0))
    return ppl.sample("b", dist.Normal(a**2, 1.0))


@ppl.model
def scaled():
    a = ppl.sample("a", dist.Normal(0.0, 1.0))
    return ppl.sample("b", dist.Normal(0.0, jnp.exp(a)))


@ppl.model
def heavy():
    return ppl.sample("a", dist.Cauchy(0.0, 1.0))


@ppl.model
def weighed():
    a = ppl.sample("a", dist.Normal(0.0, 1.0))
    ppl.factor("f", -a)
    return a


@pytest.mark.parametrize("program", [curved, scaled, heavy, weighed], ids=["curved", "scaled", "heavy", "weighed"])
def test_other_programs_are_refused(program):
    with pytest.raises(MeasureError, match="Gaussian"):
        ppl.infer(program(), ppl.Kalman(), key=0)


# --- collapse ---------------------------------------------------------------------------------------------------------


@ppl.model
def regime_step(belief, regime, y):
    x = ppl.sample("before", belief)
    slope, scale = jnp.where(regime == 1, 0.9, -0.5), jnp.where(regime == 1, 0.3, 1.0)
    x = ppl.sample("x", dist.Normal(slope * x, scale))
    ppl.sample("y", dist.Normal(x, 0.5), obs=y)
    return x


@ppl.model
def switching(ys):
    """A switching linear-Gaussian model: particles hold the regime and a belief."""

    def step(state, y):
        regime, belief = state
        regime = ppl.sample("regime", dist.Bernoulli(jnp.where(regime == 1, 0.8, 0.3)))
        after = ppl.collapse("step", regime_step(dist.Normal(*belief), regime, y), ppl.Kalman())
        return (regime, (after.loc, after.scale)), None

    return jax.lax.scan(step, (1, (0.0, 1.0)), ys)[0][0]


@ppl.model
def uncollapsed(ys):
    def step(state, y):
        regime, x = state
        regime = ppl.sample("regime", dist.Bernoulli(jnp.where(regime == 1, 0.8, 0.3)))
        slope, scale = jnp.where(regime == 1, 0.9, -0.5), jnp.where(regime == 1, 0.3, 1.0)
        x = ppl.sample("x", dist.Normal(slope * x, scale))
        ppl.sample("y", dist.Normal(x, 0.5), obs=y)
        return (regime, x), None

    return jax.lax.scan(step, (1, ppl.sample("start", dist.Normal(0.0, 1.0))), ys)[0][0]


REGIMES = jnp.array([0.5, -1.0, 1.2, 0.3])


def errors(model, truth, runs=30):
    method = ppl.SMC(200, store="none")
    return np.array([ppl.infer(model(REGIMES), method, key=k).log_evidence.estimate for k in range(runs)]) - truth


@pytest.mark.slow
def test_collapsed_particles_know_the_exact_evidence_with_less_noise():
    """False alarm 1e-6 for the mean of the evidence; the mutant, evidence as of one step, is told at once."""
    truth = float(switching(REGIMES).enumerate().log_mass)
    for model in (switching, uncollapsed):
        ratio = np.exp(errors(model, truth))
        assert abs(ratio.mean() - 1.0) < 5.5 * ratio.std() / np.sqrt(len(ratio))
    assert errors(switching, truth).std() < 0.6 * errors(uncollapsed, truth).std()
    short = float(switching(REGIMES[:3]).enumerate().log_mass)
    ratio = np.exp(errors(switching, short))
    assert abs(ratio.mean() - 1.0) > 5.5 * ratio.std() / np.sqrt(len(ratio))


@ppl.model
def hidden_step(belief, y):
    z = ppl.sample("before", belief)
    z = ppl.sample("z", dist.Categorical(probs=jnp.array([[0.7, 0.3], [0.4, 0.6]])[z]))
    ppl.sample("y", dist.Categorical(probs=jnp.array([[0.9, 0.1], [0.2, 0.8]])[z]), obs=y)
    return z


@ppl.model
def forward(ys):
    def step(logits, y):
        return ppl.collapse("step", hidden_step(dist.Categorical(logits=logits), y), ppl.Exact()).logits, None

    before = jnp.linalg.solve(jnp.array([[0.7, 0.4], [0.3, 0.6]]), jnp.array([0.6, 0.4]))
    return jax.lax.scan(step, jnp.log(before), ys)[0]


def test_a_finite_program_collapsed_at_each_step_is_the_forward_algorithm():
    found = forward(jnp.array([0, 1, 0, 1])).enumerate()
    assert abs(float(found.log_mass) - -3.256617) < 1e-5
    filtered = jax.nn.softmax(found.values[0])
    np.testing.assert_allclose(filtered, [0.180342, 0.819658], atol=1e-5)


def test_collapse_says_what_it_needs():
    with pytest.raises(MeasureError, match="call the model"):
        ppl.collapse("a", hidden_step, ppl.Exact())
    with pytest.raises(MeasureError, match="scalar Categorical"):
        forward_of_sum().enumerate()


@ppl.model
def returns_a_sum():
    return ppl.sample("a", dist.Bernoulli(0.5)) + 1


@ppl.model
def forward_of_sum():
    return ppl.collapse("s", returns_a_sum(), ppl.Exact()).logits
