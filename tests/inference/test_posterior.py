"""`Posterior`: closed-form weighted tables, resampling, predictions, files and what is shown."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arviz_stats.base import array_stats

import ppl
import ppl.distributions as dist
from ppl.errors import AddressError, DegenerateWeightsError, FileFormatError, ShapeError
from ppl.inference.moments import normalized_weights, weighted_hdi
from ppl.inference.posterior import Evidence, Posterior, load
from ppl.inference.storage import read
from ppl.inference.tables import format_number
from ppl.plots import density, marginals_of, plot_forest, plot_posterior

SIGMA = jnp.array([1.0, 2.0, 0.5])
DATA = jnp.array([3.0, -1.0, 0.5])


@ppl.model
def groups(sigma, y=None):
    mu = ppl.sample("mu", dist.Normal(1.0, 2.0))
    with ppl.plate("group", 3):
        theta = ppl.sample("theta", dist.Normal(mu, 1.0))
        y = ppl.sample("y", dist.Normal(theta, sigma), obs=y)
    ppl.deterministic("twice", 2 * theta)
    return y


@pytest.fixture(scope="module")
def weighted():
    program = groups(SIGMA, DATA)
    trace = jax.vmap(program.simulate)(jax.random.split(jax.random.key(3), 400))

    def chain(tree):
        return jax.tree.map(lambda x: x[None], tree)

    return Posterior(
        chain(trace.choices),
        values={"theta": chain(trace.value)},
        deterministic=chain(trace.deterministic),
        log_weights=chain(trace.log_weight),
        log_evidence=Evidence(-7.5, 0.0625),
        stats={"log_density": chain(trace.log_density)},
        diagnostics={"pareto_k": 0.25},
        program=program,
        method="Importance",
    )


def exact(log_weights, **draws):
    arrays = {name: jnp.asarray(x)[None] for name, x in draws.items()}
    return Posterior(arrays, log_weights=jnp.asarray(log_weights)[None], method="Exact")


# --- tables --------------------------------------------------------------------------------------


def test_exact_moments_are_those_of_the_closed_form():
    # log weights far below exp's range in any precision: only their differences count.
    table = exact(jnp.log(jnp.array([0.2, 0.3, 0.5])) - 4096.0, z=[0, 1, 5]).summary(0.9).to_dict()["z"]
    assert set(table) == {"mean", "sd", "hdi_5%", "hdi_95%"}
    assert table["mean"] == pytest.approx(2.8, rel=1e-3)
    assert table["sd"] == pytest.approx(math.sqrt(0.3 + 0.5 * 25 - 2.8**2), rel=1e-3)
    assert (table["hdi_5%"], table["hdi_95%"]) == (0, 5)


def test_importance_errors_match_an_independent_formula(weighted):
    row = weighted.summary().to_dict()["theta[group=1]"]
    x = np.asarray(weighted.draws["theta"][0, :, 1], np.float64)
    w = np.exp(np.asarray(weighted.log_weights[0], np.float64))
    w /= w.sum()
    assert row["mean"] == pytest.approx(np.average(x, weights=w))
    assert row["sd"] == pytest.approx(math.sqrt(np.cov(x, aweights=w, ddof=0)))
    assert row["mcse"] == pytest.approx(
        math.sqrt(sum((wi * (xi - row["mean"])) ** 2 for wi, xi in zip(w, x, strict=True)))
    )
    assert row["ess"] == pytest.approx((row["sd"] / row["mcse"]) ** 2)


def test_chains_are_judged_as_arviz_judges_them(key):
    draws = np.asarray(jax.random.normal(key, (4, 200, 2))) + np.array([0.0, 10.0])
    row = Posterior({"x": draws}, method="MH").summary().to_dict()["x[1]"]
    x = draws[..., 1].astype(np.float64)
    assert row["mean"] == pytest.approx(x.mean())
    assert row["sd"] == pytest.approx(x.std(ddof=1))
    assert row["ess_bulk"] == pytest.approx(float(array_stats.ess(x, method="bulk")))
    assert row["r_hat"] == pytest.approx(float(array_stats.rhat(x)))
    assert row["mcse"] == pytest.approx(float(array_stats.mcse(x, method="mean")))


def test_hdi_is_the_shortest_interval_by_brute_force(key):
    x = np.asarray(jax.random.exponential(key, (40,)), np.float64)
    w = np.asarray(jax.random.dirichlet(key, jnp.ones(40)), np.float64)
    w[3] = 0.0
    w /= w.sum()
    inside = [(b - a, a, b) for a in x for b in x if a <= b and w[(x >= a) & (x <= b)].sum() >= 0.8]
    assert weighted_hdi(x, w, 0.8) == pytest.approx(min(inside)[1:])
    equal = np.full(40, 1 / 40)
    width = np.ptp(array_stats.hdi(x, prob=0.8))
    assert np.ptp(weighted_hdi(x, equal, 0.8)) <= width + 1e-12


def test_weights_of_nan_and_infinity_count_as_said():
    assert normalized_weights(np.array([[0.0, np.nan, 0.0]])).tolist() == [0.5, 0.0, 0.5]
    assert normalized_weights(np.array([[0.0, np.inf, np.inf]])).tolist() == [0.0, 0.5, 0.5]


def test_no_weight_at_all_is_an_error_that_says_so():
    posterior = exact([-jnp.inf, -jnp.inf], z=[0.0, 1.0])
    for ask in (posterior.summary, posterior.to_arviz, posterior.as_measure, lambda: posterior.resample(0)):
        with pytest.raises(DegenerateWeightsError, match=r"All 2 log weights are -inf"):
            ask()
    assert "All log weights are -inf" in repr(posterior)


def test_choices_not_made_count_for_nothing():
    made = jnp.array([[True, False, True, False]])
    posterior = dataclasses.replace(
        exact(jnp.log(jnp.array([0.1, 0.4, 0.3, 0.2])), z=[1.0, jnp.nan, 5.0, 900.0]), masks={"z": made}
    )
    row = posterior.summary().to_dict()["z"]
    assert row["p_made"] == pytest.approx(0.4, rel=1e-6)
    assert row["mean"] == pytest.approx((0.1 * 1 + 0.3 * 5) / 0.4, rel=1e-6)


def test_what_cannot_be_trusted_is_said_first(key):
    stuck = np.zeros((4, 50)) + np.arange(4)[:, None] + 0.01 * np.asarray(jax.random.normal(key, (4, 50)))
    notes = Posterior({"x": stuck}, stats={"diverging": np.ones((4, 50), bool)}).summary().notes
    text = "\n".join(note.text for note in notes if note.warning)
    assert "200 draws diverged" in text
    assert "r_hat > 1.01 in 1 of 1 rows (worst x" in text
    assert "ess_bulk < 100" in text
    # exp(3 E) with E exponential is Pareto with k = 3.
    log_weights = 3 * np.asarray(jax.random.exponential(key, (4, 50)))
    heavy = Posterior({"x": stuck}, log_weights=log_weights, log_evidence=Evidence(-2.0, 3.0)).summary()
    assert heavy.notes[0].warning
    assert any("Pareto k" in note.text and "proposal" in note.text for note in heavy.notes if note.warning)
    assert any("of little use" in note.text for note in heavy.notes if note.warning)


def test_a_nan_draw_is_said_and_gives_no_number():
    summary = Posterior({"x": np.array([[1.0, np.nan, 2.0, 0.0]])}).summary()
    assert math.isnan(summary.to_dict()["x"]["mean"])
    assert "x: 1 draws are NaN" in summary.notes[0].text


def test_the_text_names_plates_and_evidence(weighted):
    text = repr(weighted.summary())
    assert "theta[group=2]" in text
    assert "log evidence -7.500 \N{PLUS-MINUS SIGN} 0.062 nats" in text
    lines = text.splitlines()[2:10]
    assert len({len(line) for line in lines}) == 1
    assert "group: 3" in repr(weighted)


def test_to_dataframe_has_the_same_numbers(weighted):
    pytest.importorskip("pandas")
    summary = weighted.summary()
    assert summary.to_dataframe().loc["mu", "mean"] == summary.to_dict()["mu"]["mean"]


def test_a_summary_of_some_addresses_has_their_rows_alone():
    posterior = exact(jnp.log(jnp.array([0.25, 0.75])), z=[1.0, 5.0], a=[0.0, 1.0])
    assert list(posterior.summary(addresses=["a"]).to_dict()) == ["a"]
    with pytest.raises(AddressError, match="The posterior has no address 'b'.\nIt has: 'z', 'a'."):
        posterior.summary(addresses=["a", "b"])


def test_long_tables_are_cut_aloud():
    summary = Posterior({"x": np.zeros((1, 3, 70))}).summary()
    assert "10 more rows" in repr(summary)
    assert len(summary.to_dict()) == 70


def test_html_escapes_what_users_name():
    posterior = exact([0.0, 0.0], **{"<script>alert(1)</script>": [0.0, 1.0], "a&b": [1, 2]})
    for page in (posterior._repr_html_(), posterior.summary()._repr_html_()):
        assert "<script" not in page
        assert "&lt;script&gt;" in page
        assert "a&amp;b" in page


@pytest.mark.parametrize(
    ("value", "decimals", "text"),
    [(-0.001, 2, "0.00"), (math.inf, 2, "inf"), (1e9, 2, "1.00e+09"), (12.345, 1, "12.3"), (3e-9, 9, "3.00e-09")],
)
def test_numbers_are_shown_readably(value, decimals, text):
    assert format_number(value, decimals) == text


def test_rows_are_in_the_programs_order(weighted):
    assert list(weighted.draws) == ["mu", "theta"]
    shuffled = dataclasses.replace(weighted, draws=dict(reversed(weighted.draws.items())))
    assert next(iter(shuffled.summary().to_dict())) == "mu"


# --- samples -------------------------------------------------------------------------------------


def test_resampling_keeps_the_measure_up_to_one_draw_in_n():
    posterior = exact(jnp.log(jnp.array([0.1, 0.0, 0.65, 0.25])), z=[10, 20, 30, 40])
    drawn = posterior.resample(5, 200)
    counts = np.array([(np.asarray(drawn.draws["z"]) == v).sum() for v in (10, 20, 30, 40)])
    assert drawn.log_weights is None
    assert drawn.shape == (1, 200)
    assert (np.abs(counts - 200 * np.array([0.1, 0.0, 0.65, 0.25])) <= 1).all()


def test_resampling_keeps_a_draw_together(weighted):
    drawn = weighted.resample(1)
    assert (drawn.deterministic["twice"] == 2 * drawn.draws["theta"]).all()


def test_a_posterior_is_a_measure_inside_a_program(key):
    old = exact(jnp.log(jnp.array([0.25, 0.0, 0.75])), a=[1.0, 2.0, 3.0], b=[[1, 1], [2, 2], [3, 4]]).as_measure()

    @ppl.model
    def model():
        drawn = ppl.sample("old", old)
        return drawn["a"]

    values = model().sample(key, (2000,))
    # Standard error sqrt(.25 * .75 / 2000) = 0.0097: five of them, a false alarm in 1.7e6.
    assert abs(float(jnp.mean(values == 3.0)) - 0.75) < 0.0485
    assert not bool(jnp.any(values == 2.0))
    choices = {"old/a": jnp.array(1.0), "old/b": jnp.array([1, 1])}
    assert float(model().log_density(choices)) == pytest.approx(math.log(0.25), rel=1e-5)
    assert float(old.log_prob({"a": 1.0, "b": jnp.array([3, 4])})) == -math.inf


def test_samples_have_the_shape_asked_for(weighted):
    drawn = weighted.sample(0, (2, 5))
    assert drawn["theta"].shape == (2, 5, 3)
    assert weighted.sample(0)["mu"].shape == ()


def test_prediction_fixes_what_matches_and_draws_the_rest(weighted):
    drawn = weighted.predict(groups(SIGMA), key=1)
    assert set(drawn) == {"y", "twice"}
    assert (drawn["twice"] == 2 * weighted.draws["theta"]).all()
    z = np.asarray((drawn["y"] - weighted.draws["theta"]) / SIGMA[None, None]).ravel()
    # 1200 standard normals: mean within 5 / sqrt(1200), variance within 5 sqrt(2 / 1200) (1e-6 each).
    assert abs(z.mean()) < 0.145
    assert abs(z.var() - 1) < 0.205
    assert len(np.unique(z)) == z.size


def test_prediction_says_what_is_wrong(weighted):
    @ppl.model
    def other():
        return ppl.sample("x", dist.Normal(0.0, 1.0))

    with pytest.raises(AddressError, match=r"No address of the posterior.*\n.*'mu', 'theta'"):
        weighted.predict(other(), key=0)
    with pytest.raises(TypeError, match="call the model"):
        weighted.predict(groups, key=0)


def test_prediction_with_nothing_left_to_draw_is_an_error():
    @ppl.model
    def line(y=None):
        x = ppl.sample("x", dist.Normal(0.0, 1.0))
        ppl.sample("y", dist.Normal(x, 1.0), obs=y)

    posterior = Posterior({"x": jnp.zeros((1, 4))}, program=line(2.0))
    with pytest.raises(AddressError, match=r"nothing to predict.*\n.*'y'"):
        posterior.predict(line(2.0), key=0)
    assert posterior.predict(line(), key=0)["y"].shape == (1, 4)


def test_predicted_choices_that_were_not_made_are_nan():
    @ppl.model
    def branch():
        k = ppl.sample("k", dist.Bernoulli(0.5))
        jax.lax.cond(k == 1, lambda: ppl.sample("a", dist.Normal(3.0, 1.0)), lambda: jnp.zeros(()))

    posterior = Posterior({"k": jnp.array([[0, 1, 1]])}, program=branch())
    assert jnp.isnan(posterior.predict(branch(), key=0)["a"]).tolist() == [[True, False, False]]


@ppl.model
def two_sided(flags, y=None):
    def one(flag):
        draws = [lambda: ppl.sample("x", dist.Normal(100.0, 1.0)), lambda: ppl.sample("z", dist.Normal(-90.0, 1.0))]
        return jax.lax.cond(flag, *draws)

    x = ppl.vmap(one)(flags)
    ppl.sample("y", dist.Normal(x, 1.0), obs=y)


def test_prediction_draws_anew_what_a_draw_had_not_made():
    # Law: p(y | flags) needs x in the second lane, which no draw made; the first lane's x and z are kept.
    old = jnp.array([True, False, False])
    made = jnp.broadcast_to(old, (1, 200, 3))
    x = jnp.where(made, jnp.linspace(40.0, 60.0, 200)[None, :, None], 0.0)
    z = jnp.where(made, 0.0, -70.0)
    posterior = Posterior({"x": x, "z": z}, masks={"x": made, "z": ~made})
    drawn = posterior.predict(two_sided(jnp.array([True, True, False])), key=1)
    assert set(drawn) == {"x", "y"}
    assert (drawn["x"][..., 0] == x[..., 0]).all()
    assert jnp.isnan(drawn["x"][..., 2]).all()
    expected, spread = jnp.array([x[..., 0].mean(), 100.0, -70.0]), jnp.array([1.0, 2.0**0.5, 1.0])
    # Standard error spread / sqrt(200): five of them, a false alarm in 1.7e6 for each lane.
    residual = (drawn["y"][0] - jnp.stack([x[0, :, 0], drawn["x"][0, :, 1], z[0, :, 2]], 1)).mean(0)
    assert (jnp.abs(residual) < 5 / 200**0.5).all()
    assert (jnp.abs(drawn["y"][0].mean(0) - expected) < 5 * spread / 200**0.5 + 1e-3).all()
    assert set(posterior.predict(two_sided(old), key=1)) == {"y"}


def test_samples_say_which_floats_were_not_made():
    made = jnp.array([[True, False]])
    draws = {"x": jnp.array([[3.0, 0.0]]), "k": jnp.array([[7, 0]])}
    posterior = Posterior(draws, masks={"x": made, "k": made}, log_weights=jnp.log(jnp.array([[0.25, 0.75]])))
    drawn = posterior.sample(0, (50,))
    assert (jnp.isnan(drawn["x"]) == (drawn["k"] == 0)).all()
    assert set(np.asarray(drawn["k"]).tolist()) == {0, 7}
    value = {"x": jnp.nan, "k": 0}
    assert float(posterior.as_measure().log_prob(value)) == pytest.approx(math.log(0.75), rel=1e-5)


@ppl.model
def schools(size, y=None):
    mu = ppl.sample("mu", dist.Normal(0.0, 5.0))
    with ppl.plate("school", size):
        theta = ppl.sample("theta", dist.Normal(mu, 0.5))
        ppl.sample("y", dist.Normal(theta, 1.0), obs=y)


def test_new_groups_are_predicted_by_drawing_their_effects_anew():
    mu = jnp.linspace(-400.0, 900.0, 150)[None]
    posterior = Posterior({"mu": mu, "theta": jnp.zeros((1, 150, 3))}, program=schools(3, DATA))
    message = r"'theta' have shape \(3,\).*\(5,\) there.\nThe plate 'school' has 3 .* and 5 in .*\n.*redraw=\['theta'\]"
    with pytest.raises(ShapeError, match=message):
        posterior.predict(schools(5), key=0)
    drawn = posterior.predict(schools(5), key=0, redraw=["theta"])
    assert set(drawn) == {"theta", "y"}
    z = (np.asarray(drawn["theta"]) - np.asarray(mu)[..., None]) / 0.5
    # 750 standard normals: mean within 5 / sqrt(750), variance within 5 sqrt(2 / 750) (1e-6 each).
    assert z.shape == (1, 150, 5)
    assert abs(z.mean()) < 0.183
    assert abs(z.var() - 1) < 0.259
    with pytest.raises(AddressError, match=r"redraw names 'tau'.\n.*'mu', 'theta', 'y'"):
        posterior.predict(schools(5), key=0, redraw=["tau"])


# --- files ---------------------------------------------------------------------------------------


def test_a_saved_posterior_comes_back(weighted, tmp_path):
    weighted.save(tmp_path / "p.safetensors")
    back = load(tmp_path / "p.safetensors")
    for part in ("draws", "masks", "deterministic", "stats"):
        ours, theirs = getattr(weighted, part), getattr(back, part)
        assert list(ours) == sorted(theirs, key=list(ours).index)
        assert all((ours[name] == theirs[name]).all() for name in ours)
    assert (back.values["theta"] == weighted.values["theta"]).all()
    assert (back.log_weights == weighted.log_weights).all()
    assert back.log_evidence == weighted.log_evidence
    assert back.diagnostics == weighted.diagnostics
    assert back.sites == weighted.sites
    assert back.program is None
    assert back.summary().to_dict() == weighted.summary().to_dict()


def test_addresses_that_look_like_our_names_come_back(tmp_path):
    awkward = {"draws:x": jnp.ones((2, 3)), "values/0": jnp.zeros((2, 3)), "log_weights": jnp.ones((2, 3, 1))}
    Posterior(awkward, values=(jnp.ones((2, 3)),), masks={"draws:x": jnp.ones((2, 3), bool)}).save(tmp_path / "p")
    back = load(tmp_path / "p")
    assert set(back.draws) == set(awkward)
    assert back.log_weights is None
    assert list(back.masks) == ["draws:x"]


def test_draws_are_saved_without_values_that_cannot_be(tmp_path):
    draws = {"x": jnp.array([[1.5, -2.0]])}
    function = jax.tree_util.Partial(jnp.add, jnp.ones((1, 2)))
    for values, kind in ((function, "Partial"), ({"s": np.array([["a", "b"]])}, "<U1"), (None, None)):
        Posterior(draws, values=values, method="MH").save(tmp_path / "p")
        back = load(tmp_path / "p")
        assert back.values is None
        assert (back.draws["x"] == draws["x"]).all()
        left_out = read(tmp_path / "p", "posterior")[1]["values_left_out"]
        assert left_out is None if kind is None else kind in left_out
    with pytest.raises(FileFormatError, match=r"draws:s.*<U1"):
        Posterior({"s": np.array([["a", "b"]])}).save(tmp_path / "p")


def test_arrays_that_do_not_fit_together_are_named():
    with pytest.raises(ShapeError, match=r"stats\['accepted'\] has shape \(1, 3\)"):
        Posterior({"x": jnp.zeros((2, 3))}, stats={"accepted": jnp.zeros((1, 3))})
    with pytest.raises(AddressError, match="masks"):
        Posterior({"x": jnp.zeros((2, 3))}, masks={"y": jnp.ones((2, 3), bool)})


# --- figures -------------------------------------------------------------------------------------


def test_the_drawn_density_has_mass_one_and_the_right_mean(key):
    x = np.asarray(jax.random.exponential(key, (400,)), np.float64)
    w = x / x.sum()
    grid = np.linspace(x.min(), x.max(), 2001)
    heights = density(x, w, grid)
    assert np.trapezoid(heights, grid) == pytest.approx(1, abs=0.01)
    assert np.trapezoid(heights * grid, grid) == pytest.approx(w @ x, rel=0.05)


def test_figures_are_written(weighted, tmp_path):
    pytest.importorskip("matplotlib")
    figure = plot_posterior(weighted, tmp_path / "a.png", ["mu", "theta"])
    assert [panel.get_title(loc="left") for panel in figure.axes[:2]] == ["mu", "theta[group=0]"]
    plot_forest(weighted, tmp_path / "b.png")
    plot_posterior(exact([0.0, -1.0], z=[1, 4]), tmp_path / "c.png")
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in ("a.png", "b.png", "c.png"))
    assert marginals_of(weighted, ["twice"])[2].label == "twice[2]"
    with pytest.raises(AddressError, match="no address 'nu'"):
        plot_forest(weighted, addresses=["nu"])
