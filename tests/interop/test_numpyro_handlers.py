"""What `from_numpyro` does where NumPyro's log density alone does not tell: meaning, errors, state, names."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.distributions import constraints
from numpyro.primitives import _PYRO_STACK

from ppl.interop import NumpyroModelError, from_numpyro


@pytest.fixture(autouse=True)
def _numpyro_promotes_ranks():
    with jax.numpy_rank_promotion("allow"):
        yield


def coins(y):
    bias = numpyro.sample("bias", dist.Categorical(jnp.array([0.2, 0.3, 0.5])))
    with numpyro.plate("flips", 2):
        heads = numpyro.sample("heads", dist.Bernoulli(jnp.array([0.1, 0.4, 0.9])[bias]))
        numpyro.sample("y", dist.Normal(heads, 0.7), obs=y)


def test_discrete_latents_are_enumerated_exactly():
    y = np.array([0.2, 1.4])
    prior, probability = np.array([0.2, 0.3, 0.5]), np.array([0.1, 0.4, 0.9])
    normal = np.exp(-0.5 * ((y[:, None] - np.arange(2.0)) / 0.7) ** 2) / (0.7 * np.sqrt(2 * np.pi))
    lanes = (1 - probability) * normal[:, :1] + probability * normal[:, 1:]
    mass = from_numpyro(coins)(y).enumerate().mass
    np.testing.assert_allclose(mass, np.sum(prior * lanes.prod(0)), rtol=1e-5)


def unnormalised():
    with handlers.scale(scale=3.0):
        numpyro.sample("powered", dist.Normal(0.0, 1.0))
    positive = numpyro.sample("positive", dist.ImproperUniform(constraints.positive, (), ()))
    numpyro.factor("decay", -2.0 * positive)


def test_weights_of_draws_represent_the_measure(key):
    """False-alarm rate 1e-6: the mean of 4,000 weights against the integral of the density, within 4.9 errors.

    Mass: the integral of N(x; 0, 1)^3 is 1 / (2 pi sqrt(3)), that of exp(-2 x) over the half-line is 1/2. The mutant
    (a scaled density with the weight of a plain draw) has mass 1/2 or infinite.
    """
    program = from_numpyro(unnormalised)()
    weights = jnp.exp(jax.vmap(lambda k: program.simulate(k).log_weight)(jax.random.split(key, 4000)))
    error = jnp.std(weights) / np.sqrt(4000)
    assert abs(jnp.mean(weights) - 0.5 / (2 * np.pi * np.sqrt(3.0))) < 4.9 * error
    assert abs(jnp.mean(weights) - 0.5) > 4.9 * error


def nested_scan(y):
    def row(carry, y_row):
        def cell(inner, y_cell):
            z = numpyro.sample("z", dist.Normal(inner, 1.0))
            numpyro.sample("y", dist.Normal(z, 0.5), obs=y_cell)
            return z, None

        return scan(cell, carry, y_row)

    return scan(row, 0.3, y)


def test_values_masks_and_scales_around_nested_scans_are_cut_to_the_step():
    y, z = np.arange(6.0).reshape(2, 3), np.array([[0.1, 0.9, -0.4], [1.2, 0.3, 2.2]])
    weights, mask = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), np.array([[True, False, True], [True, True, False]])
    model = handlers.condition(handlers.mask(handlers.scale(nested_scan, scale=weights), mask=mask), data={"z": z})
    with jax.enable_x64(True):
        means = np.concatenate([[0.3], z.ravel()[:-1]]).reshape(2, 3)
        terms = dist.Normal(means, 1.0).log_prob(z) + dist.Normal(z, 0.5).log_prob(y)
        got = from_numpyro(model)(y).log_density({})
        np.testing.assert_allclose(got, np.sum(np.where(mask, weights * terms, 0.0)), rtol=1e-12)


def test_a_reversed_scan_is_indexed_by_its_inputs():
    def model(y, z):
        def step(later, y_now):
            now = numpyro.sample("z", dist.Normal(2.0 * later, 1.0))
            numpyro.sample("y", dist.Normal(now, 0.5), obs=y_now)
            return now, None

        with handlers.condition(data={"z": z}):
            scan(step, 0.4, y, reverse=True)

    y, z = np.array([0.5, 1.0, 3.0]), np.array([0.1, -0.7, 1.9])
    with jax.enable_x64(True):
        terms = dist.Normal(2.0 * np.append(z[1:], 0.4), 1.0).log_prob(z) + dist.Normal(z, 0.5).log_prob(y)
        np.testing.assert_allclose(from_numpyro(model)(y, z).log_density({}), terms.sum(), rtol=1e-12)


def test_a_subsample_is_drawn_once_for_a_plate_used_twice(key):
    def model():
        with numpyro.plate("data", 9, subsample_size=3) as first:
            numpyro.sample("x", dist.Normal(0.0, 1.0))
        with numpyro.plate("data", 9, subsample_size=3) as second:
            numpyro.sample("y", dist.Normal(0.0, 1.0))
        return first, second

    trace = from_numpyro(model)().simulate(key)
    first, second = trace.value
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, trace.choices["data"])
    assert len(set(first.tolist())) == 3
    assert trace.choices["x"].shape == (3,)


def test_plates_name_the_dimensions():
    def model(y):
        with numpyro.plate("columns", 2, dim=-1), numpyro.plate("rows", 3, dim=-2):
            z = numpyro.sample("z", dist.Dirichlet(jnp.ones(4)))
            numpyro.sample("y", dist.Normal(z[..., 0], 1.0), obs=y)

    sites = from_numpyro(model)(np.zeros((3, 2))).sites
    assert sites["z"].dims == ("rows", "columns", None)
    assert sites["y"].dims == ("rows", "columns")
    assert sites["z"].source.startswith("test_numpyro_handlers.py:")


def test_wrong_length_around_a_scan_is_an_error():
    model = handlers.condition(nested_scan, data={"z": jnp.zeros((2, 5))})
    with pytest.raises(ValueError, match=r"'z'.*5 steps.*\n.*3"):
        str(from_numpyro(model)(np.zeros((2, 3))))


def blocked():
    with handlers.block(hide=["hidden"]):
        numpyro.sample("hidden", dist.Normal(0.0, 1.0))


REFUSED = {
    "key": (lambda: jax.random.normal(numpyro.prng_key()), "prng_key.*no address"),
    "block": (blocked, "block around a latent site"),
    "mutable": (lambda: numpyro.primitives.mutable("counter", 0), "'counter'.*keeps state"),
    "module": (lambda: numpyro.module("net", (None, None), (3,)), r"'net\$params'.*initial value"),
    "random param": (lambda: numpyro.param("w", lambda key: jax.random.normal(key)), "initial value is a function"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_statements_without_a_meaning_are_refused(name):
    model, message = REFUSED[name]
    with pytest.raises(NumpyroModelError, match=message):
        str(from_numpyro(model)())
    assert _PYRO_STACK == []


def test_an_exception_leaves_no_handler_behind(key):
    def model():
        with numpyro.plate("data", 3), handlers.scale(scale=2.0):
            numpyro.sample("x", dist.Normal(0.0, 1.0))

            def step(carry, _):
                raise RuntimeError("inside the loop")

            with handlers.block():
                pass
        scan(step, 0.0, jnp.zeros(3))

    with pytest.raises(RuntimeError, match="inside the loop"):
        from_numpyro(model)().simulate(key)
    assert _PYRO_STACK == []


def test_handlers_around_the_call_see_nothing(key):
    with handlers.trace() as outside, handlers.seed(rng_seed=0):
        from_numpyro(coins)(np.zeros(2)).simulate(key)
    assert dict(outside) == {}


def test_a_model_is_read_once_for_all_data_of_one_shape():
    reads = []

    def model(y):
        reads.append(1)
        loc = numpyro.sample("loc", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(loc, 1.0), obs=y)

    values = [float(from_numpyro(model)(np.full(3, y)).log_density({"loc": 0.2})) for y in (0.0, 1.5)]
    assert len(reads) == 1
    assert values[0] != values[1]
