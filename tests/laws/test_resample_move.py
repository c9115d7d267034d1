"""Law 33: resample-move and SMC^2 on tiny models, exactly: two particles, whole algorithms enumerated, mutants.

The programs tempered by data that resample-move moves on are checked first, against prefixes written by hand.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import ppl
import ppl.distributions as dist
from ppl.inference import on, trace_mh_kernel, transitions, up_to
from ppl.inference.inner_filter import Inner
from ppl.inference.resample_move import Setup, resample_moved
from ppl.inference.smc2_steps import Setup as SMC2Setup
from ppl.inference.smc2_steps import smc2
from ppl.semantics.blocks import identity
from tests.laws import mutants
from tests.laws.exact import ATOL, DEAD, double, gap, same  # noqa: F401

LIMIT = 2**21


# --- programs tempered by their data ----------------------------------------------------------------------------------


@ppl.model
def chain(ys, early, present, late, reverse):
    """A factor, a loop of observations (`present` switches them), a factor; scores of weight one where not present."""
    a = ppl.sample("a", dist.Bernoulli(0.3))
    ppl.factor("early", jnp.where(early, 0.4 * a, 0.0))

    def step(x, inputs):
        y, here = inputs
        x = ppl.sample("x", dist.Bernoulli(jnp.where(x == 1, 0.7, 0.2) + 0.1 * a))
        ppl.sample("y", dist.Bernoulli(jnp.where(x == 1, 0.9, 0.25)).mask(here), obs=y)
        return x, x

    last, xs = lax.scan(step, a, (ys, present), reverse=reverse)
    ppl.factor("late", jnp.where(late, -0.7 * last, 0.0))
    return xs


YS = jnp.array([1, 0])


def whole(*, reverse=False):
    return chain(YS, jnp.array(True), jnp.ones(2, bool), jnp.array(True), reverse)


def prefix(steps, *, reverse=False):
    """The first advances of `whole`, by hand: early factor, two steps of the loop, late factor."""
    order = jnp.array([1, 0]) if reverse else jnp.arange(2)
    return chain(YS, jnp.array(steps > 0), order + 1 < steps, jnp.array(steps > 3), reverse)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("steps", [0, 1, 2, 3, 4, 9])
def test_a_partial_program_is_its_prefix(steps, reverse):
    same(up_to(whole(reverse=reverse), steps), prefix(steps, reverse=reverse))


def test_the_number_of_steps_may_be_traced():
    choices = {"a": jnp.array(1), "x": jnp.array([0, 1])}
    found = jax.jit(lambda steps: up_to(whole(), steps).log_density(choices))
    for steps in range(5):
        assert abs(found(steps) - prefix(steps).log_density(choices)) < ATOL


def test_a_partial_program_that_counts_one_more_dies():
    assert gap(up_to(whole(), 3), prefix(2)) > DEAD


def test_later_choices_have_the_law_of_their_draws():
    """A finite measure of mass 3 and a masked choice count in their own advance, not before."""

    @ppl.model
    def unusual(y):
        a = ppl.sample("a", dist.Bernoulli(0.3))
        ppl.sample("seen", dist.Bernoulli(0.2 + 0.6 * a), obs=y)
        b = ppl.sample("b", ppl.FiniteMeasure(jnp.log(jnp.array([1.0, 2.0])), jnp.array([0, 1])))
        ppl.factor("last", 0.5 * b * a)
        return a + 2 * b

    program = unusual(jnp.array(1))
    assert abs(ppl.meaning(up_to(program, 0)).mass - 1.0) < ATOL
    assert abs(ppl.meaning(up_to(program, 1)).mass - (0.7 * 0.2 + 0.3 * 0.8)) < ATOL
    same(up_to(program, 2), program)


def test_a_kernel_of_a_partial_program_leaves_the_partial_posterior():
    moves = transitions(up_to(whole(), 2), trace_mh_kernel)
    np.testing.assert_allclose(moves.posterior @ moves.matrix, moves.posterior, atol=ATOL)
    other = transitions(whole(), trace_mh_kernel)
    assert np.abs(moves.posterior @ other.matrix - moves.posterior).max() > DEAD


# --- resample-move ----------------------------------------------------------------------------------------------------


@ppl.model
def static(ys):
    """A static parameter of three values, two observations."""
    a = ppl.sample("a", dist.Categorical(jnp.array([0.2, 0.5, 0.3])))
    lax.scan(lambda _, y: (None, ppl.sample("y", dist.Bernoulli(jnp.array([0.2, 0.5, 0.9])[a]), obs=y)), None, ys)


@ppl.model
def hidden(ys):
    """A parameter and a state at each of two observations."""
    a = ppl.sample("a", dist.Bernoulli(0.3))

    def step(x, y):
        x = ppl.sample("x", dist.Bernoulli(jnp.where(x == 1, 0.7, 0.2) + 0.2 * a))
        ppl.sample("y", dist.Bernoulli(jnp.where(x == 1, 0.9, 0.25) - 0.1 * a), obs=y)
        return x, x

    return lax.scan(step, a, ys)[1]


def estimates(population, parameter):
    """E[Z] and E[sum of w (a + 1)^2] over the coin flips of an algorithm."""

    def summed(program):
        particles = ppl.sample("run", program)
        weights = jnp.exp(particles.log_weight)
        return jnp.stack([weights.sum(), (weights * (parameter(particles.value) + 1.0) ** 2).sum()])

    found = ppl.Program.of(summed, (population.program,)).enumerate(LIMIT)
    return np.asarray(found.expectation(lambda value: value))


def truth(program):
    measure = program.enumerate()
    weights = np.exp(np.asarray(measure.log_weights))
    return np.array([weights.sum(), (weights * (np.asarray(measure.choices["a"]) + 1.0) ** 2).sum()])


def resample_move_gap(program, setup):
    found = estimates(resample_moved(program, setup), lambda walker: walker.state.choices["a"])
    return np.abs(found - truth(program)).max()


ALWAYS = ppl.resample("systematic")


@pytest.mark.parametrize("again", [ALWAYS, ppl.resample("systematic", 0.9)], ids=["always", "adaptive resampling"])
def test_33_resample_move_is_exact_for_static_parameters(again):
    assert resample_move_gap(static(YS), Setup(2, again, None, trace_mh_kernel)) < ATOL


def test_33_moves_that_wait_for_poor_weights_are_not_exact():
    """A kernel keeps the partial posterior, but not the part of it where weights are poor: a bias of O(1/n)."""
    assert resample_move_gap(static(YS), Setup(2, ALWAYS, 0.9, trace_mh_kernel)) > DEAD


def test_33_resample_move_is_exact_with_states():
    assert resample_move_gap(hidden(YS), Setup(2, ALWAYS, None, on("a", trace_mh_kernel))) < ATOL


def full_posterior(program, steps):
    del steps
    return program


@pytest.mark.parametrize(
    "setup",
    [
        Setup(2, ALWAYS, None, trace_mh_kernel, target=full_posterior),
        Setup(2, ALWAYS, None, trace_mh_kernel, target=lambda program, steps: up_to(program, steps - 1)),
        Setup(2, mutants.resample_keeping_weights("systematic"), None, trace_mh_kernel),
        Setup(2, mutants.resample_unweighted("systematic"), None, trace_mh_kernel),
    ],
    ids=["the full posterior", "one observation behind", "weights not reset", "resampled without weights"],
)
@pytest.mark.slow
def test_33_mutants_of_resample_move_die(setup):
    assert resample_move_gap(static(YS), setup) > DEAD


# --- SMC^2 ------------------------------------------------------------------------------------------------------------


def smc2_gap(setup, rejuvenate=(), program=None):
    program = hidden(YS) if program is None else program
    found = estimates(smc2(program, setup, rejuvenate), lambda cloud: cloud.parameters["a"])
    return np.abs(found - truth(program)).max()


FILTER = Inner(2, ALWAYS)
ALONE = Inner(2, identity)
"""Two states that are not resampled, so that a PMMH move of every particle can be enumerated."""


def test_33_smc2_without_moves_is_exact():
    assert smc2_gap(SMC2Setup(("a",), 2, FILTER)) < ATOL


def test_33_smc2_with_a_pmmh_move_is_exact():
    assert smc2_gap(SMC2Setup(("a",), 2, ALONE, moves=1), (1,)) < ATOL


@ppl.model
def started(ys):
    """The states' only draw is before the loop: then a fresh filter that resamples can be enumerated too."""
    a = ppl.sample("a", dist.Bernoulli(0.3))
    ppl.factor("lean", 0.3 * a)
    x = ppl.sample("x", dist.Bernoulli(0.6 - 0.3 * a))

    def step(x, y):
        ppl.sample("y", dist.Bernoulli(jnp.where(x == 1, 0.9, 0.25) - 0.1 * a), obs=y)
        return 1 - x, None

    lax.scan(step, x, ys)


@pytest.mark.slow
def test_33_smc2_with_draws_before_the_loop_is_exact():
    setup = SMC2Setup(("a",), 2, ALONE, moves=1)
    assert smc2_gap(setup, (2,), started(YS)) < ATOL


def without_increment(before, after):
    return jnp.where(after > -jnp.inf, 0.0, before)


def stale_evidence(ratio):
    """The proposal is judged by the old filter's evidence."""
    return ratio.target


@pytest.mark.parametrize(
    ("setup", "rejuvenate"),
    [
        (SMC2Setup(("a",), 2, FILTER, increment=without_increment), ()),
        (SMC2Setup(("a",), 2, Inner(2, mutants.resample_keeping_weights("systematic"))), ()),
        (SMC2Setup(("a",), 2, ALONE, moves=1, log_ratio=stale_evidence), (1,)),
        (SMC2Setup(("a",), 2, ALONE, moves=1, log_ratio=lambda ratio: -sum(ratio)), (1,)),
    ],
    ids=["no increment", "inner weights not reset", "the proposal's evidence is not updated", "an inverted ratio"],
)
@pytest.mark.slow
def test_33_mutants_of_smc2_die(setup, rejuvenate):
    assert smc2_gap(setup, rejuvenate) > DEAD
