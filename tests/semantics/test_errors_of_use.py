"""Errors of control flow, arguments, return values and exact meaning: the user's line, and what to write instead."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
from jax import lax

import ppl
import ppl.distributions as dist
from ppl import errors
from tests.semantics.messages import line_of, message_of, says

HERE = Path(__file__)
N = dist.Normal


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

    def lanes():
        return ppl.vmap(outside, axis_size=2)()

    says(message_of(errors.OutsideModelError, lanes), "ppl.vmap(...) at", HERE.name)


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


def gaussian():
    ppl.sample("slope", N(0.0, 1.0))  # here


def test_enumerating_what_is_not_finite():
    message = message_of(errors.NotFiniteError, ppl.model(gaussian)().enumerate)
    says(message, "'slope'", line_of(gaussian), "Normal", "Expected: Bernoulli", "Condition on the choice")


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


def test_lists_are_values_and_nan_is_refused_in_any_array(key):
    @ppl.model
    def three():
        return ppl.sample("m", dist.Normal(jnp.zeros(3), 1.0))

    program = three()
    assert program.log_density({"m": [1.0, 2.0, 3.0]}) == program.log_density({"m": jnp.array([1.0, 2.0, 3.0])})
    for nan in (np.array([1.0, np.nan, 2.0], np.float32), jnp.array([1.0, jnp.nan, 2.0])):
        with pytest.raises(errors.NaNError, match="'m'"):
            program.condition({"m": nan})


def test_strings_are_no_data():
    @ppl.model
    def named(names):
        return ppl.sample("m", dist.Normal(0.0, 1.0))

    with pytest.raises(errors.StaticArgumentError, match="dtype <U1"):
        named(np.array(["a"]))


def test_a_marginal_inside_a_branch_can_be_scored_but_not_drawn(key):
    @ppl.model
    def branch():
        b = ppl.sample("b", dist.Bernoulli(0.25))
        jax.lax.cond(b == 1, lambda: ppl.sample("x", dist.Bernoulli(0.75)), lambda: 0)

    marginal = branch().marginal("x")
    assert jnp.isfinite(marginal.log_density({"x": 1}))
    with pytest.raises(errors.MeasureError, match="'x'"):
        marginal.simulate(key)


def test_numpyro_statements_in_a_model_are_named():
    @ppl.model
    def mixed():
        return numpyro.sample("x", dist.Normal(0.0, 1.0))

    says(
        message_of(errors.MeasureError, lambda: mixed().sites),
        "NumPyro statement",
        "test_errors_of_use.py",
        "from_numpyro",
    )


def test_shapes_that_do_not_broadcast_in_a_distribution():
    @ppl.model
    def wrong(sigma):
        with ppl.plate("school", 7):
            theta = ppl.sample("theta", dist.Normal(0.0, 1.0))
            ppl.sample("y", dist.Normal(theta, sigma))

    program = wrong(jnp.ones(8))
    says(message_of(errors.ShapeError, lambda: program.sites), "test_errors_of_use.py", "plate")


def test_a_model_is_called_first_and_schemes_have_names(key):
    @ppl.model
    def one():
        return ppl.sample("x", dist.Normal(0.0, 1.0))

    with pytest.raises(AttributeError, match=r"Call it with its arguments first: `one\(...\).simulate`"):
        one.simulate(key)
    with pytest.raises(errors.MeasureError, match="'foo'"):
        ppl.resample("foo")
