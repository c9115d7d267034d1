"""ArviZ out: groups, dims, coords and weights of the DataTree."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ppl
import ppl.distributions as dist
from ppl.inference.posterior import Evidence, Posterior, load
from ppl.interop.arviz import to_datatree, variable_names

SIGMA = jnp.array([1.0, 2.0, 0.5])
DATA = jnp.array([3.0, -1.0, 0.5])


@ppl.model
def schools(sigma, y=None):
    mu = ppl.sample("mu", dist.Normal(1.0, 2.0))
    with ppl.plate("school", 3):
        theta = ppl.sample("theta", dist.Normal(mu, 1.0))
        ppl.sample("y", dist.Normal(theta, sigma), obs=y)
    ppl.deterministic("effect/first", theta[0])


def make(log_weights, program, method="MH"):
    shape = (2, 5)
    mu = jnp.arange(10.0).reshape(shape)
    theta = mu[..., None] + jnp.array([0.0, 0.25, 0.5])[None, None]
    return Posterior(
        {"mu": mu, "theta": theta},
        deterministic={"effect/first": theta[..., 0]},
        log_weights=log_weights,
        log_evidence=Evidence(-3.0, 0.5),
        stats={"accepted": mu > 4},
        program=program,
        method=method,
    )


@pytest.fixture(scope="module")
def tree():
    return make(None, schools(SIGMA, DATA)).to_arviz(key=1, coords={"school": ["a", "b", "c"]})


def test_all_groups_are_there(tree):
    assert set(tree.children) == {
        "posterior",
        "sample_stats",
        "log_likelihood",
        "observed_data",
        "posterior_predictive",
        "prior",
        "prior_predictive",
    }
    assert set(tree["prior"].data_vars) == {"mu", "theta", "effect.first"}
    assert set(tree["posterior_predictive"].data_vars) == {"y"}


def test_plates_are_dims_with_the_users_labels(tree):
    for group, name in (
        ("posterior", "theta"),
        ("posterior_predictive", "y"),
        ("log_likelihood", "y"),
        ("prior", "theta"),
    ):
        assert tree[group][name].dims == ("chain", "draw", "school")
        assert tree[group]["school"].values.tolist() == ["a", "b", "c"]
    assert tree["observed_data"]["y"].dims == ("school",)
    assert tree["observed_data"]["y"].values.tolist() == DATA.tolist()


def test_values_are_the_draws(tree):
    assert tree["posterior"]["theta"].sel(chain=1, draw=2, school="b").item() == 7.25
    assert tree["posterior"]["effect.first"].sel(chain=1, draw=2).item() == 7.0
    assert tree["sample_stats"]["accepted"].values.tolist() == [[False] * 5, [True] * 5]
    assert tree["posterior"].attrs["log_evidence"] == -3.0


def test_the_pointwise_log_likelihood_is_the_closed_form(tree):
    theta = tree["posterior"]["theta"].values
    z = (np.asarray(DATA) - theta) / np.asarray(SIGMA)
    expected = -0.5 * z**2 - np.log(np.asarray(SIGMA)) - 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(tree["log_likelihood"]["y"].values, expected, rtol=1e-4)


def test_predictions_are_drawn_for_their_own_draw(tree):
    z = (tree["posterior_predictive"]["y"].values - tree["posterior"]["theta"].values) / np.asarray(SIGMA)
    # 30 standard normals: none beyond 6 with probability 1 - 6e-8; thetas are up to 9 apart in units of 0.5.
    assert np.abs(z).max() < 6
    assert np.unique(z).size == 30
    z = (tree["prior_predictive"]["y"].values - tree["prior"]["theta"].values) / np.asarray(SIGMA)
    assert np.abs(z).max() < 6


def test_weighted_draws_are_resampled_in_step():
    log_weights = jnp.log(jnp.arange(10.0)).reshape(2, 5)
    posterior = make(log_weights, None, "Importance")
    tree = posterior.to_arviz(draws=90, key=2)
    mu = tree["posterior"]["mu"].values
    assert mu.shape == (1, 90)
    # Weights k / 45: systematic resampling gives 2 k copies, give or take one.
    counts = np.bincount(mu.ravel().astype(int), minlength=10)
    assert (np.abs(counts - 2 * np.arange(10)) <= 1).all()
    assert counts[0] == 0
    stats = tree["sample_stats"]
    np.testing.assert_array_equal(stats["ancestor"].values, mu)
    np.testing.assert_array_equal(stats["accepted"].values, mu > 4)
    np.testing.assert_array_equal(stats["log_weights"].values, np.asarray(log_weights).ravel())
    assert tree.equals(posterior.to_arviz(draws=90, key=2))


def test_exact_outcomes_are_resampled_to_enough_draws():
    posterior = Posterior({"z": jnp.array([[0, 1]])}, log_weights=jnp.log(jnp.array([[0.25, 0.75]])), method="Exact")
    assert float(posterior.to_arviz()["posterior"]["z"].mean()) == pytest.approx(0.75, abs=0.001)


def test_groups_can_be_chosen_and_impossible_ones_are_named():
    posterior = make(None, schools(SIGMA, DATA))
    assert set(posterior.to_arviz(["posterior", "observed_data"]).children) == {"posterior", "observed_data"}
    with pytest.raises(ValueError, match="'predictions'.*\n.*Available here: posterior"):
        posterior.to_arviz(["predictions"])
    with pytest.raises(ValueError, match="needs the program"):
        make(None, None).to_arviz(["prior"])
    with pytest.raises(ValueError, match="needs observations"):
        make(None, schools(SIGMA)).to_arviz(["log_likelihood"])
    partial = Posterior({"mu": jnp.zeros((1, 5))}, program=schools(SIGMA, DATA))
    with pytest.raises(ValueError, match="none of 'theta'"):
        partial.to_arviz(["posterior_predictive"])
    assert "log_likelihood" not in partial.to_arviz(["posterior"]).children


def test_a_loaded_posterior_keeps_its_dims(tmp_path):
    make(None, schools(SIGMA, DATA)).save(tmp_path / "p")
    tree = load(tmp_path / "p").to_arviz()
    assert set(tree.children) == {"posterior", "sample_stats"}
    assert tree["posterior"]["theta"].dims == ("chain", "draw", "school")


@ppl.model
def line(y):
    x = ppl.sample("x", dist.Normal(0.0, 1.0))
    ppl.deterministic("twice", 2 * x)
    ppl.sample("y", dist.Normal(x, 1.0), obs=y)


@pytest.mark.parametrize("method", [ppl.Importance(6), ppl.MH()])
def test_a_program_without_choices_left_has_its_groups(method):
    settings = {"warmup": 1, "draws": 6} if isinstance(method, ppl.MH) else {}
    posterior = ppl.infer(line(2.0).condition({"x": 1.5}), method, key=0, **settings)
    count = posterior.shape[0] * posterior.shape[1]
    tree = posterior.to_arviz()
    assert tree["posterior"]["twice"].values.ravel().tolist() == [3.0] * count
    expected = -0.125 - 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(tree["log_likelihood"]["y"].values.ravel(), [expected] * count, rtol=1e-5)
    assert tree["observed_data"]["x"].item() == 1.5
    assert np.unique(tree["posterior_predictive"]["y"].values).size == count


def test_choices_not_made_are_nan_with_their_mask():
    made = jnp.array([[True, False, True]])
    tree = Posterior({"x": jnp.ones((1, 3, 2)), "k": jnp.ones((1, 3), int)}, masks={"x": made, "k": made}).to_arviz()
    assert np.isnan(tree["posterior"]["x"].values[0, :, 1]).tolist() == [False, True, False]
    assert tree["posterior"]["k"].values.tolist() == [[1, 1, 1]]
    assert tree["sample_stats"]["x.made"].values.tolist() == [[True, False, True]]


def test_awkward_names_stay_distinct():
    assert variable_names(["a/b", "a.b", "c"]) == {"a/b": "a.b_", "a.b": "a.b", "c": "c"}
    # A subsampled plate: the plate's own site has the plate's name, and so would its axis.
    groups = {"posterior": {"n": np.zeros((1, 4, 2), np.int32), "x": np.zeros((1, 4, 2, 3))}}
    tree = to_datatree(groups, dims={"n": ("n",), "x": ("n", None)}, coords={"n": [7, 9]})
    assert tree["posterior"]["x"].dims == ("chain", "draw", "n_dim", "x_dim_1")
    assert tree["posterior"]["n_dim"].values.tolist() == [7, 9]
    tree = to_datatree({"posterior": {"x": np.zeros((1, 4, 2))}}, dims={"x": ("chain",)})
    assert tree["posterior"]["x"].dims == ("chain", "draw", "chain_dim")


def test_labels_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="'school' has 3 elements.*2 labels"):
        make(None, schools(SIGMA, DATA)).to_arviz(["posterior"], coords={"school": ["a", "b"]})


def test_labels_for_no_axis_are_named_with_a_near_match():
    posterior = make(None, schools(SIGMA, DATA))
    with pytest.raises(ValueError, match=r"'schol'.*Did you mean 'school'\?"):
        posterior.to_arviz(["posterior"], coords={"schol": ["a", "b", "c"]})
    with pytest.raises(ValueError, match=r"'zzz', but no axis has that name\.\n"):
        posterior.to_arviz(coords={"zzz": [1, 2, 3]})
    # The plate is known, though no variable of the group has it.
    posterior.to_arviz(["sample_stats"], coords={"school": ["a", "b", "c"]})


def test_sites_called_chain_and_draw_are_kept():
    draws = {"chain": np.arange(4.0)[None], "draw": np.arange(5.0, 9.0)[None], "chain_": np.zeros((1, 4))}
    tree = Posterior(draws).to_arviz()
    assert set(tree["posterior"].data_vars) == {"chain_", "chain__", "draw_"}
    assert tree["posterior"]["chain__"].values.tolist() == [[0.0, 1.0, 2.0, 3.0]]
    assert tree["posterior"]["draw_"].values.tolist() == [[5.0, 6.0, 7.0, 8.0]]


def test_plates_of_one_name_and_several_sizes_lose_nothing():
    draws = {"a": np.ones((1, 4, 3)), "b": np.ones((1, 4, 5)), "c": np.ones((1, 4, 5)), "n_5": np.ones((1, 4))}
    groups = {"posterior": draws, "observed_data": {"d": np.ones(5)}}
    dims = dict.fromkeys("abcd", ("n",))
    tree = to_datatree(groups, dims=dims, coords={"n": [4, 5, 6], "n_5_dim": list("abcde")})
    assert {x: tree["posterior"][x].dims[-1] for x in "abc"} == {"a": "n", "b": "n_5_dim", "c": "n_5_dim"}
    assert tree["observed_data"]["d"].dims == ("n_5_dim",)
    assert tree["posterior"]["n_5_dim"].values.tolist() == list("abcde")
    assert not any(np.isnan(x.values).any() for x in tree["posterior"].data_vars.values())


def test_keys_and_small_floats_are_made_plain():
    keys = jax.random.split(jax.random.key(0), 4)[None]
    tree = to_datatree({"posterior": {"k": keys, "h": jnp.ones((1, 4), jnp.bfloat16)}})
    assert tree["posterior"]["k"].dtype == np.uint32
    assert tree["posterior"]["h"].dtype == np.float32
