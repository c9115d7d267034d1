"""Guided programs by structure: what stays one site, what is said of proposals that do not fit, keys and jit.

That they keep the measure is a law: `tests/laws/test_filters.py`.
"""

import jax
import jax.numpy as jnp
import pytest

import ppl
import ppl.distributions as dist
from ppl.errors import AddressError, BranchError, MeasureError, ShapeError
from ppl.semantics.extended import extended
from ppl.semantics.stages import Loop, plan_of
from tests.guided_models import backward_kernel, backwards, bound, branch, loop, pair, straight, tables

T = tables(0)


@ppl.model
def series(ys):
    def step(x, y):
        x = ppl.sample("x", dist.Normal(0.9 * x, 1.0))
        ppl.sample("y", dist.Normal(x, 0.5), obs=y)
        return x, x

    return jax.lax.scan(step, jnp.float32(0.0), ys)[1]


@ppl.model
def near(ys):
    def step(x, y):
        return ppl.sample("x", dist.Normal(0.18 * x + 0.8 * y, 0.45)), None

    jax.lax.scan(step, jnp.float32(0.0), ys)


def kinds(program):
    return {a: (i.kind, i.distribution) for a, i in program.sites.items()}


def test_choices_made_in_lockstep_stay_one_site_and_the_loop_one_stage():
    ys = jnp.array([1.0, -2.0, 0.5])
    program = ppl.guided(series(ys), near(ys))
    assert kinds(program) == {"x": ("latent", "Proposed"), "y": ("observed", "Normal")}
    assert [isinstance(stage, Loop) for stage in plan_of(program).stages] == [True, False]
    assert program.sites["x"].shape == (3,)


def test_choices_made_elsewhere_are_weighed_where_the_program_makes_them():
    program = ppl.guided(*pair("other order", T))
    assert list(program.sites) == ["c", "b", "a", "b/proposal", "f", "c/proposal"]
    assert kinds(program)["b/proposal"][0] == "factor"


def test_what_the_proposal_lacks_is_drawn_from_the_program():
    only = ppl.Program.of(lambda: ppl.sample("b", dist.Bernoulli(0.4)))
    assert kinds(ppl.guided(bound(straight, T), only))["a"] == ("latent", "BernoulliProbs")
    assert kinds(ppl.guided(bound(straight, T), only))["b"] == ("latent", "Proposed")


def test_draws_come_from_the_proposal_and_the_weight_is_the_ratio(key):
    ys = jnp.array([1.0, -2.0, 0.5])
    trace = ppl.guided(series(ys), near(ys)).simulate(key)
    assert jnp.abs(trace.choices["x"] - 0.8 * ys).max() < 4.0
    wanted = series(ys).log_density(trace.choices) - near(ys).log_density(trace.choices)
    assert jnp.isclose(trace.log_weight, wanted, atol=1e-4)
    assert jnp.isclose(trace.log_density, series(ys).log_density(trace.choices), atol=1e-4)


def test_a_helper_under_jit_is_looked_through():
    @jax.jit
    def draw(p):
        return ppl.sample("a", dist.Bernoulli(p))

    program = ppl.Program.of(lambda: draw(jnp.float32(0.2)))
    proposal = ppl.Program.of(lambda: draw(jnp.float32(0.6)))
    assert kinds(ppl.guided(program, proposal)) == {"a": ("latent", "Proposed")}


def test_a_guided_program_is_staged_once():
    ys = jnp.array([1.0, -2.0, 0.5])
    first, second = (ppl.guided(series(shift + ys), near(shift + ys)) for shift in (0.0, 1.0))
    assert first.staged is second.staged


def test_conditioning_and_guiding():
    """A fixed choice is scored by the program; a proposal that makes it too is told."""
    program = bound(straight, T)
    fixed = ppl.guided(program, bound(backwards, T)).condition({"a": jnp.array(1)})
    choices = {"b": jnp.array(0), "c": jnp.array(1)}
    assert jnp.isclose(fixed.log_density(choices), program.log_density({"a": jnp.array(1), **choices}), atol=1e-5)
    with pytest.raises(AddressError, match="condition the proposal on them too"):
        ppl.guided(program.condition({"a": jnp.array(1)}), bound(backwards, T))


def test_errors_name_the_address_and_the_lines():
    program = bound(straight, T)
    with pytest.raises(AddressError, match=r"shares no latent address"):
        ppl.guided(program, ppl.Program.of(lambda: ppl.sample("z", dist.Bernoulli(0.5))))
    extra = ppl.Program.of(lambda: (ppl.sample("a", dist.Bernoulli(0.5)), ppl.sample("u", dist.Bernoulli(0.5))))
    with pytest.raises(AddressError, match=r"'u' \(test_guided.py:\d+\)[^$]*backward"):
        ppl.guided(program, extra)
    wide = ppl.Program.of(lambda: ppl.sample("a", dist.Bernoulli(0.5).expand([2])))
    with pytest.raises(ShapeError, match=r"'a' has shape \(2,\)[^$]*test_guided.py[^$]*guided_models.py"):
        ppl.guided(program, wide)
    other = ppl.Program.of(lambda: ppl.sample("a", dist.Normal(0.0, 1.0)))
    with pytest.raises(ShapeError, match="dtype"):
        ppl.guided(program, other)


