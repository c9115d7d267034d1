"""`ppl.TemperedSMC`: true values with errors that cover, the schedule, the moves, failures, starts from any program.

Statistical tests: z-tests on the mean of Z / Z_true over replicates, false-alarm rate 1e-6.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ppl
import ppl.distributions as dist
from ppl.errors import AddressError, ConvergenceError, DegenerateWeightsError
from ppl.inference import TemperedSMC, gibbs, trace_mh_kernel
from ppl.inference.decorrelation import mean_correlation, watch, watched
from ppl.inference.kernel_moves import automatic
from ppl.inference.tempered_run import adaptive_runs
from ppl.inference.tempering_path import TemperingPath, checked_path
from ppl.inference.tempering_schedule import next_inverse_temperature
from ppl.inference.waste_free import chain_variance
from ppl.numerics.weights import effective_sample_size

Z_MILLION = 4.89
"""A standard normal exceeds it in absolute value with probability 1e-6."""
NORMAL = -1.930510


@ppl.model
def normal(y):
    mu = ppl.sample("mu", dist.Normal(0.0, 1.0))
    ppl.sample("y", dist.Normal(mu, 0.5), obs=y)
    return 2.0 * mu


@ppl.model
def wide(loc):
    ppl.sample("mu", dist.Normal(loc, 2.0))


@ppl.model
def mixed(y):
    k = ppl.sample("k", dist.Bernoulli(0.25))
    x = ppl.sample("x", dist.Normal(jnp.array([-1.0, 2.0])[k], 1.0))
    ppl.sample("y", dist.Normal(x, 0.5), obs=y)


@ppl.model
def bernoulli(heads):
    p = ppl.sample("p", dist.Beta(10.0, 10.0))
    ppl.factor("flips", heads * jnp.log(p) + (50 - heads) * jnp.log1p(-p))


def mixed_log_evidence(y):
    """y ~ .75 Normal(-1, sqrt 1.25) + .25 Normal(2, sqrt 1.25)."""
    logs = [np.log(w) - 0.5 * np.log(2 * np.pi * 1.25) - (y - m) ** 2 / 2.5 for w, m in ((0.75, -1.0), (0.25, 2.0))]
    return float(np.logaddexp(*logs))


def z_score(posterior, true):
    """How many standard errors the mean evidence of the replicates is from the true one."""
    evidence = posterior.log_evidence
    return abs(np.expm1(evidence.estimate - true)) / evidence.standard_error


# --- the schedule -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ratios",
    [
        [0.0, 0.0, 0.0, 50.0],
        [0.0, 0.0, 0.0, -50.0],
        [-1e6, 0.0, 3.0, -1e7],
        [1e9, 2e9, 0.0, -3e9],
        [5.0, 5.0, 5.0, 5.0],
    ],
)
def test_the_step_is_the_largest_that_keeps_enough(ratios):
    """Symmetric or not, at 1 or 1e9 nats: the ESS is the one asked for, unless the whole way is free."""
    with jax.enable_x64(True):
        log_weights, r = jnp.zeros(4), jnp.array(ratios)
        step = next_inverse_temperature(log_weights, r, jnp.array(0.25), 0.6)
        left = float(effective_sample_size((step.beta - 0.25) * r))
        beta, forced = float(step.beta), bool(step.forced)
    assert not forced
    assert beta == 1.0 if left > 2.4 * 1.001 else abs(left / 2.4 - 1) < 1e-3
    assert left >= 2.4 * (1 - 2e-4)


def test_particles_of_weight_zero_do_not_stall_the_schedule():
    """Nine of ten are impossible: no step leaves half of all, every step leaves all that can live."""
    r = jnp.where(jnp.arange(10) == 3, -1.0, -jnp.inf)
    assert next_inverse_temperature(jnp.zeros(10), r, jnp.array(0.0), 0.5).beta == 1.0


def test_a_step_is_always_made():
    step = next_inverse_temperature(jnp.zeros(4), jnp.array([1e30, 0.0, 0.0, 0.0]), jnp.array(0.5), 0.5)
    assert step.forced
    assert 0.5 < step.beta < 0.50001


def test_a_sign_error_is_seen_on_asymmetric_ratios():
    """The mutant with delta * (-r) agrees on symmetric ratios, and differs on these."""
    for ratios, agree in (([-3.0, -1.0, 1.0, 3.0], True), ([0.0, 0.0, 0.0, 10.0], False)):
        r = jnp.array(ratios)
        ours, mutant = (next_inverse_temperature(jnp.zeros(4), x, jnp.array(0.0), 0.5).beta for x in (r, -r))
        assert bool(jnp.allclose(ours, mutant, rtol=1e-3)) == agree


# --- decorrelation and chains -----------------------------------------------------------------------------------------


def test_the_watch_stops_when_start_is_forgotten_or_nothing_moves(rng):
    x = jnp.asarray(rng.normal(size=(400, 3)), jnp.float32)
    seen = watched(watch(), x, jnp.asarray(rng.normal(size=(400, 3)), jnp.float32))
    assert bool(seen.done)
    assert not watched(watch(), x, x).done
    stuck = watch()
    for _ in range(5):
        stuck = watched(stuck, x, x)
    assert bool(stuck.done)
    assert float(mean_correlation(x, -x)) == pytest.approx(1.0, abs=1e-5)  # squares know an antithetic jump


def test_the_chain_variance_is_that_of_autoregressive_chains(rng):
    """AR(1) of coefficient .8: the variance of a mean is 9 times that of independent draws; within a fifth."""
    chains, keep = 200, 200
    x = np.zeros((keep, chains))
    x[0] = rng.normal(size=chains)
    for t in range(1, keep):
        x[t] = 0.8 * x[t - 1] + 0.6 * rng.normal(size=chains)
    log_weights = jnp.asarray(np.log1p(0.05 * x).reshape(-1), jnp.float32)
    alone = float(chain_variance(log_weights, keep, independent=True))
    assert alone == pytest.approx(0.0025 / log_weights.size, rel=0.1)
    assert float(chain_variance(log_weights, keep, independent=False)) / alone == pytest.approx(9.0, rel=0.2)


# --- true values ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain():
    """One run and thirty replicates of each kind, of one model: (posterior of one run, of replicates)."""
    settings = {"random_walk": {}, "hmc": {"kernel": "hmc"}, "waste_free": {"kernel": "hmc", "waste_free": 20}}
    return {
        name: ppl.infer(normal(1.5), TemperedSMC(400, replicates=30, max_stages=20, **kw), key=11)
        for name, kw in settings.items()
    }


@pytest.mark.parametrize("name", ["random_walk", "hmc", "waste_free"])
def test_evidence_and_moments_of_a_normal(plain, name):
    posterior = plain[name]
    assert z_score(posterior, NORMAL) < Z_MILLION
    weights = np.exp(posterior.log_weights)
    weights /= weights.sum()
    mean = np.sum(weights * posterior.draws["mu"])
    assert abs(mean - 1.2) < 0.05
    assert abs(np.sqrt(np.sum(weights * (posterior.draws["mu"] - mean) ** 2)) - np.sqrt(0.2)) < 0.05
    np.testing.assert_allclose(posterior.values, 2.0 * posterior.draws["mu"], rtol=1e-6)
    assert posterior.history.beta[-1] == 1.0


def test_the_random_walk_says_what_it_did(plain):
    history = plain["random_walk"].history
    assert np.all(np.diff(history.beta) > 0)
    assert np.all(history.ess >= 0.5 * 400 * 0.99)
    assert np.all((history.acceptance > 0.2) & (history.acceptance < 0.7))
    assert np.all(history.moves >= 1)
    assert "stages" in plain["random_walk"].remarks[0]


@pytest.mark.parametrize("waste_free", [False, 20])
def test_the_error_of_a_single_run_covers(waste_free):
    """Median reported error against the spread of 60 runs (10% each): within a factor of 1.5."""
    method = TemperedSMC(400, kernel="hmc", waste_free=waste_free, max_stages=20)
    path = TemperingPath(normal(1.5))
    found = jax.device_get(adaptive_runs(method.how, path, jax.random.split(jax.random.key(5), 60)))
    assert 1 / 1.5 < np.median(found.error) / np.std(found.log_evidence) < 1.5


@pytest.mark.slow
def test_a_start_near_the_posterior_gives_the_same_evidence():
    """From Normal(1, 2) instead of the prior; the start is normalised, so the evidence is the program's."""
    method = TemperedSMC(400, initial=wide(1.0), kernel="hmc", replicates=30, max_stages=20)
    assert z_score(ppl.infer(normal(1.5), method, key=2), NORMAL) < Z_MILLION


