"""`ppl.plate`: batch dimensions with names, nested and numbered, and the scale of a subsample."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import ppl
import ppl.distributions as dist
from ppl.errors import MeasureError, ShapeError
from tests.semantics.coherence import coherent, normal


@pytest.fixture(autouse=True)
def _ranks_may_promote():
    """NumPyro promotes ranks where it draws from an expanded distribution whose parameters have fewer axes."""
    with jax.numpy_rank_promotion("allow"):
        yield


def test_a_plate_widens_scalar_sites_and_leaves_wide_ones(key):
    @ppl.model
    def schools(sigma, y):
        mu = ppl.sample("mu", dist.Normal(1.0, 5.0))
        with ppl.plate("school", 3) as index:
            theta = ppl.sample("theta", dist.Normal(mu, 2.0))
            ppl.sample("y", dist.Normal(theta, sigma), obs=y)
        return index

    sigma, y = np.array([1.0, 2.0, 4.0], np.float32), np.array([0.5, -2.0, 7.0], np.float32)
    program = schools(sigma, y)
    trace = coherent(program, key)
    np.testing.assert_array_equal(trace.value, [0, 1, 2])
    mu, theta = trace.choices["mu"], trace.choices["theta"]
    expected = (
        normal(mu, 1.0, 5.0) + normal(theta, mu, 2.0) + normal((y - theta) / sigma, 0.0, 1.0) - np.log(sigma).sum()
    )
    np.testing.assert_allclose(trace.log_density, expected, rtol=1e-5)
    assert len(np.unique(theta)) == 3
    assert {a: info.dims for a, info in program.sites.items()} == {"mu": (), "theta": ("school",), "y": ("school",)}


def test_nested_plates_take_free_dimensions_from_the_right(key):
    @ppl.model
    def crossed():
        with ppl.plate("row", 2, dim=-2):
            row = ppl.sample("row_effect", dist.Normal(0.0, 1.0))
            with ppl.plate("column", 3):
                both = ppl.sample("both", dist.Normal(row, 0.5))
                vector = ppl.sample("vector", dist.Dirichlet(jnp.ones(4)))
        with ppl.plate("first", 3), ppl.plate("second", 2):
            ppl.sample("swapped", dist.Normal(0.0, 1.0))
        return row, both, vector

    program = crossed()
    trace = coherent(program, key)
    row, both = trace.choices["row_effect"], trace.choices["both"]
    part = normal(row, 0.0, 1.0) + normal(both, row, 0.5) + 6 * math.log(6) + normal(trace.choices["swapped"], 0.0, 1.0)
    np.testing.assert_allclose(trace.log_density, part, rtol=1e-5)
    assert {a: (info.shape, info.dims) for a, info in program.sites.items()} == {
        "row_effect": ((2, 1), ("row", None)),
        "both": ((2, 3), ("row", "column")),
        "vector": ((2, 3, 4), ("row", "column", None)),
        "swapped": ((2, 3), ("second", "first")),
    }


@ppl.model
def subsampled(y, size):
    """Latents and data in a subsampled plate, inside a plate that is not, and a factor that is not scaled."""
    mu = ppl.sample("mu", dist.Normal(0.0, 1.0))
    with ppl.plate("n", 4, subsample_size=size) as index:
        z = ppl.sample("z", dist.Normal(mu, 2.0))
        with ppl.plate("m", 2):
            ppl.sample("y", dist.Normal(z, 0.5), obs=y[:, index])


def test_the_density_of_subsamples_averages_to_that_of_the_whole_plate():
    """Exact expectation over all ordered subsets of 2 out of 4; the mutant leaves the scale out."""
    y = jnp.array([[0.5, -1.0, 2.0, 0.1], [1.5, 0.0, -2.0, 3.0]])
    z = jnp.array([0.3, -0.2, 1.0, 2.0])
    whole = subsampled(y, 4)
    assert set(whole.sites) == {"mu", "z", "y"}
    expected = whole.log_density({"mu": jnp.array(0.4), "z": z})

    part = subsampled(y, 2)
    subsets = jnp.array(list(itertools.permutations(range(4), 2)))
    choices = [{"mu": jnp.array(0.4), "n": subset, "z": z[subset]} for subset in subsets]
    np.testing.assert_allclose(np.mean([part.log_density(c) for c in choices]), expected, rtol=1e-5)
    unscaled = [sum(jnp.sum(t) for t in (normal(c["z"], 0.4, 2.0), normal(y[:, c["n"]], c["z"], 0.5))) for c in choices]
    assert abs(np.mean(unscaled) + normal(0.4, 0.0, 1.0) - expected) > 1.0


def test_a_subsample_is_a_choice_by_the_name_of_the_plate(key):
    program = subsampled(jnp.zeros((2, 4)), 3)
    trace = coherent(program, key)
    index = np.asarray(trace.choices["n"])
    assert index.shape == (3,)
    assert len(set(index.tolist())) == 3
    assert set(index.tolist()) <= {0, 1, 2, 3}
    assert float(trace.terms.prior["n"]) == 0.0
    assert program.sites["z"].dims == ("n",)
    assert program.sites["y"].dims == ("m", "n")
    z, mu = trace.choices["z"], trace.choices["mu"]
    expected = normal(mu, 0.0, 1.0) + 4 / 3 * (normal(z, mu, 2.0) + normal(np.zeros((2, 3)), np.asarray(z)[None], 0.5))
    np.testing.assert_allclose(trace.log_density, expected, rtol=1e-5)


def test_subsamples_of_nested_plates_multiply_their_scales(key):
    @ppl.model
    def both():
        with ppl.plate("a", 6, subsample_size=2), ppl.plate("b", 9, subsample_size=3):
            ppl.sample("y", dist.Normal(0.0, 1.0), obs=jnp.full((3, 2), 0.5))

    trace = both().simulate(key)
    np.testing.assert_allclose(trace.log_density, 9 * normal(np.full((3, 2), 0.5), 0.0, 1.0), rtol=1e-5)


def test_masked_entries_of_a_plate_may_hold_anything(key):
    """Missing data: NaN and values outside the support, under a mask, widened, scaled and made an event."""
    y = np.array([1.0, np.nan, -3.0, 2.0], np.float32)
    present = np.array([True, False, False, True])

    @ppl.model
    def missing(rate):
        with ppl.plate("n", 4):
            ppl.sample("plain", dist.Exponential(rate).mask(present), obs=y)
        with ppl.plate("big", 8, subsample_size=4):
            ppl.sample("scaled", dist.Exponential(rate).mask(present), obs=y)
        ppl.sample("event", dist.Exponential(rate * jnp.ones(4)).mask(present).to_event(1), obs=y)
        with ppl.plate("n2", 4), ppl.plate("two", 2):
            ppl.sample("wide", dist.Exponential(rate).mask(present), obs=np.stack([y, y]))

    trace = missing(jnp.array(2.0)).simulate(key)
    one = 2 * math.log(2.0) - 2.0 * 3.0
    likelihood = {a: float(jnp.sum(v)) for a, v in trace.terms.likelihood.items()}
    assert likelihood == pytest.approx({"plain": one, "scaled": 2 * one, "event": one, "wide": 2 * one}, rel=1e-5)


def test_plates_around_loops_branches_and_lanes(key):
    @ppl.model
    def around(flag):
        with ppl.plate("n", 3):
            _, path = lax.scan(lambda c, _: (ppl.sample("x", dist.Normal(c, 0.5)),) * 2, jnp.zeros(3), None, length=2)
            branch = lax.cond(flag, lambda: ppl.sample("b", dist.Normal(0.0, 1.0)), lambda: jnp.zeros(3))
            lanes = ppl.vmap(lambda mu: ppl.sample("l", dist.Normal(mu, 1.0)))(jnp.array([1.0, 9.0]))
        return path, branch, lanes

    program = around(jnp.array(True))
    trace = coherent(program, key)
    assert {a: info.dims for a, info in program.sites.items()} == {"x": (None, "n"), "b": ("n",), "l": (None, "n")}
    x, lanes = np.asarray(trace.choices["x"]), trace.choices["l"]
    before = np.concatenate([np.zeros((1, 3)), x[:-1]])
    expected = normal(x, before, 0.5) + normal(trace.choices["b"], 0.0, 1.0) + normal(lanes, [[1.0], [9.0]], 1.0)
    np.testing.assert_allclose(trace.log_density, expected, rtol=1e-5)


def _wrong_size():
    with ppl.plate("n", 3):
        return ppl.sample("x", dist.Normal(jnp.zeros(4), 1.0))


def _taken_dim():
    with ppl.plate("n", 3), ppl.plate("m", 2, dim=-1):
        return ppl.sample("x", dist.Normal(0.0, 1.0))


def _positive_dim():
    with ppl.plate("n", 3, dim=0):
        return ppl.sample("x", dist.Normal(0.0, 1.0))


def _oversized():
    with ppl.plate("n", 3, subsample_size=4):
        return ppl.sample("x", dist.Normal(0.0, 1.0))


def _program():
    with ppl.plate("n", 3):
        return ppl.sample("x", ppl.model(lambda: ppl.sample("y", dist.Normal(0.0, 1.0)))())


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (_wrong_size, r"'x' at test_plates.py:\d+ has batch shape \(4,\), but the plate 'n' holds 3"),
        (_taken_dim, r"'m' at test_plates.py:\d+ asks for dim -1; the dims \[-1\] are taken"),
        (_positive_dim, r"'n' at test_plates.py:\d+ .*dim 0"),
        (_oversized, r"'n' at test_plates.py:\d+ has size 3 and subsample_size 4"),
        (_program, r"'x' at test_plates.py:\d+ inside the plate 'n'[\s\S]*axis_size=3"),
    ],
)
def test_plates_that_do_not_fit_are_refused(model, words):
    with pytest.raises(ShapeError, match=words):
        _ = ppl.model(model)().sites


def test_a_measure_without_a_batch_shape_cannot_stand_in_a_plate(own_measure):
    def model():
        with ppl.plate("n", 3):
            return ppl.sample("x", own_measure)

    with pytest.raises(MeasureError, match=r"'x' at test_plates.py:\d+ stands inside a plate[\s\S]*ppl.vmap"):
        _ = ppl.model(model)().sites


@pytest.fixture
def own_measure():
    return ppl.FiniteMeasure(jnp.log(jnp.array([0.25, 0.75])), jnp.array([1.0, 5.0]))
