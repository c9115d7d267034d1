"""Laws of filters: proposals and lookahead change draws and weights, not the measure. Exact, by enumeration.

`ppl.weighted` draws from the proposal and weighs; so the enumeration runs over what the proposal can reach, and sees a
proposal that does not cover the program.
"""

import importlib

import jax
import jax.numpy as jnp
import pytest

import ppl
import ppl.distributions as dist
from ppl.distributions.proposed import Proposed
from ppl.inference.conditional_smc import conditional_smc
from ppl.inference.reachability import transitions
from tests.guided_models import (
    PAIRS,
    auxiliary_proposal,
    backward_kernel,
    bound,
    loop,
    loop_proposal,
    pair,
    straight,
    tables,
)
from tests.laws.exact import ATOL, DEAD, double, gap, same  # noqa: F401

guided_module = importlib.import_module("ppl.semantics.guided")
lookahead_module = importlib.import_module("ppl.semantics.lookahead")
SEEDS = range(4)


# --- guided -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAIRS)
def test_a_guided_program_has_the_measure_of_the_program(name):
    for seed in SEEDS:
        program, proposal = pair(name, tables(seed))
        same(ppl.weighted(ppl.guided(program, proposal)), program)


@pytest.mark.parametrize("name", ["straight", "loop", "branch crossed"])
def test_so_does_the_guided_filter(name):
    for seed in SEEDS:
        program, proposal = pair(name, tables(seed))
        same(ppl.smc(2)(ppl.suspend(ppl.guided(program, proposal))), program)


def test_a_guided_program_has_the_density_of_the_program():
    program, proposal = pair("loop", tables(0))
    choices = {"a": jnp.array(1), "x": jnp.array([0, 1, 1])}
    found = ppl.guided(program, proposal).log_density(choices)
    assert abs(found - program.log_density(choices)) < ATOL


def test_choices_of_the_proposal_alone_are_weighed_by_the_backward_program():
    for seed in SEEDS:
        t = tables(seed)
        program, backward = bound(loop, t), bound(backward_kernel, t)
        guided = ppl.guided(program, bound(auxiliary_proposal, t), backward)
        assert list(guided.sites) == ["a", "u", "x", "u/proposal", "y"]
        same(ppl.weighted(guided), program)
    same(ppl.smc(2)(ppl.suspend(guided)), program)


def test_a_proposal_that_does_not_cover_the_program_is_seen():
    program = bound(straight, tables(0))
    never = ppl.Program.of(lambda: ppl.sample("a", dist.Delta(jnp.zeros((), int))))
    assert gap(ppl.weighted(ppl.guided(program, never)), program) > DEAD


class Forgetful(Proposed):
    """Its weight lacks the proposal's density."""

    def log_prob(self, value, intermediates=None):
        return super().log_prob(value, intermediates) + self.proposal.log_prob(value)


