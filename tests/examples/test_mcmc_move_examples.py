"""The examples with dimension-changing moves: their kernels are right, and what they print is near the exact answer.

The statistical tests have a false-alarm rate of 1e-6; the mutant that they kill is the sweep without Jacobians or
without auxiliary densities.
"""

import importlib.util
import itertools
import math
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppl.diagnostics.calibration import one_step_joint
from ppl.errors import LawViolation
from ppl.inference import cycle
from ppl.inference.involutive import propose
from ppl.inference.kernels import State
from ppl.semantics.program import Program
from tests.involutive_moves import wrong_kernel

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def loaded(name):
    spec = importlib.util.spec_from_file_location(f"examples_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def nile():
    return loaded("change_point")


@pytest.fixture(scope="module")
def irises():
    return loaded("split_merge")


@pytest.fixture(autouse=True)
def _no_display(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "Agg")


def moved(program_of, kernel, data, key, joint):
    """One sweep given the data."""
    rest = {a: x for a, x in joint.items() if a != data}
    program = program_of(joint[data])
    new = kernel(program)(State(rest, program.replay(rest).masks)).simulate(key).value
    return {**new.choices, data: joint[data]}


# --- change points ---------------------------------------------------------------------------------------------------


def seen_flow(joint):
    """The number, the sum of the jumps, the rest, and how the flow lies around its level."""
    jumps = joint["jump"].sum()
    return {
        "changes": joint["changes"],
        "jumps": jumps,
        "base": joint["base"],
        "noise": joint["noise"],
        "early": joint["flow"][:10].mean() - joint["base"],
        "late": joint["flow"][90:].mean() - joint["base"] - jumps,
    }


def run_nile(nile, kernel, key):
    def draw(k):
        return nile.nile().simulate(k).choices

    move = partial(moved, nile.nile, kernel, "flow")
    return one_step_joint(draw, move, key=key, replicates=3000, steps=6, quantities=seen_flow)


@pytest.mark.slow
def test_births_and_deaths_leave_the_joint_law(nile, key):
    run_nile(nile, cycle(*nile.MOVES), key).check()


@pytest.mark.slow
def test_births_without_their_density_die(nile, key):
    with pytest.raises(LawViolation):
        run_nile(nile, partial(wrong_kernel, "without the auxiliary density", nile.MOVES[0]), key).check()


def log_evidence(nile, years, noise):
    """Log density of the flow given the years of the changes (rows) and the noise: base and jumps are normal."""
    flow = nile.FLOW.astype(float) - 90.0
    ones = np.ones((len(years), 1, nile.YEARS))
    design = np.concatenate([ones, np.arange(nile.YEARS) > years[:, :, None]], axis=1)
    prior = np.array([30.0] + [20.0] * years.shape[1]) ** -2.0
    root = np.linalg.cholesky(np.diag(prior) + design @ np.swapaxes(design, 1, 2) / noise**2)
    fit = np.linalg.solve(root, (design @ flow / noise**2)[:, :, None])[:, :, 0]
    log_det = np.log(np.diagonal(root, axis1=1, axis2=2)).sum(axis=1) - 0.5 * np.log(prior).sum()
    return 0.5 * (fit**2).sum(axis=1) - log_det - 0.5 * (flow @ flow) / noise**2 - nile.YEARS * math.log(noise)


def exact_changes(nile, most):
    """Posterior probabilities of 0, ..., `most` changes: a sum over years, the trapezoid rule for log noise."""
    masses, places = [], nile.YEARS - 1
    for count in range(most + 1):
        years = np.array([*itertools.product(range(places), repeat=count)], int).reshape(places**count, count)
        grid = np.linspace(math.log(9.0), math.log(22.0), 13)
        terms = [log_evidence(nile, years, math.exp(x)) - 0.5 * ((x - 2.7) / 0.3) ** 2 for x in grid]
        masses.append(np.logaddexp.reduce(np.ravel(terms)) - count * math.log(places))
    return np.exp(masses - np.logaddexp.reduce(masses))


@pytest.mark.filterwarnings("ignore::ppl.errors.ConvergenceWarning")
@pytest.mark.slow
def test_the_numbers_of_changes_are_near_the_exact_ones(nile, tmp_path):
    """Up to two changes, of which the sum over all pairs of years is quick; more were seen to be right by hand."""
    posterior = nile.main(quick=True, folder=str(tmp_path))
    assert (tmp_path / "change_point.png").stat().st_size > 10_000
    changes = np.ravel(posterior.draws["changes"])
    exact = exact_changes(nile, 2)
    assert exact == pytest.approx([0.0, 0.595, 0.405], abs=1e-3)
    assert (changes[changes < 3] == 1).mean() == pytest.approx(exact[1], abs=0.1)
    assert not posterior.stats["0/not_involutive"].any()


# --- splitting and merging -------------------------------------------------------------------------------------------


def log_det_of(program, state, move):
    found = propose(program, state, move)
    return found.log_det, found.matched, found.old.choices[1], found.new.choices[0]


def test_the_jacobian_of_a_split_is_that_of_richardson_and_green(irises, key):
    """Their equation 12: w |m1 - m2| v1 v2 / (u2 (1 - u2^2) u3 (1 - u3) v)."""
    with jax.enable_x64(True):
        program = irises.petals(jnp.asarray(irises.LENGTHS))
        state = program.generate(key, {"extra": jnp.array(1)})
        probe = Program.of(log_det_of, (program, State(state.choices, state.masks), irises.MOVES[0]))
        found = next(t for t in (probe.simulate(k) for k in range(20)) if t.choices["aux/split"] == 1)
        log_det, matched, aux, new = found.value
        assert matched
        j, w, v = int(aux["part"]), new["weight"], new["variance"]
        total, (_, apart, spread) = w[j] + w[2], abs(aux["division"])
        below = apart * (1 - apart**2) * spread * (1 - spread) * state.choices["variance"][j]
        expected = total * abs(new["mean"][j] - new["mean"][2]) * v[j] * v[2] / below
        np.testing.assert_allclose(log_det, np.log(expected), rtol=1e-9)
        np.testing.assert_allclose(w.sum(), state.choices["weight"].sum(), rtol=1e-12)


def seen_petals(joint):
    """The number, and moments of the mixture against those of the data."""
    share = joint["weight"] / joint["weight"].sum()
    return {
        "extra": joint["extra"],
        "weight": joint["weight"].sum(),
        "mean": share @ joint["mean"],
        "variance": share @ joint["variance"],
        "error": joint["lengths"].mean() - share @ joint["mean"],
    }


def run_petals(irises, kernel, key):
    def draw(k):
        return irises.petals(flowers=5).simulate(k).choices

    def program_of(lengths):
        return irises.petals(lengths, flowers=5)

    move = partial(moved, program_of, kernel, "lengths")
    return one_step_joint(draw, move, key=key, replicates=1500, steps=4, quantities=seen_petals)


@pytest.mark.slow
def test_splits_and_merges_leave_the_joint_law(irises, key):
    run_petals(irises, irises.MOVES[0], key).check()


@pytest.mark.slow
def test_splits_without_their_jacobian_die(irises, key):
    with pytest.raises(LawViolation):
        run_petals(irises, partial(wrong_kernel, "without the Jacobian", irises.MOVES[0]), key).check()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ppl.errors.ConvergenceWarning")
def test_split_merge_finds_more_than_one_part(irises, tmp_path):
    posterior = irises.main(quick=True, folder=str(tmp_path))
    assert (tmp_path / "split_merge.png").stat().st_size > 10_000
    extra = np.asarray(posterior.draws["extra"])
    assert (extra > 0).all()  # two groups lie ten standard deviations apart
    assert (extra == 1).mean() > 0.1
    assert not posterior.stats["0/not_involutive"].any()
