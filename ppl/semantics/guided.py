"""`ppl.guided`: a program whose choices are drawn from a proposal, with the weights that make up for it.

    x ~ q(. | what the proposal has made so far),  weight p(x | what the program has made so far) / q(x)

Law: the measure is the program's, over the same addresses, wherever q covers p. So SMC on it *is* the guided filter,
and every other algorithm (particle Gibbs, PMMH, SMC^2) has proposals for free. A choice that the proposal makes where
the program makes it stays one site (`Proposed`: the program's density, the proposal's draws); one that it makes at
another place is drawn there, and weighed where the program comes to it.
"""

from typing import Any, NamedTuple

import jax
import numpyro.distributions as dist
from jax import lax

from ppl.distributions.proposed import Proposed
from ppl.errors import AddressError, BranchError, ShapeError
from ppl.semantics import jaxpr as jp
from ppl.semantics.binding import bind_sample
from ppl.semantics.choices import latent_infos
from ppl.semantics.extended import extended
from ppl.semantics.interpreter import sample_site, split
from ppl.semantics.lanes import vmap
from ppl.semantics.opening import density_of, drawn
from ppl.semantics.program import Program
from ppl.semantics.protocol import Choices, Outcome, Position, SampleSite
from ppl.semantics.rewrites import Rewrite, bind_again, placed
from ppl.semantics.site import Site
from ppl.semantics.walks import Walk, always_made, interpreted, latent_in


class Ahead(NamedTuple):
    """A choice that the proposal has made already, and its log density there (nats)."""

    value: Any
    log_proposal: Any


def guided(program: Program, proposal: Program, backward: Program | None = None) -> Program:
    r"""The same measure, with choices drawn from a proposal.

    $p(x) = q(x) \cdot p(x)/q(x)$ choice by choice, in the order of the programs: each choice is drawn from the
    proposal and weighed by its density in the program over its density in the proposal.

    Args:
        program: The program.
        proposal: A program over some of its latent addresses; the others are drawn from the program. Loops of the same
            length are walked in lockstep, step by step, and so are branches and lanes; a step of the proposal may look
            at the step's observation and at its own earlier choices. Its observations and factors neither weigh nor
            move its draws.
        backward: Where the proposal makes choices u of its own: a program over them, given the program's choices, which
            it reads at their addresses (`extended`). Its law r(u | x) matters for the weights' variance only; the best
            one is the proposal's law of u given x.

    Returns:
        A program over the same addresses (and those of u), with the same value.

    Raises:
        AddressError: no latent address is shared, the proposal makes choices that neither the program nor `backward`
            makes, or a marginal stands against choices at sites of their own.
        ShapeError: a choice has another shape or dtype in the proposal (loops of different lengths, for one).
        BranchError: the proposal makes a choice in some branches only, at a place where the program needs it in all.

    Examples:
        >>> import jax, jax.numpy as jnp, ppl, ppl.distributions as dist
        >>> @ppl.model
        ... def rain(y):
        ...     x = ppl.sample("x", dist.Normal(0.0, 1.0))
        ...     ppl.sample("y", dist.Normal(x, 0.1), obs=y)
        ...     return x
        >>> @ppl.model
        ... def near(y):
        ...     ppl.sample("x", dist.Normal(y / 1.01, 0.0995))
        >>> program = ppl.guided(rain(jnp.array(2.0)), near(jnp.array(2.0)))
        >>> weights = [program.simulate(seed).log_weight for seed in range(3)]
        >>> bool(jnp.ptp(jnp.array(weights)) < 1e-2)
        True

    Reference:
        Doucet, Godsill, Andrieu, "On sequential Monte Carlo sampling methods for Bayesian filtering", Statistics and
        Computing 10 (2000), section II; Lew et al., "SMCP3", AISTATS 2023.
    """
    program = program if backward is None else extended(program, backward)
    _check(program, proposal)
    return Program.of(_guided, (program, proposal))


