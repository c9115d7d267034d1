r"""Particle marginal Metropolis-Hastings: parameters move by MH whose likelihood is estimated by particles.

    accept with  min(1, p(theta') Z'(theta') q(theta | theta') / (p(theta) Z(theta) q(theta' | theta)))

Z is the evidence that an SMC run over the states finds with the parameters held fixed; a path of the run becomes the
states. Law: a state that carries its estimate keeps the law in proportion to p(theta) Z(run) P(run | theta), of which
the program's measure is the marginal; a plain state, for which the kernel runs conditional SMC to have an estimate of
its own (a draw from that law given the path), keeps the program's measure itself. So plain PMMH composes with all
kernels; it costs two runs a step instead of one, moves the path even where the parameters stay, and does not get stuck
at an estimate that was too high by luck.

To estimate the evidence of the current parameters anew by a run that does not know the path is another kernel, biased.

Reference: Andrieu, Doucet, Holenstein, "Particle Markov chain Monte Carlo methods", JRSS B 72 (2010), sections 2.4.2
(PMMH) and 2.4.1 (PIMH), theorem 4.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp

from ppl.errors import MeasureError
from ppl.inference.drawing import Drawn
from ppl.inference.involution_runs import drawn as drawn_choices
from ppl.inference.involution_runs import replayed
from ppl.inference.kernels import Kernel, State
from ppl.inference.method import positive
from ppl.inference.metropolis import LogRatio, Point, Proposal, Ratio, settle
from ppl.inference.particle_runs import one_path, run_of, with_path
from ppl.inference.static_parameters import Moved, Split, Walk, split_of, unreached_density
from ppl.semantics import choices as ch
from ppl.semantics.blocks import Transformer, compose, resample, spawn
from ppl.semantics.conditional_sweep import conditional_resample, conditional_sweep
from ppl.semantics.program import Program
from ppl.semantics.slicing import block
from ppl.semantics.suspension import hoist_first, suspend, sweep

Propose = Callable[[Program, dict[str, Any], tuple[str, ...]], Moved]


class Estimate(NamedTuple):
    """What a state of the extended space carries: the log evidence (nats) that its run found for the states."""

    log_evidence: Any


@dataclass(frozen=True)
class PMMHMove:
    """What `pmmh` makes.

    Attributes:
        particles, scheme, threshold: Those of the run.
        parameters, states: See `ppl.inference.static_parameters.split_of`.
        propose: Proposes values of the parameters.
    """

    particles: int
    scheme: str
    threshold: float | None
    parameters: tuple[str, ...] | None
    states: tuple[str, ...] | None
    propose: Propose

    def __call__(self, program: Program) -> Kernel:
        """The kernel of a program.

        Raises:
            AddressError, MeasureError: parameters and states are not told apart.
        """
        ch.refuse_unbounded(program.staged, "kernel")
        split = split_of(program, self.parameters, self.states)
        return partial(_kernel, replace(self, parameters=split.parameters, states=split.states), program)

    @property
    def transformer(self) -> Transformer:
        """The run: a transformer of suspended runs."""
        return compose(sweep(resample(self.scheme, self.threshold)), hoist_first(spawn(self.particles)))


def pmmh(
    particles: int = 100,
    parameters: str | Sequence[str] | None = None,
    proposal: float | tuple[float, ...] | Proposal | Propose = 0.1,
    *,
    states: str | Sequence[str] | None = None,
    scheme: str = "systematic",
    threshold: float | None = None,
) -> PMMHMove:
    """Parameters by MH with particles for the likelihood, states by a path of the particles.

    Args:
        particles: Number of particles. The log evidence should vary by about 1 to 1.7 from run to run.
        parameters: Addresses or patterns; by default the choices outside loops that observe or weigh.
        proposal: The step size in R^n, one for all parameters or one for each element; or, as in `ppl.inference.mh`, a
            function from the choices to a program that draws parameters.
        states: By default all that are no parameters.
        scheme: The resampling scheme; on plain states `"multinomial"`, `"systematic"` or `"killing"`.
        threshold: Resample where the effective sample size is below this fraction; on plain states it must be None.

    Records `accepted`, `acceptance`, and `log_density`, the log of p(theta) Z.

    Examples:
        >>> import jax, ppl, ppl.distributions as dist
        >>> @ppl.model
        ... def walk(ys):
        ...     s = ppl.sample("s", dist.LogNormal(0.0, 1.0))
        ...     def step(x, y):
        ...         x = ppl.sample("x", dist.Normal(x, s))
        ...         ppl.sample("y", dist.Normal(x, 1.0), obs=y)
        ...         return x, None
        ...     return jax.lax.scan(step, jnp.float32(0.0), ys)[0]
        >>> program = walk(jnp.array([1.0, 2.0, 3.0]))
        >>> step = pmmh(10, proposal=0.5)(program)(State({"s": jnp.array(1.0), "x": jnp.ones(3)}, {}))
        >>> {a: x.shape for a, x in step.sample(0).choices.items()}
        {'s': (), 'x': (3,)}
    """
    positive("particles", particles)
    resample(scheme, threshold)
    names, moved = (x if x is None else (x,) if isinstance(x, str) else tuple(x) for x in (parameters, states))
    return PMMHMove(particles, scheme, threshold, names, moved, _proposal(proposal))


def _proposal(proposal: Any) -> Propose:
    if isinstance(proposal, int | float | tuple | list):
        return Walk(tuple(map(float, proposal)) if isinstance(proposal, tuple | list) else float(proposal))
    return proposal if isinstance(proposal, Walk) else ByProgram(proposal)


@dataclass(frozen=True)
class ByProgram:
    """Proposals of parameters by a program that draws them, given the choices at hand."""

    proposal: Proposal

    def __call__(self, program: Program, choices: dict[str, Any], names: tuple[str, ...]) -> Moved:
        """Propose; the draws are at the proposal's addresses under `aux/`."""
        there = drawn_choices(self.proposal(choices))
        infos = ch.latent_infos(program.staged)
        new = {a: jnp.asarray(x, infos[a].dtype) for a, x in there.state.choices.items() if a in names}
        moved = {**choices, **new}
        back = replayed(self.proposal(moved), {a: choices[a] for a in there.state.choices}, laws=True)
        return Moved(moved, back.log_density - there.log_density)


