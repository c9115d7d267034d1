"""`ppl.NUTS` as users meet it: known posteriors, starts, thinning, extension, what is kept, layouts, errors.

Statistical tests look at the last draws of many chains, which are independent: false-alarm rate 1e-6.
"""

import warnings

import jax.numpy as jnp
import numpy as np
import pytest

import ppl
import ppl.distributions as dist
from ppl.errors import ConvergenceWarning, DegenerateWeightsError, NaNError, SupportError
from ppl.inference import runner

Z = 4.9
"""Two-sided normal quantile of 1e-6."""
SHORT = {"chains": 2, "warmup": 60, "draws": 24, "progress": False}


@pytest.fixture(autouse=True)
def _quiet():
    """Runs here are too short for the advice to be of use."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


@ppl.model
def measured(y):
    mu = ppl.sample("mu", dist.Normal(1.0, 2.0))
    sigma = ppl.sample("sigma", dist.LogNormal(0.0, 0.5))
    ppl.deterministic("ratio", mu / sigma)
    with ppl.plate("n", 4):
        ppl.sample("y", dist.Normal(mu, sigma), obs=y)
    return mu + sigma


PROGRAM = measured(jnp.array([0.3, 1.9, -0.4, 2.2]))


def draws_of(**settings):
    return ppl.infer(PROGRAM, ppl.NUTS(), key=3, **{**SHORT, **settings})


@pytest.fixture(scope="module")
def whole():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return draws_of()


def assert_same(one, other):
    for part in ("draws", "deterministic", "stats"):
        first, second = getattr(one, part), getattr(other, part)
        assert set(first) == set(second)
        for name in first:
            np.testing.assert_array_equal(first[name], second[name], err_msg=name)
    np.testing.assert_array_equal(one.values, other.values)


# --- runs ------------------------------------------------------------------------------------------------------------


def test_a_posterior_holds_what_the_model_makes(whole):
    assert whole.shape == (2, 24)
    mu, sigma = whole.draws["mu"], whole.draws["sigma"]
    assert (np.asarray(sigma) > 0).all()
    np.testing.assert_allclose(whole.values, np.asarray(mu) + np.asarray(sigma), rtol=1e-6)
    np.testing.assert_allclose(whole.deterministic["ratio"], np.asarray(mu) / np.asarray(sigma), rtol=1e-6)
    i = (1, 7)
    at = {"mu": mu[i], "sigma": sigma[i]}
    expected = float(PROGRAM.log_density(at)) + float(np.log(sigma[i]))
    assert whole.stats["log_density"][i] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("first", "cut"), [(1, 1e-9), (10_000, 1e3)])
def test_draws_do_not_depend_on_chunks(first, cut, whole, monkeypatch):
    monkeypatch.setattr(runner, "FIRST", first)
    monkeypatch.setattr(runner, "SLICE", cut)
    assert_same(draws_of(), whole)


def test_a_run_starts_with_the_draws_of_a_longer_one_and_extends_to_it(whole):
    part = draws_of(draws=9)
    np.testing.assert_array_equal(part.draws["mu"], whole.draws["mu"][:, :9])
    assert_same(part.extend(5).extend(10), whole)


def test_thinned_draws_are_every_third_one(whole):
    thinned = draws_of(draws=8, thin=3)
    for name, values in thinned.draws.items():
        np.testing.assert_array_equal(values, np.asarray(whole.draws[name])[:, 2::3])
    np.testing.assert_array_equal(thinned.stats["energy"], whole.stats["energy"][:, 2::3])
    assert_same(draws_of(draws=5, thin=3).extend(3), thinned)


def test_some_addresses_are_kept(whole):
    kept = draws_of(keep=["sigma", "ratio"])
    assert set(kept.draws) == {"sigma"}
    assert set(kept.deterministic) == {"ratio"}
    np.testing.assert_array_equal(kept.draws["sigma"], whole.draws["sigma"])
    np.testing.assert_array_equal(kept.deterministic["ratio"], whole.deterministic["ratio"])
    np.testing.assert_array_equal(kept.extend(2).draws["sigma"][:, :24], whole.draws["sigma"])


def twice_mu(choices):
    return {"twice": 2.0 * choices["mu"]}


def test_a_function_of_draws_is_kept(whole):
    kept = draws_of(keep=twice_mu)
    assert not kept.draws
    np.testing.assert_allclose(kept.values["twice"], 2.0 * np.asarray(whole.draws["mu"]), rtol=1e-6)


def test_layouts_agree_until_rounding_parts_them():
    """The same noise by chain and transition: without warm-up, the first transitions are the same up to rounding."""
    runs = [draws_of(warmup=0, draws=3, layout=layout) for layout in ("threads", "vmap", "devices")]
    for run in runs[1:]:
        np.testing.assert_array_equal(run.stats["steps"], runs[0].stats["steps"])
        np.testing.assert_allclose(run.draws["mu"], runs[0].draws["mu"], rtol=1e-3, atol=1e-4)
    assert np.ptp(runs[0].draws["mu"]) > 0.01


def test_an_adaptation_is_used_again(whole):
    adaptation = whole.continuation.adaptation
    again = ppl.infer(PROGRAM, ppl.NUTS(adaptation=adaptation), key=4, **{**SHORT, "warmup": 0})
    np.testing.assert_allclose(again.stats["step_size"], whole.stats["step_size"], rtol=1e-5)
    first = ppl.infer(PROGRAM, ppl.NUTS(adaptation=adaptation), key=4, **{**SHORT, "warmup": 0, "draws": 1})
    assert np.abs(np.asarray(first.draws["mu"])).max() < 20


def test_ctrl_c_returns_what_was_drawn(monkeypatch):
    """The main thread is interrupted once sampling goes on; what it returns is the start of the whole run."""
    monkeypatch.setattr(runner, "FIRST", 8)
    monkeypatch.setattr(runner, "SLICE", 1e-4)
    sampling, add, waited = [], runner.Reporter.add, runner.wait

    def watched(self, progress):
        add(self, progress)
        sampling.extend([progress.phase] * (progress.phase == "sampling"))

    def wait(futures, timeout):
        if len(sampling) >= 8:
            monkeypatch.setattr(runner, "wait", waited)
            raise KeyboardInterrupt
        return waited(futures, timeout=0.005)

    monkeypatch.setattr(runner.Reporter, "add", watched)
    monkeypatch.setattr(runner, "wait", wait)
    cut = draws_of(draws=100_000)
    made = cut.shape[1]
    assert 0 < made < 100_000
    monkeypatch.setattr(runner.Reporter, "add", add)
    np.testing.assert_array_equal(cut.draws["mu"], draws_of(draws=made).draws["mu"])
    assert cut.extend(7).shape == (2, made + 7)


# --- starts ----------------------------------------------------------------------------------------------------------


@ppl.model
def fenced(low, x=None):
    """The density is zero near the origin of the unconstrained space."""
    x = ppl.sample("x", dist.Normal(0.0, 10.0))
    ppl.factor("fence", jnp.where(x > low, 0.0, -jnp.inf))


def test_prior_draws_are_tried_where_cubes_fail():
    posterior = ppl.infer(fenced(5.0), ppl.NUTS(), key=0, **{**SHORT, "draws": 5})
    assert (np.asarray(posterior.draws["x"]) > 5.0).all()


def test_no_start_is_an_error_with_a_table():
    with pytest.raises(DegenerateWeightsError, match=r"None of 100 starts.*\n.*\n.*x .*\n.*fence.*-inf.*<- "):
        ppl.infer(fenced(1e6), ppl.NUTS(), key=0, **SHORT)


@ppl.model
def flat(y):
    mu = ppl.sample("mu", dist.ImproperUniform(dist.constraints.real, (), ()))
    with ppl.plate("n", 3):
        ppl.sample("y", dist.Normal(mu, 1.0), obs=y)


def test_improper_priors(key):
    y = jnp.array([101.0, 102.0, 100.0])
    posterior = ppl.infer(flat(y), ppl.NUTS(), key=key, chains=2, warmup=150, draws=300, progress=False)
    assert float(np.mean(posterior.draws["mu"])) == pytest.approx(101.0, abs=0.5)


def test_given_starts():
    first = {"chains": 2, "warmup": 0, "draws": 1, "progress": False}
    far = ppl.NUTS(start={"mu": 30.0, "sigma": jnp.array(20.0)}, max_depth=1)
    posterior = ppl.infer(PROGRAM, far, key=0, **first)
    assert (np.asarray(posterior.draws["mu"]) > 20).all()
    by_chain = ppl.NUTS(start={"mu": np.array([30.0, -30.0]), "sigma": np.array([20.0, 20.0])}, max_depth=1)
    mu = np.asarray(ppl.infer(PROGRAM, by_chain, key=0, **first).draws["mu"])[:, 0]
    assert mu[0] > 20
    assert mu[1] < -20


def test_a_given_start_outside_the_support_is_an_error():
    with pytest.raises(DegenerateWeightsError, match=r"The start that was given of chain 0 on 'measured'"):
        ppl.infer(PROGRAM, ppl.NUTS(start={"mu": 0.0, "sigma": -1.0}), key=0, **SHORT)


def test_a_given_start_of_a_very_small_density_is_taken():
    """A float32 cannot resolve it, but it is what the user asked for."""
    start = ppl.NUTS(start={"mu": 3000.0, "sigma": 1.0})
    posterior = ppl.infer(PROGRAM, start, key=0, **{**SHORT, "warmup": 300})
    assert np.abs(np.asarray(posterior.draws["mu"])[:, -1]).max() < 50


# --- the door --------------------------------------------------------------------------------------------------------


def test_nan_in_the_data():
    with pytest.raises(NaNError, match=r"'y' .*first at index \(2,\)"):
        ppl.infer(measured(jnp.array([0.3, 1.9, jnp.nan, 2.2])), ppl.NUTS(), key=0, **SHORT)


@ppl.model
def counts(y):
    rate = ppl.sample("rate", dist.Gamma(2.0, 1.0))
    ppl.sample("y", dist.Poisson(rate), obs=y)


def test_data_outside_the_support():
    with pytest.raises(SupportError, match=r"'y' .*support of Poisson"):
        ppl.infer(counts(jnp.array(-2)), ppl.NUTS(), key=0, **SHORT)


def test_data_outside_the_support_unchecked():
    with pytest.raises(DegenerateWeightsError, match=r"rate .*\n.*y .*likelihood.*-inf.*<- "):
        ppl.infer(counts(jnp.array(-2)), ppl.NUTS(), key=0, check_data=False, **SHORT)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"target_acceptance": 1.0}, "target_acceptance"),
        ({"max_depth": 0}, "max_depth"),
        ({"metric": "full"}, "metric"),
    ],
)
def test_wrong_settings(wrong, text):
    with pytest.raises(ValueError, match=text):
        ppl.NUTS(**wrong)


# --- known answers ---------------------------------------------------------------------------------------------------

MANY = {"chains": 200, "warmup": 150, "draws": 1, "layout": "threads", "progress": False}


@ppl.model
def line(x, y):
    """Conjugate: a normal prior of the coefficients, known noise."""
    weights = ppl.sample(
        "weights", dist.MultivariateNormal(jnp.array([1.0, -1.0]), jnp.array([[2.0, 0.8], [0.8, 1.0]]))
    )
    with ppl.plate("n", 3):
        ppl.sample("y", dist.Normal(x @ weights, 0.5), obs=y)


def test_a_conjugate_posterior(key):
    x, y = np.array([[1.0, 0.3], [1.0, 1.5], [1.0, 2.0]]), np.array([0.2, -1.0, -2.5])
    prior = np.linalg.inv(np.array([[2.0, 0.8], [0.8, 1.0]]))
    covariance = np.linalg.inv(prior + x.T @ x / 0.25)
    mean = covariance @ (prior @ np.array([1.0, -1.0]) + x.T @ y / 0.25)
    program = line(jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32))
    posterior = ppl.infer(program, ppl.NUTS(), key=key, **MANY)
    assert_normal(np.asarray(posterior.draws["weights"])[:, -1], mean, covariance)


def assert_normal(draws, mean, covariance):
    """Means and products of whitened draws: 5-d at most, 20 tests of 1e-6 / 20 each."""
    count, dim = draws.shape
    white = np.linalg.solve(np.linalg.cholesky(covariance), (draws - mean).T).T
    z = 5.5  # two-sided quantile of 4e-8
    assert np.abs(white.mean(0)).max() * np.sqrt(count) < z
    products = white.T @ white / count - np.eye(dim)
    sizes = np.where(np.eye(dim) == 1, np.sqrt(2 / count), np.sqrt(1 / count))
    assert np.abs(products / sizes).max() < 1.3 * z  # chi squares have heavier tails than normals


@ppl.model
def correlated(mean, whiten):
    x = ppl.sample("x", dist.ImproperUniform(dist.constraints.real_vector, (), (5,)))
    ppl.factor("normal", -0.5 * jnp.sum((whiten @ (x - mean)) ** 2))


@pytest.mark.parametrize("metric", ["low_rank", "diagonal", "dense"])
def test_a_correlated_normal(metric, key):
    root = np.tril(np.random.default_rng(7).normal(size=(5, 5)), -1) + np.diag([0.1, 1.0, 0.5, 3.0, 1.0])
    covariance, mean = root @ root.T, np.array([10.0, -1.0, 0.0, 2.0, 5.0])
    program = correlated(jnp.asarray(mean), jnp.asarray(np.linalg.inv(root)))
    posterior = ppl.infer(program, ppl.NUTS(metric=metric), key=key, **MANY)
    assert_normal(np.asarray(posterior.draws["x"])[:, -1].astype(float), mean, covariance)


def test_a_constrained_posterior(key):
    """Gamma-Poisson: the posterior of the rate is Gamma(2 + 3, 2)."""
    posterior = ppl.infer(counts(jnp.array(3)), ppl.NUTS(), key=key, **MANY)
    rate = np.asarray(posterior.draws["rate"])[:, -1].astype(float)
    assert abs(rate.mean() - 2.5) < Z * np.sqrt(5 / 4 / len(rate))
    below = np.mean(rate < 2.33546)  # its median
    assert abs(below - 0.5) < Z * 0.5 / np.sqrt(len(rate))
