"""Laws 23 and 25 for `sweep`: whole algorithms in which the program's loops stay loops, enumerated exactly.

Two particles; every program has what a loop over a population can get wrong: outputs that are stacked, inputs that are
random, values made before the loop and read behind it, steps that run backwards, branches that score at different
places, particles that end early.
"""

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from jax import lax

import ppl
import ppl.distributions as dist
from ppl.errors import MeasureError, UnboundedError
from ppl.numerics.cells import CELLS
from ppl.semantics import sweeping
from ppl.semantics.blocks import identity
from ppl.semantics.stages import Loop, plan_of
from tests.laws import mutants
from tests.laws.exact import ATOL, DEAD, double, gap, law_gap, oracle, same, set_law  # noqa: F401
from tests.oracle.generate import SKELETONS, fillings
from tests.oracle.render import to_program

SCHEMES = sorted(CELLS)
few = settings(max_examples=4)


# --- programs ---------------------------------------------------------------------------------------------------------


def full(*, reverse):
    """Random inputs, stacked outputs, values made before and read behind, forwards or backwards."""

    @ppl.model
    def model():
        threshold = ppl.sample("threshold", dist.Bernoulli(0.3))
        passing = ppl.sample("passing", dist.Bernoulli(0.6))
        noise = ppl.vmap(lambda: ppl.sample("noise", dist.Bernoulli(0.7)), axis_size=2)()

        def step(carry, x):
            z, t = carry
            z = ppl.sample("z", dist.Bernoulli(jnp.where(z + threshold > 0, 0.75, 0.125)))
            ppl.factor("w", jnp.log(0.2 + 0.5 * z * (1 + x[0]) + 0.3 * x[1] + 0.1 * t))
            return (z, t + 1), z

        (z, t), zs = lax.scan(step, (0, 0), (jnp.array([1.0, 2.5]), noise), reverse=reverse)
        ppl.factor("end", jnp.log(1.0 + zs[0] * 2 + z + passing))
        return z + 2 * zs[0] + 4 * noise[0] + 8 * passing + 16 * threshold + 32 * t

    return model()


def two_loops():
    """A segment before, between and behind two loops; the first one's outputs are the second one's inputs."""

    @ppl.model
    def model():
        start = ppl.sample("start", dist.Bernoulli(0.25))
        ppl.factor("first", jnp.log(0.5 + 1.5 * start))

        def step(x, y):
            x = ppl.sample("x", dist.Bernoulli(jnp.where(x == 1, 0.75, 0.25)))
            ppl.sample("y", dist.Bernoulli(jnp.where(x == 1, 0.875, 0.25)), obs=y)
            return x, x

        last, xs = lax.scan(step, start, jnp.array([1, 0]))
        ppl.factor("between", jnp.log(0.25 + xs[0]))

        def again(total, x):
            ppl.factor("again", jnp.log(0.5 + x + 2 * last))
            return total + 2 * x + 1, None

        return start + 2 * lax.scan(again, last, xs, reverse=True)[0] + 16 * xs[0]

    return model()


def observed_twice():
    """Two observations a step, one of them missing in the first step."""

    @ppl.model
    def model():
        def step(x, given):
            y, z, there = given
            x = ppl.sample("x", dist.Bernoulli(jnp.where(x == 1, 0.75, 0.375)))
            ppl.sample("y", dist.Bernoulli(jnp.where(x == 1, 0.875, 0.25)), obs=y)
            ppl.sample("z", dist.Bernoulli(jnp.where(x == 1, 0.125, 0.5)).mask(there), obs=z)
            return x, x

        data = jnp.array([1, 0]), jnp.array([0, 1]), jnp.array([False, True])
        last, xs = lax.scan(step, 1, data)
        return last + 2 * xs[0]

    return model()


def uneven():
    """Each step chooses between no score, and a choice with two scores around it."""

    @ppl.model
    def model():
        def scored(x):
            ppl.factor("before", jnp.log(0.5 + 2.0 * x))
            v = ppl.sample("v", dist.Bernoulli(0.625))
            ppl.factor("behind", jnp.log(0.25 + v))
            return v

        def step(x, _):
            u = ppl.sample("u", dist.Bernoulli(jnp.where(x == 1, 0.25, 0.75)))
            x = lax.cond(u == 1, scored, lambda x: 1 - x, x)
            return x, u

        last, us = lax.scan(step, 1, None, length=2)
        return last + 2 * us[0] + 4 * us[1]

    return model()


