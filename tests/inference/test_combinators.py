"""Kernels made of kernels: records, blocks, what cannot be a block. Laws are in `tests/laws/test_kernels.py`."""

import jax
import jax.numpy as jnp
import pytest

import ppl
import ppl.distributions as dist
from ppl.errors import AddressError, MeasureError
from ppl.inference import cycle, independence, mixture, on, random_walk, repeat, trace_mh_kernel
from ppl.inference.kernels import State
from tests.kernel_catalogue import branching_target, finite_target

STATE = State({"a": jnp.array(1), "b": jnp.array(2), "c": jnp.array(0)}, {})


@ppl.model
def groups(y):
    with ppl.plate("n", 3):
        ppl.sample("theta/left", dist.Normal(0.0, 1.0))
        right = ppl.sample("theta/right", dist.Normal(0.0, 1.0))
    scale = ppl.sample("scale", dist.HalfNormal(1.0))
    ppl.factor("elsewhere", -(right**2).sum())
    ppl.sample("y", dist.Normal(scale, 1.0), obs=y)


def recorded(program):
    return [a for a, site in program.sites.items() if site.kind == "deterministic"]


def test_makers_are_values():
    """Equal settings are equal makers, so that a compiled run is found again."""
    for make in (cycle, mixture, lambda x, y: repeat(cycle(x, y), 3), lambda x, y: on("a", mixture(x, y))):
        one, other = (make(independence(), random_walk(0.5)) for _ in range(2))
        assert one == other
        assert hash(one) == hash(other)
        assert one != make(independence(), random_walk(0.25))


def test_a_cycle_records_by_number_and_a_block_has_no_log_density():
    program = cycle(on("a", independence()), trace_mh_kernel)(finite_target())(STATE)
    assert recorded(program) == ["0/accepted", "0/acceptance", "1/accepted", "1/log_density"]


def test_a_mixture_records_what_ran(key):
    """Only the kernel on `a` is ever accepted: that on `b` proposes what is impossible."""
    maker = mixture(on("a", independence()), on("b", random_walk(stride=9)), weights=[1, 3])
    program = maker(finite_target())(STATE)
    assert recorded(program) == ["picked", "acceptance", "accepted"]
    runs = jax.vmap(lambda k: program.simulate(k).deterministic)(jax.random.split(key, 400))
    assert 0.6 < float(runs["picked"].mean()) < 0.9
    assert float(runs["acceptance"][runs["picked"] == 0].max()) > 0.0


def test_a_repeat_records_shares(key):
    program = repeat(trace_mh_kernel, 8)(finite_target())(STATE)
    trace = program.simulate(key)
    accepted = trace.deterministic["accepted"]
    assert accepted.shape == ()
    assert float(accepted * 8) == pytest.approx(round(float(accepted * 8)))
    assert trace.deterministic["log_density"] == pytest.approx(finite_target().log_density(trace.value.choices))


def test_a_block_keeps_the_others_and_evaluates_what_it_reaches(key):
    program = groups(jnp.array(0.5))
    state = State(program.simulate(key).choices, {})
    moved = on("theta/*", random_walk(0.5))(program)(state).simulate(key).value.choices
    assert set(moved) == set(state.choices)
    assert bool(jnp.all(moved["scale"] == state.choices["scale"]))
    poisoned = State({**state.choices, "scale": jnp.array(jnp.nan)}, {})
    step = on(["theta/left"], random_walk(0.1))(program)(poisoned).simulate(key)
    assert float(step.deterministic["acceptance"]) > 0.0, "the block does not look at scale"


def test_blocks_in_a_chain(key):
    """A cycle of blocks finds the posterior mean 7 / 15 of `a`, through `ppl.MCMC` (10 standard errors or more)."""

    @ppl.model
    def coin(y):
        a = ppl.sample("a", dist.Beta(2.0, 3.0))
        ppl.sample("b", dist.Poisson(3.0))
        ppl.sample("y", dist.Binomial(10, a), obs=y)

    kernel = cycle(on("a", repeat(random_walk(1.0), 5)), on("b", repeat(random_walk(stride=2), 5)))
    posterior = ppl.infer(coin(5), ppl.MCMC(kernel), key=key, chains=4, warmup=100, draws=1000)
    assert float(posterior.draws["a"].mean()) == pytest.approx(7 / 15, abs=0.04)
    assert float(posterior.draws["b"].mean()) == pytest.approx(3.0, abs=0.7)
    assert 0.1 < posterior.diagnostics["0/acceptance"] < 0.9


def test_what_cannot_be_a_block():
    with pytest.raises(AddressError, match=r"'theta/lef'.*Did you mean 'theta/left' \(test_combinators.py"):
        on("theta/lef", random_walk())(groups(jnp.array(0.5)))
    with pytest.raises(AddressError, match="does not have"):
        on("phi/*", random_walk())(groups(jnp.array(0.5)))
    with pytest.raises(AddressError, match="'y'"):
        on("y", random_walk())(groups(jnp.array(0.5)))
    with pytest.raises(MeasureError, match=r"'u' \(kernel_catalogue.py:\d+\) lie inside a branch"):
        on("u", independence())(branching_target())
    with pytest.raises(MeasureError, match=r"decide whether the choices \['w', 'u', 'v'\] are made"):
        on("a", independence())(branching_target())


def test_wrong_arguments():
    with pytest.raises(TypeError, match="no kernels"):
        cycle()
    with pytest.raises(ValueError, match="Expected: 2 positive numbers"):
        mixture(trace_mh_kernel, trace_mh_kernel, weights=[1.0, 0.0])
    with pytest.raises(ValueError, match="times"):
        repeat(trace_mh_kernel, 0)
