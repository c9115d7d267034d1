"""Data are looked at before inference: each error names the site, its line, the value and its index."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ppl
import ppl.distributions as dist
from ppl.distributions.scaled import Scaled
from ppl.errors import DegenerateWeightsError, NaNError, SupportError, UnboundedError
from ppl.inference.data_checks import check_data, density_table, presence


@ppl.model
def regression(x, y):
    slope = ppl.sample("slope", dist.Normal(0.0, 1.0))
    with ppl.plate("row", len(y)):
        ppl.sample("y", dist.Normal(slope * x, 1.0), obs=y)


@ppl.model
def counts(y, mask):
    rate = ppl.sample("rate", dist.Gamma(2.0, 1.0))
    with ppl.plate("row", len(y)):
        ppl.sample("y", dist.HalfNormal(rate).expand([len(y)]).mask(mask), obs=y)


def test_good_data_pass(key):
    check_data(regression(jnp.arange(3.0), jnp.array([0.5, 1.0, -2.0])), key)


def test_nan_names_site_line_count_and_index(key):
    y = jnp.array([0.5, jnp.nan, 1.0, jnp.nan])
    words = r"'y' \(test_data_checks.py:\d+\) holds 2 NaN of 4 values, the first at index \(1,\)"
    with pytest.raises(NaNError, match=words):
        check_data(regression(jnp.arange(4.0), y), key)


def test_nan_in_a_covariate_shows_in_the_table_of_sites(key):
    with pytest.raises(DegenerateWeightsError, match=r"16 have NaN(.|\n)*y +likelihood +nan +<- test_data_checks.py"):
        check_data(regression(jnp.array([1.0, jnp.nan]), jnp.array([0.5, 1.0])), key)


def test_masked_entries_may_hold_anything(key):
    y, mask = jnp.array([0.5, jnp.nan, -3.0, 1.0]), jnp.array([True, False, False, True])
    check_data(counts(y, mask), key)
    with pytest.raises(NaNError, match=r"1 NaN of 4 values, the first at index \(1,\)"):
        check_data(counts(y, mask.at[1].set(True)), key)
    with pytest.raises(SupportError, match=r"first -3.0 at index \(2,\)"):
        check_data(counts(y, mask.at[2].set(True)), key)


@pytest.mark.parametrize(
    ("measure", "value", "words"),
    [
        (dist.HalfNormal(1.0), -0.5, "positive"),
        (dist.Poisson(2.0), -1, "lower bound 0"),
        (dist.Bernoulli(0.5), 2, "boolean"),
        (dist.Uniform(0.0, 1.0), 1.5, "upper bound 1.0"),
        (dist.Binomial(5, 0.5), 6, "integerinterval.*upper bound 5"),
        (Scaled(dist.Poisson(2.0), 3.0), -2, "lower bound 0"),
    ],
)
def test_outside_the_support(key, measure, value, words):
    @ppl.model
    def program(y):
        ppl.sample("y", measure, obs=y)

    good = 1 if isinstance(value, int) else 0.25
    data = jnp.array([good, good, value])
    with pytest.raises(SupportError, match=rf"1 values outside the support.*{value}.* at index \(2,\)(.|\n)*{words}"):
        check_data(program(data), key)


def test_a_support_that_depends_on_choices_must_fail_in_every_draw(key):
    @ppl.model
    def uniform(y):
        top = ppl.sample("top", dist.Exponential(1.0))
        ppl.sample("y", dist.Uniform(0.0, top), obs=y)

    check_data(uniform(jnp.array(0.5)), key)
    with pytest.raises(SupportError, match="check_data=False"):
        check_data(uniform(jnp.array(-0.5)), key)


def test_an_impossible_branch_is_no_error_but_nan_in_it_is(key):
    @ppl.model
    def program(y):
        a = ppl.sample("a", dist.Bernoulli(0.5))

        def positive():
            ppl.sample("y", dist.Exponential(1.0), obs=y)

        def any_sign():
            ppl.sample("z", dist.Normal(0.0, 1.0), obs=y)

        jax.lax.cond(a == 1, positive, any_sign)

    check_data(program(jnp.array(-1.0)), key)
    with pytest.raises(NaNError, match="'y'|'z'"):
        check_data(program(jnp.array(jnp.nan)), key)


def test_data_in_loops_and_lanes_have_their_index(key):
    @ppl.model
    def program(y, z):
        def step(state, row):
            state = ppl.sample("x", dist.Normal(state, 1.0))
            ppl.sample("y", dist.HalfNormal(jnp.ones(2)), obs=row)
            return state, None

        jax.lax.scan(step, 0.0, y)
        ppl.vmap(lambda value: ppl.sample("z", dist.Exponential(1.0), obs=value))(z)

    good, lanes = np.ones((3, 2), np.float32), np.ones(4, np.float32)
    check_data(program(good, lanes), key)
    bad = good.copy()
    bad[2, 1] = -4.0
    with pytest.raises(SupportError, match=r"'y' .*-4.0 at index \(2, 1\)"):
        check_data(program(bad, lanes), key)
    lanes[3] = np.nan
    with pytest.raises(NaNError, match=r"'z' .*index \(3,\)"):
        check_data(program(good, lanes), key)


def test_an_unbounded_loop_is_refused(key):
    @ppl.model
    def program():
        def body(state):
            return state + ppl.sample("x", dist.Exponential(1.0))

        jax.lax.while_loop(lambda state: state < 3.0, body, 0.0)

    with pytest.raises(UnboundedError, match="posterior"):
        check_data(program(), key)


def test_presence_broadcasts_over_events():
    mask = jnp.array([True, False])
    normal = dist.Normal(jnp.zeros((2, 3)), 1.0).to_event(1).mask(mask)
    assert np.broadcast_to(presence(normal), (2, 3)).tolist() == [[True] * 3, [False] * 3]
    assert presence(dist.Normal(0.0, 1.0)) is True


def test_the_table_lists_every_site():
    program = regression(jnp.arange(2.0), jnp.array([0.5, 1.0]))
    lines = density_table(program, {"slope": jnp.array(0.25)}).splitlines()
    assert [line.split()[:2] for line in lines] == [["slope", "prior"], ["y", "likelihood"]]


def test_supports_with_a_tolerance_are_checked_for_data():
    @ppl.model
    def shares(y):
        a = ppl.sample("a", dist.HalfNormal(1.0))
        ppl.sample("y", dist.Dirichlet(jnp.ones(2) * (1.0 + a)), obs=y)

    assert jnp.isfinite(ppl.infer(shares(jnp.array([0.4, 0.6])), ppl.Importance(50), key=0).log_evidence.estimate)
    with pytest.raises(SupportError, match="'y'"):
        ppl.infer(shares(jnp.array([0.9, 0.9])), ppl.Importance(50), key=0)