@pytest.mark.slow
def test_finite_choices_are_summed_out_or_moved_by_any_kernel():
    true = mixed_log_evidence(1.5)
    for kernel in ("random_walk", trace_mh_kernel):
        posterior = ppl.infer(mixed(1.5), TemperedSMC(400, kernel=kernel, replicates=30, max_stages=20), key=3)
        assert z_score(posterior, true) < Z_MILLION
        assert set(posterior.draws) == {"k", "x"}


@pytest.mark.slow
def test_beta_bernoulli_far_from_its_prior():
    """Beta(10, 10), 40 of 50: log Z = -28.548691, posterior Beta(50, 20)."""
    posterior = ppl.infer(bernoulli(40.0), TemperedSMC(400, kernel="hmc", replicates=20, max_stages=20), key=4)
    assert z_score(posterior, -28.548691) < Z_MILLION
    assert abs(float(np.mean(posterior.draws["p"])) - 5 / 7) < 0.01


TRACES = []


def counting(program):
    """Single-site MH that notes when it is traced."""
    TRACES.append(program.name)
    return trace_mh_kernel(program)


def test_new_data_need_no_compilation():
    ppl.infer(normal(jnp.array(1.5)), TemperedSMC(100, kernel=counting, moves=2, max_stages=20), key=0)
    traced = len(TRACES)
    for y in (0.5, 2.0):
        ppl.infer(normal(jnp.array(y)), TemperedSMC(100, kernel=counting, moves=2, max_stages=20), key=0)
    assert traced > 0
    assert len(TRACES) == traced


