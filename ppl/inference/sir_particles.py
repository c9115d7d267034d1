"""The particles of SIR, inside the model being traced: proposed, or retained from a run that is given.

    weight = density of what is given and proposed / density of the proposal

Choices that the program draws from its own measure cancel.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ppl.inference.sir_proposal import Proposal
from ppl.semantics import choices as ch
from ppl.semantics import scope
from ppl.semantics.lanes import vmap
from ppl.semantics.opening import Opens, minus
from ppl.semantics.program import Program
from ppl.semantics.protocol import Choices


class Particle(NamedTuple):
    """All choices of the program; log density over log proposal; log density of what was drawn, where it was (nats)."""

    choices: Choices
    log_weight: Any
    log_proposal: Any


def proposed(program: Program, proposal: Proposal | None, kept: Choices, within: str = "proposal") -> Particle:
    """One particle: auxiliary choices from the proposal (its addresses under `within`), the rest from the program."""
    if proposal is None:
        return _completed(program, kept, jnp.zeros((), jnp.result_type(float)))
    with scope.under(within):
        choices, log_proposal = _drawn_from(proposal(kept))
    return _completed(program, {**kept, **choices}, log_proposal)


def _drawn_from(proposal: Program) -> tuple[Choices, Any]:
    """The choices of a proposal and their log density; its observations and factors count for nothing."""
    _, result = proposal.run(Opens(drawn_only=True))
    return ch.flatten(result.writes, proposal.staged, ("latent",)), result.total.log_density


def _completed(program: Program, given: Choices, log_proposal: Any) -> Particle:
    staged = program.staged
    nested = ch.checked(given, staged, "propose")
    _, result = program.run(Opens(free_sites(program, tuple(given))), nested)
    choices = ch.flatten(result.writes, staged, ("latent",))
    scores = result.total
    return Particle(choices, minus(scores.log_weight, log_proposal), log_proposal + scores.log_free)


def retained(program: Program, proposal: Proposal | None, kept: Choices, run: Choices, scores: Any) -> Particle:
    """The particle that a run of the program is: its choices, weighed by the proposal's density of them.

    Args:
        program: The program.
        proposal: The proposal.
        kept: The choices that the proposal is given.
        run: All choices.
        scores: The log densities of the run, by `Opens(free_sites(...))`.
    """
    log_proposal = jnp.zeros((), jnp.result_type(float))
    if proposal is not None:
        reverse = proposal(kept)
        given = ch.checked({a: run[a] for a in proposal.covered}, reverse.staged, "score")
        with scope.under("retained"):
            log_proposal = reverse.run(Opens(drawn_only=True), given)[1].total.log_density
    return Particle(run, minus(scores.log_weight, log_proposal), log_proposal + scores.log_free)


def free_sites(program: Program, given: tuple[str, ...]) -> frozenset[str]:
    """The sites whose choices the program draws from its own measure: neither kept nor proposed."""
    latent = ((a, entry) for a, entry in program.staged.table.items() if entry.site.kind == "latent")
    return frozenset(a for a, entry in latent if not any(info.address in given for info in entry.infos))


def others(program: Program, proposal: Proposal | None, kept: Choices, count: int, address: str) -> Particle:
    """Particles side by side, a leading axis everywhere."""
    with scope.under(address):
        return vmap(lambda: proposed(program, proposal, kept), axis_size=count)()


def with_first(first: Particle, rest: Particle | None) -> Particle:
    """A particle in front of the others."""
    if rest is None:
        return jax.tree.map(lambda x: jnp.asarray(x)[None], first)
    return jax.tree.map(lambda x, y: jnp.concatenate([jnp.asarray(x)[None], y]), first, rest)
