"""The sixteen posteriors as written for users, against NumPy on small made-up data, and the judge of agreement.

No folder of posteriordb is needed: the made-up data have its columns, a dozen rows each.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arviz_stats.base.array import array_stats

import ppl
from benchmarks.posteriordb import POSTERIORS, agreement, flatten
from benchmarks.posteriordb.by_hand import BY_HAND
from benchmarks.targets import ARGUMENTS
from ppl.inference.flat import Flat

ROWS = 12
LABELLED = [name for name, entry in POSTERIORS.items() if entry.with_labels is not None]


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True), jax.numpy_rank_promotion("allow"):
        yield


def made_up(rng):
    """Columns under the names that posteriordb gives them; one dictionary serves all models but two."""
    positive = {name: rng.uniform(0.5, 3.0, ROWS) for name in ("diam1", "diam2", "canopy_height", "total_height")}
    numbers = {name: rng.normal(2.0, 1.0, ROWS) for name in ("y", "mom_iq", "kid_score", "partyid7", "real_ideo")}
    groups = {name: rng.integers(0, 2, ROWS) for name in ("male", "mom_hs", "group", "race_adj", "gender", "income")}
    sizes = {name: rng.uniform(0.1, 4.0, ROWS) for name in ("height", "earn", "weight", "educ1", "u", "v", "sigma")}
    other = {"age_discrete": np.arange(ROWS) % 4 + 1, "K": 3, "sigma1": 0.5, "alpha": [[4, 2], [1, 3]]}
    prior = {"pmualpha": 1.0, "psalpha": 3.0, "pmubeta": 0.2, "psbeta": 0.4}
    return {**positive, **numbers, **groups, **sizes, **other, **prior, "x": np.arange(ROWS) - 3.0}


def data_for(name, rng):
    data = made_up(rng)
    matrix = {"X": rng.normal(1.0, 2.0, (ROWS, 3)), "Y": rng.normal(size=ROWS)}
    return {**data, **matrix}


def in_support(program, rng):
    """Choices at a random vector of R^n, as NumPy arrays."""
    flat = Flat(program)
    vector = jnp.asarray(rng.normal(0.0, 0.5, flat.dim))
    return vector, {address: np.asarray(value) for address, value in flat.choices(vector).items()}


def difference(name, by_hand, rng):
    """How much the model's log density moves more than the one by hand, between points."""
    data = data_for(name, rng)
    program = POSTERIORS[name].program(data)
    points = [in_support(program, rng)[1] for _ in range(3)]
    ours = np.array([float(program.log_density({a: jnp.asarray(x) for a, x in p.items()})) for p in points])
    return np.ptp(ours - np.array([by_hand(p, data) for p in points]))


@pytest.mark.parametrize("name", POSTERIORS)
@pytest.mark.slow
def test_model_has_the_density_written_by_hand(name, rng):
    assert difference(name, BY_HAND[name], rng) < 1e-8


def test_a_wrong_scale_is_noticed(rng):
    def mutant(p, data):
        return BY_HAND["sblrc-blr"](p, data) - 0.5 * np.log(p["sigma"])

    assert difference("sblrc-blr", mutant, rng) > 1e-3


@pytest.mark.parametrize("name", ["garch-garch11", "bball_drive_event_0-hmm_drive_0", "gp_pois_regr-gp_regr"])
def test_gradients_are_finite(name, rng):
    program = POSTERIORS[name].program(data_for(name, rng))
    vector, _ = in_support(program, rng)
    value, gradient = jax.jit(jax.value_and_grad(Flat(program).log_density))(vector)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("name", LABELLED)
def test_model_with_labels_sums_to_the_one_without(name, rng):
    entry, data = POSTERIORS[name], data_for(name, rng)
    summed, labelled = entry.program(data), entry.program(data, labels=True)
    marginal = labelled.marginal(list(summed_addresses(summed)), method=ppl.Exact())
    points = [in_support(summed, rng)[1] for _ in range(2)]
    both = [[float(p.log_density(to_jax(point))) for point in points] for p in (summed, marginal)]
    assert np.ptp(np.subtract(*both)) < 1e-8


