"""Kernels made of kernels: one after the other, one of several, many times, on a block of the choices.

Law: where the parts leave a program's measure invariant, so does the whole. `mixture`, `repeat` and `on` keep detailed
balance; `cycle` does not: run the parts in the other order for the way back. All are makers, hashable and comparable,
so that a compiled run is found again. What the parts record is found at `0/accepted`, `1/accepted` and so on in a
cycle; `mixture` and `repeat` record what all that ran have in common, without a prefix.

Reference: Tierney, "Markov chains for exploring posterior distributions", Annals of Statistics 22 (1994), section 2.4.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import lax

from ppl.errors import MeasureError
from ppl.inference.kernels import Kernel, KernelMaker, State
from ppl.inference.method import positive
from ppl.semantics import choices as ch
from ppl.semantics import scope
from ppl.semantics.language import deterministic, sample
from ppl.semantics.program import Program
from ppl.semantics.protocol import Outcome, Position
from ppl.semantics.rewrites import Rewrite
from ppl.semantics.site import Site
from ppl.semantics.slicing import block, switched
from ppl.semantics.staging import unknown_address


def _bound(body: Callable[..., State], maker: Any, program: Program, state: State) -> Program:
    """A kernel of a maker: its body, bound to the program, the state and the maker."""
    return Program.of(body, (program, state, maker))


# --- one after the other ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cycle:
    """What `cycle` makes."""

    makers: tuple[KernelMaker, ...]

    def __call__(self, program: Program) -> Kernel:
        """The kernel of a program."""
        return partial(_bound, _cycle_step, self, program)


def cycle(*makers: KernelMaker) -> Cycle:
    """Kernels one after the other: K = K_0 K_1 ... K_n. Invariant, but not in detailed balance.

    Args:
        *makers: Makers of kernels, in the order in which they run.

    Examples:
        >>> import ppl, ppl.distributions as dist
        >>> from ppl.inference import trace_mh_kernel
        >>> @ppl.model
        ... def coin():
        ...     return ppl.sample("x", dist.Bernoulli(0.25))
        >>> step = cycle(trace_mh_kernel, trace_mh_kernel)(coin())(State({"x": jnp.array(0)}, {}))
        >>> [address for address in step.sites if address.endswith("accepted")]
        ['0/accepted', '1/accepted']
    """
    _refuse_none(makers, "cycle")
    return Cycle(makers)


def _cycle_step(program: Program, state: State, move: Cycle) -> State:
    for index, maker in enumerate(move.makers):
        state = sample(str(index), maker(program)(state))
    return state


def _refuse_none(makers: tuple[KernelMaker, ...], name: str) -> None:
    wrong = [maker for maker in makers if not callable(maker)]
    if not makers or wrong:
        raise TypeError(
            f"{name}(...) got {'no kernels' if not makers else repr(wrong[0])}.\n"
            "Expected: makers of kernels, one argument each, such as ppl.inference.random_walk(0.5)."
        )


# --- one of several ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mixture:
    """What `mixture` makes."""

    makers: tuple[KernelMaker, ...]
    weights: tuple[float, ...]

    def __call__(self, program: Program) -> Kernel:
        """The kernel of a program."""
        return partial(_bound, _mixture_step, self, program)


def mixture(*makers: KernelMaker, weights: Sequence[int | float] | None = None) -> Mixture:
    """One of several kernels, picked at random: K = sum_i w_i K_i. Only that one runs, where chains run one by one.

    Args:
        *makers: Makers of kernels.
        weights: How often each is picked, up to a factor; equally often by default.

    Records `picked`, and what all of the kernels record, of the one that ran.

    Raises:
        ValueError: the weights are not as many positive numbers as there are kernels.

    Examples:
        >>> import ppl, ppl.distributions as dist
        >>> from ppl.inference import trace_mh_kernel
        >>> @ppl.model
        ... def coin():
        ...     return ppl.sample("x", dist.Bernoulli(0.25))
        >>> step = mixture(trace_mh_kernel, cycle(trace_mh_kernel))(coin())(State({"x": jnp.array(0)}, {}))
        >>> [address for address, site in step.sites.items() if site.kind == "deterministic"]
        ['picked']
    """
    _refuse_none(makers, "mixture")
    given = (1.0,) * len(makers) if weights is None else tuple(map(float, weights))
    if len(given) != len(makers) or not all(0 < w < float("inf") for w in given):
        raise ValueError(f"mixture(...) got weights={given}.\nExpected: {len(makers)} positive numbers, one a kernel.")
    return Mixture(makers, given)


def _mixture_step(program: Program, state: State, move: Mixture) -> State:
    probs = jnp.asarray(move.weights) / sum(move.weights)
    picked = sample("pick", dist.Categorical(probs=probs))
    kernels = [maker(program) for maker in move.makers]
    common = _common([kernel(state) for kernel in kernels])

    def run_one(index: int, state: State) -> tuple[State, dict[str, Any]]:
        new, records = captured(str(index), kernels[index](state))
        return new, {address: records[address] for address in common}

    branches = [partial(run_one, index) for index in range(len(kernels))]
    new, records = lax.switch(picked, branches, state)
    deterministic("picked", picked)
    _record(records)
    return new


def _common(programs: list[Program]) -> list[str]:
    """The addresses that all programs record, in the same shape and dtype."""
    recorded = [
        {(a, i.shape, i.dtype) for a, i in program.sites.items() if i.kind == "deterministic"} for program in programs
    ]
    shared = set.intersection(*recorded)
    return sorted(address for address, _, _ in shared)


def _record(records: dict[str, Any]) -> None:
    for address, value in records.items():
        deterministic(address, value)


class Capture(Rewrite):
    """Bind choices as they are; recorded values are handed to who runs the program, not recorded."""

    def deterministic(self, site: Site, value: Any, where: Position) -> Outcome:
        """Write the value."""
        del site, where
        return Outcome(None, (), value)


def captured(address: str, program: Program) -> tuple[Any, dict[str, Any]]:
    """Sample a program at an address of the one being traced; its value, and what it would record by address."""
    with scope.under(address):
        value, result = program.run(Capture())
    return value, ch.flatten(result.writes, program.staged, ("deterministic",))


# --- many times -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Repeat:
    """What `repeat` makes."""

    maker: KernelMaker
    times: int

    def __call__(self, program: Program) -> Kernel:
        """The kernel of a program."""
        return partial(_bound, _repeat_step, self, program)


def repeat(maker: KernelMaker, times: int) -> Repeat:
    """A kernel many times in a row, as one step: K^times, in one copy of its code.

    Args:
        maker: The kernel.
        times: How often it runs.

    Flags that the kernel records (`accepted`) become the share of the steps; other records are those of the last step.

    Examples:
        >>> from ppl.inference import trace_mh_kernel
        >>> repeat(trace_mh_kernel, 10) == repeat(trace_mh_kernel, 10)
        True
    """
    _refuse_none((maker,), "repeat")
    return Repeat(maker, positive("times", times))


def _repeat_step(program: Program, state: State, move: Repeat) -> State:
    kernel = move.maker(program)

    def one(state: State, _: None) -> tuple[State, dict[str, Any]]:
        return captured("0", kernel(state))

    state, records = lax.scan(one, state, None, length=move.times)
    _record({address: _summary(steps) for address, steps in records.items()})
    return state


def _summary(steps: Any) -> Any:
    return jax.tree.map(lambda x: jnp.mean(x, axis=0) if x.dtype == jnp.bool_ else x[-1], steps)


# --- on a block -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class On:
    """What `on` makes."""

    patterns: tuple[str, ...]
    maker: KernelMaker

    def __call__(self, program: Program) -> Kernel:
        """The kernel of a program.

        Raises:
            AddressError, MeasureError: see `on`.
        """
        names = addresses_matching(program, self.patterns)
        refuse_varying(program, names)
        return partial(_bound, _block_step, Block(names, self.maker), program)


@dataclass(frozen=True)
class Block:
    """Addresses and the kernel that moves them."""

    names: tuple[str, ...]
    maker: KernelMaker


def on(addresses: str | Sequence[str], kernel: KernelMaker) -> On:
    """A kernel on some choices, the others fixed: it targets their conditional law.

    Only the density terms that the block reaches are evaluated (see `ppl.semantics.slicing.block`).

    Args:
        addresses: One address or several; `"theta/*"` stands for all that match.
        kernel: Makes the kernel of the block.

    What the kernel records is recorded, but for `log_density`, which is that of the block alone.

    Raises:
        AddressError: an address is unknown, not latent, or matches nothing.
        MeasureError: a choice of the block lies inside a branch, or decides which choices are made.

    Examples:
        >>> import ppl, ppl.distributions as dist
        >>> from ppl.inference import trace_mh_kernel
        >>> @ppl.model
        ... def pair():
        ...     a = ppl.sample("a", dist.Bernoulli(0.25))
        ...     return ppl.sample("b", dist.Bernoulli(jnp.array([0.5, 0.75])[a]))
        >>> step = on("b", trace_mh_kernel)(pair())(State({"a": jnp.array(1), "b": jnp.array(0)}, {}))
        >>> sorted(step.simulate(0).value.choices), list(step.sites)
        (['a', 'b'], ['pick', 'draw/b', 'accept', 'accepted'])
    """
    patterns = (addresses,) if isinstance(addresses, str) else tuple(addresses)
    _refuse_none((kernel,), "on")
    return On(patterns, kernel)


def addresses_matching(program: Program, patterns: Sequence[str]) -> tuple[str, ...]:
    """The latent addresses that some pattern matches, in program order.

    Raises:
        AddressError: a pattern matches nothing.
    """
    latent = ch.latent_infos(program.staged)
    for pattern in patterns:
        if not any(_matches(address, pattern) for address in latent):
            raise unknown_address(pattern, latent, "move")
    return tuple(address for address in latent if any(_matches(address, pattern) for pattern in patterns))


def _matches(address: str, pattern: str) -> bool:
    return address == pattern or fnmatchcase(address, pattern)


def refuse_varying(program: Program, names: tuple[str, ...]) -> None:
    """Raise where choices that a kernel moves alone lie inside a branch or decide which choices are made.

    Raises:
        MeasureError: naming them and their lines.
    """
    inside = [name for name in names if program.sites[name].masked]
    decided = [] if inside else switched(program, names)
    if inside or decided:
        what = "lie inside a branch" if inside else f"decide whether the choices {decided} are made"
        lines = ", ".join(f"{name!r} ({program.sites[name].source})" for name in (inside or names))
        raise MeasureError(
            f"A kernel on the block {list(names)} of {program.name!r} cannot keep the other choices: {lines} {what}.\n"
            "Expected: choices that every run makes, and that leave the set of choices as it is.\n"
            "Fix: move them with ppl.inference.trace_mh_kernel or ppl.inference.involutive."
        )


class WithoutDensity(Rewrite):
    """Bind a block's kernel as it is; the log density that it records is not the program's, so it goes."""

    def deterministic(self, site: Site, value: Any, where: Position) -> Outcome:
        """Record all but the log density."""
        if site.address.split("/")[-1] == "log_density":
            return Outcome(None, ())
        return super().deterministic(site, value, where)


def _block_step(program: Program, state: State, move: Block) -> State:
    part = block(program, move.names, state.choices)
    inner = State({name: state.choices[name] for name in move.names}, {})
    moved = move.maker(part)(inner).rewrite(WithoutDensity())
    return State({**state.choices, **moved.choices}, state.masks)
