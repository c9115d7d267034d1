"""`ppl.SMC`: true values, the evidence's standard error under every scheme, what goes wrong with data and weights."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

import ppl
import ppl.distributions as dist
from ppl.errors import DegenerateWeightsError
from ppl.inference import genealogy
from ppl.inference.smc import swept_run
from ppl.numerics import kinship

KALMAN = jnp.array([0.5, 1.0, 0.2])
LOG_EVIDENCE = -2.981926  # A = .8, Q = .2, R = .3 (shared/references/smc.md)


@ppl.model
def walk(ys, transition=0.8, noise=0.2, observed=0.3):
    x0 = ppl.sample("x0", dist.Normal(0.0, 1.0))
    ppl.sample("y0", dist.Normal(x0, observed**0.5), obs=ys[0])

    def step(x, y):
        x = ppl.sample("x", dist.Normal(transition * x, noise**0.5))
        ppl.sample("y", dist.Normal(x, observed**0.5), obs=y)
        return x, None

    return jax.lax.scan(step, x0, ys[1:])[0]


@ppl.model
def volatility(ys):
    def step(x, y):
        x = ppl.sample("x", dist.Normal(-1.0 + 0.95 * (x + 1.0), 0.3))
        ppl.sample("y", dist.Normal(0.0, jnp.exp(x / 2)), obs=y)
        return x, None

    return jax.lax.scan(step, ppl.sample("x0", dist.Normal(-1.0, 0.96)), ys)[0]


@ppl.model
def hidden_markov(ys):
    to_one, on = jnp.array([0.3, 0.6]), jnp.array([0.1, 0.8])
    start = ppl.sample("start", dist.Bernoulli(0.4))
    ppl.sample("y0", dist.Bernoulli(on[start]), obs=ys[0])

    def step(x, y):
        x = ppl.sample("x", dist.Bernoulli(to_one[x]))
        ppl.sample("y", dist.Bernoulli(on[x]), obs=y)
        return x, None

    return jax.lax.scan(step, start, ys[1:])[0]


HMM, HMM_LOG_EVIDENCE = jnp.array([0, 1, 0, 1, 1, 0, 0, 1]), -6.219252


def runs(program, method, key, count):
    """Log evidences and reported errors of independent runs."""

    @jax.jit
    def all_of_them(program, keys):
        def one(key):
            found = swept_run(program, key, method.transformer, "none", method.resampling)
            return found["log_evidence"], found["error"]

        return jax.lax.map(one, keys)

    return [np.asarray(x, np.float64) for x in all_of_them(program, jax.random.split(key, count))]


# --- true values ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("program", "truth"),
    [
        (walk(KALMAN), LOG_EVIDENCE),
        (walk(jnp.array([1.0, 2.0]), 1.0, 1.0, 1.0), -3.342596),
        (hidden_markov(HMM), -6.219252),
    ],
    ids=["Kalman", "Kalman with unit variances", "hidden Markov"],
)
@pytest.mark.slow
def test_the_evidence_is_the_true_one(program, truth, key):
    """Replicates within 5 standard errors of the truth (false alarm rate 1e-6), and no wider than 0.01."""
    estimate, error = ppl.infer(program, ppl.SMC(4_000, store="none", replicates=40), key=key).log_evidence
    assert error < 0.01
    assert abs(estimate - truth) < 5 * error


def test_paths_have_the_smoothed_moments(key):
    """Kalman smoothed means and variances; 50,000 particles, three steps: 5 standard errors are under 0.03."""
    posterior = ppl.infer(walk(KALMAN), ppl.SMC(50_000), key=key)
    weights = np.exp(posterior.log_weights[0] - posterior.log_weights[0].max())
    x = np.concatenate([posterior.draws["x0"][0][:, None], posterior.draws["x"][0]], axis=1)
    mean = np.average(x, axis=0, weights=weights)
    np.testing.assert_allclose(mean, [0.542987, 0.605958, 0.370860], atol=0.03)
    variance = np.average((x - mean) ** 2, axis=0, weights=weights)
    np.testing.assert_allclose(variance, [0.170387, 0.133521, 0.150763], atol=0.02)


# --- the standard error of one run ------------------------------------------------------------------------------------

SERIES = np.random.default_rng(5).normal(size=60).astype(np.float32)
COVERED = [
    ("linear-Gaussian", walk(KALMAN), "systematic", None),
    ("linear-Gaussian", walk(KALMAN), "multinomial", None),
    ("linear-Gaussian, 60 steps", walk(SERIES), "systematic", 0.5),
    ("linear-Gaussian, 60 steps", walk(SERIES), "stratified", None),
    ("hidden Markov", hidden_markov(HMM), "systematic", None),
    ("hidden Markov", hidden_markov(HMM), "residual", 0.5),
    ("volatility, 60 steps", volatility(0.6 * SERIES), "systematic", 0.5),
    ("volatility, 60 steps", volatility(0.6 * SERIES), "multinomial", 0.5),
]
LONG = [
    ("linear-Gaussian, 600 steps", walk(np.tile(SERIES, 10)), "systematic", 0.5),
    ("linear-Gaussian, 600 steps", walk(np.tile(SERIES, 10)), "stratified", 0.5),
    ("volatility, 720 steps", volatility(0.6 * np.tile(SERIES, 12)), "systematic", 0.5),
    ("volatility, 720 steps", volatility(0.6 * np.tile(SERIES, 12)), "ssp", 0.5),
    ("volatility, 240 steps", volatility(0.6 * np.tile(SERIES, 4)), "multinomial", None),
    ("volatility, 240 steps", volatility(0.6 * np.tile(SERIES, 4)), "killing", 0.5),
]


def coverage(program, method, key):
    """Mean square of the reported errors over the variance of the estimates, 400 runs; normal scatter is 7%."""
    estimates, errors = runs(program, method, key, 400)
    assert np.isfinite(errors).mean() > 0.95
    return np.mean(errors[np.isfinite(errors)] ** 2) / np.var(estimates, ddof=1)


def case(entry):
    marks = [pytest.mark.slow] if entry in LONG else []
    return pytest.param(*entry[1:], marks=marks, id=f"{entry[0]}, {entry[2]}, {entry[3]}")


@pytest.mark.parametrize(("program", "scheme", "threshold"), [case(entry) for entry in COVERED + LONG])
@pytest.mark.slow
def test_the_reported_error_covers(program, scheme, threshold, key):
    """Within 25% of the truth, and 5 standard errors of 7% (false alarm rate 1e-6) on top."""
    ratio = coverage(program, ppl.SMC(500, scheme, threshold, store="none"), key)
    assert 0.75 * 0.7 < ratio < 1.25 * 1.42


def test_an_error_that_forgets_what_resampling_adds_is_noticed(key, monkeypatch):
    """The mutant: descendants' own noise is not taken off, as if multinomial resampling had the noise of systematic."""
    monkeypatch.setattr(genealogy.kinship, "drift", lambda scheme, n: 0.0)
    assert coverage(walk(KALMAN, 0.81), ppl.SMC(500, "multinomial", None, store="none"), key) > 1.25 * 1.42


