"""Laws 31, 32 and 34: conditional SMC, particle Gibbs, PIMH and PMMH; exactly on tiny programs, and by joint tests.

A kernel is enumerated at every state: particles, ancestors and accepts are its choices. The path posterior (law 31)
and, on the extended space of PMMH, the law of parameters, path and estimate together (law 32) must stay as they were.
One line of each kernel, mutants and the joint tests are in `tests/kernel_catalogue.py`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ppl
from ppl.errors import MeasureError
from ppl.inference import backward_path, conditional_smc, cycle, on, particle_gibbs, pimh, pmmh, trace_mh_kernel
from ppl.inference.kernels import State
from ppl.inference.pmmh import pmmh_step, proposed
from ppl.inference.reachability import transitions
from ppl.inference.static_parameters import split_of
from tests import particle_moves as moves
from tests.laws.exact import ATOL, DEAD, double  # noqa: F401


def gap(maker, program):
    """The largest change of the posterior by one step; the kernel must be stochastic."""
    found = transitions(program, maker)
    assert np.abs(found.matrix.sum(axis=1) - 1).max() < ATOL
    return np.abs(found.posterior @ found.matrix - found.posterior).max()


# --- 31: conditional SMC ----------------------------------------------------------------------------------------------

LONG = [pytest.mark.slow]
SCHEMES = [
    (2, "multinomial"),
    pytest.param(2, "killing", marks=LONG),
    pytest.param(3, "systematic", marks=LONG),
]


@pytest.mark.parametrize("backward", [None, "ancestor"])
@pytest.mark.parametrize(("particles", "scheme"), SCHEMES)
def test_31_conditional_smc_leaves_the_path_posterior(particles, scheme, backward):
    assert gap(conditional_smc(particles, scheme, backward), moves.chain_target()) < ATOL


@pytest.mark.parametrize("backward", [pytest.param(None, marks=LONG), "ancestor"])
@pytest.mark.parametrize("name", ["counting", "straight"])
@pytest.mark.slow
def test_31_whatever_the_form_of_the_program(name, backward):
    """A loop whose state is a count, with a value that passes it; branches: a future fits some pasts only."""
    program = getattr(moves, name)(jnp.array([1, 0]))
    assert gap(conditional_smc(2, "multinomial", backward), program) < ATOL


@pytest.mark.parametrize("backward", ["ancestor", pytest.param("sampling", marks=LONG)])
def test_31_backwards_in_time(backward):
    program = moves.backwards(jnp.array([1, 0]))
    assert gap(conditional_smc(2, "multinomial", backward), program) < ATOL


def test_31_backward_sampling(monkeypatch):
    """The path's ancestors drawn anew from its end; drawn by weight alone, without its future, the law is lost."""
    program = moves.chain_target()
    assert gap(conditional_smc(2, "multinomial", "sampling"), program) < ATOL
    monkeypatch.setattr(backward_path, "weights_of", lambda future, own: jnp.zeros_like(future.log_density))
    assert gap(moves.anew(conditional_smc(2, "multinomial", "sampling")), program) > DEAD


@pytest.mark.slow
@pytest.mark.parametrize("name", ["counting", "straight"])
def test_31_backward_sampling_whatever_the_form_of_the_program(name):
    program = getattr(moves, name)(jnp.array([1, 0]))
    assert gap(conditional_smc(2, "multinomial", "sampling"), program) < ATOL


@pytest.mark.slow
@pytest.mark.parametrize(("particles", "steps"), [(2, 3), (3, 2)])
@pytest.mark.parametrize("scheme", ["systematic", "killing"])
def test_31_backward_sampling_whatever_the_scheme(scheme, particles, steps):
    """Ancestors that are drawn together do no harm: the others are forgotten before one is drawn anew."""
    program = moves.chain(jnp.array([1, 0, 1][:steps]))
    found = transitions(program, conditional_smc(particles, scheme, "sampling"), limit=2**23)
    assert np.abs(found.posterior @ found.matrix - found.posterior).max() < ATOL


@pytest.mark.parametrize("parameters", [None, pytest.param(trace_mh_kernel, marks=LONG)])
def test_31_particle_gibbs(parameters):
    kernel = particle_gibbs(2, parameters, scheme="multinomial")
    assert gap(kernel, moves.switching_target()) < ATOL
    assert gap(cycle(kernel, on("s", trace_mh_kernel)), moves.switching_target()) < ATOL


@pytest.mark.slow
def test_31_mutants_die():
    program = moves.chain_target()
    assert gap(moves.without_retained(2), program) > DEAD
    assert gap(moves.replaying(3), program) > DEAD
    assert gap(moves.wrong_resampling(3, moves.Adaptive(0.9, "the others")), program) > DEAD


def test_31_where_all_weights_decide_adaptive_resampling_is_right():
    """It is how the decision is made that counts: by all weights, the retained one among them, with places kept."""
    assert gap(moves.wrong_resampling(3, moves.Adaptive(0.9, "all")), moves.chain_target()) < ATOL


