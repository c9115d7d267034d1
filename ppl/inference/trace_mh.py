"""Single-site trace Metropolis-Hastings, for programs whose set of choices changes from run to run.

Pick one of the n executions of sites uniformly, redraw it from its law given the run, replay the rest: executions that
newly appear are drawn from their laws, those that vanish are dropped. With n' executions afterwards, accept with

    min(1, p(x') / p(x) * n / n' * q(removed and the old value) / q(added and the new value))

An execution is one element of a site: of the loops and lanes around it and of its batch axes. The kernel is a
program, so its invariance is checked by enumeration (tests/laws/test_mh.py). It moves one execution at a time and can
therefore be stuck where two must change together; `ppl.inference.reachability` tells.

Reference: Wingate, Stuhlmueller, Goodman, *Lightweight implementations of probabilistic programming languages*
(2011); the counting terms n / n' as in Scibior et al., *Functional programming for modular Bayesian inference*
(2018).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import lax

from ppl.distributions.density import log_prob
from ppl.distributions.drawn import law_of_draws
from ppl.inference.kernels import Kernel, State
from ppl.inference.mcmc import MCMC
from ppl.inference.method import Settings, positive
from ppl.inference.posterior import Posterior
from ppl.semantics import choices as ch
from ppl.semantics.binding import bind_sample
from ppl.semantics.handlers import Scoring
from ppl.semantics.language import deterministic, sample
from ppl.semantics.measures import join
from ppl.semantics.program import Program
from ppl.semantics.protocol import Handler, Outcome, Position, SampleSite
from ppl.semantics.rewrites import placed
from ppl.typing import PRNGKey


class Execution(NamedTuple):
    """What is written at a site: its value, the log density of each element, and that under the law of draws."""

    value: Any
    log_law: Any


class Old(NamedTuple):
    """What is known at a site of the old run: the value, which elements to redraw, whether it was made at all."""

    value: Any
    picked: Any
    made: Any


def _elements(measure: Any, value: Any) -> Any:
    """Log density by element: batch-shaped for a distribution, one number for any other measure."""
    score = jnp.asarray(log_prob(measure, value), jnp.result_type(float))
    return score if isinstance(measure, dist.Distribution) else jnp.sum(score)


class Score(Scoring):
    """The joint log density of the old run (total); writes an `Execution` at each latent site."""

    def sample(self, node: SampleSite, read: Any, where: Position) -> Outcome:
        """Score the old or observed value."""
        del where
        value = read if node.observed is None else node.observed
        scores = _elements(node.measure, value)
        write = None if node.observed is not None else Execution(value, _law_scores(node.measure, value, scores))
        return Outcome(value, jnp.sum(scores), write)


def _law_scores(measure: Any, value: Any, scores: Any) -> Any:
    law = law_of_draws(measure)
    return scores if law is measure else _elements(law, value)


class Redraw(Score):
    """The new run: keeps old values, draws the picked and the missing elements at sites of its own (under `draw/`)."""

    emits = True

    def sample(self, node: SampleSite, read: Any, where: Position) -> Outcome:
        """Keep, redraw or draw."""
        if node.observed is not None:
            return super().sample(node, read, where)
        needed = read.picked | ~read.made
        fresh = lax.cond(jnp.any(needed), lambda: _bind_draw(node), lambda: _typed(read.value, node))
        value = jax.tree.map(lambda new, old: jnp.where(_widened(needed, new), new, old), fresh, read.value)
        return super().sample(node, value, where)


def _bind_draw(node: SampleSite) -> Any:
    site = placed(node.site._replace(address=join("draw", node.address), plates=(), grad=None))
    return bind_sample(site, law_of_draws(node.measure))


def _typed(value: Any, node: SampleSite) -> Any:
    leaves = [jnp.asarray(x, a.dtype) for x, a in zip(jax.tree.leaves(value), node.signature.avals, strict=True)]
    return jax.tree.unflatten(node.signature.value_tree, leaves)


def _widened(flags: Any, value: Any) -> Any:
    return flags.reshape(*flags.shape, *(1,) * (value.ndim - flags.ndim))


# --- the kernel ------------------------------------------------------------------------------------------------------


class Run(NamedTuple):
    """A scored run: its state, log density, log law of each element and which elements were made (by site)."""

    state: State
    log_density: Any
    log_law: dict[str, Any]
    made: dict[str, Any]

    @property
    def executions(self) -> Any:
        """The number of executions."""
        return sum((jnp.sum(made) for made in self.made.values()), jnp.int32(0))


class Ratio(NamedTuple):
    """The logarithms whose sum is the acceptance ratio."""

    target: Any
    count: Any
    removed: Any
    added: Any


def trace_mh_kernel(program: Program) -> Kernel:
    """Single-site trace MH as a kernel.

    Args:
        program: The target; it may have any measures, branches, loops and lanes, but no `while_loop` around a site.

    Returns:
        A function from a `State` of positive density to the program of the next `State`, which records `accepted` and
        `log_density`.

    Examples:
        >>> import ppl, ppl.distributions as dist
        >>> from ppl.inference.kernels import State
        >>> @ppl.model
        ... def coin():
        ...     return ppl.sample("x", dist.Bernoulli(0.25))
        >>> step = trace_mh_kernel(coin())(State({"x": jax.numpy.array(0)}, {}))
        >>> sorted(step.sites)
        ['accept', 'accepted', 'draw/x', 'log_density', 'pick']
    """
    ch.refuse_unbounded(program.staged, "kernel")
    return partial(_kernel, program)


def _kernel(program: Program, state: State) -> Program:
    return Program.of(step, (program, state))


def step(program: Program, state: State, log_ratio: Callable[[Ratio], Any] = sum) -> State:
    """The body of the kernel. `log_ratio` adds up the terms (another than the sum is a wrong kernel, for tests)."""
    old = _scored(program, ch.nest(state.choices, program.staged), state.masks)
    if not old.made:
        return _recorded(state, jnp.ones((), bool), old.log_density)
    picked = _pick(old.made)
    nested = ch.nest(state.choices, program.staged)
    reads = {a: Old(nested[a], picked[a], _leading(old.made[a], program, a)) for a in nested}
    new = _run(program, Redraw(), reads)
    log_accept = _log_accept(old, new, picked, log_ratio)
    accepted = sample("accept", dist.Bernoulli(probs=jnp.exp(log_accept))) == 1
    chosen = jax.tree.map(lambda a, b: jnp.where(accepted, a, b), new.state, old.state)
    return _recorded(chosen, accepted, jnp.where(accepted, new.log_density, old.log_density))


def _recorded(state: State, accepted: Any, log_density: Any) -> State:
    deterministic("accepted", accepted)
    deterministic("log_density", log_density)
    return state


def _scored(program: Program, nested: dict[str, Any], masks: dict[str, Any]) -> Run:
    run = _run(program, Score(), nested)
    return run._replace(state=State(run.state.choices, masks)) if not masks else run


def _run(program: Program, handler: Handler, reads: dict[str, Any]) -> Run:
    staged = program.staged
    _, result = program.run(handler, reads)
    latent = {a: w for a, w in result.writes.items() if staged.table[a].site.kind == "latent"}
    values = ch.flatten({a: w.value for a, w in latent.items()}, staged, ("latent",))
    made = {a: _made(result.masks.get(a), w.log_law) for a, w in latent.items()}
    state = State(values, ch.spread(result.masks, staged))
    return Run(state, result.total, {a: w.log_law for a, w in latent.items()}, made)


def _made(mask: Any, like: Any) -> Any:
    """Which elements were made: the mask (of the leading axes) over all axes of loops, lanes and batch."""
    if mask is None:
        return jnp.ones(like.shape, bool)
    return jnp.broadcast_to(mask.reshape(*mask.shape, *(1,) * (like.ndim - mask.ndim)), like.shape)


def _leading(made: Any, program: Program, address: str) -> Any:
    """Whether a site was made, with the axes of loops and lanes only."""
    entry = program.staged.table[address]
    leading = len(entry.infos[0].shape) - len(entry.signature.avals[0].shape)
    return made.reshape(*made.shape[:leading], -1).all(axis=-1)


def _pick(made: dict[str, Any]) -> dict[str, Any]:
    """Pick one of the executions uniformly; True at the picked element."""
    flat = jnp.concatenate([flags.reshape(-1) for flags in made.values()])
    count = jnp.sum(flat)
    weights = (flat | (count == 0)).astype(jnp.result_type(float))
    index = sample("pick", dist.Categorical(probs=weights / jnp.sum(weights)))
    picked, start = {}, 0
    for address, flags in made.items():
        size = math.prod(flags.shape)
        picked[address] = (jnp.arange(start, start + size) == index).reshape(flags.shape) & flags
        start += size
    return picked


def _log_accept(old: Run, new: Run, picked: dict[str, Any], log_ratio: Callable[[Ratio], Any]) -> Any:
    """Log of the acceptance probability; a move to density zero (or NaN) is never accepted, one away from it always."""
    gone = {a: old.made[a] & (picked[a] | ~new.made[a]) for a in old.made}
    come = {a: new.made[a] & (picked[a] | ~old.made[a]) for a in new.made}
    ratio = log_ratio(
        Ratio(
            target=new.log_density - old.log_density,
            count=jnp.log(old.executions) - jnp.log(new.executions),
            removed=_sum_where(gone, old.log_law),
            added=-_sum_where(come, new.log_law),
        )
    )
    bounded = jnp.where(old.log_density == -jnp.inf, 0.0, jnp.minimum(ratio, 0.0))
    possible = (new.log_density > -jnp.inf) & ~jnp.isnan(bounded)
    return jnp.where(possible, bounded, -jnp.inf)


def _sum_where(flags: dict[str, Any], terms: dict[str, Any]) -> Any:
    return sum(jnp.sum(jnp.where(flags[a], terms[a], 0.0)) for a in flags)


# --- the method ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MH:
    """Single-site trace Metropolis-Hastings, for any program; slow to mix where many choices are correlated.

    Args:
        thin: Steps for each draw, warm-up draws included. A step changes one choice; by default a draw is a sweep: as
            many steps as the program has elements of choices, at most 100.

    `ppl.infer(program, ppl.MH(), key=0, chains=4, warmup=1000, draws=1000)` shows the defaults. `stats` holds
    `accepted` and `log_density` of each draw, `diagnostics` the mean `acceptance`.
    """

    thin: int | None = None

    def __post_init__(self) -> None:
        if self.thin is not None:
            positive("thin", self.thin)

    def run(self, program: Program, key: PRNGKey, settings: Settings) -> Posterior:
        """Start from the prior, run the chains, throw the warm-up away."""
        thin = _sweep(program) if self.thin is None else self.thin
        return MCMC(trace_mh_kernel, thin, "MH").run(program, key, settings)


MOST_STEPS = 100
"""The most steps that a draw takes by default."""


def _sweep(program: Program) -> int:
    """As many steps as there are elements of choices, between 1 and `MOST_STEPS`."""
    elements = sum(math.prod(info.shape) for info in ch.latent_infos(program.staged).values())
    return min(max(elements, 1), MOST_STEPS)
