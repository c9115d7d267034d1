"""SBC and one-step joint tests on a Normal-Normal model: exact samplers pass, wrong ones die at a rate of 1e-6.

y_j ~ Normal(x, 1), j = 1, 2 and x ~ Normal(1, 2): the posterior of x given y is
Normal((1/4 + y_1 + y_2) / (9/4), 2/3).
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppl.diagnostics.calibration import central_coverage, one_step_joint, random_ranks, sbc
from ppl.errors import LawViolation, NaNError, ShapeError

DRAWS = 39
SD = 2 / 3


def simulate(key):
    noise = jax.random.normal(key, (3,))
    x = 1.0 + 2.0 * noise[0]
    return {"x": x}, x + noise[1:]


def mean(y):
    return (0.25 + y.sum()) / 2.25


def quantities(parameters, y):
    return parameters | {"log likelihood": -0.5 * jnp.sum(jnp.square(y - parameters["x"]))}


def sampler(place, width):
    return jax.jit(lambda key, y: {"x": place(y) + width * jax.random.normal(key, (DRAWS,))})


EXACT = sampler(mean, SD)
MUTANTS = {
    "draws too narrow": sampler(mean, 0.5 * SD),
    "draws too wide": sampler(mean, 2 * SD),
    "draws too low": sampler(lambda y: mean(y) - 0.7 * SD, SD),
    "draws too high": sampler(lambda y: mean(y) + 0.7 * SD, SD),
}


def run(method, key, of=quantities, replicates=250):
    return sbc(jax.jit(simulate), method, key=key, replicates=replicates, quantities=of)


@pytest.fixture(scope="module")
def found():
    return run(EXACT, jax.random.key(5))


def test_an_exact_sampler_passes(found):
    assert found.check() is found
    assert set(found.ranks) == {"x", "log likelihood"}
    assert found.most == DRAWS
    assert not found.notes


def test_coverage_of_an_exact_sampler(found):
    covered = found.coverage(0.8)["x"]
    assert covered.nominal == 0.8
    # The 95% interval of Clopper and Pearson; the key is fixed.
    assert covered.low < 0.8 < covered.high
    assert found.coverage(0.5)["x"].observed < covered.observed < found.coverage(0.95)["x"].observed


@pytest.mark.parametrize("words", MUTANTS)
def test_mutants_are_killed_and_told_what_is_wrong(words, key):
    with pytest.raises(LawViolation, match=rf"not calibrated: p = .*\n.*\n.*\n  x .*{words}"):
        run(MUTANTS[words], key, of=None).check()


def test_the_prior_as_posterior_is_killed_by_the_log_likelihood_alone(key):
    prior = sampler(lambda y: 1.0, 2.0)
    found = run(prior, key)
    assert found.p_values["x"] > 1e-6
    with pytest.raises(LawViolation, match="log likelihood"):
        found.check()


def test_correlated_draws_are_said_aloud(key):
    found = run(lambda k, y: {"x": jnp.repeat(EXACT(k, y)["x"][::3], 3)}, key, replicates=20)
    assert "neighbouring draws of" in repr(found)
    assert "are correlated (0.6" in repr(found)


def test_ties_are_broken_at_random(rng):
    # Uniform on {0, 1, 2} for truth and draws alike: ranks of 4 draws are uniform on 0..4.
    values = rng.integers(0, 3, size=(3000, 5, 1)).astype(float)
    ranks = np.array([random_ranks(rng, v[0], v[1:])[0] for v in values])
    assert np.ptp(np.bincount(ranks, minlength=5)) < 150  # sd of a count 22; of the range, 6 sd


def test_coverage_counts_the_middle_ranks():
    ranks = np.arange(10)
    assert central_coverage(ranks, 9, 0.6)[:2] == (0.6, 0.6)
    assert central_coverage(ranks[:2], 9, 0.6)[1] == 0.0
    assert central_coverage(ranks, 9, 1.0)[1:] == (1.0, pytest.approx(0.025**0.1), 1.0)


def test_numbers_of_draws_that_change_and_nan_are_refused(key):
    sizes = iter([5, 4])
    with pytest.raises(ShapeError, match="Replicate 1 has 4 posterior draws; the first had 5"):
        run(lambda k, y: {"x": jnp.zeros(next(sizes))}, key, replicates=2)
    with pytest.raises(NaNError, match="'log likelihood'"):
        run(lambda k, y: {"x": jnp.full(3, jnp.nan)}, key, of=lambda p, y: {"log likelihood": p["x"]}, replicates=1)


# --- one step ---------------------------------------------------------------------------------------------------------


def draw_joint(key):
    truth, y = simulate(key)
    return truth | {"y": y}


def metropolis(key, joint, *, sign=1.0, symmetric=True):
    """Random walk; the mutants drop a term of the ratio."""
    walk, coin = jax.random.split(key)
    x, y = joint["x"], joint["y"]

    def log_density(x):
        return -0.125 * jnp.square(x - 1.0) - 0.5 * sign * jnp.sum(jnp.square(y - x))

    new = x + 1.5 * jax.random.normal(walk) + (0.0 if symmetric else 0.8)
    accept = jnp.log(jax.random.uniform(coin)) < log_density(new) - log_density(x)
    return joint | {"x": jnp.where(accept, new, x)}


def with_residual(joint):
    return joint | {"residual": joint["x"] - joint["y"].mean()}


def test_a_right_kernel_passes(key):
    assert one_step_joint(draw_joint, metropolis, key=key, steps=3).check().p_value > 1e-6
    assert one_step_joint(draw_joint, metropolis, key=key, quantities=with_residual).check().p_value > 1e-6


@pytest.mark.parametrize("broken", [{"sign": 0.5}, {"symmetric": False}], ids=["tempered", "drift"])
def test_wrong_kernels_are_killed(broken, key):
    def move(key, joint):
        return metropolis(key, joint, **broken)

    with pytest.raises(LawViolation, match="should have one law"):
        one_step_joint(draw_joint, move, key=key, steps=5, quantities=with_residual).check()
