"""An exception inside a model leaves no state behind; threads trace side by side; floats are as wide as set."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import ppl
import ppl.distributions as dist
from ppl.errors import DuplicateAddressError, ShapeError
from ppl.semantics import scope


class BoomError(Exception):
    """What the models below raise."""


def _boom():
    ppl.sample("x", dist.Normal(0.0, 1.0))
    raise BoomError


def _in_plate():
    with ppl.plate("outer", 3), ppl.plate("inner", 2):
        _boom()


def _in_lanes():
    ppl.vmap(lambda: ppl.vmap(_boom, axis_size=2)(), axis_size=3)()


def _in_scan():
    lax.scan(lambda c, _: (_boom(), c), 0.0, None, length=2)


def _in_branch():
    lax.cond(True, _boom, lambda: None)


def _in_program():
    ppl.sample("sub", ppl.model(lambda: ppl.sample("sub", ppl.model(_in_plate)()))())


def _in_everything():
    with ppl.plate("n", 2):
        jax.jit(lambda: ppl.vmap(lambda: lax.scan(lambda c, _: (_boom(), c), 0.0, None, length=2), axis_size=3)())()


@ppl.model
def healthy():
    """Must have plain addresses and no plate."""
    return ppl.sample("x", dist.Normal(0.0, 1.0))


PLACES = [_boom, _in_plate, _in_lanes, _in_scan, _in_branch, _in_program, _in_everything]


@pytest.mark.parametrize("place", PLACES)
def test_an_exception_leaves_no_state_behind(place, key):
    for _ in range(2):
        with pytest.raises(BoomError):
            ppl.model(place)().simulate(key)
        assert scope.current() == scope.Scope()
    info = healthy().sites["x"]
    assert (info.address, info.shape, info.dims) == ("x", (), ())
    again = ppl.model(lambda: ppl.sample("x", dist.Normal(0.0, 1.0)))()
    assert list(again.sites) == ["x"]
    assert again.simulate(key).choices["x"].shape == ()


def test_an_exception_caught_inside_a_model_does_not_spoil_the_rest(key):
    @ppl.model
    def careful():
        try:
            with ppl.plate("n", 3):
                ppl.sample("sub", healthy())
        except ShapeError:
            return ppl.sample("y", dist.Normal(0.0, 1.0))

    assert {a: info.shape for a, info in careful().sites.items()} == {"y": ()}


def test_our_own_errors_leave_no_state_behind():
    @ppl.model
    def twice():
        with ppl.plate("n", 2):
            for _ in range(2):
                ppl.sample("x", dist.Normal(0.0, 1.0))

    for _ in range(2):
        with pytest.raises(DuplicateAddressError):
            _ = twice().sites
    assert scope.current() == scope.Scope()


def test_models_are_traced_in_threads_side_by_side():
    """Both models stand inside a plate and a program of their own at the same moment; neither sees the other's."""
    barrier = threading.Barrier(2, timeout=60)

    def maker(name, size):
        def inner():
            barrier.wait()
            with ppl.plate(name, size):
                barrier.wait()
                value = ppl.sample("x", dist.Normal(0.0, 1.0))
                barrier.wait()
            return value

        return ppl.model(lambda: ppl.sample(name, ppl.model(inner)()))

    sites = {}
    threads = [
        threading.Thread(target=lambda name=name, size=size: sites.update({name: maker(name, size)().sites}))
        for name, size in (("left", 2), ("right", 5))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    found = {name: {a: (i.shape, i.dims) for a, i in table.items()} for name, table in sites.items()}
    assert found == {"left": {"left/x": ((2,), ("left",))}, "right": {"right/x": ((5,), ("right",))}}


@ppl.model
def curve(x):
    """A little of everything whose dtype might be assumed."""
    a = ppl.sample("a", dist.Normal(0.0, 1.0))
    _, path = lax.scan(lambda c, v: (ppl.sample("b", dist.Normal(c + v, 0.5)), c), a, x)
    ppl.vmap(lambda m: ppl.sample("y", dist.Normal(m, 1.0), obs=0.25))(path)
    ppl.factor("f", -1)
    ppl.sample("k", dist.Poisson(3.0))
    return ppl.deterministic("twice", 2 * a)


def test_double_precision_inside_a_context_and_single_outside(key):
    x = np.array([0.5, -1.0])
    single = curve(x).simulate(key)
    with jax.enable_x64(True):
        double = curve(x).simulate(key)
        scored = curve(x).log_density(double.choices)
        floats = [double.choices["a"], double.choices["b"], double.value, double.log_density, double.log_weight, scored]
        assert [value.dtype for value in floats] == [jnp.float64] * 6
        assert abs(float(scored - double.log_density)) < 1e-12
        # Nothing is rounded on the way: a shift below single precision moves the density.
        nudged = curve(x).log_density({**double.choices, "a": double.choices["a"] + 1e-9})
        assert float(nudged) != float(scored)
    again = curve(x).simulate(key)
    assert [value.dtype for value in (single.choices["a"], single.log_density, again.log_density)] == [jnp.float32] * 3
    np.testing.assert_array_equal(single.log_density, again.log_density)


def test_a_model_of_forty_sites_traces(key):
    """Smoke only: the time is the benchmark's business."""

    @ppl.model
    def wide(y):
        total = 0.0
        for i in range(20):
            total += ppl.sample(f"theta_{i}", dist.Normal(total, 1.0))
            ppl.sample(f"y_{i}", dist.Normal(total, 1.0), obs=y[i])
        return total

    program = wide(jnp.arange(20.0))
    assert len(program.sites) == 40
    trace = program.simulate(key)
    np.testing.assert_allclose(program.log_density(trace.choices), trace.log_density, rtol=1e-5)
