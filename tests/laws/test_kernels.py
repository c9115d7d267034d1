"""Laws 26, 27 and 34 over `tests/kernel_catalogue.py`: exactly on finite targets, by joint tests on continuous ones."""

import inspect
import typing

import jax
import numpy as np
import pytest

import ppl
from ppl.errors import LawViolation
from ppl.inference import kernel_laws
from ppl.inference.kernels import Kernel, KernelMaker
from ppl.inference.reachability import transitions
from ppl.testing import check_kernel
from tests.kernel_catalogue import KERNELS

FINITE = [name for name, entry in KERNELS.items() if entry.finite]
CONTINUOUS = [name for name, entry in KERNELS.items() if not entry.finite]
REPLICATES = 2000
SAME = ("cycle", "mixture", "repeat", "on", "random_walk", "independence", "mh", "involutive", "hmc", "mala", "gibbs")
PARTICLES = ("conditional_smc", "particle_gibbs", "pimh", "pmmh")
PUBLIC = {name: name for name in (*SAME, "conjugate", "tempered", *PARTICLES)} | {
    "trace_mh_kernel": "trace_mh",
    "slice_sampling": "slice",
    "elliptical_slice": "elliptical",
}
"""The public names of kernels, and their lines in the catalogue."""


def checked(entry, make):
    return check_kernel(make(), entry.target(), reversible=entry.reversible)


@pytest.mark.parametrize("name", FINITE)
def test_26_a_finite_kernel_is_stochastic_invariant_and_in_balance(name):
    """To 1e-10; `check_kernel` raises beyond. What it can reach is as the catalogue says (law 27)."""
    entry = KERNELS[name]
    with jax.enable_x64(True):
        report = checked(entry, entry.make)
    assert max(report.errors.values()) <= 1e-10
    assert ("balance" in report.errors) == entry.reversible
    assert bool(report.reachability) == entry.irreducible


@pytest.mark.parametrize("name", [name for name in FINITE if KERNELS[name].mutant])
def test_26_mutants_die(name):
    """A wrong kernel is stochastic all the same, but does not leave the measure invariant."""
    entry = KERNELS[name]
    with jax.enable_x64(True), pytest.raises(LawViolation, match=r"breaks a law \(invariant\)"):
        checked(entry._replace(reversible=False), entry.mutant)


def test_26_a_cycle_is_in_no_balance():
    entry = KERNELS["cycle"]
    with jax.enable_x64(True), pytest.raises(LawViolation, match=r"breaks a law \(balance\).*the flow from \(a="):
        checked(entry._replace(reversible=True), entry.make)


def test_26_a_mixture_is_the_weighted_sum_and_a_repeat_the_power():
    with jax.enable_x64(True):
        program = KERNELS["mixture"].target()
        mixed, repeated = (KERNELS[name].make() for name in ("mixture", "repeat"))
        parts = [transitions(program, maker).matrix for maker in mixed.makers]
        whole, power = transitions(program, mixed).matrix, transitions(program, repeated).matrix
    assert np.abs(0.25 * parts[0] + 0.75 * parts[1] - whole).max() < 1e-10
    assert np.abs(parts[0] @ parts[0] - power).max() < 1e-10


@pytest.mark.parametrize("name", CONTINUOUS)
@pytest.mark.slow
def test_34_a_continuous_kernel_keeps_the_joint_law(name, key):
    """False-alarm rate 1e-6."""
    entry = KERNELS[name]
    kernel_laws.joint_test(entry.make(), entry.target(), key, (REPLICATES, entry.steps), entry.data)


@pytest.mark.parametrize("name", [name for name in CONTINUOUS if KERNELS[name].mutant])
@pytest.mark.slow
def test_34_mutants_die(name, key):
    entry = KERNELS[name]
    with pytest.raises(LawViolation, match="does not leave the posterior"):
        kernel_laws.joint_test(entry.mutant(), entry.target(), key, (REPLICATES, entry.steps), entry.data)


def test_every_kernel_is_listed_and_has_a_mutant():
    public = {name for name in ppl.inference.__all__ if makes_kernels(getattr(ppl.inference, name))}
    assert public == set(PUBLIC), "add the kernel to PUBLIC, and a line to tests/kernel_catalogue.py"
    for name in PUBLIC.values():
        assert name in KERNELS, f"add a line to tests/kernel_catalogue.py for: {name}"
        assert KERNELS[name].mutant, name


def makes_kernels(function):
    """Whether a public function makes kernels, or makers of them, by its annotations."""
    if not inspect.isfunction(function):
        return False
    result = typing.get_type_hints(function).get("return")
    made = (
        typing.get_type_hints(result.__call__).get("return") if result is not None and inspect.isclass(result) else None
    )
    return any(x in (Kernel, KernelMaker) for x in (result, made))
