"""Every error of the language says the address, the user's line, what was got, what was expected and what to do."""

import inspect
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import ppl
import ppl.distributions as dist
from ppl import errors

HERE = Path(__file__)
KEY = 0
N = dist.Normal


def line_of(function, marker="# here"):
    """The line of this file, inside a function, that carries a marker comment."""
    lines, start = inspect.getsourcelines(function)
    (offset,) = [i for i, text in enumerate(lines) if marker in text]
    return f"{HERE.name}:{start + offset}"


def message_of(error, action):
    """The message of the error that an action must raise."""
    with pytest.raises(error) as caught:
        action()
    assert type(caught.value) is error
    return str(caught.value)


def says(message, *parts):
    """Each part must occur, in this order."""
    position = 0
    for part in parts:
        found = message.find(part, position)
        assert found >= 0, f"{part!r} is not in (or not in order in)\n{message}"
        position = found + len(part)


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


# --- control flow ----------------------------------------------------------------------------------------------------


def branches(flag):
    lax.cond(
        flag,
        lambda: ppl.sample("x", N(0.0, 1.0)),  # first
        lambda: ppl.sample("x", N(jnp.zeros(2), 1.0))[0],  # second
    )


def test_branches_that_clash_in_shape():
    message = message_of(errors.BranchError, lambda: ppl.model(branches)(jnp.array(True)).sites)
    says(
        message,
        "'x'",
        "shape ()",
        line_of(branches, "# first"),
        "shape (2,)",
        line_of(branches, "# second"),
        "different addresses",
    )


def _if(x):
    if x > 0:  # here
        return 1.0
    return 0.0


def _while(x):
    while x < 1:  # here
        x = x + 1
    return x


def _int(x):
    return int(x)  # here


def _range(x):
    return sum(range(x.astype(int)))  # here


def _mask(x):
    y = jnp.stack([x, x])
    return y[y > 0]  # here


def _numpy(x):
    return np.exp(x)  # here


def _index(x):
    return [1.0, 2.0][x.astype(int)]  # here


@pytest.mark.parametrize(
    ("use", "fix"),
    [
        (_if, "jax.lax.cond"),
        (_while, "jax.lax.while_loop"),
        (_int, "jax.lax.cond"),
        (_range, "jax.lax.fori_loop"),
        (_mask, "jnp.where"),
        (_numpy, "jax.numpy"),
        (_index, "jnp.array"),
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_python_on_a_random_value(use, fix, nested):
    def model():
        x = ppl.sample("x", N(0.0, 1.0))
        return jax.jit(use)(x) if nested else use(x)

    message = message_of(errors.PythonControlFlowError, lambda: ppl.model(model)().sites)
    file, line = line_of(use).split(":")
    assert str(HERE) in message
    says(message, f"{file}:{line}", "Inside a model, random choices and array arguments are traced", fix)


def test_a_site_outside_a_model():
    def outside():
        return ppl.sample("x", N(0.0, 1.0))  # here

    message = message_of(errors.OutsideModelError, outside)
    says(message, "ppl.sample('x', ...)", line_of(outside), "outside a model", "@ppl.model", "simulate(key)")
    for site in (lambda: ppl.factor("f", 1.0), lambda: ppl.deterministic("d", jnp.array(1.0)), jax.jit(outside)):
        says(message_of(errors.OutsideModelError, site), HERE.name, "@ppl.model")
    lanes = ppl.vmap(outside, axis_size=2)
    says(message_of(errors.OutsideModelError, lanes), "ppl.vmap", HERE.name)


def test_a_site_that_is_differentiated():
    def site(mu):
        return ppl.sample("x", N(mu, 1.0))  # here

    def lanes(mu):
        return ppl.vmap(site, in_axes=None, axis_size=2)(mu).sum()  # here

    for function in (site, lanes):
        model = ppl.model(lambda function=function: jax.grad(function)(1.0))
        message = message_of(errors.OutsideModelError, lambda model=model: model().sites)
        says(message, line_of(function), "differentiated inside a model", "jax.grad", "from outside")


# --- arguments and return values -------------------------------------------------------------------------------------


def test_an_argument_that_is_neither_array_nor_hashable():
    class Settings:
        __hash__ = None

    def model(data, settings):
        del data, settings

    def call():
        return ppl.model(model)(jnp.zeros(2), settings={"a": Settings()})  # here

    message = message_of(errors.StaticArgumentError, call)
    says(
        message,
        "'settings.a'",
        "'model'",
        line_of(call),
        "Settings",
        "Expected: arrays",
        "hashable",
        "Register the class as a pytree",
    )


def test_a_returned_closure():
    def model():
        x = ppl.sample("x", N(0.0, 1.0))
        return {"f": lambda t: t * x}

    message = message_of(errors.ReturnValueError, lambda: ppl.model(model)().sites)
    says(message, "'model'", HERE.name, "returned a function", "['f']", "jax.tree_util.Partial")


def test_a_returned_string():
    def model():
        return "text"

    message = message_of(errors.ReturnValueError, lambda: ppl.model(model)().sites)
    says(message, "'model'", HERE.name, "returned a str", "Expected: a pytree of arrays")


# --- exact meaning ---------------------------------------------------------------------------------------------------


def test_enumerating_what_is_not_finite():
    message = message_of(errors.NotFiniteError, PROGRAM.enumerate)
    says(message, "'slope'", line_of(regression, "# slope"), "Normal", "Expected: Bernoulli", "Condition on the choice")


def test_enumerating_too_much():
    def model():
        with ppl.plate("n", 30):
            ppl.sample("many", dist.Bernoulli(0.5))  # here
        ppl.sample("few", dist.Categorical(jnp.ones(3) / 3))

    message = message_of(errors.EnumerationSizeError, ppl.model(model)().enumerate)
    says(
        message,
        "3.22e+09 rows",
        "the limit is 1048576",
        "'many'",
        line_of(model),
        "2^30",
        "'few'",
        "Raise the limit",
        "ppl.Exact()",
    )