@ppl.model
def mixture():
    u = ppl.sample("u", dist.Bernoulli(0.35))
    ppl.sample("x", dist.Bernoulli(0.2 + 0.5 * u))


@ppl.model
def reverse():
    """u given x, which it reads."""
    x = ppl.sample("x", dist.Bernoulli(0.5))
    ppl.sample("u", dist.Bernoulli(0.3 + 0.3 * x))


@pytest.mark.parametrize("method", [ppl.SIR(2), ppl.Exact()], ids=["SIR", "exact"])
def test_a_marginal_against_sites_of_their_own_is_refused_and_the_way_out_is_right(method):
    @ppl.model
    def target():
        x = ppl.sample("x", dist.Bernoulli(0.3))
        ppl.sample("y", dist.Bernoulli(0.2 + 0.5 * x), obs=1)

    with pytest.raises(AddressError, match=r"'x' is drawn by the site ''[^$]*`backward`"):
        ppl.guided(target(), mixture().marginal(["x"], method))
    found = ppl.guided(target(), mixture(), reverse()).enumerate()
    assert jnp.isclose(jnp.exp(found.log_weights).sum(), 0.7 * 0.2 + 0.3 * 0.7, atol=1e-6)


def test_marginals_at_the_same_site_are_proposals():
    """Of estimated densities, over all auxiliary choices: the mass is the program's."""

    @ppl.model
    def outer(shift, n):
        x = ppl.sample("m", shifted(shift).marginal("x", ppl.SIR(n)))
        ppl.sample("y", dist.Bernoulli(0.2 + 0.5 * x), obs=1)

    found = ppl.guided(outer(0.0, 1), outer(0.3, 2)).enumerate()
    x = 0.65 * 0.2 + 0.35 * 0.7
    assert jnp.isclose(jnp.exp(found.log_weights).sum(), (1 - x) * 0.2 + x * 0.7, atol=1e-6)


@ppl.model
def shifted(shift):
    u = ppl.sample("u", dist.Bernoulli(0.35 + shift))
    ppl.sample("x", dist.Bernoulli(0.2 + 0.5 * u))


def test_loops_of_different_lengths_are_an_error():
    with pytest.raises(ShapeError, match=r"shape \(2,\)[^$]*shape \(3,\)[^$]*loops of different lengths"):
        ppl.guided(series(jnp.zeros(3)), near(jnp.zeros(2)))


def test_a_choice_of_some_branches_where_the_program_has_none_is_an_error():
    def some():
        z = ppl.sample("z", dist.Bernoulli(0.5))
        jax.lax.cond(z == 1, lambda: ppl.sample("c", dist.Bernoulli(0.5)), lambda: jnp.zeros((), jnp.int32))

    with pytest.raises(BranchError, match=r"'c' in some branches only"):
        ppl.guided(bound(branch, T), ppl.Program.of(some)).staged  # noqa: B018


def test_extended_programs_read_and_refuse():
    program = extended(bound(loop, T), bound(backward_kernel, T))
    assert list(program.sites) == ["a", "x", "u", "y"]
    seen = ppl.Program.of(lambda: ppl.sample("y", dist.Bernoulli(0.5)))
    with pytest.raises(AddressError, match="'y', which is observed"):
        extended(bound(loop, T), seen)
    short = ppl.Program.of(lambda: ppl.sample("x", dist.Bernoulli(0.5)))
    with pytest.raises(ShapeError, match="reads the choice 'x'"):
        extended(bound(loop, T), short)


def test_lookahead_needs_one_loop_and_one_number():
    with pytest.raises(MeasureError, match="0 loops"):
        ppl.lookahead(bound(straight, T), lambda choices, step: 0.0)
    with pytest.raises(MeasureError, match="one number"):
        ppl.lookahead(series(jnp.zeros(3)), lambda choices, step: jnp.zeros(2)).staged  # noqa: B018


def test_lookahead_with_data_is_staged_once():
    def ahead(choices, step, ys):
        return -0.5 * (choices["x"] - ys[step]) ** 2

    program = series(jnp.zeros(3))
    first, second = (ppl.lookahead(program, jax.tree_util.Partial(ahead, ys=jnp.full(3, y))) for y in (0.0, 1.0))
    assert first.staged is second.staged
    assert "lookahead/potential" in first.sites