def _kernel(move: PMMHMove, program: Program, state: State) -> Program:
    return Program.of(pmmh_step, (program, state, move))


def pmmh_step(program: Program, state: State, move: PMMHMove, log_ratio: LogRatio = sum) -> State:
    """The body of the kernel."""
    split = Split(move.parameters or (), move.states or ())
    old = estimated(program, state, move, split)
    moved = move.propose(program, state.choices, split.parameters) if split.parameters else Moved(state.choices, 0.0)
    new = proposed(program, State(moved.choices, state.masks), move, split)
    new = new._replace(state=new.state._replace(extra=new.state.extra if state.extra else ()))
    back = jnp.asarray(moved.log_ratio, jnp.result_type(float))
    ratio = Ratio(new.log_density - old.log_density, jnp.zeros_like(back), back)
    return settle(old, new, ratio, log_ratio)


def estimated(program: Program, state: State, move: PMMHMove, split: Split) -> Point:
    """The state at hand with its estimate: the one that it carries, or one by a run that knows its path."""
    if state.extra:
        return Point(state, _prior(program, state.choices, split) + state.extra.log_evidence)
    if move.threshold is not None:
        raise _adaptive(move.threshold)
    point = refreshed(program, state, move, split)
    return point._replace(state=point.state._replace(extra=()))


def refreshed(program: Program, state: State, move: PMMHMove, split: Split) -> Point:
    """The state with another path and another estimate, both by a conditional run that knows its path."""
    part = _part(program, state, split)
    path = ch.nest({a: state.choices[a] for a in split.states}, part.staged)
    ends = conditional_sweep(part, path, move.particles, conditional_resample(move.scheme))
    return _point(program, part, with_path(part, run_of(ends, "known"), path), state, split, "known/path")


def proposed(program: Program, state: State, move: PMMHMove, split: Split, name: str = "particles") -> Point:
    """A run with the parameters of a state: a path of it, and its estimate. Its draws are at `name/...`."""
    part = _part(program, state, split)
    layer = move.transformer(suspend(part)).layer
    return _point(program, part, run_of(layer, name), state, split, f"{name}/path")


def _point(program: Program, part: Program, run: Drawn, state: State, split: Split, address: str) -> Point:
    path = one_path(part, run, address)
    choices = {a: {**state.choices, **path.choices}[a] for a in state.choices}
    log_evidence = run.writes["log_evidence"]
    masks = {**state.masks, **path.masks}
    new = State(choices, {a: masks[a] for a in state.masks}, Estimate(log_evidence))
    return Point(new, _prior(program, choices, split) + log_evidence)


def _part(program: Program, state: State, split: Split) -> Program:
    """The program of the states."""
    return block(program, split.states, state.choices) if split.parameters else program


def _prior(program: Program, choices: dict[str, Any], split: Split) -> Any:
    """Log density (nats) of what does not depend on the states."""
    return unreached_density(program, choices, split.states) if split.parameters else jnp.zeros(())


def _adaptive(threshold: float) -> MeasureError:
    return MeasureError(
        f"PMMH on a state without an estimate of its own was asked to resample adaptively (threshold={threshold}).\n"
        "Expected: threshold=None, since the estimate is made by conditional SMC there.\n"
        "Fix: leave it out, or use ppl.PMMH(...), whose states carry their estimate."
    )