def _guided(program: Program, proposal: Program) -> Any:
    model = Walk(program.staged.code, program.dynamic)
    zipped(model, Walk(proposal.staged.code, proposal.dynamic), {})
    return jax.tree.unflatten(program.staged.out_tree, model.outs)


# --- what must fit ----------------------------------------------------------------------------------------------------


def _check(program: Program, proposal: Program) -> None:
    mine, theirs = latent_infos(program.staged), latent_infos(proposal.staged)
    if not theirs.keys() & mine.keys():
        raise AddressError(
            f"The proposal {proposal.name!r} shares no latent address with the program {program.name!r}.\n"
            f"The proposal's: {list(theirs)}. The program's: {list(mine)}.\n"
            "Fix: give its choices the program's addresses."
        )
    if extra := [a for a in theirs if a not in mine]:
        raise _extra(program, proposal, extra)
    for address, other in theirs.items():
        if ((info := mine[address]).shape, info.dtype) != (other.shape, other.dtype):
            raise ShapeError(
                f"The choice {address!r} has shape {other.shape} and dtype {other.dtype} in the proposal "
                f"{proposal.name!r} ({other.source}), but shape {info.shape} and dtype {info.dtype} in the program "
                f"{program.name!r} ({info.source}).\n"
                "Expected: the same. Likely causes: loops of different lengths, a vector where the program draws a "
                "number, another kind of distribution.\nFix: walk loops of the program's length, on the same data."
            )
    _check_sites(_sites_of(program), _sites_of(proposal))


def _check_sites(mine: dict[str, Site], theirs: dict[str, Site]) -> None:
    for address, site in theirs.items():
        if site.address != (other := mine[address]).address:
            raise AddressError(
                f"The choice {address!r} is drawn by the site {site.address!r} ({site.source}) of the proposal, and by "
                f"the site {other.address!r} ({other.source}) of the program.\n"
                "Expected: the same site. A marginal or a normalised program is one site, with all its choices.\n"
                "Fix: propose with the program that was marginalised, and give ppl.guided a `backward` program over "
                "what was summed out; or use ppl.Importance(n, proposal), which takes marginals."
            )


def _sites_of(program: Program) -> dict[str, Site]:
    latent = (entry for entry in program.staged.table.values() if entry.site.kind == "latent")
    return {info.address: entry.site for entry in latent for info in entry.infos}


def _extra(program: Program, proposal: Program, extra: list[str]) -> AddressError:
    infos = proposal.sites
    where = ", ".join(f"{a!r} ({infos[a].source})" for a in extra)
    kinds = {a: program.sites[a].kind for a in extra if a in program.sites}
    fix = "Fix: give ppl.guided a `backward` program over these addresses, which may read the program's choices."
    if kinds:
        fix = f"In the program they are {', '.join(sorted(set(kinds.values())))}: condition the proposal on them too."
    return AddressError(
        f"The proposal {proposal.name!r} has choices that the program {program.name!r} does not make: {where}.\n"
        f"Their density has no counterpart in the program; weights without one are not those of the program.\n{fix}"
    )


# --- walking both -----------------------------------------------------------------------------------------------------


class Draws(Rewrite):
    """Draw the proposal's choices where it makes them; writes an `Ahead` for each. Nothing else of it remains."""

    def site(self, node: SampleSite, read: Any) -> Any:
        """Unused: `sample` says it all."""
        raise NotImplementedError

    def sample(self, node: SampleSite, read: Any, where: Position) -> Outcome:
        """An observed value stays; a choice is drawn."""
        del read, where
        if node.observed is not None:
            return Outcome(node.observed, ())
        ahead = Ahead(*drawn(node))
        return Outcome(ahead.value, (), ahead)

    def factor(self, site: Site, log_weight: Any, where: Position) -> Outcome:
        """The proposal's factors do not weigh."""
        del site, log_weight, where
        return Outcome(None, ())

    def deterministic(self, site: Site, value: Any, where: Position) -> Outcome:
        """What the proposal records is dropped."""
        del site, value, where
        return Outcome(None, ())


