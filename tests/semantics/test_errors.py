"""Errors of sites say the address, the user's line, what was got, what was expected and what to do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ppl
import ppl.distributions as dist
from ppl import errors
from tests.semantics.messages import line_of, message_of, says

KEY = 0
N = dist.Normal


# --- addresses -------------------------------------------------------------------------------------------------------


def regression(y):
    slope = ppl.sample("slope", N(0.0, 1.0))  # slope
    with ppl.plate("n", 3):
        ppl.sample("y", N(slope, 1.0), obs=y)  # y
    ppl.factor("weight", -slope)


PROGRAM = ppl.model(regression)(jnp.zeros(3))


def test_unknown_address_with_a_near_miss():
    message = message_of(errors.AddressError, lambda: PROGRAM.log_density({"slop": 1.0}))
    says(
        message,
        "'slop'",
        "does not have",
        "Did you mean 'slope'",
        line_of(regression, "# slope"),
        "Its addresses: 'slope', 'y'",
    )


def test_unknown_address_without_a_near_miss():
    message = message_of(errors.AddressError, lambda: PROGRAM.condition({"zzz": 1.0}))
    says(message, "condition", "'zzz'", "Its addresses: 'slope', 'y'")
    assert "Did you mean" not in message


def test_missing_address():
    message = message_of(errors.AddressError, lambda: PROGRAM.log_density({}))
    says(
        message,
        "every latent choice needs a value",
        "missing: 'slope'",
        line_of(regression, "# slope"),
        "generate(key, choices)",
    )


@pytest.mark.parametrize(("address", "kind"), [("y", "observed"), ("weight", "factor")])
def test_a_value_for_what_is_no_choice(address, kind):
    message = message_of(errors.AddressError, lambda: PROGRAM.log_density({"slope": 0.0, address: 0.0}))
    says(message, repr(address), kind, "test_errors.py:", "Expected: latent addresses only")


@pytest.mark.parametrize("address", ["", "/x", "x/"])
def test_an_address_that_is_no_name(address):
    def model():
        ppl.sample(address, N(0.0, 1.0))  # here

    message = message_of(errors.AddressError, lambda: ppl.model(model)().sites)
    says(message, repr(address), line_of(model), "Expected: a non-empty string")


def test_duplicate_address_names_both_lines():
    def model():
        ppl.sample("x", N(0.0, 1.0))  # first
        ppl.factor("x", 0.0)  # second

    message = message_of(errors.DuplicateAddressError, lambda: ppl.model(model)().sites)
    says(
        message, "'x'", line_of(model, "# first"), line_of(model, "# second"), "Expected: one site an address", "Rename"
    )


def test_duplicate_address_in_a_python_loop():
    def model():
        for _ in range(2):
            ppl.sample("x", N(0.0, 1.0))  # here

    message = message_of(errors.DuplicateAddressError, lambda: ppl.model(model)().sites)
    says(message, "'x'", line_of(model), "the same line", "f-string", "lax.scan", "ppl.vmap")


# --- values ----------------------------------------------------------------------------------------------------------


def column(y):
    with ppl.plate("n", 3):
        ppl.sample("y", N(jnp.zeros(3), 1.0), obs=y)  # here


def test_observation_of_shape_n_1_against_n():
    message = message_of(errors.ShapeError, lambda: ppl.model(column)(jnp.zeros((3, 1))).sites)
    says(message, "'y'", line_of(column), "has shape (3, 1)", "Expected: (3,)", "Reshape the data")


def test_observation_of_another_length():
    message = message_of(errors.ShapeError, lambda: ppl.model(column)(jnp.zeros(4)).sites)
    says(message, "'y'", line_of(column), "has shape (4,)", "Expected: (3,)")


def test_choice_of_another_shape():
    message = message_of(errors.ShapeError, lambda: PROGRAM.log_density({"slope": jnp.zeros(2)}))
    says(message, "'slope'", line_of(regression, "# slope"), "has shape (2,)", "Expected: ()")


def test_observation_of_a_wider_dtype():
    def model(y):
        ppl.sample("k", dist.Poisson(3.0), obs=y)  # here

    message = message_of(errors.DtypeError, lambda: ppl.model(model)(jnp.array(2.0)).sites)
    says(message, "'k'", line_of(model), "has dtype float32", "Expected: int32", ".astype('int32')")


@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint8, np.int64])
def test_narrower_kinds_are_converted(dtype):
    trace = ppl.model(lambda y: ppl.sample("y", N(0.0, 1.0), obs=y))(np.array(1, dtype)).simulate(KEY)
    assert trace.value.dtype == jnp.float32


def test_nan_in_concrete_data():
    data = np.array([0.5, np.nan, 1.0], np.float32)

    def model():
        ppl.sample("y", N(jnp.zeros(3), 1.0), obs=data)  # here

    message = message_of(errors.NaNError, lambda: ppl.model(model)().sites)
    says(message, "'y'", line_of(model), "holds NaN", "Drop the missing rows", ".mask(present)")
    masked = ppl.model(lambda: ppl.sample("y", N(jnp.zeros(3), 1.0).mask(~np.isnan(data)), obs=data))()
    assert np.isfinite(masked.simulate(KEY).log_density)


def test_nan_in_a_choice():
    message = message_of(errors.NaNError, lambda: PROGRAM.condition({"slope": float("nan")}))
    says(message, "'slope'", line_of(regression, "# slope"), "holds NaN")


def test_an_observation_that_is_a_list():
    def model():
        ppl.sample("y", N(jnp.zeros(2), 1.0), obs=[0.5, 1.0])  # here

    message = message_of(errors.MeasureError, lambda: ppl.model(model)().sites)
    says(message, "'y'", line_of(model), "list", "Expected: one array", "jnp.asarray")


# --- measures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("measure", "got", "fix"),
    [
        (dist.Normal, "the class Normal", "Normal(...)"),
        (2.5, "'float' (2.5)", "a distribution of ppl.distributions"),
        (None, "'NoneType' (None)", "a distribution of ppl.distributions"),
        (ppl.model(regression), "<model regression>", "did you mean regression(...)"),
        (regression, "'function'", "did you mean regression(...)"),
    ],
)
def test_a_measure_that_is_none(measure, got, fix):
    def model():
        ppl.sample("x", measure)  # here

    message = message_of(errors.MeasureError, lambda: ppl.model(model)().sites)
    says(message, "'x'", line_of(model), got, "Expected: ", fix)


def test_an_own_measure_that_is_no_pytree():
    class Unregistered:
        def sample(self, key, sample_shape=()):
            return jax.random.normal(key, sample_shape)

        def log_prob(self, value):
            return -value

    def model():
        ppl.sample("x", Unregistered())  # here

    message = message_of(errors.MeasureError, lambda: ppl.model(model)().sites)
    says(message, "Unregistered", "'x'", line_of(model), "Register the class as a pytree")