def test_31_a_threshold_is_refused():
    with pytest.raises(MeasureError, match="threshold=0.5"):
        conditional_smc(10, threshold=0.5)
    with pytest.raises(MeasureError, match="no conditional version"):
        conditional_smc(10, "stratified")


# --- 32: PIMH and PMMH ------------------------------------------------------------------------------------------------


def extended(program, move):
    """States with their estimates, and their masses: in proportion to p(theta) Z(run) P(run | theta)."""
    split = split_of(program, move.parameters, move.states)
    masses = {}
    for like in starts(program, split):
        found = ppl.Program.of(_proposed, (program, like, move, split)).enumerate()
        weights = np.exp(np.asarray(found.log_weights + found.values.log_density, np.float64))
        for key, mass in zip(keys(found.values.state), weights, strict=True):
            masses[key] = masses.get(key, 0.0) + mass
    total = sum(masses.values())
    return {key: mass / total for key, mass in masses.items() if mass > 1e-30}


def _proposed(program, state, move, split):
    return proposed(program, state, move, split)


def starts(program, split):
    """One state for each value of the parameters."""
    found = {}
    points = program.enumerate()
    for i in range(len(points.log_weights)):
        choices = {a: x[i] for a, x in points.choices.items()}
        found.setdefault(tuple(int(choices[a]) for a in split.parameters), State(choices, {}))
    return list(found.values())


def keys(states):
    """A hashable key a state: choices and estimate, rounded."""
    leaves = [np.asarray(x, np.float64) for x in jax.tree.leaves(states)]
    return [tuple(row) for row in np.concatenate([x.reshape(len(x), -1) for x in leaves], axis=1).round(9) + 0.0]


def extended_gap(program, move, body=pmmh_step):
    """The largest change of mass by one step from the extended law; and that of its marginal from the posterior."""
    law, like = extended(program, move), starts(program, split_of(program, move.parameters, move.states))[0]
    template = jax.eval_shape(lambda: _proposed(program, like, move, split_of(program, move.parameters, move.states)))
    states = unkeyed(list(law), template.state)
    split = split_of(program, move.parameters, move.states)
    named = moves.named(move, split)

    @jax.jit
    def step(states):
        def one(state):
            found = ppl.Program.of(body, (program, state, named)).enumerate()
            return found.log_weights, found.values

        return jax.vmap(one)(states)

    log_weights, new = step(states)
    after = {}
    for i, mass in enumerate(law.values()):
        weights = np.exp(np.asarray(log_weights[i], np.float64))
        for key, weight in zip(keys(jax.tree.map(lambda x, i=i: x[i], new)), weights, strict=True):
            after[key] = after.get(key, 0.0) + mass * weight
    changed = max(abs(after.get(key, 0.0) - law.get(key, 0.0)) for key in after.keys() | law.keys())
    return changed, marginal_gap(program, states, np.array(list(law.values())))


def unkeyed(rows, template):
    """States from their keys."""
    leaves, tree = jax.tree.flatten(template)
    table, start, parts = np.array(rows), 0, []
    for leaf in leaves:
        size = int(np.prod(leaf.shape))
        parts.append(jnp.asarray(table[:, start : start + size].reshape(len(rows), *leaf.shape), leaf.dtype))
        start += size
    return jax.tree.unflatten(tree, parts)


def marginal_gap(program, states, masses):
    """The largest difference between the law of parameters and path and the posterior."""
    found = program.enumerate()
    posterior = np.exp(np.asarray(found.log_weights, np.float64))
    exact, ours = {}, {}
    for key, mass in zip(keys(found.choices), posterior / posterior.sum(), strict=True):
        exact[key] = exact.get(key, 0.0) + mass
    for key, mass in zip(keys(states.choices), masses, strict=True):
        ours[key] = ours.get(key, 0.0) + mass
    return max(abs(exact.get(key, 0.0) - ours.get(key, 0.0)) for key in exact.keys() | ours.keys())


def test_32_the_extended_law_of_pmmh_is_stationary_and_its_marginal_is_the_posterior():
    program = moves.switching(jnp.array([1, 0]))
    assert max(extended_gap(program, moves.PMMH)) < ATOL
    assert extended_gap(program, moves.PMMH, moves.dropping_evidence)[0] > DEAD


@pytest.mark.parametrize("threshold", [None, 0.9])
def test_32_the_extended_law_of_pimh_is_stationary(threshold):
    assert max(extended_gap(moves.chain_target(), pimh(2, "multinomial", threshold))) < ATOL


def test_32_plain_states_keep_the_posterior_itself():
    """The estimate is made by conditional SMC; made anew without the path it is the catalogue's mutant."""
    program = moves.switching_target()
    assert gap(pmmh(2, "s", moves.by_coin, scheme="multinomial"), program) < ATOL


def test_32_adaptive_resampling_needs_an_estimate_that_is_carried():
    program = moves.switching_target()
    state = State({"s": jnp.array(1), "x": jnp.array([1])}, {})
    with pytest.raises(MeasureError, match="threshold=0.5"):
        pmmh(2, "s", threshold=0.5)(program)(state).staged  # noqa: B018
