r"""The Metropolis-Hastings step that several kernels share, and proposals by a program of the user's.

Draw x' from q(x' | x) and accept it with

$$\min\left(1, \frac{p(x')\, q(x \mid x')}{p(x)\, q(x' \mid x)}\right).$$

Law: in detailed balance with p, whatever q is. A proposal of density zero, one from which there is no way back, or one
whose ratio is no number (NaN) is never accepted; from a state of density zero, any of positive density is.

Reference: Hastings, "Monte Carlo sampling methods using Markov chains and their applications", Biometrika 57 (1970).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist

from ppl.errors import AddressError
from ppl.inference.involution_runs import described, drawn, fitted, replayed
from ppl.inference.involutive import Involutive
from ppl.inference.kernels import Kernel, State
from ppl.semantics import choices as ch
from ppl.semantics.language import deterministic, sample
from ppl.semantics.program import Program
from ppl.semantics.protocol import Choices

Proposal = Callable[[Choices], Program]
Backward = Callable[[Choices, Choices, Choices], Choices]


class Ratio(NamedTuple):
    """The logarithms whose sum is the acceptance ratio: of p(x') / p(x), 1 / q(x' | x) and q(x | x')."""

    target: Any
    forward: Any
    backward: Any


class Point(NamedTuple):
    """A state and its log density (nats)."""

    state: State
    log_density: Any


LogRatio = Callable[[Ratio], Any]


def settle(old: Point, new: Point, ratio: Ratio, log_ratio: LogRatio = sum) -> State:
    """Accept or stay, at the site `accept`; records `accepted`, its probability `acceptance`, and `log_density`.

    Args:
        old: Where the chain stands.
        new: What is proposed.
        ratio: The terms of the acceptance ratio.
        log_ratio: Adds them up (another than the sum is a wrong kernel, for tests).
    """
    bounded = jnp.where(old.log_density == -jnp.inf, 0.0, jnp.minimum(log_ratio(ratio), 0.0))
    possible = (new.log_density > -jnp.inf) & (ratio.backward > -jnp.inf) & ~jnp.isnan(bounded)
    acceptance = jnp.where(possible, jnp.exp(bounded), 0.0)
    accepted = sample("accept", dist.Bernoulli(probs=acceptance)) == 1
    deterministic("accepted", accepted)
    deterministic("acceptance", acceptance)
    deterministic("log_density", jnp.where(accepted, new.log_density, old.log_density))
    return jax.tree.map(lambda a, b: jnp.where(accepted, a, b), new.state, old.state)


@dataclass(frozen=True)
class Proposed:
    """What `mh` makes."""

    proposal: Proposal
    backward: Backward | None

    def __call__(self, program: Program) -> Kernel:
        """The kernel of a program."""
        ch.refuse_unbounded(program.staged, "kernel")
        return partial(_mh_kernel, self, program)


def mh(proposal: Proposal, backward: Backward | None = None) -> Proposed:
    """Metropolis-Hastings with a proposal that is a program.

    Args:
        proposal: From the choices by address to a program. Its choices at addresses of the target are the new values;
            choices that it does not draw stay. It may neither observe nor weigh.
        backward: Needed where the proposal makes further (auxiliary) choices: `(old, aux, new) -> aux`, the auxiliary
            choices with which the proposal at `new` leads back to `old`. From there and back it must return `aux`
            (else the move is refused); its Jacobian is found by autodiff.

    The forward density of all that the proposal draws, and the backward density of what leads back, are in the ratio.

    Raises:
        AddressError: the proposal moves nothing, or makes auxiliary choices without a `backward`.

    Examples:
        >>> import ppl, ppl.distributions as dist
        >>> @ppl.model
        ... def income():
        ...     return ppl.sample("x", dist.Gamma(2.0, 0.5))
        >>> @ppl.model
        ... def near(choices):
        ...     ppl.sample("x", dist.LogNormal(jnp.log(choices["x"]), 0.5))
        >>> step = mh(near)(income())(State({"x": jnp.array(3.0)}, {}))
        >>> list(step.sites)
        ['aux/x', 'accept', 'accepted', 'acceptance', 'log_density']
    """
    return Proposed(proposal, backward)


def _mh_kernel(move: Proposed, program: Program, state: State) -> Program:
    proposed = move.proposal(state.choices)
    known = ch.latent_infos(program.staged)
    names = ch.latent_infos(proposed.staged)
    extra = [a for a in names if a not in known]
    _check_moved(move, program, [a for a in names if a in known], extra)
    varying = any(i.masked for i in (*known.values(), *names.values()))
    if extra or varying:
        return Involutive(move.proposal, Exchange(move.backward))(program)(state)
    return Program.of(mh_step, (program, state, move))


def _check_moved(move: Proposed, program: Program, moved: list[str], extra: list[str]) -> None:
    if not moved:
        raise AddressError(
            f"The proposal {described(move.proposal)} draws no choice of {program.name!r}; it draws {extra}.\n"
            f"Expected: some of {list(ch.latent_infos(program.staged))}."
        )
    if extra and move.backward is None:
        raise AddressError(
            f"The proposal {described(move.proposal)} makes the choices {extra}, which {program.name!r} does not have, "
            "so that the way back is not determined.\n"
            "Expected: choices of the target alone, or mh(proposal, backward=...).\n"
            "Fix: give `backward(old, aux, new)`, which returns the auxiliary choices that lead from `new` to `old`."
        )


def mh_step(program: Program, state: State, move: Proposed, log_ratio: LogRatio = sum) -> State:
    """The body, where every choice of the proposal is one of the target's, and all are always made."""
    there = drawn(move.proposal(state.choices))
    replaced = {**state.choices, **there.state.choices}
    choices = fitted((replaced, {}), (program, _NOTHING), move.proposal)[0]
    back = move.proposal(choices)
    if list(ch.latent_infos(back.staged)) != list(there.state.choices):
        raise AddressError(f"The proposal {described(move.proposal)} draws other addresses at other states.")
    way_back = replayed(back, {a: state.choices[a] for a in there.state.choices}, laws=True)
    old, new = replayed(program, state.choices), replayed(program, choices)
    ratio = Ratio(new.log_density - old.log_density, -there.log_density, way_back.log_density)
    return settle(Point(state, old.log_density), Point(new.state, new.log_density), ratio, log_ratio)


def _nothing() -> None:
    return None


_NOTHING = Program.of(_nothing)


@dataclass(frozen=True)
class Exchange:
    """The involution behind a proposal: old and proposed values change places, auxiliary ones as `backward` says."""

    backward: Backward | None

    def __call__(self, choices: Choices, aux: Choices) -> tuple[Choices, Choices]:
        """Exchange them."""
        moved = {a: x for a, x in aux.items() if a in choices}
        new = {**choices, **moved}
        extra = {a: x for a, x in aux.items() if a not in choices}
        back = self.backward(choices, extra, new) if self.backward is not None and extra else {}
        return new, {**{a: choices[a] for a in moved}, **back}