class Weighs(Rewrite):
    """The program, with the choices that were made ahead (its reads): they are weighed where it comes to them."""

    def site(self, node: SampleSite, read: Ahead | None) -> Any:
        """Bind a choice again, or weigh the one made ahead."""
        if read is None or node.observed is not None:
            return bind_again(node)
        site = node.site._replace(address=f"{node.address}/proposal", kind="factor", plates=())
        jp.factor_p.bind(density_of(node, read.value) - read.log_proposal, site=placed(site))
        return read.value


def zipped(model: Walk, proposal: Walk, ahead: Choices) -> Choices:
    """Walk both to the end, the program leading; returns every choice that the proposal has made ahead."""
    ahead = dict(ahead)
    while model.current is not None:
        equation, operands = model.current
        needed = (latent_in(equation) & proposal.latent).difference(ahead)
        if _meet(needed, equation, proposal, ahead):
            outs = ZIPPED[equation.primitive.name](equation, operands, proposal, ahead)
        else:
            outs = interpreted(equation, operands, Weighs(), ahead).outs
        model.give(outs)
    while proposal.current is not None:
        _draw(proposal, ahead)
    return ahead


def _meet(needed: frozenset[str], equation: Any, proposal: Walk, ahead: Choices) -> bool:
    """Run the proposal until it has made the needed choices, or stands where it makes all in the program's way."""
    while needed and proposal.current is not None:
        partner, _ = proposal.current
        if needed <= latent_in(partner) and _alike(equation, partner):
            return True
        _draw(proposal, ahead)
        needed = needed.difference(ahead)
    return False


def _draw(proposal: Walk, ahead: Choices) -> None:
    """Run the proposal's current equation; its choices are made ahead."""
    equation, operands = proposal.waiting
    if partial := latent_in(equation) - always_made(equation):
        raise _in_some_branches(partial)
    result = interpreted(equation, operands, Draws(), {})
    ahead.update(result.writes)
    proposal.give(result.outs)


def _in_some_branches(addresses: frozenset[str]) -> BranchError:
    return BranchError(
        f"The proposal makes the choice {', '.join(map(repr, sorted(addresses)))} in some branches only, at a place "
        "where the program has no such branch.\n"
        "Expected: branches as in the program, or a choice of that address in every branch of the proposal.\n"
        "Fix: draw it from the program's law in the branches without."
    )


def _alike(mine: Any, theirs: Any) -> bool:
    """Whether two equations can be walked in lockstep."""
    name = mine.primitive.name
    if name != theirs.primitive.name or name not in ZIPPED:
        return False
    if name == "sample":
        return _is_distribution(mine) and _is_distribution(theirs)
    if name == "scan":
        one, other = jp.loop_of(mine), jp.loop_of(theirs)
        return (one.length, one.reverse) == (other.length, other.reverse)
    return name != "lanes" or mine.params["size"] == theirs.params["size"]


def _is_distribution(equation: Any) -> bool:
    data = equation.params["signature"].measure_tree.node_data()
    return data is not None and isinstance(data[0], type) and issubclass(data[0], dist.Distribution)


# --- one equation of both in lockstep: the program's results; the proposal is given its own ---------------------------


def _sample(equation: Any, operands: list[Any], proposal: Walk, ahead: Choices) -> list[Any]:
    """The program's choice with the proposal's draws."""
    del ahead
    theirs, their_operands = proposal.waiting
    node, other = sample_site(equation, operands), sample_site(theirs, their_operands)
    value = bind_sample(placed(node.site), Proposed(node.measure, other.measure))
    leaves = jax.tree.leaves(value)
    proposal.give(leaves)
    return leaves


