"""Is a kernel right? Exactly, where the program is finite; by a one-step joint test, where it is not.

Exact laws: the transition matrix is stochastic, leaves the posterior as it is, and (where claimed) is in balance with
it. Joint test: where parameters and data are drawn together and the parameters then move by the kernel given the data,
their joint law stays as it was. Each replicate is independent, so the tests are exact; but a mistake must be large
enough to be seen in so many replicates. Neither says how fast a kernel mixes.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ppl.diagnostics.calibration import one_step_joint
from ppl.diagnostics.two_sample import RATE, TwoSample
from ppl.errors import AddressError, LawViolation, MeasureError, NotFiniteError
from ppl.inference.involution_runs import described
from ppl.inference.kernels import KernelMaker, State
from ppl.inference.predictive import addresses_of, without_data
from ppl.inference.reachability import Reachability, Transitions, reachability, transitions
from ppl.semantics.enumeration import DEFAULT_LIMIT
from ppl.semantics.keys import as_key
from ppl.semantics.program import Program
from ppl.typing import PRNGKey

Simulate = Callable[[PRNGKey], tuple[dict[str, Any], dict[str, Any]]]
LOG_DENSITY = "log density"


class KernelReport(NamedTuple):
    """What a check of a kernel found.

    Attributes:
        errors: For each exact law, the largest difference of probability; empty where the program is not finite.
        reachability: Which states the kernel can reach from which; None where the program is not finite.
        joint: The one-step joint test; None where the program is finite.
    """

    errors: dict[str, float]
    reachability: Reachability | None = None
    joint: TwoSample | None = None


def check_kernel(
    maker: KernelMaker,
    program: Program,
    *,
    reversible: bool = False,
    limit: int = DEFAULT_LIMIT,
    atol: float | None = None,
    key: Any = 0,
    observed: Sequence[str] | None = None,
    simulate: Simulate | None = None,
    replicates: int = 2000,
    steps: int = 1,
) -> KernelReport:
    """Check that a kernel leaves a program's measure invariant.

    Args:
        maker: Makes the kernel.
        program: Its target. Where it and the kernel are finite, the check is exact.
        reversible: Whether detailed balance is claimed (exact check only).
        limit: The most rows to enumerate, of the program and of the kernel at one state.
        atol: The largest difference of probability allowed; by default 1e-10 in double, 1e-5 in single precision.
        key: A JAX key or an int, for the joint test.
        observed: The choices that are data in the joint test; by default those that the program observes.
        simulate: For programs that cannot be drawn from (factors): draws `(choices, data)` from the joint law.
        replicates: How many independent moves the joint test makes.
        steps: How often the kernel moves in each; more show smaller mistakes.

    Returns:
        A `KernelReport`. A kernel that cannot reach every state is reported in it; that is no error.

    Raises:
        LawViolation: which law failed and where; the joint test errs with probability 1e-6 for a right kernel.
        EnumerationSizeError: a finite program is too large: raise `limit`, or take a smaller one.

    Examples:
        >>> import ppl, ppl.distributions as dist, ppl.testing
        >>> from ppl.inference import trace_mh_kernel
        >>> @ppl.model
        ... def coins():
        ...     a = ppl.sample("a", dist.Bernoulli(0.25))
        ...     return ppl.sample("b", dist.Bernoulli(jnp.array([0.5, 0.75])[a]))
        >>> report = ppl.testing.check_kernel(trace_mh_kernel, coins(), reversible=True)
        >>> sorted(report.errors), bool(report.reachability)
        (['balance', 'invariant', 'stochastic'], True)
    """
    try:
        moves = transitions(program, maker, limit)
    except NotFiniteError:
        joint = joint_test(maker, program, as_key(key), (replicates, steps), observed, simulate)
        return KernelReport({}, joint=joint)
    allowed = atol if atol is not None else (1e-10 if jax.config.read("jax_enable_x64") else 1e-5)
    return KernelReport(_exact(maker, program, moves, allowed, reversible=reversible), reachability(moves))


# --- exactly ----------------------------------------------------------------------------------------------------------


def _exact(
    maker: KernelMaker, program: Program, moves: Transitions, allowed: float, *, reversible: bool
) -> dict[str, float]:
    """The largest difference by law.

    Raises:
        LawViolation: one is larger than is allowed, or no number.
    """
    matrix, posterior = moves.matrix, moves.posterior
    flow = posterior[:, None] * matrix
    laws = {"stochastic": (np.ones(len(matrix)), matrix.sum(axis=1)), "invariant": (posterior, posterior @ matrix)}
    if reversible:
        laws["balance"] = (flow.T, flow)
    errors = {}
    for law, (expected, got) in laws.items():
        difference = np.abs(got - expected)
        errors[law] = float(np.max(difference, initial=0.0))
        if not errors[law] <= allowed:
            worst = np.unravel_index(int(np.argmax(np.nan_to_num(difference, nan=np.inf))), difference.shape)
            raise LawViolation(_violated(maker, program, law, moves, (worst, expected[worst], got[worst])))
    return errors


SAYS = {
    "stochastic": "The probabilities of where it goes from {0} sum to another number than one",
    "invariant": "It does not leave the measure invariant: after a step from the posterior, {0} has another mass",
    "balance": "It is not in detailed balance: the flow from {0} to {1} is not the flow back",
}


def _violated(maker: KernelMaker, program: Program, law: str, moves: Transitions, found: Any) -> str:
    where, expected, got = found
    states = [_shown(moves.states, int(index)) for index in where]
    return (
        f"The kernel {_name(maker)} of {program.name!r} breaks a law ({law}). {SAYS[law].format(*states)}.\n"
        f"Expected: {expected:.6g}. Got: {got:.6g}."
    )


def _shown(states: State, index: int) -> str:
    made = {a: m[index] for a, m in states.masks.items()}
    parts = [f"{a}={x[index].tolist()}" for a, x in states.choices.items() if np.all(made.get(a, True))]
    return "(" + ", ".join(parts) + ")"


def _name(maker: Any) -> str:
    return described(maker) if hasattr(maker, "__code__") else repr(maker)


# --- by a joint test --------------------------------------------------------------------------------------------------


def joint_test(
    maker: KernelMaker,
    program: Program,
    key: PRNGKey,
    size: tuple[int, int],
    observed: Sequence[str] | None = None,
    simulate: Simulate | None = None,
) -> TwoSample:
    """Draw choices and data together, move the choices given the data, and compare with fresh draws.

    Args:
        maker: Makes the kernel.
        program: The target, with its data observed or left to be drawn.
        key: For everything.
        size: How many replicates, and steps of the kernel in each.
        observed: The choices that are data; by default those that the program observes.
        simulate: Draws `(choices, data)`; by default from the program.

    Raises:
        LawViolation: the laws differ; false-alarm rate 1e-6.
        MeasureError: the program has factors, and no `simulate` was given.
        AddressError: `observed` has an address that is no choice of the program.
    """
    data = tuple(addresses_of(program, "observed") if observed is None else observed)
    joint = without_data(program)
    unknown = [a for a in data if a not in addresses_of(joint, "latent")]
    if unknown:
        raise AddressError(f"The data {unknown} are no choices of {program.name!r}.\nExpected: some of its choices.")
    draw = partial(_drawn, joint, data) if simulate is None else simulate
    if simulate is None:
        _refuse_weighing(joint)
    found = one_step_joint(
        draw,
        partial(_move, maker, joint),
        key=key,
        replicates=size[0],
        steps=size[1],
        quantities=partial(_quantities, joint),
    )
    try:
        return found.check(RATE)
    except LawViolation as error:
        raise LawViolation(
            f"The kernel {_name(maker)} does not leave the posterior of {program.name!r} invariant: parameters and "
            f"data drawn together (first) and the same after {size[1]} steps given the data (second) differ.\n{error}"
        ) from error


def _refuse_weighing(joint: Program) -> None:
    weighing = [f"{i.address!r} ({i.source})" for i in joint.sites.values() if i.kind in ("factor", "fixed")]
    if weighing:
        raise MeasureError(
            f"A joint test draws choices and data of {joint.name!r} together; {', '.join(weighing)} weigh its draws.\n"
            "Expected: a generative program.\nFix: give `simulate(key) -> (choices, data)`, or write what weighs as an "
            "observation."
        )


def _drawn(joint: Program, data: tuple[str, ...], key: PRNGKey) -> tuple[dict[str, Any], dict[str, Any]]:
    choices = joint.simulate(key).choices
    return {a: x for a, x in choices.items() if a not in data}, {a: choices[a] for a in data}


def _move(maker: KernelMaker, joint: Program, key: PRNGKey, drawn: Any) -> Any:
    choices, data = drawn
    given = joint.condition(data) if data else joint
    masks = given.replay(choices).masks
    new = maker(given)(State(choices, masks)).simulate(key).value
    return {a: jnp.asarray(new.choices[a], x.dtype) for a, x in choices.items()}, data


def _quantities(joint: Program, drawn: Any) -> dict[str, Any]:
    choices = {**drawn[0], **drawn[1]}
    shown = {a: x for a, x in choices.items() if not jnp.issubdtype(jnp.asarray(x).dtype, jax.dtypes.prng_key)}
    return shown | {LOG_DENSITY: joint.log_density(choices)}