def early():
    """A particle that has ended draws and weighs no more, but keeps its place."""

    @ppl.model
    def model():
        def alive(count):
            ppl.factor("weight", jnp.log(0.25 + count))
            return ppl.sample("end", dist.Bernoulli(0.5)) == 1, count + 1

        def step(state, _):
            ended, count = state
            return lax.cond(ended, lambda n: (True, n), alive, count), None

        return lax.scan(step, (False, 0), None, length=3)[0][1]

    return model()


def jitted():
    """The loop stands in a helper under `jit`, two deep."""

    @ppl.model
    def model():
        @jax.jit
        def inner(x, ys):
            def step(x, y):
                x = ppl.sample("x", dist.Bernoulli(jnp.where(x == 1, 0.75, 0.25)))
                ppl.sample("y", dist.Bernoulli(jnp.where(x == 1, 0.875, 0.25)), obs=y)
                return x, x

            return lax.scan(step, x, ys)

        @jax.jit
        def outer(x, ys):
            ppl.factor("w", jnp.log(0.5 + x))
            last, xs = inner(x, ys)
            return last + 2 * xs[0]

        return 4 * outer(ppl.sample("start", dist.Bernoulli(0.25)), jnp.array([1, 0])) + 1

    return model()


PROGRAMS = {
    "forwards": lambda: full(reverse=False),
    "backwards": lambda: full(reverse=True),
    "two loops": two_loops,
    "observed twice": observed_twice,
    "uneven": uneven,
    "early": early,
    "jitted": jitted,
}
"""Makers, so that a test can have a program that no cache has seen."""


@pytest.fixture(scope="module")
def programs():
    """One of each."""
    return {name: make() for name, make in PROGRAMS.items()}


def swept(program, transformer, n=2):
    """The population at the end of a sweep."""
    return ppl.compose(ppl.finish(), ppl.sweep(transformer), ppl.hoist_first(ppl.spawn(n)))(ppl.suspend(program))


def folded(program, transformer, n=2):
    """(advance . hoist_first t)^k by itself: the loops are unrolled."""
    suspended = ppl.hoist_first(ppl.spawn(n))(ppl.suspend(program))
    for stage in plan_of(program).stages:
        before = transformer if isinstance(stage, Loop) or stage.scores else identity
        for _ in range(stage.length):
            suspended = ppl.advance()(ppl.hoist_first(before)(suspended))
    return ppl.finish()(suspended)


# --- 23 ---------------------------------------------------------------------------------------------------------------

PAIRS = [("forwards", s) for s in ("multinomial", "systematic")] + [
    ("backwards", "stratified"),
    ("two loops", "residual"),
    ("observed twice", "multinomial"),
    ("uneven", "stratified"),
    ("early", "multinomial"),
    ("jitted", "systematic"),
]
LONG = [(name, scheme) for name in PROGRAMS for scheme in SCHEMES if (name, scheme) not in PAIRS]


def case(pair):
    return pytest.param(*pair, marks=[pytest.mark.slow] if pair in LONG else [], id="-".join(pair))


@pytest.mark.parametrize(("name", "scheme"), [case(pair) for pair in PAIRS + LONG])
def test_23_a_sweep_means_the_program(programs, name, scheme):
    same(swept(programs[name], ppl.resample(scheme)), programs[name])


@pytest.mark.parametrize("name", list(PROGRAMS))
@pytest.mark.slow
def test_23_an_adaptive_sweep_means_the_program(programs, name):
    same(swept(programs[name], ppl.resample("systematic", 0.8)), programs[name])


@pytest.mark.parametrize("name", ["two loops", "uneven"])
@pytest.mark.slow
def test_23_any_valid_transformation_may_be_swept(programs, name):
    """One that scores itself, one that composes, and none."""
    same(swept(programs[name], ppl.push_evidence()), programs[name])
    same(swept(programs[name], ppl.compose(ppl.push_evidence(), ppl.resample("systematic", 0.9))), programs[name])
    same(swept(programs[name], identity), programs[name])


@pytest.mark.parametrize("name", list(PROGRAMS))
def test_23_one_weighted_run_is_swept_too(programs, name):
    same(ppl.finish()(ppl.sweep(identity)(ppl.suspend(programs[name]))), programs[name])


