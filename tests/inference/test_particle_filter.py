"""Particle filters against Kalman and forward algorithms: evidence, filtering distributions, variance, edge cases.

Statistical tests have a false-alarm rate of 1e-6 each: z-tests over independent runs.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ppl
import ppl.distributions as dist
from ppl.errors import AddressError
from ppl.inference.smc import swept_run
from ppl.numerics.weighted_quantiles import weighted_quantiles

Z_MILLION = 4.89
"""A standard normal exceeds it in absolute value with probability 1e-6."""
KALMAN = {"unit": ((1.0, 1.0, 1.0), (1.0, 2.0), -3.342596), "short": ((0.8, 0.2, 0.3), (0.5, 1.0, 0.2), -2.981926)}
"""(A, Q, R), observations, log evidence: shared/references/smc.md."""


@ppl.model
def linear(numbers, ys):
    a, q, r = numbers

    def step(before, y):
        mean, variance = before
        x = ppl.sample("x", dist.Normal(mean, jnp.sqrt(variance)))
        ppl.sample("y", dist.Normal(x, jnp.sqrt(r)), obs=y)
        return (a * x, q), None

    jax.lax.scan(step, (jnp.zeros_like(a), jnp.ones_like(a)), ys)


@ppl.model
def best(numbers, ys):
    """The law of x given the state before and the observation."""
    a, q, r = numbers

    def step(before, y):
        mean, variance = before
        gain = variance / (variance + r)
        x = ppl.sample("x", dist.Normal(mean + gain * (y - mean), jnp.sqrt((1.0 - gain) * variance)))
        return (a * x, q), None

    jax.lax.scan(step, (jnp.zeros_like(a), jnp.ones_like(a)), ys)


def next_observation(choices, step, numbers, ys):
    """The log density of the next observation given the state."""
    a, q, r = numbers
    return dist.Normal(a * choices["x"], jnp.sqrt(q + r)).log_prob(ys[jnp.minimum(step + 1, len(ys) - 1)])


def kalman(name):
    numbers, ys, log_evidence = KALMAN[name]
    return tuple(jnp.float32(x) for x in numbers), jnp.array(ys), log_evidence


def filters(numbers, ys, **settings):
    ahead = jax.tree_util.Partial(next_observation, numbers=numbers, ys=ys)
    proposal = best(numbers, ys)
    return {
        "bootstrap": ppl.ParticleFilter(**settings),
        "guided": ppl.ParticleFilter(proposal=proposal, **settings),
        "auxiliary": ppl.ParticleFilter(lookahead=ahead, **settings),
        "both": ppl.ParticleFilter(proposal=proposal, lookahead=ahead, **settings),
    }


def evidences(method, program, key, runs=2_000):
    """Z / exp(truth) of independent runs comes from these log evidences."""
    swept, transformer = method.transformed(program), ppl.SMC(method.particles, method.resampling, method.threshold)
    run = lambda key: swept_run(swept, key, transformer.transformer, "none")["log_evidence"]
    return np.asarray(jax.jit(jax.vmap(run))(jax.random.split(key, runs)), np.float64)


def z_score(log_evidences, truth):
    ratios = np.exp(log_evidences - truth)
    return abs(ratios.mean() - 1.0) / (ratios.std(ddof=1) / np.sqrt(len(ratios)))


@pytest.fixture(scope="module")
def runs():
    """Log evidences of 2,000 runs of each filter with 32 particles, resampling always."""
    numbers, ys, _ = kalman("short")
    program = linear(numbers, ys)
    every = filters(numbers, ys, particles=32, threshold=None)
    return {name: evidences(method, program, jax.random.key(7)) for name, method in every.items()}


@pytest.mark.parametrize("name", ["bootstrap", "guided", "auxiliary", "both"])
@pytest.mark.slow
def test_the_evidence_is_kalmans(runs, name):
    assert z_score(runs[name], KALMAN["short"][2]) < Z_MILLION


def test_the_best_proposal_has_much_less_variance(runs):
    spread = {name: x.std() for name, x in runs.items()}
    assert spread["guided"] < 0.6 * spread["bootstrap"]
    assert spread["both"] < 0.5 * spread["bootstrap"]


def test_mutants_of_the_weights_are_seen(key):
    """Drawing from the proposal without its density; a lookahead that is never taken back."""
    numbers, ys, truth = kalman("short")
    program = linear(numbers, ys)

    @ppl.model
    def undivided(numbers, ys):
        a, q, r = numbers

        def step(before, y):
            mean, variance = before
            gain = variance / (variance + r)
            law = dist.Normal(mean + gain * (y - mean), jnp.sqrt((1.0 - gain) * variance))
            x = ppl.sample("x", law)
            ppl.factor("p", dist.Normal(mean, jnp.sqrt(variance)).log_prob(x))
            ppl.sample("y", dist.Normal(x, jnp.sqrt(r)), obs=y)
            return (a * x, q), None

        jax.lax.scan(step, (jnp.zeros_like(a), jnp.ones_like(a)), ys)

    plain = ppl.ParticleFilter(32, threshold=None)
    assert z_score(evidences(plain, undivided(numbers, ys), key, 500), truth) > Z_MILLION
    assert z_score(evidences(plain, program, key, 500), truth) < Z_MILLION


@pytest.fixture(scope="module")
def histories():
    """Thirty runs of each filter on the model with a known filter."""
    numbers, ys, _ = kalman("unit")
    program, found = linear(numbers, ys), {}
    for name, method in filters(numbers, ys, particles=2_000).items():
        found[name] = [ppl.infer(program, method, key=seed) for seed in range(30)]
    return found


@pytest.mark.parametrize("name", ["bootstrap", "guided", "auxiliary", "both"])
@pytest.mark.slow
def test_filtering_means_and_variances_are_kalmans(histories, name):
    """t-tests over 30 runs (29 degrees of freedom: 6.2 at 1e-6); the bias of 2,000 particles is far below."""
    moments = [posterior.history.moments("x") for posterior in histories[name]]
    for values, truth in (([m.mean for m in moments], (0.5, 1.4)), ([m.sd**2 for m in moments], (0.5, 0.6))):
        values = np.asarray(values)
        errors = values.std(axis=0, ddof=1) / np.sqrt(len(values))
        assert (np.abs(values.mean(axis=0) - truth) < 6.2 * errors).all()


@pytest.mark.slow
def test_mutant_a_lookahead_left_in_the_weights_is_seen(histories):
    means = []
    for seed in range(30):
        numbers, ys, _ = kalman("unit")
        method = filters(numbers, ys, particles=2_000)["auxiliary"]
        swept = ppl.infer(method.transformed(linear(numbers, ys)), ppl.SMC(2_000, store="filter"), key=seed).history
        weights = np.exp(swept.log_weights[0].astype(np.float64))
        means.append((weights * swept.filtered["x"][0]).sum() / weights.sum())
    errors = np.std(means, ddof=1) / np.sqrt(len(means))
    assert abs(np.mean(means) - 0.5) > 6.2 * errors


@pytest.mark.slow
def test_evidence_by_step_has_the_lookahead_taken_out(histories):
    """log N(1; 0, 2) after the first observation, by averages of 30 runs (6.2 standard errors)."""
    first = -0.5 * np.log(2 * np.pi * 2.0) - 0.25
    for name in ("bootstrap", "auxiliary"):
        values = np.exp([posterior.history.log_evidence[0] - first for posterior in histories[name]])
        assert abs(values.mean() - 1.0) < 6.2 * values.std(ddof=1) / np.sqrt(len(values))


def test_what_a_filter_returns(histories):
    for found in histories.values():
        posterior = found[0]
        assert posterior.method == "ParticleFilter"
        assert list(posterior.program.sites) == ["x", "y"]
        assert list(posterior.history.filtered) == ["x"]
        assert posterior.deterministic == {}
        assert posterior.draws["x"].shape == (1, 2_000, 2)
        np.testing.assert_allclose(posterior.history.weights("x").sum(axis=1), 1.0)


def test_quantiles_are_those_of_the_normal_filter(histories):
    found = np.mean([p.history.quantiles("x", [0.05, 0.5, 0.95]) for p in histories["guided"]], axis=0)
    wanted = np.array([0.5, 1.4]) + np.array([-1.6449, 0.0, 1.6449])[:, None] * np.sqrt([0.5, 0.6])
    np.testing.assert_allclose(found, wanted, atol=0.03)


def test_weighted_quantiles_of_equal_weights_are_numpys(rng):
    points = rng.normal(size=(3, 11, 2))
    probs = np.array([0.0, 0.1, 0.5, 0.77, 1.0])
    weights = np.full((3, 11), 1.0 / 11.0)
    wanted = np.quantile(points, probs, axis=1, method="inverted_cdf")
    np.testing.assert_array_equal(weighted_quantiles(points, weights, probs), wanted)
    with pytest.raises(ValueError, match="from 0 to 1"):
        weighted_quantiles(points, weights, np.array([1.1]))


@ppl.model
def hidden(ys):
    moves, starts, emissions = jnp.array([0.3, 0.6]), 0.4, jnp.array([0.1, 0.8])

    def step(p, y):
        x = ppl.sample("x", dist.Bernoulli(p))
        ppl.sample("y", dist.Bernoulli(emissions[x]), obs=y)
        return moves[x], None

    jax.lax.scan(step, jnp.float32(starts), ys)


@pytest.mark.parametrize(("text", "truth", "last"), [("0101", -3.256617, 0.819658), ("01011001", -6.219252, None)])
def test_the_evidence_of_a_hidden_markov_model(key, text, truth, last):
    program = hidden(jnp.array([int(c) for c in text]))
    assert z_score(evidences(ppl.ParticleFilter(32), program, key, 1_000), truth) < Z_MILLION
    if last is not None:
        means = [ppl.infer(program, ppl.ParticleFilter(2_000), key=i).history.moments("x").mean[-1] for i in range(20)]
        assert abs(np.mean(means) - last) < 6.9 * np.std(means, ddof=1) / np.sqrt(20)  # 19 degrees of freedom


def test_a_particle_that_ends_early_keeps_its_place(key):
    """Half the particles end at once with weight 1 - e^-10; the others go on through ten more scores and die."""

    @ppl.model
    def ending():
        early = ppl.sample("early", dist.Bernoulli(0.5)) == 1

        def step(going, t):
            jax.lax.cond(going, lambda: ppl.factor("go", jnp.where(t == 9, -jnp.inf, 0.0)), lambda: None)
            return going, None

        jax.lax.cond(early, lambda: ppl.factor("end", jnp.log1p(-jnp.exp(-10.0))), lambda: None)
        jax.lax.scan(step, ~early, jnp.arange(10))

    assert z_score(evidences(ppl.ParticleFilter(64), ending(), key, 1_000), -0.693193) < Z_MILLION
    posterior = ppl.infer(ending(), ppl.ParticleFilter(64), key=0)
    alive = posterior.log_weights[0] > -np.inf
    assert (posterior.draws["early"][0][alive] == 1).all()


def test_a_threshold_that_never_triggers_returns_weighted_draws():
    numbers, ys, truth = kalman("short")
    posterior = ppl.infer(linear(numbers, ys), ppl.ParticleFilter(5_000, threshold=0.0), key=0)
    assert posterior.diagnostics["resamplings"] == 0.0
    weights = np.exp(posterior.log_weights[0].astype(np.float64))
    assert weights.std() > 0.1 * weights.mean()
    assert abs(np.log(weights.sum()) - truth) < 0.15
    weighted = (weights[:, None] * posterior.draws["x"][0]).sum(axis=0) / weights.sum()
    np.testing.assert_allclose(weighted, (0.542987, 0.605958, 0.370860), atol=0.06)


def test_loops_that_run_backwards_are_reported_in_the_order_of_their_inputs():
    ys = jnp.array([1.0, 30.0, -20.0])

    @ppl.model
    def apart(ys):
        def step(_, y):
            x = ppl.sample("x", dist.Normal(0.0, 100.0))
            ppl.sample("y", dist.Normal(x, 1.0), obs=y)
            return _, None

        jax.lax.scan(step, 0, ys, reverse=True)

    history = ppl.infer(apart(ys), ppl.ParticleFilter(4_000), key=0).history
    np.testing.assert_allclose(history.moments("x").mean, ys, atol=0.6)


def test_what_is_not_stored_is_an_error():
    numbers, ys, _ = kalman("unit")
    posterior = ppl.infer(linear(numbers, ys), ppl.ParticleFilter(50, store="paths"), key=0)
    with pytest.raises(AddressError, match="store='filter'"):
        posterior.history.moments("x")
    with pytest.raises(AddressError, match="'z'"):
        ppl.infer(linear(numbers, ys), ppl.ParticleFilter(50), key=0).history.moments("z")
    with pytest.raises(ValueError, match="without a proposal"):
        ppl.ParticleFilter(backward=linear(numbers, ys))