def _scan(equation: Any, operands: list[Any], proposal: Walk, ahead: Choices) -> list[Any]:
    """One loop with the state of both."""
    theirs, their_operands = proposal.waiting
    mine, other = jp.loop_of(equation), jp.loop_of(theirs)
    consts, init, xs = split(operands, mine.num_consts, mine.num_carry)
    their_consts, their_init, their_xs = split(their_operands, other.num_consts, other.num_carry)
    given, kept = _given(equation, ahead), latent_in(theirs) - latent_in(equation)

    def body(state: Any, inputs: Any) -> Any:
        (carry, their_carry), (x, their_x, made) = state, inputs
        model = Walk(mine.body, (*consts, *carry, *x))
        guide = Walk(other.body, (*their_consts, *their_carry, *their_x))
        left = zipped(model, guide, made)
        after = model.outs[: mine.num_carry], guide.outs[: other.num_carry]
        made_ahead = {address: left[address] for address in sorted(kept)}
        return after, (model.outs[mine.num_carry :], guide.outs[other.num_carry :], made_ahead)

    start, steps = (list(init), list(their_init)), (list(xs), list(their_xs), given)
    (last, their_last), (ys, their_ys, left) = lax.scan(
        body, start, steps, length=mine.length, reverse=mine.reverse, unroll=mine.unroll
    )
    proposal.give([*their_last, *their_ys])
    ahead.update(left)
    return [*last, *ys]


def _lanes(equation: Any, operands: list[Any], proposal: Walk, ahead: Choices) -> list[Any]:
    """Lane by lane."""
    theirs, their_operands = proposal.waiting
    mine, other = equation.params, theirs.params
    given, kept = _given(equation, ahead), latent_in(theirs) - latent_in(equation)

    def lane(args: list[Any], their_args: list[Any], made: Choices) -> Any:
        model, guide = Walk(mine["body"], args), Walk(other["body"], their_args)
        left = zipped(model, guide, made)
        return model.outs, guide.outs, {address: left[address] for address in sorted(kept)}

    axes = ([0 if mapped else None for mapped in params["batched"]] for params in (mine, other))
    outs, their_outs, left = vmap(lane, in_axes=(*axes, 0), axis_size=mine["size"])(operands, their_operands, given)
    proposal.give(their_outs)
    ahead.update(left)
    return outs


def _cond(equation: Any, operands: list[Any], proposal: Walk, ahead: Choices) -> list[Any]:
    """Every branch of the program with every branch of the proposal: each takes its own.

    What the proposal's branch makes and the program's does not is drawn, and integrates to one.
    """
    theirs, their_operands = proposal.waiting
    index, *args = operands
    their_index, *their_args = their_operands
    given, kept = _given(equation, ahead), latent_in(theirs) - latent_in(equation)
    if partial := kept - always_made(theirs):
        raise _in_some_branches(partial)

    def pair(code: jp.Code, other: jp.Code) -> Any:
        def both(args: list[Any], their_args: list[Any], made: Choices) -> Any:
            model, guide = Walk(code, args), Walk(other, their_args)
            left = zipped(model, guide, made)
            return model.outs, guide.outs, {address: left[address] for address in sorted(kept)}

        return both

    def row(branch: Any) -> Any:
        pairs = [pair(jp.code_of(branch), jp.code_of(other)) for other in theirs.params["branches"]]
        return lambda *given: lax.switch(their_index, pairs, *given)

    rows = [row(branch) for branch in equation.params["branches"]]
    outs, their_outs, left = lax.switch(index, rows, args, their_args, given)
    proposal.give(their_outs)
    ahead.update(left)
    return outs


def _given(equation: Any, ahead: Choices) -> Choices:
    """What was made ahead of the choices in an equation."""
    return {address: made for address, made in ahead.items() if address in latent_in(equation)}


ZIPPED = {"sample": _sample, "scan": _scan, "lanes": _lanes, "cond": _cond}
"""How to walk one equation of the program and one of the proposal in lockstep."""