def test_an_unresampled_population_has_the_error_of_importance_sampling(key):
    posterior = ppl.infer(walk(KALMAN), ppl.SMC(2_000, threshold=0.0), key=key)
    weights = np.exp(posterior.log_weights[0].astype(np.float64))
    direct = np.std(weights / weights.sum(), ddof=1) * np.sqrt(2_000)
    assert posterior.log_evidence.standard_error == pytest.approx(direct, rel=0.25)


def test_an_error_that_cannot_be_told_is_infinite_and_says_so(key):
    ys = np.linspace(0.0, 60.0, 40, dtype=np.float32)
    posterior = ppl.infer(walk(ys, observed=1e-4), ppl.SMC(100), key=key)
    assert np.isinf(posterior.log_evidence.standard_error)
    assert "replicates=10" in posterior.remarks[0]


def test_relabelling_keeps_the_first_labels_until_two_generations_are_younger():
    """By hand: four particles, each a family; two of them have all the weight in the end."""
    n = 4
    labels, kin = kinship.first_labels(n), kinship.start(jnp.zeros(n))
    even = jnp.full(n, -jnp.log(4.0))
    for _ in range(2):
        kin, labels = kinship.tick(kin, labels, even, jnp.float32(4.0))
    assert kin.relabelled == 2
    assert (labels & 255).tolist() == [0, 1, 2, 3]
    kin, labels = kinship.tick(kin, labels[jnp.array([0, 0, 1, 1])], even, jnp.float32(4.0))
    growth, families = kinship.variance(kin, labels, even)
    assert growth == pytest.approx(np.log(0.75 / 0.5), rel=1e-5)
    assert families == 2


