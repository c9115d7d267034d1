"""Every kernel, listed once; `tests/laws/test_kernels.py` runs the universal laws over the lines.

Add a line to `KERNELS` with each new kernel. On a finite target (no continuous choice) the laws are checked exactly, by
enumerating the kernel at every state: stochastic, invariant, in balance where claimed. On a continuous target the
one-step joint test is made (law 34): the target is then the *joint* program, and `data` names the choices that the
kernel gets to see as observations, `program.condition({"y": y})`. A `mutant` is a wrong kernel of the same target that
the law must kill. Entries are thunks, so that the precision of the test at hand decides on dtypes.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import ppl
import ppl.distributions as dist
from ppl.inference import (
    conditional_smc,
    conjugate,
    cycle,
    gibbs,
    mh,
    mixture,
    on,
    particle_gibbs,
    pimh,
    pmmh,
    repeat,
    trace_mh_kernel,
)
from ppl.inference import trace_mh as trace
from ppl.inference.kernels import KernelMaker
from tests import continuous_moves
from tests import gibbs_moves as gm
from tests import involutive_moves as moves
from tests import metropolis_moves as mhm
from tests import particle_moves as pm


class KernelEntry(NamedTuple):
    """A kernel with a target of its own.

    Attributes:
        make: Makes the maker of the kernel.
        target: Makes the program that it leaves invariant (continuous: the joint program, data latent).
        finite: Whether the target is finite, so that the laws are checked exactly.
        reversible: Whether detailed balance is claimed (checked where the target is finite).
        irreducible: Whether the kernel reaches the whole support of this target (checked where it is finite).
        mutant: Makes the maker of a wrong kernel.
        data: The choices of a continuous target that are conditioned on.
        steps: How often a continuous kernel moves in the joint test: a slow kernel's mistakes need more.
    """

    make: Callable[[], KernelMaker]
    target: Callable[[], ppl.Program]
    finite: bool = True
    reversible: bool = True
    irreducible: bool = True
    mutant: Callable[[], KernelMaker] | None = None
    data: tuple[str, ...] = ()
    steps: int = 1


# --- finite targets ---------------------------------------------------------------------------------------------------


@ppl.model
def three(weight: Any) -> Any:
    """Three dependent choices of 2, 3 and 2 values, all of positive mass; `weight` makes them lean."""
    a = ppl.sample("a", dist.Bernoulli(0.25))
    b = ppl.sample("b", dist.Categorical(jnp.array([[0.5, 0.375, 0.125], [0.25, 0.125, 0.625]])[a]))
    c = ppl.sample("c", dist.Bernoulli(jnp.array([0.75, 0.25, 0.5])[b]))
    ppl.factor("lean", weight * (a + 0.5 * b * c))
    ppl.sample("seen", dist.Bernoulli(jnp.where(c == 1, 0.875, 0.25)), obs=jnp.array(1))
    return a + 2 * b + 6 * c


def finite_target() -> ppl.Program:
    """Three choices, 12 states, asymmetric."""
    return three(jnp.array(-0.75))


@ppl.model
def branching(weight: Any) -> Any:
    """The number of choices depends on the first one."""

    def yes() -> Any:
        return ppl.sample("u", dist.Bernoulli(0.25)) + ppl.sample("v", dist.Bernoulli(0.625))

    def no() -> Any:
        w = ppl.sample("w", dist.Categorical(jnp.array([0.5, 0.25, 0.25])))
        ppl.factor("no", weight * w)
        return w

    return jax.lax.cond(ppl.sample("a", dist.Bernoulli(0.375)) == 1, yes, no)


def branching_target() -> ppl.Program:
    """Choices in branches."""
    return branching(jnp.array(0.75))


# --- continuous targets: joint programs of parameters and data --------------------------------------------------------


@ppl.model
def line(x: Any) -> Any:
    """A straight line with an unknown spread (of LogNormal law); `y` are the data."""
    slope = ppl.sample("slope", dist.Normal(0.5, 2.0))
    spread = ppl.sample("spread", dist.LogNormal(0.0, 0.5))
    return ppl.sample("y", dist.Normal(slope * x, spread))


def continuous_target() -> ppl.Program:
    """The joint program of a line; condition on `y`."""
    return line(jnp.array([-1.0, 0.5, 2.0]))


# --- mutants ----------------------------------------------------------------------------------------------------------


def without_counts(program: ppl.Program) -> Any:
    """Single-site MH that forgets the number of executions."""
    return partial(_without_counts, program)


def _without_counts(program: ppl.Program, state: Any) -> ppl.Program:
    return ppl.Program.of(trace.step, (program, state), {"log_ratio": _no_count})


def _no_count(ratio: Any) -> Any:
    return ratio.target + ratio.removed + ratio.added


KERNELS: dict[str, KernelEntry] = {
    "trace_mh": KernelEntry(lambda: trace_mh_kernel, branching_target, mutant=lambda: without_counts),
    "independence": KernelEntry(
        lambda: mhm.PRIOR, branching_target, mutant=lambda: mhm.wrong_independence(mhm.PRIOR, mhm.no_backward)
    ),
    "independence, continuous": KernelEntry(
        lambda: mhm.PROPOSAL,
        continuous_target,
        finite=False,
        mutant=lambda: mhm.wrong_independence(mhm.PROPOSAL, mhm.no_backward),
        data=("y",),
        steps=20,
    ),
    "random_walk": KernelEntry(
        lambda: mhm.INTEGERS, finite_target, mutant=lambda: mhm.wrong_walk(mhm.INTEGERS, mhm.inverted)
    ),
    "random_walk, continuous": KernelEntry(
        lambda: mhm.WALK,
        continuous_target,
        finite=False,
        mutant=lambda: mhm.wrong_walk(mhm.WALK, mhm.always),
        data=("y",),
        steps=3,
    ),
    "mh": KernelEntry(
        lambda: mhm.TO_B,
        finite_target,
        irreducible=False,
        mutant=lambda: mhm.wrong_mh(mhm.TO_B, mhm.no_backward),
    ),
    "mh, auxiliary choices": KernelEntry(lambda: mh(mhm.by_a_coin, mhm.other_way), finite_target, irreducible=False),
    "mh, branches": KernelEntry(lambda: mh(mhm.other_branch), branching_target),
    "mh, continuous": KernelEntry(
        lambda: mhm.WIDER,
        continuous_target,
        finite=False,
        mutant=lambda: mhm.wrong_mh(mhm.WIDER, mhm.no_proposal),
        data=("y",),
        steps=3,
    ),
    "cycle": KernelEntry(
        lambda: cycle(on("a", mhm.PRIOR), on(("b", "c"), mhm.PRIOR)),
        finite_target,
        reversible=False,
        mutant=lambda: mhm.forgetful_cycle,
    ),
    "mixture": KernelEntry(
        lambda: mixture(mhm.PRIOR, trace_mh_kernel, weights=(0.25, 0.75)),
        finite_target,
        mutant=lambda: mhm.mixture_by_state,
    ),
    "repeat": KernelEntry(lambda: repeat(mhm.PRIOR, 2), finite_target, mutant=lambda: mhm.repeat_until_accepted),
    "on": KernelEntry(
        lambda: on("b", mhm.PRIOR), finite_target, irreducible=False, mutant=lambda: mhm.block_of_the_prior
    ),
    "involutive": KernelEntry(
        lambda: moves.FINITE,
        lambda: moves.one_or_two(jnp.array(moves.GENERIC)),
        mutant=lambda: partial(moves.wrong_kernel, "without the auxiliary density", moves.FINITE),
    ),
    "involutive_scale": KernelEntry(
        lambda: moves.SCALE,
        moves.durations,
        finite=False,
        mutant=lambda: partial(moves.wrong_kernel, "without the Jacobian", moves.SCALE),
        data=("y",),
        steps=3,
    ),
    "involutive_split": KernelEntry(
        lambda: moves.SPLIT,
        moves.pair_or_single,
        finite=False,
        mutant=lambda: partial(moves.wrong_kernel, "without the Jacobian", moves.SPLIT),
        data=("y",),
        steps=6,
    ),
    **{
        name: KernelEntry(
            partial(continuous_moves.MAKERS.__getitem__, name),
            target,
            finite=False,
            mutant=partial(continuous_moves.MUTANTS.__getitem__, name),
            data=("y",),
            steps=3,
        )
        for name, target in continuous_moves.TARGETS.items()
    },
    "tempered": KernelEntry(
        partial(continuous_moves.MAKERS.__getitem__, "tempered"),
        continuous_moves.replicas_target,
        reversible=False,
        mutant=continuous_moves.WrongSwap,
    ),
    "gibbs": KernelEntry(lambda: gibbs(), finite_target, reversible=False, mutant=lambda: gm.forgetful_of_seen),
    "gibbs, random scan": KernelEntry(lambda: gibbs(random_scan=True), gm.labels_target),
    "gibbs, one site": KernelEntry(
        lambda: gibbs("z"), gm.labels_target, irreducible=False, mutant=lambda: gm.forgetful
    ),
    "conjugate": KernelEntry(
        lambda: conjugate(),
        gm.pairs_target,
        finite=False,
        mutant=lambda: gm.Narrow(),
        data=("a", "b", "c"),
        steps=2,
    ),
    "conditional_smc": KernelEntry(
        lambda: conditional_smc(2, "multinomial", "ancestor"),
        pm.chain_target,
        reversible=False,
        mutant=lambda: pm.without_retained(2),
    ),
    "particle_gibbs": KernelEntry(
        lambda: particle_gibbs(2, scheme="multinomial"),
        pm.switching_target,
        reversible=False,
        mutant=lambda: pm.gibbs_without_retained(2),
    ),
    "pimh": KernelEntry(
        lambda: pimh(2, "multinomial"),
        pm.short_chain_target,
        reversible=False,
        mutant=lambda: pm.Wrong(pm.dropping_evidence, pimh(2, "multinomial")),
    ),
    "pmmh": KernelEntry(
        lambda: pm.PMMH,
        pm.switching_target,
        reversible=False,
        mutant=lambda: pm.Wrong(pm.estimated_anew, pm.PMMH),
    ),
    "particle_gibbs, continuous": KernelEntry(
        lambda: particle_gibbs(4),
        pm.drifting_target,
        finite=False,
        mutant=lambda: pm.gibbs_without_retained(4),
        data=("y",),
        steps=2,
    ),
    "pmmh, continuous": KernelEntry(
        lambda: pmmh(4, proposal=0.7),
        pm.drifting_target,
        finite=False,
        mutant=lambda: pm.Wrong(pm.dropping_evidence, pmmh(4, proposal=0.7)),
        data=("y",),
        steps=3,
    ),
}
"""Every kernel."""
