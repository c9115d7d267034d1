"""New data of the same structure and shapes is neither traced nor compiled again; programs are pytrees."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ppl
import ppl.distributions as dist
from ppl.inference.trace_mh import trace_mh_kernel
from ppl.semantics import program as program_module


class Counted:
    """A model that counts how often its Python body runs."""

    def __init__(self):
        self.count = 0
        self.model = ppl.model(self.body)

    def body(self, x, y=None, *, scale=1.0):
        self.count += 1
        slope = ppl.sample("slope", dist.Normal(0.0, scale))
        with ppl.plate("n", x.shape[0]):
            ppl.sample("y", dist.Normal(slope * x, 0.5), obs=y)
        return slope


@pytest.fixture
def counted():
    return Counted()


JITTED = {name: getattr(program_module, name) for name in ("_simulate", "_log_density", "_terms")}


def _compilations():
    return {name: function._cache_size() for name, function in JITTED.items()}


def _use(program, key):
    trace = program.simulate(key)
    return (
        trace.log_density,
        program.log_density(trace.choices),
        program.terms(trace.choices),
        program.sites,
        repr(trace),
    )


def test_new_data_is_neither_traced_nor_compiled_again(counted):
    before = _compilations()
    for i in range(4):
        x, y = jnp.arange(3.0) + i, np.full(3, 0.5 * i, np.float32)
        _use(counted.model(x, y, scale=2.0), jax.random.key(i))
    assert counted.count == 1
    assert {name: size - before[name] for name, size in _compilations().items()} == dict.fromkeys(JITTED, 1)


def test_values_differ_although_nothing_is_traced_again(counted):
    """The cache must hold the program, not its data."""
    slope = {"slope": jnp.array(1.0)}
    densities = [counted.model(jnp.arange(3.0), jnp.full(3, float(i))).log_density(slope) for i in range(3)]
    assert counted.count == 1
    assert len(np.unique(densities)) == 3


@pytest.mark.parametrize(
    "other",
    [
        lambda model: model(jnp.arange(4.0), jnp.zeros(4)),
        lambda model: model(jnp.arange(3), jnp.zeros(3)),
        lambda model: model(jnp.arange(3.0), jnp.zeros(3), scale=2.0),
        lambda model: model(jnp.arange(3.0), jnp.zeros(3), scale=1),
        lambda model: model(jnp.arange(3.0)),
    ],
    ids=["shape", "dtype", "static value", "static type", "structure"],
)
def test_another_structure_is_traced_once_more(counted, other):
    for _ in range(2):
        _ = counted.model(jnp.arange(3.0), jnp.zeros(3)).sites
        _ = other(counted.model).sites
    assert counted.count == 2


def test_derived_programs_are_cached_too(counted):
    def halved(value):
        return 0.5 * value

    before = _compilations()["_simulate"]
    for i in range(3):
        program = counted.model(jnp.arange(3.0) + i).condition({"y": jnp.full(3, float(i))}).map(halved)
        program.simulate(jax.random.key(i))
    assert counted.count == 1
    assert _compilations()["_simulate"] - before == 1


def test_programs_pass_through_jit_as_arguments(counted):
    traced = []

    @jax.jit
    def density(program, slope):
        traced.append(1)
        return program.log_density({"slope": slope})

    values = [density(counted.model(jnp.arange(3.0) + i, jnp.zeros(3)), jnp.array(0.5)) for i in range(3)]
    assert (counted.count, len(traced)) == (1, 1)
    assert len(np.unique(values)) == 3


def test_programs_are_pytrees(counted):
    program = counted.model(jnp.arange(3.0), jnp.zeros(3))
    assert [leaf.shape for leaf in jax.tree.leaves(program)] == [(3,), (3,)]
    doubled = jax.tree.map(lambda leaf: 2 * leaf, program)
    by_hand = counted.model(2 * jnp.arange(3.0), jnp.zeros(3))
    slope = {"slope": jnp.array(0.7)}
    np.testing.assert_array_equal(doubled.log_density(slope), by_hand.log_density(slope))
    assert float(doubled.log_density(slope)) != float(program.log_density(slope))
    assert jax.tree.structure(program) == jax.tree.structure(by_hand)
    assert jax.tree.structure(program) != jax.tree.structure(counted.model(jnp.arange(3.0), jnp.zeros(3), scale=3.0))


def test_vmap_over_programs_and_choices_is_a_loop(counted):
    xs, slopes = jnp.arange(6.0).reshape(2, 3), jnp.array([0.5, -1.0])
    programs = jax.vmap(lambda x: counted.model(x, jnp.ones(3)))(xs)
    batch = jax.vmap(lambda program, slope: program.log_density({"slope": slope}))(programs, slopes)
    loop = [counted.model(x, jnp.ones(3)).log_density({"slope": s}) for x, s in zip(xs, slopes, strict=True)]
    np.testing.assert_allclose(batch, loop, rtol=1e-6)


def test_gradients_flow_to_the_arguments_of_a_program(counted):
    def density(x):
        return counted.model(x, jnp.ones(3)).log_density({"slope": jnp.array(2.0)})

    x = jnp.array([0.1, 0.2, 0.3])
    np.testing.assert_allclose(jax.grad(density)(x), 2.0 * (1.0 - 2.0 * x) / 0.25, rtol=1e-5)


# --- chains ----------------------------------------------------------------------------------------------------------


@ppl.model
def regression(x, y):
    slope = ppl.sample("slope", dist.Normal(0.0, 1.0))
    with ppl.plate("n", 3):
        ppl.sample("y", dist.Normal(slope * x, 0.5), obs=y)


def _compiled_names(caplog):
    return [r.getMessage() for r in caplog.records if "Finished XLA compilation" in r.getMessage()]


CHANGES = {
    "data": {"shift": 1.0},
    "key": {"key": 7},
    "draws": {"draws": 31},
    "warm-up": {"warmup": 33},
    "chains": {"chains": 3},
    "thin": {"thin": 2},
}
METHODS = {"NUTS": lambda: ppl.NUTS(), "MCMC": lambda: ppl.MCMC(trace_mh_kernel)}


@pytest.mark.filterwarnings("ignore::ppl.errors.ConvergenceWarning")
@pytest.mark.parametrize("name", list(METHODS))
def test_another_run_of_chains_compiles_nothing(name, caplog):
    def run(shift=0.0, key=0, **settings):
        x, y = jnp.arange(3.0) + shift, np.array([0.5, -1.0 + shift, 2.0], np.float32)
        settings = {"chains": 2, "warmup": 30, "draws": 24, "progress": False} | settings
        return ppl.infer(regression(x, y), METHODS[name](), key=key, **settings)

    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        ppl.infer(
            regression(jnp.arange(3.0, dtype=jnp.float16), np.zeros(3)), METHODS[name](), key=0, draws=9, warmup=9
        )
    assert _compiled_names(caplog)  # they are heard
    run()
    for what, change in CHANGES.items():
        caplog.clear()
        with jax.log_compiles(), caplog.at_level(logging.WARNING):
            run(**change)
        assert not _compiled_names(caplog), (what, _compiled_names(caplog))
    if name == "NUTS":
        caplog.clear()
        with jax.log_compiles(), caplog.at_level(logging.WARNING):
            program = regression(jnp.arange(3.0), np.zeros(3, np.float32))
            settings = {"chains": 2, "warmup": 30, "draws": 24, "progress": False}
            ppl.infer(program, ppl.NUTS(target_acceptance=0.9, max_depth=6), key=0, **settings)
        assert not _compiled_names(caplog)
