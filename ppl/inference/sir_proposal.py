"""Proposals of auxiliary choices: from the kept choices to a program over the others, as a pytree.

A function may close over traced values (parameters of a guide, above all); they are found by tracing it and become
leaves, so that the measure it belongs to can be a site of any program.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.core import Tracer

from ppl.errors import AddressError
from ppl.semantics import choices as ch
from ppl.semantics.jaxpr import Code, as_function, stage
from ppl.semantics.program import Program
from ppl.semantics.staging import Arguments, merge, partition

Kept = dict[str, Any]


@jax.tree_util.register_pytree_node_class
class Proposal:
    """A program over auxiliary choices, given the kept ones; `covered` are the addresses that it proposes."""

    def __init__(self, dynamic: tuple[Any, ...], arguments: Arguments, covered: tuple[str, ...]) -> None:
        self.dynamic = dynamic
        self.arguments = arguments
        self.covered = covered

    def tree_flatten(self) -> tuple[tuple[Any, ...], Any]:
        """Arrays are the children."""
        return self.dynamic, (self.arguments, self.covered)

    @classmethod
    def tree_unflatten(cls, static: Any, dynamic: tuple[Any, ...]) -> "Proposal":
        """Rebuild from leaves."""
        return cls(tuple(dynamic), *static)

    def __call__(self, kept: Kept) -> Program:
        """The program at the kept choices."""
        return _at(merge(self.dynamic, self.arguments), kept)


def proposal_of(made: Any, program: Program, kept: tuple[str, ...]) -> Proposal | None:
    """What a user gave as proposal: None, a program, or a function from the kept choices to one.

    Args:
        made: The proposal.
        program: The program whose choices it proposes.
        kept: The addresses that are given.

    Raises:
        AddressError: it proposes what the program does not make always, or what is kept; or a site of several choices
            is kept and proposed in part.
        TypeError: it is no program, and no function that returns one.
    """
    if made is None:
        _refuse_split(program, kept)
        return None
    like = ch.values_like(program.staged, kept)
    covered, made = _looked_at(made, like)
    _check(covered, program, kept)
    _refuse_split(program, (*kept, *covered))
    dynamic, arguments = partition(made, "proposal")
    return Proposal(dynamic, arguments, covered)


def _at(made: Any, kept: Kept) -> Program:
    program = made if isinstance(made, Program) else made(kept)
    if not isinstance(program, Program):
        raise TypeError(
            f"The proposal returned a {type(program).__name__}.\n"
            "Expected: a Program over the auxiliary choices. Fix: call the model with its arguments, "
            'for example ppl.SIR(10, lambda kept: reverse(kept["x"])).'
        )
    return program


def _looked_at(made: Any, like: Kept) -> tuple[tuple[str, ...], Any]:
    """The addresses that a proposal covers, and the proposal without hidden tracers."""
    if not isinstance(made, Program) and not callable(made):
        raise TypeError(
            f"The proposal of ppl.SIR is a {type(made).__name__}.\n"
            "Expected: a Program, a function from the kept choices (a dict) to one, or None."
        )
    found = []

    def look(kept: Kept) -> Program:
        program = _at(made, kept)
        found.append(tuple(ch.latent_infos(program.staged)))
        return program

    staged = stage(look, like)
    hidden = not isinstance(made, Program) and any(isinstance(const, Tracer) for const in staged.code.consts)
    return found[0], Closed(staged.code.consts, (staged.code.jaxpr, staged.out_tree)) if hidden else made


@jax.tree_util.register_pytree_node_class
class Closed:
    """A function from kept choices to a program, traced; what it closed over are its leaves."""

    def __init__(self, consts: tuple[Any, ...], static: Any) -> None:
        self.consts = consts
        self.static = static

    def tree_flatten(self) -> tuple[tuple[Any, ...], Any]:
        """The constants are the children."""
        return self.consts, self.static

    @classmethod
    def tree_unflatten(cls, static: Any, consts: tuple[Any, ...]) -> "Closed":
        """Rebuild from leaves."""
        return cls(tuple(consts), static)

    def __call__(self, kept: Kept) -> Program:
        """The program at the kept choices."""
        jaxpr, out_tree = self.static
        run: Callable[..., list[Any]] = as_function(Code(jaxpr, self.consts))
        return jax.tree.unflatten(out_tree, run(*jax.tree.leaves(kept)))


def _refuse_split(program: Program, given: tuple[str, ...]) -> None:
    """A site of several choices (a marginal, say) has a joint density alone: no part of it can be drawn anew."""
    for entry in program.staged.table.values():
        names = [info.address for info in entry.infos]
        missing = [a for a in names if a not in given]
        if entry.site.kind == "latent" and missing and len(missing) < len(names):
            raise AddressError(
                f"The site {entry.site.address!r} ({entry.site.source}) of the program {program.name!r} is one choice "
                f"over {names}, of which {missing} are neither kept nor proposed.\n"
                "Expected: all of them or none.\n"
                f"Fix: propose {missing} too, ppl.SIR(n, proposal); or marginalise the program behind the site."
            )


def _check(covered: tuple[str, ...], program: Program, kept: tuple[str, ...]) -> None:
    infos = ch.latent_infos(program.staged)
    free = [a for a, info in infos.items() if a not in kept and not info.masked]
    strange = [a for a in covered if a not in free]
    if not strange:
        return
    place = {a: f"{a!r} ({infos[a].source})" if a in infos else repr(a) for a in strange}
    raise AddressError(
        f"The proposal makes the choices {', '.join(place.values())}, for which the program {program.name!r} has no "
        f"use.\nExpected: some of {', '.join(map(repr, free)) or 'none'}: the choices that are not kept and that every "
        "run makes (none in a branch).\n"
        "Fix: leave them out; what the proposal lacks is drawn from the program itself. Choices of the proposal's own "
        "go with .marginal(addresses, ppl.SIR(n))."
    )
