"""Metropolis-Hastings: what is never accepted, and misuse. Laws 26 and 34 are in `tests/laws/test_kernels.py`."""

import jax
import jax.numpy as jnp
import pytest

import ppl
import ppl.distributions as dist
from ppl.errors import AddressError, LawViolation, MeasureError, ShapeError
from ppl.inference import independence, mh, random_walk
from ppl.inference.kernels import State
from ppl.testing import check_kernel
from tests import metropolis_moves as moves
from tests.kernel_catalogue import branching_target, continuous_target, finite_target

LINE = {"slope": jnp.array(0.5), "spread": jnp.array(1.0), "y": jnp.ones(3)}


@ppl.model
def fragile(bad):
    """A log density of NaN (or any number) wherever `x` is not zero."""
    x = ppl.sample("x", dist.Normal(0.0, 1.0))
    ppl.factor("bad", jnp.where(x == 0.0, 0.0, bad))


@ppl.model
def outward(choices):
    """Only goes up: there is no way back."""
    ppl.sample("x", dist.Uniform(choices["x"], choices["x"] + 1.0))


@pytest.mark.parametrize("maker", [random_walk(0.5), independence(), mh(outward)], ids=["walk", "independence", "mh"])
def test_nan_and_impossible_moves_are_never_accepted(maker):
    start = State({"x": jnp.array(0.0)}, {})
    for bad in (jnp.nan, -jnp.inf):
        trace = maker(fragile(jnp.array(bad)))(start).simulate(0)
        assert not bool(trace.deterministic["accepted"])
        assert float(trace.deterministic["acceptance"]) == 0.0
        assert float(trace.value.choices["x"]) == 0.0


def test_a_move_without_a_way_back_is_refused():
    trace = mh(outward)(fragile(jnp.array(0.0)))(State({"x": jnp.array(0.25)}, {})).simulate(0)
    assert not bool(trace.deterministic["accepted"])


def test_a_state_of_density_zero_is_left():
    start = State({"x": jnp.array(0.25)}, {})
    program = fragile(jnp.array(-jnp.inf))
    moved = independence({"x": dist.Delta(jnp.array(0.0))})(program)(start).simulate(0)
    assert bool(moved.deterministic["accepted"]) is False, "there is no way back to it"
    walked = mh(_to_zero)(program)(start).simulate(0)
    assert bool(walked.deterministic["accepted"])


@ppl.model
def _to_zero(choices):
    ppl.sample("x", dist.Categorical(probs=jnp.array([1.0, 0.0])) if choices is None else _zero_or_start())


def _zero_or_start():
    return ppl.FiniteMeasure(jnp.log(jnp.array([1.0, 1e-12])), jnp.array([0.0, 0.25]))


def test_the_sites_of_a_random_walk_and_its_step_sizes():
    program = continuous_target()
    step = random_walk((0.5, 2.0, 1.0, 1.0, 1.0))(program)(State(LINE, {}))
    assert list(step.sites)[:3] == ["step/slope", "step/spread", "step/y"]
    scores = step.terms({**step.simulate(0).choices, "step/spread": jnp.array(0.0)}).prior
    assert float(scores["step/spread"]) == pytest.approx(float(dist.Normal(0.0, 2.0).log_prob(0.0)))
    with pytest.raises(ShapeError, match=r"(?s)2 step sizes.*5 elements"):
        _ = random_walk((0.5, 2.0))(program)(State(LINE, {})).sites
    with pytest.raises(ValueError, match="positive numbers"):
        random_walk(0.0)


def test_a_walk_refuses_what_is_not_always_made():
    with pytest.raises(MeasureError, match=r"'u' \(kernel_catalogue.py:\d+, Bernoulli.*lie inside a branch"):
        random_walk(0.5)(branching_target())


def test_the_proposal_of_independence_must_fit():
    with pytest.raises(AddressError, match=r"(?s)draws \['a'\].*\['a', 'b', 'c'\]"):
        independence({"a": dist.Bernoulli(0.5)})(finite_target())
    one = dist.Bernoulli(0.5)
    with pytest.raises(ShapeError, match=r"(?s)shape \(2,\).*shape \(\)"):
        independence({"a": one.expand([2]), "b": one, "c": one})(finite_target())
    proposal = {"x": dist.Normal(0.0, 1.0)}
    assert independence(proposal) != independence(dict(proposal))


def test_auxiliary_choices_need_a_way_back():
    state = State({"a": jnp.array(1), "b": jnp.array(2), "c": jnp.array(0)}, {})
    with pytest.raises(AddressError, match=r"(?s)'by_a_coin'.*makes the choices \['up'\].*backward"):
        mh(moves.by_a_coin)(finite_target())(state)
    with pytest.raises(AddressError, match="draws no choice"):
        mh(moves.by_a_coin, moves.other_way)(fragile(jnp.array(0.0)))(State({"b": jnp.array(0)}, {}))


def test_a_way_back_that_does_not_lead_back_is_refused():
    """`backward` that is no involution of the auxiliary choices: such moves are never made, so the kernel is valid."""
    with jax.enable_x64(True):
        report = check_kernel(mh(moves.by_a_coin, lambda old, aux, new: {"up": 0 * aux["up"]}), finite_target())
    assert report.errors["invariant"] < 1e-10


# --- check_kernel -----------------------------------------------------------------------------------------------------


def test_a_check_names_the_kernel_the_law_and_the_place():
    with pytest.raises(LawViolation, match=r"'block_of_the_prior' \(metropolis_moves.py:\d+\) of 'three' breaks a law"):
        check_kernel(moves.block_of_the_prior, finite_target())
    with pytest.raises(LawViolation, match=r"\(invariant\).*\(a=\d, b=\d, c=\d\).*\nExpected: .* Got: "):
        check_kernel(moves.block_of_the_prior, finite_target())


def test_a_check_reports_what_cannot_be_reached():
    report = check_kernel(mh(moves.near), finite_target(), reversible=True)
    assert not report.reachability
    assert report.joint is None


def test_a_check_of_a_continuous_program_is_a_joint_test():
    """Data are those that the program observes; false-alarm rate 1e-6."""
    observed = continuous_target().condition({"y": jnp.array([1.0, 0.5, -0.5])})
    report = check_kernel(random_walk(0.5), observed, key=1, replicates=300)
    assert report.errors == {}
    assert report.joint.sizes == (300, 300)
    with pytest.raises(MeasureError, match=r"(?s)'bad' \(test_metropolis.py.*simulate"):
        check_kernel(random_walk(0.5), fragile(jnp.array(0.0)))
    with pytest.raises(AddressError, match="'z'"):
        check_kernel(random_walk(0.5), observed, observed=["z"])


def test_a_check_takes_the_users_joint_draws():
    def simulate(key):
        return {"x": jax.random.normal(key)}, {}

    program = fragile(jnp.array(0.0))
    assert check_kernel(random_walk(1.0), program, simulate=simulate, replicates=200).joint.p_value > 1e-6
    with pytest.raises(LawViolation, match="does not leave"):
        check_kernel(moves.wrong_walk(random_walk(1.0), moves.always), program, simulate=simulate, steps=3)
