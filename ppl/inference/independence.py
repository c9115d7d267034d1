"""Independent proposals: x' ~ q whatever x is, accepted with min(1, p(x') q(x) / (p(x) q(x'))).

Law: in detailed balance with the program's measure. Without a proposal q is the prior, the law from which the program
draws its own choices; that works for programs whose set of choices varies.

Reference: Tierney, "Markov chains for exploring posterior distributions", Annals of Statistics 22
(1994), section 2.3.3.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax.numpy as jnp

from ppl.errors import AddressError, ShapeError
from ppl.inference.involution_runs import Draw, Replay, drawn, replayed
from ppl.inference.kernels import Kernel, State
from ppl.inference.metropolis import LogRatio, Point, Ratio, settle
from ppl.semantics import choices as ch
from ppl.semantics.language import sample
from ppl.semantics.program import Program
from ppl.semantics.protocol import Choices


class Same:
    """A value that equals itself alone: makes a proposal that holds arrays hashable."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        """Whether it is the same object."""
        return isinstance(other, Same) and other.value is self.value

    def __hash__(self) -> int:
        return id(self.value)


@dataclass(frozen=True)
class Independence:
    """What `independence` makes; without a proposal the program's own prior is it."""

    proposal: Same | None

    def __call__(self, program: Program) -> Kernel:
        """The kernel of a program."""
        ch.refuse_unbounded(program.staged, "kernel")
        if self.proposal is not None:
            _check_proposal(self.proposal.value, program)
        return partial(_independence_kernel, self, program)


def independence(proposal: Program | Mapping[str, Any] | None = None) -> Independence:
    """Proposals that do not look at the state: x' ~ q, accepted with min(1, p(x') q(x) / (p(x) q(x'))).

    Args:
        proposal: A program that draws every choice at the same addresses, or a dict of distributions by address; by
            default the prior, which also serves programs whose set of choices varies.

    Raises:
        AddressError, ShapeError: the proposal's choices are not those of the program.

    It mixes fast where q is close to p with heavier tails, and gets stuck where q misses mass.

    Examples:
        >>> import ppl, ppl.distributions as dist
        >>> @ppl.model
        ... def level(y):
        ...     ppl.sample("y", dist.Normal(ppl.sample("x", dist.Normal(0.0, 1.0)), 1.0), obs=y)
        >>> kernel = independence({"x": dist.StudentT(5.0, 0.5, 0.8)})
        >>> posterior = ppl.infer(level(1.0), ppl.MCMC(kernel), key=0, warmup=10, draws=500)
        >>> abs(float(posterior.draws["x"].mean()) - 0.5) < 0.1
        True
    """
    if isinstance(proposal, Mapping):
        proposal = Program.of(_draw_each, (dict(proposal),))
    return Independence(None if proposal is None else Same(proposal))


def _draw_each(measures: dict[str, Any]) -> None:
    for address, measure in measures.items():
        sample(address, measure)


def _check_proposal(proposal: Program, program: Program) -> None:
    wanted, got = (ch.latent_infos(p.staged) for p in (program, proposal))
    if set(wanted) != set(got):
        raise AddressError(
            f"The proposal of independence(...) draws {sorted(got)}.\n"
            f"Expected: every choice of {program.name!r} and no other: {sorted(wanted)}.\n"
            "Fix: on([...], independence(...)) proposes some choices alone."
        )
    for address, info in wanted.items():
        if info.shape != got[address].shape:
            raise ShapeError(
                f"The proposal of independence(...) draws {address!r} ({got[address].source}) with shape "
                f"{got[address].shape}.\nExpected: the shape {info.shape} of the choice at {info.source}."
            )


def _independence_kernel(move: Independence, program: Program, state: State) -> Program:
    proposal = None if move.proposal is None else move.proposal.value
    return Program.of(independence_step, (program, state, proposal))


class DrawPrior(Draw):
    """Draw latent choices from their laws; observations stand, and neither they nor factors count."""

    def sample(self, node: Any, read: Any, where: Any) -> Any:
        """Draw, or go on with the observation."""
        if node.observed is None:
            return super().sample(node, read, where)
        return Replay(laws=True).sample(node, read, where)._replace(increment=self.zero())


class ScorePrior(Replay):
    """The log density of given choices under the laws of draws alone."""

    def sample(self, node: Any, read: Any, where: Any) -> Any:
        """Score a latent choice."""
        found = super().sample(node, read, where)
        return found if node.observed is None else found._replace(increment=self.zero())

    def factor(self, site: Any, log_weight: Any, where: Any) -> Any:
        """A factor is no law of draws."""
        return Draw.factor(Draw(), site, log_weight, where)


def independence_step(program: Program, state: State, proposal: Any, log_ratio: LogRatio = sum) -> State:
    """The body of the independence kernel."""
    if proposal is None:
        fresh, forward = _as_choices(program, DrawPrior(), {})
        backward = _as_choices(program, ScorePrior(laws=True), state.choices)[1]
    else:
        run = drawn(proposal)
        fresh, forward = run.state.choices, run.log_density
        backward = replayed(proposal, state.choices, laws=True).log_density
    old, new = replayed(program, state.choices), replayed(program, _typed(program, fresh))
    ratio = Ratio(new.log_density - old.log_density, -forward, backward)
    return settle(Point(state, old.log_density), Point(new.state, new.log_density), ratio, log_ratio)


def _as_choices(program: Program, handler: Any, choices: Choices) -> tuple[Choices, Any]:
    staged = program.staged
    result = program.run(handler, ch.nest(choices, staged))[1]
    values = {a: w.value for a, w in result.writes.items() if staged.table[a].site.kind == "latent"}
    return ch.flatten(values, staged, ("latent",)), result.total


def _typed(program: Program, choices: Choices) -> Choices:
    return {a: jnp.asarray(choices[a], info.dtype) for a, info in ch.latent_infos(program.staged).items()}
