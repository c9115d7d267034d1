"""`ppl.SMC` against evidence and posteriors that are known: Kalman filter, forward algorithm, conjugate pairs.

Runs are replicated. With Z the evidence of a run and W its normalised weights, E[Z / Z_true] = 1 and, for a function f
with posterior mean m, E[Z sum W (f - m)] = 0, both without bias: z-tests with a false-alarm rate of 1e-6 each. The
mutants resample without regard to weights, and without resetting them. The reported standard error must cover.
"""

import importlib.util
import math
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import ppl
import ppl.distributions as dist
from ppl.inference.smc import swept_run
from ppl.semantics.blocks import compose, spawn
from ppl.semantics.suspension import hoist_first, sweep
from tests.laws import mutants

RATE = 1e-6
RUNS = 400
PARTICLES, MANY = 200, 4000
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


# --- models and their true values -------------------------------------------------------------------------------------


# Shorter series are longer ones with missing observations at the end (`present` is false), so that they share a
# compilation.


@ppl.model
def walk(ys, present, a, q, r):
    """A Kalman filter's model (variances), with the first state at the first observation."""
    first = ppl.sample("x0", dist.Normal(0.0, 1.0))
    ppl.sample("y0", dist.Normal(first, r**0.5), obs=ys[0])

    def step(x, now):
        y, there = now
        x = ppl.sample("x", dist.Normal(a * x, q**0.5))
        ppl.sample("y", dist.Normal(x, r**0.5).mask(there), obs=y)
        return x, x

    return jnp.append(first, jax.lax.scan(step, first, (ys[1:], present[1:]))[1])


@ppl.model
def hidden_markov(ys, present):
    """The value is the state at the last observation."""
    rows, emissions = jnp.array([[0.7, 0.3], [0.4, 0.6]]), jnp.array([[0.9, 0.1], [0.2, 0.8]])
    first = ppl.sample("z0", dist.Categorical(probs=jnp.array([0.6, 0.4])))
    ppl.sample("y0", dist.Categorical(probs=emissions[first]), obs=ys[0])

    def step(states, now):
        (z, seen), (y, there) = states, now
        z = ppl.sample("z", dist.Categorical(probs=rows[z]))
        ppl.sample("y", dist.Categorical(probs=emissions[z]).mask(there), obs=y)
        return (z, jnp.where(there, z, seen)), None

    return jax.lax.scan(step, (first, first), (ys[1:], present[1:]))[0][1]


@ppl.model
def coin(flips, present, a, b):
    """Flips in a fixed order, one after the other."""
    p = ppl.sample("p", dist.Beta(a, b))

    def step(count, now):
        flip, there = now
        ppl.sample("flip", dist.Bernoulli(p).mask(there), obs=flip)
        return count, None

    jax.lax.scan(step, 0, (flips, present))
    return p


@ppl.model
def normal_mean(ys, present, loc, variance, noise):
    """A mean seen with noise (variances)."""
    mu = ppl.sample("mu", dist.Normal(loc, variance**0.5))

    def step(count, now):
        y, there = now
        ppl.sample("y", dist.Normal(mu, noise**0.5).mask(there), obs=y)
        return count, None

    jax.lax.scan(step, 0, (ys, present))
    return mu


def series(numbers, length, dtype=jnp.float32):
    """Numbers filled up to a length, and which of them are observed."""
    missing = [0] * (length - len(numbers))
    return jnp.array([*numbers, *missing], dtype), jnp.arange(length) < len(numbers)


def scalars(*numbers):
    """Arrays, so that models with other numbers share a compilation."""
    return [jnp.float32(x) for x in numbers]


def flips(heads, count):
    return series([1] * heads + [0] * (count - heads), 50, jnp.int32)


def states(*numbers):
    return series(numbers, 8, jnp.int32)


SMOOTHED = [0.542987, 0.605958, 0.370860]
CASES = {
    "Kalman, two": (walk(*series([1, 2], 3), *scalars(1.0, 1.0, 1.0)), -3.342596, [0.8, 1.4, 1.4]),
    "Kalman, three": (walk(*series([0.5, 1, 0.2], 3), *scalars(0.8, 0.2, 0.3)), -2.981926, SMOOTHED),
    "HMM 0101": (hidden_markov(*states(0, 1, 0, 1)), -3.256617, 0.819658),
    "HMM 01011001": (hidden_markov(*states(0, 1, 0, 1, 1, 0, 0, 1)), -6.219252, None),
    "Beta(1, 1)": (coin(*flips(7, 10), *scalars(1.0, 1.0)), -7.185387, 8 / 12),
    "Beta(2, 2)": (coin(*flips(7, 10), *scalars(2.0, 2.0)), -6.977748, 9 / 14),
    "Beta(10, 10)": (coin(*flips(7, 10), *scalars(10.0, 10.0)), -6.861735, 17 / 30),
    "Beta(10, 10), fifty": (coin(*flips(40, 50), *scalars(10.0, 10.0)), -28.548691, 50 / 70),
    "mean, 1.5": (normal_mean(*series([1.5], 2), *scalars(0.0, 1.0, 0.25)), -1.930510, 1.2),
    "mean, 2": (normal_mean(*series([2.0], 2), *scalars(0.0, 1.0, 0.25)), -2.630510, 1.6),
    "mean, two": (normal_mean(*series([9, 8], 2), *scalars(1.0, 5.0, 2.0)), -8.239404, 7.25),
}
"""Program, log evidence, posterior mean of the return value."""