# --- replicates -------------------------------------------------------------------------------------------------------


def test_replicates_are_chains_of_one_posterior(key):
    posterior = ppl.infer(walk(KALMAN), ppl.SMC(200, replicates=5), key=key)
    assert posterior.draws["x"].shape == (5, 200, 2)
    assert posterior.history.log_evidence.shape == (5, 4)
    each = np.logaddexp.reduce(posterior.log_weights.astype(np.float64), axis=1)
    assert posterior.log_evidence.estimate == pytest.approx(np.logaddexp.reduce(each) - np.log(5), abs=1e-5)
    relative = np.exp(each - each.max())
    assert posterior.log_evidence.standard_error == pytest.approx(
        np.std(relative, ddof=1) / relative.mean() / np.sqrt(5), rel=1e-3
    )
    assert len(np.unique(each)) == 5


# --- reliability ------------------------------------------------------------------------------------------------------


@ppl.model
def weighing(weights):
    def step(x, weight):
        x = ppl.sample("x", dist.Bernoulli(0.375))
        ppl.factor("w", jnp.where(x == 1, weight, 0.0))
        return x, None

    return jax.lax.scan(step, 0, weights)[0]


@pytest.mark.parametrize("weight", [jnp.nan, -jnp.inf])
def test_particles_without_a_weight_count_as_zero(weight, key):
    """log(5/8 (5/8 + 3/8 e)), up to 5 standard errors; NaN is counted and reported, minus infinity is a weight."""
    posterior = ppl.infer(weighing(jnp.array([weight, 1.0])), ppl.SMC(2_000), key=key, check_data=False)
    estimate, error = posterior.log_evidence
    assert abs(estimate - np.log(5 / 8 * (5 / 8 + 3 / 8 * np.e))) < 5 * error
    counted = posterior.diagnostics["nan_weights"]
    assert (counted > 600) == bool(np.isnan(weight))
    assert any("NaN" in remark for remark in posterior.remarks) == bool(np.isnan(weight))
    assert np.isfinite(posterior.history.ess).all()


@pytest.mark.parametrize("store", ["paths", "tree", "lag", "none"])
def test_a_dead_population_is_an_error_that_names_the_advance(store, key):
    @ppl.model
    def dead(ys):
        def step(x, y):
            x = ppl.sample("x", dist.Normal(x, 1.0))
            ppl.factor("alive", jnp.where(y > 0, 0.0, -jnp.inf))
            return x, None

        return jax.lax.scan(step, 0.0, ys)[0]

    with pytest.raises(DegenerateWeightsError, match="lost at advance 2 of"):
        ppl.infer(dead(jnp.array([1.0, 1.0, -1.0, 1.0])), ppl.SMC(50, store=store), key=key, check_data=False)


def test_one_particle_and_one_step(key):
    posterior = ppl.infer(walk(KALMAN[:2]), ppl.SMC(1), key=key)
    assert posterior.draws["x"].shape == (1, 1, 1)
    assert np.isfinite(posterior.log_evidence.estimate)
    assert np.isinf(posterior.log_evidence.standard_error)


