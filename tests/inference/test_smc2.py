"""`ppl.SMC2` and `ppl.ResampleMove` as methods: known evidences, histories, growing filters, errors.

That their steps are exact is in `tests/laws/test_resample_move.py`. Statistical tests: false-alarm rate 1e-6 by a
t-test on independent runs.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from scipy import stats

import ppl
import ppl.distributions as dist
from benchmarks.smc2 import PARAMETERS, log_returns, volatility
from ppl.errors import DegenerateWeightsError, MeasureError
from ppl.inference import random_walk, resample_move, smc2, trace_mh_kernel, up_to
from ppl.inference.parameter_prior import drawn_parameters, located, proposed, spread_of
from ppl.inference.resample_move import resample_moved
from ppl.inference.smc2_steps import Setup

RATE = 1e-6
YS = np.array([0.5, 1.6, 1.1, 2.4, 3.0, 2.2, 3.7, 3.1])


@ppl.model
def walk(ys):
    """A random walk of unknown scale, seen with noise."""
    scale = ppl.sample("scale", dist.LogNormal(-0.5, 0.75))

    def step(x, y):
        x = ppl.sample("x", dist.Normal(x, scale))
        ppl.sample("y", dist.Normal(x, 0.5), obs=y)
        return x, None

    return lax.scan(step, jnp.zeros(()), ys)[0]


def by_quadrature(ys):
    """Evidence and posterior mean of the scale: Kalman filters on a fine grid of log scales."""
    z = np.linspace(-6, 6, 2001)
    scale, mean, variance, log_z = np.exp(-0.5 + 0.75 * z), 0.0, 0.0, 0.0
    for y in ys:
        variance = variance + scale**2
        log_z = log_z + stats.norm.logpdf(y, mean, np.sqrt(variance + 0.25))
        gain = variance / (variance + 0.25)
        mean, variance = mean + gain * (y - mean), variance * (1 - gain)
    masses = stats.norm.pdf(z) * np.exp(log_z) * (z[1] - z[0])
    return masses.sum(), (masses * scale).sum() / masses.sum()


def t_score(ratios):
    """Distance of the mean of the evidence ratios from one, against the largest that happens at the stated rate."""
    t = abs(np.mean(ratios) - 1.0) / (np.std(ratios, ddof=1) / np.sqrt(len(ratios)))
    return t / stats.t.ppf(1 - RATE / 2, len(ratios) - 1)


METHOD = ppl.SMC2(100, 40, moves=3, replicates=30)


@pytest.fixture(scope="module")
def posterior():
    return ppl.infer(walk(jnp.asarray(YS, jnp.float32)), METHOD, key=11)


def ratios(posterior):
    """The evidence of each run over the truth."""
    return np.exp(posterior.log_weights.astype(float)).sum(axis=1) / by_quadrature(YS)[0]


@pytest.mark.slow
def test_the_evidence_is_that_of_the_grid(posterior):
    assert t_score(ratios(posterior)) < 1
    estimate, error = posterior.log_evidence
    assert 0 < error < 0.1
    assert abs(estimate - np.log(by_quadrature(YS)[0])) < 6.2 * error


def half(before, after):
    return jnp.where(after > -jnp.inf, 0.9 * (after - before), -jnp.inf)


def test_evidence_that_grows_too_slowly_dies(monkeypatch):
    monkeypatch.setattr(smc2, "Setup", partial(Setup, increment=half))
    assert t_score(ratios(ppl.infer(walk(jnp.asarray(YS, jnp.float32)), METHOD, key=11))) > 1


def test_the_parameter_has_its_posterior_mean(posterior):
    weights = np.exp(posterior.log_weights - posterior.log_weights.max(axis=1, keepdims=True))
    means = (weights * posterior.draws["scale"]).sum(axis=1) / weights.sum(axis=1)
    error = means.std(ddof=1) / np.sqrt(len(means))
    assert abs(means.mean() - by_quadrature(YS)[1]) < stats.t.ppf(1 - RATE / 2, len(means) - 1) * error


def test_the_history_is_by_observation(posterior):
    past = posterior.history
    assert posterior.draws["scale"].shape == (30, 100)
    assert past.log_evidence.shape == past.ess.shape == (8,)
    assert past.rejuvenated.any()
    assert not past.rejuvenated[-1]
    np.testing.assert_array_equal(np.isnan(past.acceptance), ~past.rejuvenated)
    assert (past.acceptance[past.rejuvenated] > 0.05).all()
    assert (past.inner == 40).all()


def test_one_run_is_repeatable_and_knows_its_error():
    program, method = walk(jnp.asarray(YS, jnp.float32)), ppl.SMC2(100, 40, moves=3)
    one, two = (ppl.infer(program, method, key=3) for _ in range(2))
    np.testing.assert_array_equal(one.draws["scale"], two.draws["scale"])
    assert 0.01 < one.log_evidence.standard_error < 1.0


@pytest.mark.slow
def test_filters_grow_where_few_moves_are_accepted(monkeypatch):
    monkeypatch.setattr(smc2, "LOW_ACCEPTANCE", 1.1)
    method = ppl.SMC2(100, 10, moves=1, most_inner=20)
    found = ppl.infer(walk(jnp.asarray(YS, jnp.float32)), method, key=5)
    sizes = found.history.inner
    assert sizes[0] == 10
    assert sizes[-1] == 20
    assert abs(found.log_evidence.estimate - np.log(by_quadrature(YS)[0])) < 1.5


@pytest.mark.slow
def test_states_may_start_before_the_loop_and_data_may_come_in_straight_lines():
    """An observation before the loop, states drawn outside it, a discrete and a continuous parameter."""

    @ppl.model
    def mixed(ys):
        kind = ppl.sample("kind", dist.Bernoulli(0.25))
        shift = ppl.sample("shift", dist.Normal(0.5 * kind, 1.0))
        x = ppl.sample("x0", dist.Normal(shift, 1.0))
        ppl.sample("y0", dist.Normal(x, 0.5), obs=ys[0])

        def step(x, y):
            x = ppl.sample("x", dist.Normal(x + shift, 1.0))
            ppl.sample("y", dist.Normal(x, 0.5), obs=y)
            return x, x

        last, path = lax.scan(step, x, ys[1:])
        ppl.sample("end", dist.Normal(last, 1.0), obs=ys[-1])
        return path

    program = mixed(jnp.array([0.5, 1.0, 2.5]))
    found = ppl.infer(program, ppl.SMC2(200, 50, parameters=("kind", "shift"), threshold=0.9), key=0)
    exact = ppl.infer(program, ppl.Importance(200_000), key=1)
    assert found.history.ess.shape == (4,)
    assert abs(found.log_evidence.estimate - exact.log_evidence.estimate) < 0.5
    assert set(np.unique(found.draws["kind"])) == {0, 1}


def test_parameters_that_depend_on_states_are_refused():
    @ppl.model
    def tangled(ys):
        x0 = ppl.sample("x0", dist.Normal(0.0, 1.0))
        scale = ppl.sample("scale", dist.LogNormal(x0, 1.0))

        def step(x, y):
            ppl.sample("y", dist.Normal(x, scale), obs=y)
            return ppl.sample("x", dist.Normal(x, 1.0)), None

        lax.scan(step, x0, ys)

    with pytest.raises(MeasureError, match=r"'scale'.*cannot be drawn by themselves.*'x0'"):
        ppl.infer(tangled(jnp.ones(3)), ppl.SMC2(10, 10, parameters=("scale",)), key=0)


def test_lost_particles_are_an_error():
    @ppl.model
    def impossible(ys):
        scale = ppl.sample("scale", dist.LogNormal(0.0, 1.0))

        def step(x, y):
            x = ppl.sample("x", dist.Normal(x, scale))
            ppl.factor("never", jnp.where(y > 2.0, -jnp.inf, 0.0))
            return x, None

        lax.scan(step, jnp.zeros(()), ys)

    with pytest.raises(DegenerateWeightsError, match="advance 1"):
        ppl.infer(impossible(jnp.array([1.0, 3.0])), ppl.SMC2(10, 10), key=0)


def test_settings_of_chains_are_refused():
    with pytest.raises(ValueError, match=r"draws=5.*ppl\.SMC2"):
        ppl.infer(walk(jnp.ones(3)), ppl.SMC2(10, 10), key=0, draws=5)


def test_proposals_are_scaled_to_the_parameters():
    """d = 1: 2.38 times the standard deviation in R^n; a point and its density are those of `ppl.inference.Flat`."""
    program = walk(jnp.ones(3))
    values = {"scale": jnp.exp(jnp.array([0.0, 1.0, 3.0]))}
    weights = jnp.array([0.5, 0.25, 0.25])
    spread = spread_of(program, values, weights)
    np.testing.assert_allclose(spread, 2.38 * np.sqrt(0.25 + 2.25 - 1.0) * np.ones((1, 1)), rtol=1e-4)
    point = located(program, {"scale": jnp.array(2.0)})
    wanted = stats.norm.logpdf(np.log(2.0), -0.5, 0.75)
    np.testing.assert_allclose(point.log_density, wanted, rtol=1e-5)
    moved = ppl.Program.of(lambda: proposed(program, point, spread)).sample(0)
    np.testing.assert_allclose(moved.log_density, located(program, moved.values).log_density, rtol=1e-5)
    assert sorted(ppl.Program.of(lambda: drawn_parameters(program, ("scale",))[0]).sites) == ["scale"]


# --- resample-move ----------------------------------------------------------------------------------------------------


@ppl.model
def coins(ys):
    p = ppl.sample("p", dist.Beta(1.0, 1.0))
    lax.scan(lambda _, y: (None, ppl.sample("y", dist.Bernoulli(p), obs=y)), None, ys)


TOSSES = jnp.array([1, 1, 0, 1, 1, 0, 1, 1, 0, 1])
LOG_EVIDENCE = -7.185387


def evidence_ratios(key, kernel):
    """Evidence over truth of 60 independent runs with 150 particles that are moved every time."""
    setup = resample_move.Setup(150, ppl.resample("systematic"), None, kernel)
    run = jax.jit(jax.vmap(resample_moved(coins(TOSSES), setup).program.sample))
    log_weights = run(jax.random.split(key, 60)).log_weight
    return np.exp(np.asarray(log_weights, float) - LOG_EVIDENCE).sum(axis=1)


@pytest.mark.slow
def test_resample_move_has_the_evidence_of_the_coin(key):
    assert t_score(evidence_ratios(key, random_walk(1.0))) < 1


def prior_kernel(program):
    return trace_mh_kernel(up_to(program, 0))


@pytest.mark.slow
def test_resample_move_with_a_wrong_target_dies(key):
    """The kernel of the prior: particles forget the data at every move."""
    assert t_score(evidence_ratios(key, prior_kernel)) > 1


@pytest.mark.slow
def test_resample_move_as_a_method():
    """The mean of 400 particles; its error of about .01 has a margin of ten."""
    found = ppl.infer(coins(TOSSES), ppl.ResampleMove(400, random_walk(1.0), moves=2), key=0)
    weights = np.exp(found.log_weights[0] - LOG_EVIDENCE)
    assert abs(np.average(found.draws["p"][0], weights=weights) - 8 / 12) < 0.1
    past = found.history
    assert past.acceptance.shape == past.ess.shape == (10,)
    assert past.resampled.any()
    np.testing.assert_array_equal(np.isnan(past.acceptance), ~past.resampled)
    assert (past.acceptance[past.resampled] > 0.2).all()
    assert abs(found.log_evidence.estimate - LOG_EVIDENCE) < 0.5


# --- the reference ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_stochastic_volatility_of_the_pound():
    """log Z -487.808 +- .013; means (sd) mu -1.686 (.09), sigma .436 (.13), rho .663 (.14). Four standard errors."""
    method = ppl.SMC2(500, 200, parameters=PARAMETERS, replicates=4)
    found = ppl.infer(volatility(log_returns()), method, key=0)
    estimate, error = found.log_evidence
    assert abs(estimate + 487.808) < 4 * np.hypot(error, 0.013)
    weights = np.exp(found.log_weights - found.log_weights.max())
    weights = weights / weights.sum()
    for name, mean, deviation in (("mu", -1.686, 0.09), ("sigma", 0.436, 0.13), ("rho", 0.663, 0.14)):
        x = found.draws[name]
        centre = (weights * x).sum()
        assert abs(centre - mean) < 4 * deviation / np.sqrt(100)
        assert 0.7 < np.sqrt((weights * (x - centre) ** 2).sum()) / deviation < 1.4