# --- replicated runs --------------------------------------------------------------------------------------------------


@partial(jax.jit, static_argnums=2)
def replicated(program, keys, transformer):
    """Log evidence, its standard error and the mean of the return value, of a run a key."""

    def one(key):
        found = swept_run(program, key, transformer, "none")
        weights = jnp.exp(found["log_weights"] - found["log_evidence"])
        mean = jnp.tensordot(weights, found["values"].astype(jnp.float32), axes=1)
        return found["log_evidence"], found["error"], mean

    return jax.vmap(one)(keys)


def runs(program, transformer, key):
    return [np.asarray(x, np.float64) for x in replicated(program, jax.random.split(key, RUNS), transformer)]


def z_scores(log_evidence, mean, true_log_evidence, true_mean):
    """One of the evidence, and one for each coordinate of the posterior mean, if that is known."""
    ratio = np.exp(log_evidence - true_log_evidence)
    columns = [ratio - 1.0]
    if true_mean is not None:
        columns += [*np.atleast_2d(ratio * (mean - np.array(true_mean)).T)]
    table = np.stack(columns, axis=1)
    return table.mean(axis=0) / (table.std(axis=0, ddof=1) / math.sqrt(len(table)))


def rejected(scores):
    """Whether a test at the stated rate finds one too large."""
    return np.abs(scores).max() > stats.norm.isf(RATE / (2 * len(scores)))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.slow
def test_evidence_and_means_are_the_true_ones(name, key):
    program, true_log_evidence, true_mean = CASES[name]
    particles = MANY if name.startswith("mean") else PARTICLES  # the data lie far out in the prior
    log_evidence, error, mean = runs(program, ppl.SMC(particles, store="none").transformer, key)
    scores = z_scores(log_evidence, mean, true_log_evidence, true_mean)
    assert not rejected(scores), scores
    assert_covers(log_evidence, error, true_log_evidence)


def assert_covers(log_evidence, error, true_log_evidence):
    """At most one run in a hundred is more than four of its own standard errors off (one in 16,000, if exact)."""
    far = np.abs(log_evidence - true_log_evidence) > 4 * error
    assert far.mean() <= 0.01, far.mean()


def swept_with(resampler):
    return compose(sweep(resampler, families=True), hoist_first(spawn(PARTICLES)))


@pytest.mark.parametrize("mutant", [mutants.resample_unweighted, mutants.resample_keeping_weights])
@pytest.mark.slow
def test_wrong_resampling_dies(mutant, key):
    program, true_log_evidence, true_mean = CASES["Kalman, three"]
    log_evidence, _, mean = runs(program, swept_with(mutant("systematic")), key)
    assert rejected(z_scores(log_evidence, mean, true_log_evidence, true_mean))


# --- stochastic volatility, on data from the wheel of `particles` -----------------------------------------------------


def loaded(name):
    spec = importlib.util.spec_from_file_location(f"examples_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def returns():
    data = loaded("particles_data")
    try:
        return data.pounds_for_a_dollar()
    except data.DataUnavailableError as error:
        pytest.skip(f"The data cannot be downloaded: {error}")


REPLICATES = 24
VOLATILITY = loaded("stochastic_volatility")


@pytest.mark.slow
@pytest.mark.parametrize("parameters", list(VOLATILITY.REFERENCES))
def test_stochastic_volatility(parameters, returns, key):
    """Evidence of 24 runs: a t-test; and each within five of the standard errors that it reports."""
    reference = VOLATILITY.REFERENCES[parameters]
    np.testing.assert_allclose(VOLATILITY.RETURNS, returns, rtol=1e-5, atol=1e-6)
    program = VOLATILITY.online_filter(parameters, 1).program(returns.astype(np.float32))
    method = ppl.SMC(10_000, store="none")
    found = [ppl.infer(program, method, key=k).log_evidence for k in jax.random.split(key, REPLICATES)]
    log_evidence, error = np.array(found).T
    ratio = np.exp(log_evidence - reference)
    t = (ratio.mean() - 1.0) / (ratio.std(ddof=1) / math.sqrt(REPLICATES))
    assert abs(t) < stats.t.isf(RATE / 2, REPLICATES - 1), t
    assert np.isfinite(error).mean() > 0.9
    assert (np.abs(log_evidence - reference) < 5 * error).all()