def test_the_same_key_gives_the_same_run():
    method = TemperedSMC(100, max_stages=20)
    a, b = (ppl.infer(normal(1.5), method, key=6) for _ in range(2))
    np.testing.assert_array_equal(a.draws["mu"], b.draws["mu"])
    assert a.log_evidence == b.log_evidence


# --- moves that are too few -------------------------------------------------------------------------------------------


@ppl.model
def many(loc, searching):
    """Thirty normals in a row; or a density without reverse mode."""
    x = ppl.sample("x", dist.Normal(0.0, 1.0).expand([30]).to_event(1))
    ppl.sample("y", dist.Normal(x, 0.5).to_event(1), obs=jnp.full(30, loc))
    if searching:
        ppl.factor("searched", jax.lax.while_loop(lambda z: z > 1.0, lambda z: 0.5 * z, x[0]) * 1e-3)


def test_the_automatic_kernel_follows_dimension_and_gradients():
    """A random walk in few dimensions, or where a while_loop has no reverse mode."""
    wanted = {"random_walk": (normal(1.5), many(1.0, searching=True)), "hmc": (many(1.0, searching=False),)}
    for name, programs in wanted.items():
        assert [automatic(TemperingPath(p)) for p in programs] == [name] * len(programs)


@pytest.mark.slow
def test_a_walk_that_does_not_get_away_says_so(plain):
    """In thirty dimensions, five moves of a random walk; those that are enough are not remarked on."""
    method = TemperedSMC(400, kernel="random_walk", moves=5, max_stages=40)
    posterior = ppl.infer(many(jnp.array(1.0), searching=False), method, key=0)
    (remark,) = [r for r in posterior.remarks if "did not forget" in r]
    assert 'try kernel="hmc"' in remark
    assert not any("did not forget" in r for found in plain.values() for r in found.remarks)


# --- failures ---------------------------------------------------------------------------------------------------------


@ppl.model
def impossible():
    x = ppl.sample("x", dist.Normal(0.0, 1.0))
    ppl.factor("never", jnp.where(x > 100.0, 0.0, -jnp.inf))


def test_all_dead_is_an_error_that_says_where():
    with pytest.raises(DegenerateWeightsError, match=r"None of the 50 particles.*inverse temperature"):
        ppl.infer(impossible(), TemperedSMC(50, max_stages=10), key=0, check_data=False)


def test_too_few_stages_is_an_error_with_the_fix():
    with pytest.raises(ConvergenceError, match=r"made 2 stages.*not 1\.\nFix: more stages"):
        ppl.infer(normal(30.0), TemperedSMC(50, max_stages=2), key=0, check_data=False)


@ppl.model
def halves():
    x = ppl.sample("x", dist.Normal(0.0, 1.0))
    ppl.factor("constraint", jnp.where(x > 1.5, 0.0, -jnp.inf))


