"""Law 34 for HMC, MALA, slice and elliptical slice sampling, at a false-alarm rate of 1e-6; each kills a mutant.

The joint program of parameters and data is drawn, one kernel moves the parameters given the data, and the pair must
keep its law. Exact by enumeration: parallel tempering on a finite program.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ppl
import ppl.distributions as dist
from ppl.diagnostics.calibration import one_step_joint
from ppl.errors import LawViolation
from ppl.inference.kernels import State
from ppl.inference.reachability import irreducible, transitions
from ppl.inference.slice_sampling import slice_sampling
from ppl.inference.tempering import replicated, tempered
from ppl.inference.trace_mh import trace_mh_kernel
from tests import continuous_moves as moves

MAKERS = {name: moves.MAKERS[name] for name in moves.TARGETS} | {
    "slice_random": slice_sampling(1.5, max_steps_out=3, direction="random"),
    "slice_wide": slice_sampling(0.3, max_steps_out=2),
}
TARGETS = moves.TARGETS | {"slice_random": moves.spread_target, "slice_wide": moves.spread_target}


def joint_test(maker, program, key, steps):
    def draw(key):
        return program.simulate(key).choices

    def move(key, joint):
        given = program.condition({"y": joint["y"]})
        start = {a: x for a, x in joint.items() if a != "y"}
        return joint | maker(given)(State(start, {})).sample(key).choices

    def quantities(joint):
        flat = {f"{a}[{i}]": v for a, x in joint.items() for i, v in enumerate(jnp.ravel(x).astype(float))}
        return flat | {"log density": program.log_density(joint)}

    return one_step_joint(draw, move, key=key, replicates=2000, steps=steps, quantities=quantities)


@pytest.mark.slow  # the catalogue has one line of each kernel in the default run
@pytest.mark.parametrize("name", list(MAKERS))
def test_the_joint_law_stays(name, key):
    joint_test(MAKERS[name], TARGETS[name](), key, steps=3).check(1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(moves.MUTANTS))
def test_mutants_die(name, key):
    with pytest.raises(LawViolation):
        joint_test(moves.MUTANTS[name], TARGETS[name](), key, steps=3).check(1e-6)


# --- tempering, exactly ----------------------------------------------------------------------------------------------


@ppl.model
def three_way(weights):
    x = ppl.sample("x", dist.Categorical(jnp.array([0.5, 0.375, 0.125])))
    ppl.factor("f", weights[x])


def two_replicas():
    return replicated(three_way(jnp.array([0.0, -jnp.inf, 1.5])), (1.0, 0.25))


@pytest.fixture
def _double():
    with jax.enable_x64(True):
        yield


@pytest.mark.usefixtures("_double")
@pytest.mark.parametrize("target", [moves.replicas_target, two_replicas])
def test_the_product_is_invariant_and_its_first_marginal_is_the_program(target):
    program = target()
    found = transitions(program, tempered(trace_mh_kernel))
    assert np.abs(found.matrix.sum(1) - 1).max() < 1e-10
    assert np.abs(found.posterior @ found.matrix - found.posterior).max() < 1e-10
    assert irreducible(program, tempered(trace_mh_kernel))
    cold = np.asarray(found.states.choices["x"])[:, 0]
    single = moves.leaning(jnp.array(1.5)) if target is moves.replicas_target else None
    if single is None:
        weights = np.array([0.5, 0.0, 0.125 * np.exp(1.5)])
    else:
        weights = np.exp([float(single.log_density({"x": k})) for k in range(2)])
    marginal = np.bincount(cold, found.posterior, minlength=len(weights))
    np.testing.assert_allclose(marginal, weights / weights.sum(), atol=1e-10)


@pytest.mark.usefixtures("_double")
def test_a_swap_the_wrong_way_round_dies():
    found = transitions(moves.replicas_target(), moves.WrongSwap())
    assert np.abs(found.matrix.sum(1) - 1).max() < 1e-10
    assert np.abs(found.posterior @ found.matrix - found.posterior).max() > 1e-3


@pytest.mark.usefixtures("_double")
def test_replicas_score_as_tempered_products():
    program = two_replicas()
    value = program.log_density({"x": jnp.array([2, 0])})
    assert float(value) == pytest.approx(np.log(0.125) + 1.5 + np.log(0.5), abs=1e-12)
    assert float(program.log_density({"x": jnp.array([0, 1])})) == -np.inf
    assert partial(tempered, trace_mh_kernel)() == tempered(trace_mh_kernel)
