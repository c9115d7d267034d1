"""Gibbs by enumeration: exact transition matrices; elements at once where independent, in turn where not."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ppl
import ppl.distributions as dist
from ppl.errors import AddressError, BranchError, NotFiniteError
from ppl.inference.gibbs import gibbs
from ppl.inference.kernels import State
from ppl.inference.reachability import transitions
from tests.laws.test_mh import errors


@pytest.fixture(autouse=True)
def _double():
    # NumPyro's sampler of a batch of categoricals promotes ranks.
    with jax.enable_x64(True), jax.numpy_rank_promotion("allow"):
        yield


@ppl.model
def three(weight):
    a = ppl.sample("a", dist.Bernoulli(0.25))
    b = ppl.sample("b", dist.Categorical(jnp.array([[0.5, 0.375, 0.125], [0.25, 0.125, 0.625]])[a]))
    c = ppl.sample("c", dist.Bernoulli(jnp.array([0.75, 0.25, 0.5])[b]))
    ppl.factor("lean", weight * (a + 0.5 * b * c))


@ppl.model
def mixture(y):
    """Labels in a plate, labels in lanes, and labels that a sum ties together."""
    k = ppl.sample("k", dist.Bernoulli(0.375))
    mu = jnp.array([-1.0, 0.5, 2.0])
    with ppl.plate("n", 2):
        z = ppl.sample("z", dist.Categorical(jnp.array([[0.5, 0.25, 0.25], [0.125, 0.5, 0.375]])[k]))
        ppl.sample("y", dist.Normal(mu[z], 1.0), obs=y)

    def lane(y):
        w = ppl.sample("w", dist.Bernoulli(0.25))
        ppl.sample("v", dist.Normal(w + k, 2.0), obs=y)

    ppl.vmap(lane)(y)


@ppl.model
def tied():
    with ppl.plate("n", 3):
        s = ppl.sample("s", dist.Bernoulli(0.25))
    ppl.factor("f", -0.5 * jnp.sum(s) ** 2 + 0.25 * s[0])


def conditional_matrix(moves, address):
    """The exact matrix of a draw of one address given all others, from the posterior masses alone."""
    others = np.concatenate(
        [np.asarray(x).reshape(len(x), -1) for a, x in moves.states.choices.items() if a != address], axis=1
    )
    same = (others[:, None] == others[None]).all(axis=-1)
    mass = same * moves.posterior[None]
    return mass / mass.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("address", ["a", "b", "c"])
def test_26_gibbs_at_a_site_is_the_exact_conditional_and_in_balance(address):
    moves = transitions(three(jnp.array(-0.75)), gibbs(address))
    assert np.abs(moves.matrix - conditional_matrix(moves, address)).max() < 1e-10
    assert max(errors(moves).values()) < 1e-10


@pytest.mark.parametrize("address", ["k", "z", "w"])
def test_26_independent_elements_are_drawn_at_once(address):
    program = mixture(jnp.array([0.25, 1.5]))
    moves = transitions(program, gibbs(address))
    assert np.abs(moves.matrix - conditional_matrix(moves, address)).max() < 1e-10
    kernel = gibbs("z")(program)(program_state(program))
    assert not [e for e in kernel.jaxpr.eqns if e.primitive.name == "scan"]


def program_state(program):
    return State(dict(program.simulate(0).choices), {})


def test_26_a_systematic_scan_is_invariant_and_not_in_balance():
    found = errors(transitions(three(jnp.array(-0.75)), gibbs()))
    assert found["rows"] < 1e-10
    assert found["invariance"] < 1e-10
    assert found["balance"] > 1e-3


def test_26_dependent_elements_are_drawn_in_turn():
    moves = transitions(tied(), gibbs())
    found = errors(moves)
    assert found["rows"] < 1e-10
    assert found["invariance"] < 1e-10


@pytest.mark.parametrize("program", [three(jnp.array(-0.75)), mixture(jnp.array([0.25, 1.5])), tied()])
def test_26_a_random_scan_is_in_balance(program):
    assert max(errors(transitions(program, gibbs(random_scan=True))).values()) < 1e-10


# --- mutants ---------------------------------------------------------------------------------------------------------


def forgetful(program):
    """Gibbs at `b` from a slice that forgets the child `c`."""
    return partial(_forgetful, program)


def _forgetful(program, state):
    return ppl.Program.of(_forgetful_step, (program, state))


def _forgetful_step(program, state):
    kept = program.intervene({"c": state.choices["c"]})
    new = ppl.sample("move", gibbs("b")(kept)(State({k: v for k, v in state.choices.items() if k != "c"}, {})))
    return State({**state.choices, "b": new.choices["b"]}, state.masks)


def test_26_a_slice_that_forgets_a_child_is_killed():
    found = errors(transitions(three(jnp.array(-0.75)), forgetful))
    assert found["rows"] < 1e-10
    assert found["invariance"] > 1e-3


# --- refusals --------------------------------------------------------------------------------------------------------


@ppl.model
def branching():
    a = ppl.sample("a", dist.Bernoulli(0.5))
    jax.lax.cond(a == 1, lambda: ppl.sample("u", dist.Bernoulli(0.25)), lambda: jnp.zeros_like(a))
    return ppl.sample("x", dist.Normal(0.0, 1.0))


@pytest.mark.parametrize(
    ("address", "error", "match"),
    [
        ("a", BranchError, r"decides whether \['u'\] are made"),
        ("u", BranchError, r"inside a branch.*\n.*ppl.MH"),
        ("x", NotFiniteError, "'x'.*is a Normal"),
        ("nobody", AddressError, "nobody"),
    ],
)
def test_what_it_cannot_draw_is_refused_by_name(address, error, match):
    with pytest.raises(error, match=match):
        gibbs(address)(branching())