def test_a_hard_constraint_ends_in_one_stage_and_is_remarked():
    posterior = ppl.infer(halves(), TemperedSMC(2000, max_stages=10), key=0)
    assert len(posterior.history.beta) == 1
    assert any("had a positive likelihood" in remark for remark in posterior.remarks)
    assert float(np.min(posterior.draws["x"])) > 1.5
    assert abs(posterior.log_evidence.estimate - np.log(0.0668072)) < 0.5


def test_one_particle_runs_without_an_error_bar():
    posterior = ppl.infer(normal(1.5), TemperedSMC(1, moves=3, max_stages=10), key=0)
    assert posterior.log_evidence.standard_error == np.inf
    assert any("replicates" in remark for remark in posterior.remarks)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ess": 1.0}, "between 0 and 1"),
        ({"waste_free": 7}, "does not divide"),
        ({"waste_free": True}, "how many states"),
        ({"kernel": "nuts"}, "kernel is 'nuts'"),
        ({"waste_free": 10, "moves": 3}, "one of them"),
    ],
)
def test_settings_that_mean_nothing(settings, message):
    with pytest.raises(ValueError, match=message):
        TemperedSMC(100, **settings)


def test_a_start_over_other_choices_is_refused():
    with pytest.raises(AddressError, match="differ"):
        checked_path(normal(1.0), mixed(1.0))


def test_the_bridge_is_the_geometric_path():
    """log q^(1 - beta) p^beta at a point, against the two programs."""
    with jax.enable_x64(True):
        path = TemperingPath(normal(1.5), wide(1.0))
        x, beta = {"mu": jnp.array(0.3)}, 0.3
        wanted = 0.7 * path.initial.log_density(x) + 0.3 * path.program.log_density(x)
        np.testing.assert_allclose(path.at(beta).log_density(x), wanted, rtol=1e-12)
        np.testing.assert_allclose(
            path.log_ratio(x), path.program.log_density(x) - path.initial.log_density(x), rtol=1e-12
        )


# --- slow -------------------------------------------------------------------------------------------------------------


def two_peaks(x):
    peaks = [jnp.log(w) - 0.5 * jnp.sum((x - m) ** 2) / 0.01 for w, m in ((0.3, 0.5), (0.7, -0.5))]
    return jnp.logaddexp(*peaks) - 0.5 * x.shape[0] * jnp.log(2 * jnp.pi * 0.01)


@ppl.model
def bimodal():
    x = ppl.sample("x", dist.Uniform(-2.0, 2.0).expand([4]).to_event(1))
    ppl.factor("peaks", two_peaks(x))


@ppl.model
def normals(ys):
    mu = ppl.sample("mu", dist.Normal(1.0, 5.0**0.5))
    ppl.sample("y", dist.Normal(mu, 2.0**0.5).expand([2]).to_event(1), obs=ys)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [{}, {"kernel": "hmc"}, {"kernel": "hmc", "waste_free": 10}, {"persistent": True, "max_stages": 12}]
)
def test_bimodal_evidence_and_both_modes(settings):
    """U(-2, 2)^4 prior: -4 log 4; the right share of the particles in each mode. Persistent: biased by O(1/N)."""
    posterior = ppl.infer(bimodal(), TemperedSMC(2000, replicates=40, **settings), key=8)
    assert z_score(posterior, -4 * np.log(4.0)) < Z_MILLION
    weights = np.exp(posterior.log_weights.reshape(-1))
    share = np.sum(weights * (posterior.draws["x"].reshape(-1, 4)[:, 0] > 0)) / weights.sum()
    assert abs(share - 0.3) < 0.05


@pytest.mark.slow
def test_two_observations():
    """Prior N(1, var 5), likelihood var 2, y = (9, 8): mean 7.25, variance .8333, log Z -8.239404."""
    posterior = ppl.infer(normals(jnp.array([9.0, 8.0])), TemperedSMC(2000, kernel="hmc", replicates=40), key=9)
    assert z_score(posterior, -8.239404) < Z_MILLION
    assert abs(np.mean(posterior.draws["mu"]) - 7.25) < 0.03
    assert abs(np.var(posterior.draws["mu"]) - 0.8333) < 0.03


@pytest.mark.slow
def test_gibbs_moves_finite_programs():
    posterior = ppl.infer(finite(), TemperedSMC(500, kernel=gibbs()), key=1)
    assert abs(posterior.log_evidence.estimate - np.log(0.75 + 0.25 * np.e**3)) < 0.5


@ppl.model
def finite():
    x = ppl.sample("x", dist.Bernoulli(0.25))
    ppl.factor("f", 3.0 * x)