@pytest.mark.parametrize("structure", ["branch_shared", "branch_in_loop", "loop_observed"])
@pytest.mark.slow
def test_23_a_sweep_means_the_program_of_the_oracle(structure):
    @few
    @given(fillings(SKELETONS[structure]))
    def check(drawn):
        same(swept(to_program(drawn), ppl.resample("systematic", 0.9)), oracle(drawn))

    check()


# --- 25, and what a sweep is ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "scheme"), [("two loops", "systematic"), ("observed twice", "multinomial")])
@pytest.mark.slow
def test_a_sweep_is_the_fold_of_its_steps_in_law(programs, name, scheme):
    """The law of the particle set itself: values and weights of both particles, jointly."""
    again = ppl.resample(scheme, 0.9)
    assert law_gap(set_law(swept(programs[name], again)), set_law(folded(programs[name], again))) < ATOL


def test_a_sweep_applies_the_transformation_before_each_score_once(programs):
    """A transformation that doubles: as many doublings as there are observations and steps."""
    found = ppl.meaning(swept(programs["two loops"], mutants.double))
    assert float(found.mass) == pytest.approx(2.0**6 * float(ppl.meaning(programs["two loops"]).mass), rel=1e-9)


def test_25_hooks_and_more_resampling_change_nothing(programs):
    run = ppl.compose(
        ppl.resample("systematic"),
        ppl.finish(),
        ppl.sweep(ppl.compose(ppl.resample("systematic"), ppl.resample("multinomial", 0.9))),
        ppl.hoist(ppl.push_evidence()),
        ppl.hoist_first(ppl.spawn(2)),
    )
    same(run(ppl.suspend(programs["observed twice"])), programs["observed twice"])


def test_a_sweep_takes_up_where_advances_left(programs):
    start = ppl.compose(ppl.advance(), ppl.hoist_first(ppl.spawn(2)))(ppl.suspend(programs["two loops"]))
    same(ppl.finish()(ppl.sweep(ppl.resample("systematic"))(start)), programs["two loops"])
    with pytest.raises(MeasureError, match="suspended inside a loop"):
        ppl.sweep(ppl.resample())(ppl.advance()(start))


# --- where a program is cut -------------------------------------------------------------------------------------------


def kinds(program):
    return ["loop" if isinstance(stage, Loop) else "segment" for stage in plan_of(program).stages]


def test_a_jitted_helper_is_cut_inside(programs):
    """Its loop is a loop stage, whose compile time does not grow; its `factor` ends a segment."""
    assert kinds(programs["jitted"]) == ["segment", "loop", "segment"]
    assert [stage.length for stage in plan_of(programs["jitted"]).stages] == [1, 2, 1]


def test_an_observation_in_a_while_loop_is_refused():
    @ppl.model
    def model(y):
        def body(state):
            index, x = state
            ppl.sample("y", dist.Normal(x, 1.0), obs=y)
            return index + 1, x + 1.0

        return lax.while_loop(lambda state: state[0] < 3, body, (0, 0.0))[1]

    with pytest.raises(UnboundedError, match=r"'y'.*while_loop"):
        plan_of(model(jnp.array(0.5)))


# --- mutants ----------------------------------------------------------------------------------------------------------


def _as_stacked(ys, lines, batched):
    del lines, batched
    return [jnp.moveaxis(y, 0, 1) for y in ys]


MUTANTS = {
    "stacked outputs stay where they were made": ("along", _as_stacked),
    "what passes the loop stays where it was": ("_taken", lambda x, origin, how: x),
    "lines of ancestors run forwards": ("lines_of", lambda a, start, reverse: jnp.broadcast_to(start, a.shape)),
}


@pytest.mark.parametrize("mutant", list(MUTANTS))
def test_23_mutants_die(mutant, monkeypatch):
    monkeypatch.setattr(sweeping, *MUTANTS[mutant])
    program = full(reverse=False)
    assert gap(swept(program, ppl.resample("systematic")), program) > DEAD


@pytest.mark.parametrize(
    "resampler",
    [mutants.resample_unweighted("systematic"), mutants.resample_keeping_weights("systematic")],
    ids=["unweighted", "keeping weights"],
)
def test_23_mutants_of_the_transformation_die(programs, resampler):
    assert gap(swept(programs["observed twice"], resampler), programs["observed twice"]) > DEAD