def test_mutants_without_the_proposals_density_die(monkeypatch):
    ahead = guided_module.Ahead
    for name, attribute, mutant in (
        ("loop", "Proposed", Forgetful),
        ("straight", "Proposed", Forgetful),
        ("other order", "Ahead", lambda value, log_proposal: ahead(value, 0.0 * log_proposal)),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(guided_module, attribute, mutant)
            program, proposal = pair(name, tables(0), fresh=True)
            assert gap(ppl.weighted(ppl.guided(program, proposal)), program) > DEAD


def test_a_mutant_without_the_backward_density_dies():
    """Dividing by the joint density of (u, x) alone is what one would do without a backward program."""
    t = tables(0)

    def lazy_kernel(t):
        """Scores nothing: not a law of u."""

        def step(x, y):
            now = ppl.sample("x", dist.Bernoulli(0.5))
            ppl.sample("u", ppl.distributions.Scaled(dist.Bernoulli(0.5), 0.0))
            return now, None

        jax.lax.scan(step, jnp.zeros((), int), jnp.array([0, 1, 1]))

    program = bound(loop, t)
    guided = ppl.guided(program, bound(auxiliary_proposal, t), bound(lazy_kernel, t))
    assert gap(ppl.weighted(guided), program) > DEAD


# --- lookahead --------------------------------------------------------------------------------------------------------


def potential(choices, step):
    """Unequal between states and steps."""
    return 0.8 * choices["x"] * (step + 1.0) - 0.3 * step


def test_a_lookahead_leaves_the_measure_alone():
    for seed in SEEDS:
        program, proposal = pair("loop", tables(seed))
        ahead = ppl.lookahead(program, potential)
        same(ahead, program)
        same(ppl.smc(2)(ppl.suspend(ahead)), program)
        same(ppl.weighted(ppl.guided(ahead, proposal)), program)
        same(ppl.weighted(ppl.lookahead(ppl.guided(program, proposal), potential)), program)


def test_a_lookahead_in_a_loop_that_runs_backwards():
    def reversed_loop(t):
        def step(x, y):
            x = ppl.sample("x", dist.Bernoulli(jnp.where(x == 1, t[1], t[2])))
            ppl.sample("y", dist.Bernoulli(jnp.where(x == 1, t[3], t[4])), obs=y)
            return x, x

        xs = jax.lax.scan(step, jnp.zeros((), int), jnp.array([0, 1, 1]), reverse=True)[1]
        return jnp.sum(xs * jnp.array([1, 2, 4]))

    program = bound(reversed_loop, tables(0))
    same(ppl.lookahead(program, potential), program)


def test_the_potential_that_kills_kills_for_ever():
    """Minus infinity is taken back by nobody: no NaN comes of it."""
    program = bound(loop, tables(0))
    killed = ppl.lookahead(program, lambda choices, step: jnp.where(choices["x"] == 1, -jnp.inf, 0.0))
    values = ppl.meaning(killed)
    assert not jnp.isnan(values.log_weights).any()
    wanted = ppl.meaning(program)
    inside = jnp.isin(wanted.values, jnp.array([0, 4]))
    same(killed, ppl.FiniteMeasure(jnp.where(inside, wanted.log_weights, -jnp.inf), wanted.values))


@pytest.mark.parametrize(
    "mutant",
    [lambda after, before: after, lambda after, before: -jnp.where(jnp.isfinite(before), before, 0.0)],
    ids=["never taken back", "never given"],
)
def test_mutants_that_do_not_telescope_die(monkeypatch, mutant):
    monkeypatch.setattr(lookahead_module, "step_weight", mutant)
    program, _ = pair("loop", tables(0), fresh=True)
    assert gap(ppl.lookahead(program, potential), program) > DEAD


def test_the_filter_on_both_is_the_program():
    """Resampling by weight times potential, drawn from the proposal: the guided auxiliary filter, enumerated whole."""
    t = tables(1)
    program, proposal = bound(loop, t), bound(loop_proposal, t)
    filtered = ppl.ParticleFilter(2, proposal=proposal, lookahead=potential).transformed(program)
    same(ppl.smc(2, scheme="multinomial")(ppl.suspend(filtered)), program)


# --- other algorithms on transformed programs -------------------------------------------------------------------------


def short(t):
    def step(x, y):
        x = ppl.sample("x", dist.Bernoulli(jnp.where(x == 1, t[1], t[2])))
        ppl.sample("y", dist.Bernoulli(jnp.where(x == 1, t[3], t[4])), obs=y)
        return x, None

    return jax.lax.scan(step, jnp.zeros((), int), jnp.array([0, 1]))[0]


def short_proposal(t):
    """It depends on the state before: ancestor sampling must not take its density for the program's."""

    def step(x, y):
        return ppl.sample("x", dist.Bernoulli(jnp.where(x == y, t[6], t[7]))), None

    jax.lax.scan(step, jnp.zeros((), int), jnp.array([0, 1]))


@pytest.mark.parametrize("ancestors", [None, "ancestor"])
@pytest.mark.parametrize("ahead", [False, True], ids=["guided", "guided and looking ahead"])
def test_conditional_smc_takes_proposals(ancestors, ahead):
    """Law 31 on the transformed program: the path posterior of the program is invariant."""
    t = tables(2)
    program = ppl.guided(bound(short, t), bound(short_proposal, t))
    if ahead:
        program = ppl.lookahead(program, potential)
    moves = transitions(program, conditional_smc(2, "multinomial", ancestors))
    plain = bound(short, t).enumerate()
    masses = {tuple(x): float(w) for x, w in zip(plain.choices["x"].tolist(), jnp.exp(plain.log_weights), strict=True)}
    pi = jnp.array([masses[tuple(x)] for x in moves.states.choices["x"].tolist()])
    pi = pi / pi.sum()
    assert jnp.abs(jnp.asarray(moves.matrix).sum(axis=1) - 1.0).max() < ATOL
    assert jnp.abs(pi @ jnp.asarray(moves.matrix) - pi).max() < ATOL