def summed_addresses(program):
    return [address for address, info in program.sites.items() if info.kind == "latent"]


def to_jax(point):
    return {address: jnp.asarray(value) for address, value in point.items()}


def test_every_posterior_has_arguments_and_a_density_by_hand():
    assert set(POSTERIORS) == set(ARGUMENTS) == set(BY_HAND)
    assert len(POSTERIORS) == 16


def test_flatten_numbers_elements_from_one():
    draws = {"mu": np.arange(6.0).reshape(2, 3), "beta": np.arange(12.0).reshape(2, 3, 2)}
    flat = flatten(draws, ["mu", "beta[2]"])
    np.testing.assert_array_equal(flat["mu"], draws["mu"])
    np.testing.assert_array_equal(flat["beta[2]"], draws["beta"][..., 1])


# --- agreement -----------------------------------------------------------------------------------------------------
# The largest of five z-scores is beyond 5.2 with probability at most 1e-6 (two-sided normal, five times 2e-7).


def skewed(rng, chains, shift=0.0, scale=1.0):
    return {"mu": shift + scale * rng.gamma(4.0, 1.0, (chains, 1000))}


def test_draws_of_the_same_law_agree(rng):
    found = agreement(skewed(rng, 4), skewed(rng, 10))
    assert found.worst[1] < 5.2
    assert found.min_ess > 3000


@pytest.mark.parametrize(("change", "moved"), [({"shift": 0.3}, 0), ({"scale": 1.2, "shift": -0.8}, 1)])
def test_draws_of_another_law_do_not(change, moved, rng):
    found = agreement(skewed(rng, 4, **change), skewed(rng, 10))
    assert found.failures == ["mu"]
    assert abs(found.z["mu"][moved]) > 6


def test_a_wrong_tail_alone_is_found(rng):
    """Same mean and standard deviation, other quantiles: a normal law for a gamma law."""
    normal = {"mu": rng.normal(4.0, 2.0, (4, 1000))}
    found = agreement(normal, skewed(rng, 10))
    assert np.abs(found.z["mu"][2:]).max() > 6


def swinging(rng, chains):
    """AR(1) chains with coefficient -0.8 and variance 1: means have 9 times as many effective draws, squares 0.22."""
    noise = rng.normal(size=(1000, chains))
    x = np.empty_like(noise)
    x[0] = noise[0]
    for t in range(1, len(x)):
        x[t] = -0.8 * x[t - 1] + 0.6 * noise[t]
    return {"mu": x.T}


def test_the_spread_of_chains_that_swing_is_judged_by_their_squares(rng):
    """The squares of such a chain are an AR(1) chain with coefficient 0.64: variance of log sd (1 + 0.64) / 0.36 / 2n.

    Over 100 comparisons the mean of z^2 is in (0.45, 1.86) up to probability 1e-6 (chi-square law). The mutant is
    ArviZ's error of a standard deviation, from the effective sample size of the draws themselves.
    """
    pairs = [(swinging(rng, 4), {"mu": rng.normal(size=(10, 1000))}) for _ in range(100)]
    z = np.array([agreement(*pair).z["mu"][1] for pair in pairs])
    assert 0.45 < (z**2).mean() < 1.86
    assert max(agreement(*pair).worst[1] for pair in pairs[:3]) < 5.2

    def mutant(draws):
        return array_stats.mcse(draws, chain_axis=0, draw_axis=1, method="sd") / draws.std()

    errors = [np.hypot(mutant(a["mu"]), mutant(b["mu"])) for a, b in pairs]
    log_ratios = [np.log(a["mu"].std() / b["mu"].std()) for a, b in pairs]
    assert (np.divide(log_ratios, errors) ** 2).mean() > 1.86


def test_a_chain_that_never_moves_is_a_failure(rng):
    with np.errstate(all="ignore"):
        found = agreement({"mu": np.full((4, 1000), 4.0)}, skewed(rng, 10))
    assert found.failures == ["mu"]