def test_no_observations_mean_evidence_one(key):
    @ppl.model
    def prior():
        return ppl.sample("x", dist.Normal(0.0, 1.0))

    posterior = ppl.infer(prior(), ppl.SMC(100), key=key)
    assert posterior.log_evidence == pytest.approx((0.0, 0.0), abs=1e-6)
    assert posterior.draws["x"].shape == posterior.values.shape == (1, 100)


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.slow
def test_huge_weights(double, key):
    """Weights of exp(1e4) and more: log(e^1e4 3/8 + 5/8) twice."""
    with jax.enable_x64(double):
        weights = jnp.array([1e4, 2e4])
        posterior = ppl.infer(weighing(weights), ppl.SMC(1_000), key=key)
        estimate, error = posterior.log_evidence
        rounding = 1e-9 if double else 0.01
        assert abs(estimate - (3e4 + 2 * np.log(3 / 8))) < 5 * error + rounding
        assert posterior.log_weights.dtype == (np.float64 if double else np.float32)
        assert (posterior.draws["x"][posterior.log_weights > 2e4] == 1).all()


@pytest.mark.slow
def test_choices_of_any_kind_in_loops(key):
    """Integers, booleans, a plate of them, and a site whose value is a dict."""

    @ppl.model
    def pair():
        return ppl.sample("a", dist.Categorical(probs=jnp.array([0.5, 0.25, 0.25]))) + 2 * ppl.sample(
            "b", dist.Bernoulli(0.25)
        )

    both = pair().marginal(["a", "b"])

    @ppl.model
    def model(ys):
        def step(count, y):
            with ppl.plate("lanes", 2):
                flips = ppl.sample("flips", dist.Bernoulli(0.5))
            two = ppl.sample("two", both)
            odd = (jnp.sum(flips) % 2) == 1
            count = count + two["a"] + two["b"] + odd
            ppl.sample("y", dist.Normal(jnp.asarray(count, jnp.float32), 1.0), obs=y)
            return count, odd

        return jax.lax.scan(step, 0, ys)

    posterior = ppl.infer(model(jnp.array([1.0, 2.0])), ppl.SMC(300), key=key)
    shapes = {address: x.shape for address, x in posterior.draws.items()}
    assert shapes == {"flips": (1, 300, 2, 2), "two/a": (1, 300, 2), "two/b": (1, 300, 2)}
    assert posterior.values[1].dtype == bool
    made = posterior.draws["two/a"] + posterior.draws["two/b"] + posterior.draws["flips"].sum(-1) % 2
    np.testing.assert_array_equal(made.sum(-1), posterior.values[0])


@pytest.mark.slow
def test_a_million_particles(key):
    estimate, error = ppl.infer(walk(KALMAN), ppl.SMC(1_000_000), key=key).log_evidence
    assert error < 0.003
    assert abs(estimate - LOG_EVIDENCE) < 5 * error


@pytest.mark.parametrize("settings", [{"particles": 0}, {"store": "all"}, {"replicates": 0}, {"lag": 0}])
def test_settings_that_mean_nothing_are_refused(settings):
    """By the method itself, or by the types that the tests check."""
    with pytest.raises((ValueError, TypeCheckError), match="[Ee]xpected"):
        ppl.SMC(**settings)


# --- caches -----------------------------------------------------------------------------------------------------------


def test_new_data_of_the_same_shape_compiles_nothing(caplog):
    count = []

    @ppl.model
    def counted(ys):
        count.append(1)

        def step(x, y):
            x = ppl.sample("x", dist.Normal(x, 1.0))
            ppl.sample("y", dist.Normal(x, 1.0), obs=y)
            return x, None

        return jax.lax.scan(step, 0.0, ys)[0]

    def run(shift, key):
        return ppl.infer(
            counted(
                jnp.array([1.0, 2.0]) + shift,
            ),
            ppl.SMC(20),
            key=key,
        ).log_evidence.estimate

    first = run(0.0, 0)
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        others = [run(1.0, 0), run(0.0, 1)]
    assert [r.getMessage() for r in caplog.records if "Finished XLA compilation" in r.getMessage()] == []
    assert len(count) == 1
    assert len({first, *others}) == 3
