"""A program with further choices behind it, whose law may depend on the program's: `extended(program, further)`.

    p(x) r(u | x):  the measure of the program on x and on its value, whatever r is

What `ppl.guided` makes of a backward program: a proposal with choices u of its own then proposes all of (x, u).
"""

from typing import Any

import jax
from jax import lax

from ppl.errors import AddressError, ShapeError
from ppl.semantics import jaxpr as jp
from ppl.semantics.choices import latent_infos
from ppl.semantics.interpreter import split
from ppl.semantics.program import Program
from ppl.semantics.protocol import Choices, Outcome, Position, SampleSite
from ppl.semantics.rewrites import Rewrite, bind_again
from ppl.semantics.walks import Walk, interpreted, latent_in


def extended(program: Program, further: Program) -> Program:
    """The program followed by the choices of another one, which reads the program's choices at their addresses.

    Args:
        program: The program.
        further: A program over new addresses and over some of the program's latent ones. The latter are *read*: their
            distributions there do not matter. Its loops over both are walked in lockstep with the program's.

    Returns:
        A program over the addresses of both, with the program's value.

    Raises:
        AddressError: an address of `further` is no latent choice of the program, but is one of its sites.
        ShapeError: a choice that is read has another shape or dtype in the program.
    """
    _check(program, further)
    return Program.of(_extended, (program, further))


def _extended(program: Program, further: Program) -> Any:
    model = Walk(program.staged.code, program.dynamic)
    _followed(model, Walk(further.staged.code, further.dynamic), {})
    return jax.tree.unflatten(program.staged.out_tree, model.outs)


def _check(program: Program, further: Program) -> None:
    known = latent_infos(program.staged)
    for address, info in latent_infos(further.staged).items():
        if address in program.sites and address not in known:
            raise AddressError(
                f"{further.name!r} ({info.source}) makes the choice {address!r}, which is "
                f"{program.sites[address].kind} in the program {program.name!r}.\n"
                "Expected: a latent choice of the program, to be read, or a new address."
            )
        mine = known.get(address, info)
        if (mine.shape, mine.dtype) != (info.shape, info.dtype):
            raise ShapeError(
                f"{further.name!r} ({info.source}) reads the choice {address!r} with shape {info.shape} and dtype "
                f"{info.dtype}; the program {program.name!r} ({mine.source}) makes it with {mine.shape} and "
                f"{mine.dtype}.\nExpected: the same. Walk loops of the program's length."
            )


class Records(Rewrite):
    """The program as it is; writes the values of its choices."""

    def sample(self, node: SampleSite, read: Any, where: Position) -> Outcome:
        """Bind the site again."""
        del read, where
        value = bind_again(node)
        return Outcome(value, (), value if node.observed is None else None)


class Reads(Rewrite):
    """The further program: choices that are given are read, the others are made."""

    def site(self, node: SampleSite, read: Any) -> Any:
        """The given value, or a new choice."""
        return bind_again(node) if read is None else read


def _followed(model: Walk, further: Walk, made: Choices) -> Choices:
    """Walk the program, the further one behind it; returns the values of the program's choices."""
    made = dict(made)
    while model.current is not None:
        equation, operands = model.current
        _catch_up(further, made, model)
        if _in_lockstep(equation, further):
            model.give(_scan(equation, operands, further, made))
            continue
        result = interpreted(equation, operands, Records(), {})
        made.update(result.writes)
        model.give(result.outs)
    _catch_up(further, made, model)
    return made


def _catch_up(further: Walk, made: Choices, model: Walk) -> None:
    """Run the further program as far as what it reads is made."""
    while further.current is not None:
        equation, operands = further.current
        if (latent_in(equation) & model.latent).difference(made):
            return
        further.give(interpreted(equation, operands, Reads(), made).outs)


def _in_lockstep(equation: Any, further: Walk) -> bool:
    """Whether the further program waits at a loop over the choices of this one."""
    if further.current is None or equation.primitive.name != "scan":
        return False
    theirs, _ = further.waiting
    if theirs.primitive.name != "scan" or not latent_in(theirs) & latent_in(equation):
        return False
    mine, other = jp.loop_of(equation), jp.loop_of(theirs)
    return (mine.length, mine.reverse) == (other.length, other.reverse)


def _scan(equation: Any, operands: list[Any], further: Walk, made: Choices) -> list[Any]:
    """One loop with the state of both; what was made before it, and is read inside, goes in step by step."""
    theirs, their_operands = further.waiting
    mine, other = jp.loop_of(equation), jp.loop_of(theirs)
    consts, init, xs = split(operands, mine.num_consts, mine.num_carry)
    their_consts, their_init, their_xs = split(their_operands, other.num_consts, other.num_carry)
    given = {address: value for address, value in made.items() if address in latent_in(theirs)}

    def body(state: Any, inputs: Any) -> Any:
        (carry, their_carry), (x, their_x, values) = state, inputs
        model = Walk(mine.body, (*consts, *carry, *x))
        behind = Walk(other.body, (*their_consts, *their_carry, *their_x))
        written = _followed(model, behind, values)
        after = model.outs[: mine.num_carry], behind.outs[: other.num_carry]
        new = {address: written[address] for address in sorted(written.keys() - values.keys())}
        return after, (model.outs[mine.num_carry :], behind.outs[other.num_carry :], new)

    start, steps = (list(init), list(their_init)), (list(xs), list(their_xs), given)
    (last, their_last), (ys, their_ys, new) = lax.scan(
        body, start, steps, length=mine.length, reverse=mine.reverse, unroll=mine.unroll
    )
    made.update(new)
    further.give([*their_last, *their_ys])
    return [*last, *ys]
