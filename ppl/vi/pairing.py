"""A model and a guide at some parameters, and the model's density at the guide's choices.

A model is a program, or a function `(params, *args) -> program`; a guide is such a function. Random subsets of the
model (`ppl.plate(..., subsample_size=)`) that the guide lacks are drawn from the model: their density is 1, and the
scaled plate makes the log density an unbiased estimate of that of all the data.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from ppl.distributions.subset import RandomSubset
from ppl.errors import AddressError
from ppl.semantics.binding import bind_sample
from ppl.semantics.choices import latent_infos
from ppl.semantics.program import Program
from ppl.semantics.protocol import Choices
from ppl.semantics.rewrites import placed
from ppl.semantics.table import Entry
from ppl.vi.supports import Direction, refuse_unnested

Maker = Callable[..., Program]
"""A function `(params, *args) -> program`."""


class Pair(NamedTuple):
    """A model and a guide at the same parameters."""

    model: Program
    guide: Program


def paired(model: Program | Maker, guide: Program | Maker, params: Any, args: tuple[Any, ...]) -> Pair:
    """Both at some parameters.

    Raises:
        TypeError: one of them is no program there.
    """
    return Pair(program_at(model, "model", params, args), program_at(guide, "guide", params, args))


def program_at(maker: Program | Maker, role: str, params: Any, args: tuple[Any, ...]) -> Program:
    """The program that a model or guide is at some parameters (a `Program` has none, and is what it is)."""
    made = maker if isinstance(maker, Program) else maker(params, *args)
    if not isinstance(made, Program):
        raise TypeError(
            f"The {role} {getattr(maker, '__name__', maker)!r} returned a {type(made).__name__}.\n"
            f"Expected: a program. Decorate the {role} with @ppl.model."
        )
    return made


def missing_subsets(model: Program, proposal: Program) -> Choices:
    """A draw of each random subset of the model that the proposal does not make; binds sites of the objective.

    Args:
        model: The program that is to be scored.
        proposal: The program whose choices it is to be scored at.

    Raises:
        AddressError: a choice of the model that is no random subset is missing.
    """
    table, known = model.staged.table, latent_infos(model.staged)
    made = latent_infos(proposal.staged)
    laws = {address: _subset(table.get(address)) for address in known if address not in made}
    lost = [address for address, law in laws.items() if law is None]
    if lost:
        raise AddressError(
            f"The guide {proposal.name!r} makes no choice at "
            f"{', '.join(f'{a!r} ({known[a].source})' for a in lost)} of the model {model.name!r}; it makes "
            f"{', '.join(map(repr, made)) or 'none'}.\n"
            "Expected: a guide over every latent choice of the model (random subsets of plates apart).\n"
            "Fix: add the choice to the guide, or sum it out of the model with model.marginal(addresses)."
        )
    return {address: bind_sample(placed(table[address].site), law) for address, law in laws.items()}


def _subset(entry: Entry | None) -> Any:
    """The law of a random subset, one for each lane or loop step around the site; None for any other choice."""
    if entry is None or entry.signature.num_leaves:
        return None
    law = jax.tree.unflatten(entry.signature.measure_tree, [])
    if not isinstance(law, RandomSubset):
        return None
    around = entry.infos[0].shape[:-1]
    return law.expand(around) if around else law


def refuse_supports(target: Program, proposal: Program, direction: Direction) -> None:
    """Raise a `StrategyError` where supports do not nest; measures over several addresses are not looked at."""
    for program in (target, proposal):
        if any(a not in program.staged.table for a in latent_infos(program.staged)):
            return
    refuse_unnested(proposal, target, direction)
