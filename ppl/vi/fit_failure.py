"""Which site made a step of a fit fail: the step again, with a look at every choice and every scored program.

The choices of the objective are drawn with the keys of the failed step. What is looked at, in the program's order: the
value of a choice; its log density; the log density of each site of the programs that the objective scores with
`vi.log_density`; then the derivatives of all of these in the parameters. Choices that the step summed out are drawn, so
that a few more keys are tried where the first shows nothing.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ppl.distributions.drawn import law_of_draws
from ppl.semantics.keys import site_key
from ppl.semantics.program import Program
from ppl.semantics.protocol import Handler, Outcome, Position, SampleSite
from ppl.semantics.scoring import draw, total_log_prob
from ppl.semantics.site import Site
from ppl.typing import PRNGKey
from ppl.vi.expectation import Expectation
from ppl.vi.fit_steps import Problem, State, evaluated, updated
from ppl.vi.watching import Watch

EXTRA = 16
"""Keys that are tried beside those of the step."""


class Term(NamedTuple):
    """What is seen of a choice: its log density (nats), and how many of its numbers are not finite."""

    log_density: Any
    bad: Any


class Row(NamedTuple):
    """A site at the failed step: what it is, its log density (nats), and what is wrong with it ("": nothing)."""

    label: str
    log_density: float
    complaint: str


class Look(Handler):
    """Draws every choice as the step did; writes what is seen of it, and what is recorded of scored programs."""

    def __init__(self, key: PRNGKey) -> None:
        self.key = key

    def sample(self, node: SampleSite, read: Any, where: Position) -> Outcome:
        """Draw, and score where there is a density."""
        del read
        value = draw(law_of_draws(node.measure), site_key(self.key, node.address, where.loop), where.lanes)
        floats = [x for x in jax.tree.leaves(value) if jnp.issubdtype(jnp.result_type(x), jnp.inexact)]
        bad = sum((jnp.sum(~jnp.isfinite(x)) for x in floats), jnp.int32(0))
        nested = isinstance(node.measure, Expectation)
        score = jnp.zeros((), jnp.result_type(float)) if nested else total_log_prob(node.measure, value)
        return Outcome(value, (), Term(score, bad))

    def deterministic(self, site: Site, value: Any, where: Position) -> Outcome:
        """Write the value."""
        del site, where
        return Outcome(None, (), value)


def explain(problem: Problem, state: State, key: PRNGKey, step: int) -> str:
    """What is wrong at a step, in words.

    Args:
        problem: What is fitted.
        state: The state of one restart before the step, without an axis of restarts.
        key: The restart's key for the step.
        step: The number of the step.
    """
    args = problem.part(step)
    head = _symptom(problem, state, key, args)
    rows = _rows(problem, state.params, key, args)
    first = next((row for row in rows if row.complaint), None)
    culprit = (
        f"The first site that is not sound: {first.label}: {first.complaint}."
        if first is not None
        else "Every choice, and every program scored with vi.log_density, is sound: look at the objective's own "
        "arithmetic."
    )
    width = max((len(row.label) for row in rows), default=0)
    marks = ("" if not row.complaint else f"   <- {row.complaint}" for row in rows)
    table = (f"  {row.label:<{width}}  {row.log_density:12.5g}{mark}" for row, mark in zip(rows, marks, strict=True))
    return "\n".join([f"{head} at step {step} of the fit.", culprit, "Log density by site, at that step:", *table])


def _symptom(problem: Problem, state: State, key: PRNGKey, args: tuple[Any, ...]) -> str:
    value, grads, _ = evaluated(problem, key, state, args)
    if not np.isfinite(value):
        return f"The value of {problem.objective!r} is {float(value)}"
    if bad := _not_finite(grads):
        return f"The gradient of {problem.objective!r} in {bad} is not finite"
    updates, _ = updated(problem, key, state, args, value, grads)
    bad = _not_finite(jax.tree.map(jnp.add, state.params, updates))
    return f"The optimiser's update of {bad or 'the parameters'} is not finite (a step size that is too large?)"


def _not_finite(tree: Any) -> str:
    """The paths of the leaves that are not finite."""
    found = jax.tree_util.tree_flatten_with_path(tree)[0]
    return ", ".join(jax.tree_util.keystr(path) or "params" for path, x in found if not np.isfinite(x).all())


def _rows(problem: Problem, free: Any, key: PRNGKey, args: tuple[Any, ...]) -> list[Row]:
    watch, labels = Watch(problem.function), []

    def seen(free: Any, key: PRNGKey) -> tuple[Any, Any]:
        program = Program.of(watch, (*problem.bound, eqx.combine(free, problem.fixed), *args))
        found = _flat(program, watch, program.run(Look(key))[1].writes)
        labels[:] = found
        zero = jnp.zeros((), jnp.result_type(float))
        scores = [jnp.sum(term.log_density).astype(zero.dtype) for term in found.values()]
        return jnp.stack([*scores, zero]), jnp.stack([*(jnp.sum(term.bad) for term in found.values()), jnp.int32(0)])

    own = key[None] if problem.copies == 1 else jax.random.split(key, problem.copies)
    keys = jnp.concatenate([own, jax.random.split(key, EXTRA)])
    scores, bad = map(np.asarray, jax.jit(jax.vmap(seen, (None, 0)))(free, keys))
    wrong = (~np.isfinite(scores) | (bad > 0)).any(axis=1)
    chosen = int(np.argmax(wrong))
    sound = [True] * len(labels) if wrong.any() else _sound_slopes(lambda free: seen(free, keys[0])[0], free)
    columns = zip(labels, scores[chosen], bad[chosen], sound, strict=False)
    return [Row(label, float(score), _complaint(score, count, slope)) for label, score, count, slope in columns]


def _flat(program: Program, watch: Watch, writes: dict[str, Any]) -> dict[str, Term]:
    """What was seen, by a label with the address and the line."""
    found: dict[str, Term] = {}
    for address, write in writes.items():
        if address not in watch.scored:
            found[f"{address!r} ({program.staged.table[address].site.source})"] = write
            continue
        name, sites = watch.scored[address]
        for site, score in ((site, write[site]) for site in sites if site in write):
            label = f"{site!r} of {name!r} ({sites[site].source}, {sites[site].distribution or sites[site].kind})"
            while label in found:
                label += "'"
            found[label] = Term(score, jnp.int32(0))
    return found


def _sound_slopes(scores: Any, free: Any) -> list[bool]:
    """Whether each of several functions of the parameters has a finite gradient."""
    rows = [np.isfinite(x).reshape(len(x), -1).all(axis=1) for x in jax.tree.leaves(jax.jit(jax.jacrev(scores))(free))]
    return np.all(rows, axis=0).tolist()


def _complaint(score: Any, bad: Any, sound: bool) -> str:  # noqa: FBT001
    if bad:
        return f"{int(bad)} of its numbers are not finite"
    if not np.isfinite(score):
        return f"its log density is {float(score)}"
    return "" if sound else "its derivative in the parameters is not finite"
