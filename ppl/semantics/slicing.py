"""Blocks: the program of some of a program's choices, with the others fixed, and only what they reach in it.

    log density of block(program, addresses, choices) at x = log density of the program at (x, choices) + constant

A block holds the density terms that its choices reach, forward through the jaxpr, and of the rest only what those terms
read. Fixed choices whose terms are reached count (`kind="fixed"`); all others are plain values. So a kernel on one of
1,000 independent choices evaluates the terms of one, and the slice is found in time that does not grow with the 1,000.
A block has no return value and records nothing.
"""

import heapq
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import jax

from ppl.errors import AddressError
from ppl.semantics import choices as ch
from ppl.semantics import jaxpr as jp
from ppl.semantics.binding import bind_sample
from ppl.semantics.influence import Block, Queue, Reach, equation_reach, graph_of, held, reach
from ppl.semantics.interpreter import run, run_equations
from ppl.semantics.program import Program
from ppl.semantics.protocol import Choices, Outcome, Position, SampleSite
from ppl.semantics.rewrites import Rewrite, bind_again, placed
from ppl.semantics.site import Site
from ppl.semantics.staging import StagedProgram, unknown_address


def block(program: Program, addresses: str | Sequence[str], choices: Choices, index: Any = None) -> Program:
    """The program of some choices, all others fixed, with only the density terms that those choices reach.

    Args:
        program: Any program without a `while_loop` around a site.
        addresses: The latent addresses of the block.
        choices: Values of the other choices; more than those does no harm, and those not reached may be missing.
        index: For choices inside `ppl.vmap`: the lane (may be traced). The block is then that lane's choice, shaped
            without the axis of lanes, and only that lane is evaluated. The rest may depend on the choice through that
            lane, and through the same lane of other `ppl.vmap`s into which it is mapped; see `has_lanes`.

    Returns:
        A program whose latent choices are the block. Its density is the program's up to a constant.

    Raises:
        AddressError: an address is unknown or not latent, a value that is needed is missing, or there is an `index` and
            the choice is not in a lane of its own.

    Examples:
        >>> import jax, ppl, ppl.distributions as dist
        >>> @ppl.model
        ... def pairs(data):
        ...     for i in range(3):
        ...         x = ppl.sample(f"x{i}", dist.Normal(0.0, 1.0))
        ...         ppl.sample(f"y{i}", dist.Normal(x, 1.0), obs=data[i])
        >>> list(block(pairs(jax.numpy.ones(3)), "x1", {}).sites)
        ['x1', 'y1']
    """
    names = (addresses,) if isinstance(addresses, str) else tuple(addresses)
    sliced = slice_of(program, names, lanes=index is not None)
    if sliced is None:
        raise _no_lanes(program, names)
    missing = [address for address in sliced.values if address not in choices]
    if missing:
        raise AddressError(
            f"The block {list(names)} of {program.name!r} needs the values of {missing}, which were not given.\n"
            "Expected: a value for every latent choice outside the block that its density terms read."
        )
    leaves = tuple(program.dynamic[i] for i in sliced.leaves)
    values = {address: choices[address] for address in sliced.values}
    return Program.of(sliced, (leaves, values) if index is None else (leaves, values, index))


def has_lanes(program: Program, address: str) -> bool:
    """Whether `block(program, address, choices, index=i)` can evaluate one lane alone."""
    return slice_of(program, (address,), lanes=True) is not None


def switched(program: Program, addresses: Sequence[str]) -> list[str]:
    """The latent addresses that some runs make and others do not, as these choices decide."""
    sliced = slice_of(program, tuple(addresses))
    inside = frozenset() if sliced is None else sliced.reach.switched
    return [a for a in ch.latent_infos(program.staged) if _site(program.staged, a) in inside]


def _no_lanes(program: Program, names: tuple[str, ...]) -> AddressError:
    sources = ", ".join(f"{a!r} ({program.sites[a].source})" for a in names)
    return AddressError(
        f"One lane of {sources} cannot be evaluated alone.\n"
        "Expected: one site inside ppl.vmap (not itself inside a loop or branch) whose lane other terms depend on only "
        "inside that ppl.vmap, or through values mapped into the same lane of another ppl.vmap.\n"
        "Fix: take the block of the whole site (no index), or write what comes after inside ppl.vmap."
    )


# --- the slice -------------------------------------------------------------------------------------------------------


class Kept(NamedTuple):
    """A slice's equations in program order, with the operands that each reads, and which run for one lane alone."""

    equations: tuple[Any, ...]
    operands: tuple[tuple[Any, ...], ...]
    by_lane: frozenset[int]


class Slice:
    """A function from the arrays that a block reads to its sites: what stands behind a block's program.

    Attributes:
        leaves: Which array arguments of the program the block reads.
        values: The flat addresses of the fixed choices that it reads.
        reach: What the block's choices reach.
    """

    def __init__(self, key: Any, staged: StagedProgram, sites: Block, found: Reach, kept: Kept) -> None:
        self.key, self.staged, self.sites, self.reach, self.kept = key, staged, sites, found, kept
        jaxpr, made = staged.code.jaxpr, {var for e in kept.equations for var in e.outvars}
        self.read = {atom for operands in kept.operands for atom in operands if atom not in made}
        self.lane_variables = {var for i in kept.by_lane for var in kept.equations[i].outvars}
        self.leaves = tuple(i for i, var in enumerate(jaxpr.invars) if var in self.read)
        inside = frozenset().union(*(held(equation) for equation in kept.equations)) - sites
        entries = [staged.table[a] for a in staged.table if a in inside and staged.table[a].site.kind == "latent"]
        self.values = tuple(info.address for entry in entries for info in entry.infos)
        self.entries = {entry.site.address: entry for entry in entries}

    @property
    def __name__(self) -> str:
        """The name shown in messages."""
        return f"block {'+'.join(sorted(self.sites))}"

    def __eq__(self, other: object) -> bool:
        """Slices of equal programs at equal addresses are equal."""
        return isinstance(other, Slice) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __call__(self, leaves: tuple[Any, ...], values: Choices, index: Any = None) -> None:
        """Bind the sites of the block."""
        code = self.staged.code
        environment = {v: c for v, c in zip(code.jaxpr.constvars, code.consts, strict=True) if v in self.read}
        environment.update({code.jaxpr.invars[i]: leaf for i, leaf in zip(self.leaves, leaves, strict=True)})
        reads = {a: _nested(entry, values) for a, entry in self.entries.items()}
        handler = Restrict(self.sites, self.reach.terms)
        for position, equation in enumerate(self.kept.equations):
            if position in self.kept.by_lane:
                self._run_lane(equation, environment, handler, reads, index)
            elif is_value(equation, handler.wanted):
                environment.update(zip(equation.outvars, _leaves(equation, environment, reads), strict=True))
            else:
                run_equations([equation], environment, handler, reads)

    def _run_lane(self, equation: Any, environment: Any, handler: "Restrict", reads: Choices, index: Any) -> None:
        """Run the body of a `lanes` equation for one lane; the environment then holds that lane of its outputs."""
        picked = []
        for atom, mapped in zip(equation.invars, equation.params["batched"], strict=True):
            operand = jp.read(environment, atom)
            whole = mapped and (jp.is_literal(atom) or atom not in self.lane_variables)
            picked.append(operand[index] if whole else operand)
        inside = {a: jax.tree.map(lambda x: x[index], value) for a, value in reads.items() if a in held(equation)}
        result = run(equation.params["body"], picked, handler, inside)
        environment.update(zip(equation.outvars, result.outs, strict=True))


def _nested(entry: Any, values: Choices) -> Any:
    return jax.tree.unflatten(entry.signature.value_tree, [values[info.address] for info in entry.infos])


def _leaves(equation: Any, environment: Any, reads: Choices) -> list[Any]:
    """The value of a choice or observation that is not scored."""
    address, count = equation.params["site"].address, equation.params["signature"].num_leaves
    if address in reads:
        return jax.tree.leaves(reads[address])
    return [jp.read(environment, atom) for atom in equation.invars[count:]]


class Restrict(Rewrite):
    """Keep the block's choices and the terms that it reaches; every other choice becomes its value, unscored."""

    def __init__(self, sites: Block, terms: frozenset[str]) -> None:
        self.sites, self.terms, self.wanted = sites, terms, sites | terms

    def site(self, node: SampleSite, read: Any) -> Any:
        """A choice of the block, a term with a fixed value, or a value."""
        if node.address in self.sites:
            return bind_again(node)
        value = node.observed if read is None else read
        if node.address in self.terms:
            kind = "fixed" if node.observed is None else node.site.kind
            bind_sample(placed(node.site._replace(kind=kind)), node.measure, value)
        return value

    def factor(self, site: Site, log_weight: Any, where: Position) -> Outcome:
        """A factor that is reached."""
        return super().factor(site, log_weight, where) if site.address in self.terms else Outcome(None, ())

    def deterministic(self, site: Site, value: Any, where: Position) -> Outcome:
        """Nothing is recorded."""
        del site, value, where
        return Outcome(None, ())


# --- finding it ------------------------------------------------------------------------------------------------------


class _Staged:
    """A staged program as a key of a cache: equal where the jaxpr is the same object."""

    def __init__(self, staged: StagedProgram) -> None:
        self.staged = staged

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Staged) and other.staged.code.jaxpr is self.staged.code.jaxpr

    def __hash__(self) -> int:
        return id(self.staged.code.jaxpr)


def slice_of(program: Program, addresses: tuple[str, ...], *, lanes: bool = False) -> Slice | None:
    """The slice of a block (cached by the program's structure and shapes); None where lanes do not stand alone."""
    return _slice(_Staged(program.staged), addresses, lanes)


@lru_cache(maxsize=8192)
def _slice(key: _Staged, addresses: tuple[str, ...], lanes: bool) -> Slice | None:  # noqa: FBT001
    staged = key.staged
    ch.refuse_unbounded(staged, "block")
    sites = frozenset(_site(staged, address) for address in addresses)
    jaxpr = staged.code.jaxpr
    if lanes:
        found = lane_reach(jaxpr, sites)
    else:
        found = reach(jaxpr, [False] * (len(jaxpr.constvars) + len(jaxpr.invars)), sites)
    kept = None if found is None else _kept(jaxpr, sites | found.terms, lanes=lanes)
    return None if found is None or kept is None else Slice((key, addresses, lanes), staged, sites, found, kept)


def _site(staged: StagedProgram, address: str) -> str:
    """The site of a flat latent address."""
    known = ch.latent_infos(staged)
    if address not in known:
        info = staged.infos.get(address)
        if info is None:
            raise unknown_address(address, staged.infos, "make a block of")
        raise AddressError(
            f"A block was asked of {address!r} ({info.source}), whose kind is {info.kind!r}.\n"
            f"Expected: latent addresses: {', '.join(map(repr, known)) or 'there are none'}."
        )
    return _owners(_Staged(staged))[address]


@lru_cache(maxsize=256)
def _owners(key: _Staged) -> dict[str, str]:
    return {info.address: site for site, entry in key.staged.table.items() for info in entry.infos}


def lane_reach(jaxpr: Any, sites: Block) -> Reach | None:
    """What one lane of a site reaches, where only that lane of the rest depends on it; else None.

    The walk of `reach`, for one site that a `lanes` equation at the top holds. A variable that depends on the lane may
    be read by `lanes` equations into which it is mapped, and by code that no term depends on.
    """
    graph, terms, aligned, loose = graph_of(jaxpr), set(), set(), set()
    (site,) = sites if len(sites) == 1 else ("",)
    if site not in graph.holder or not _in_lanes_alone(jaxpr.eqns[graph.holder[site]], site):
        return None
    queue = Queue(graph, (), sites)
    for index in queue:
        equation = jaxpr.eqns[index]
        mapped = equation.params["batched"] if equation.primitive is jp.lanes_p else [False] * len(equation.invars)
        inputs = [not jp.is_literal(a) and (a in aligned or a in loose) for a in equation.invars]
        spread = any(f and not (m and a in aligned) for a, f, m in zip(equation.invars, inputs, mapped, strict=True))
        found = equation_reach(equation, inputs, sites)
        if found.switched or (found.terms and spread):
            return None
        terms |= found.terms
        fresh = {var for var, flag in zip(equation.outvars, found.outs, strict=True) if flag}
        (loose if spread or equation.primitive is not jp.lanes_p else aligned).update(fresh)
        queue.read(fresh)
    outs = [not jp.is_literal(a) and (a in aligned or a in loose) for a in jaxpr.outvars]
    return Reach(outs, frozenset(terms))


def _in_lanes_alone(equation: Any, site: str) -> bool:
    """Whether the body of a `lanes` equation holds a site under no further loop or branch."""
    if equation.primitive is not jp.lanes_p:
        return False
    return any(inner.primitive is jp.sample_p and site in held(inner) for inner in equation.params["body"].jaxpr.eqns)


# --- what the terms read ---------------------------------------------------------------------------------------------


def is_value(equation: Any, wanted: frozenset[str]) -> bool:
    """Whether an equation is a choice or observation of which only the value is wanted."""
    return equation.primitive is jp.sample_p and equation.params["site"].address not in wanted


def _operands(equation: Any, wanted: frozenset[str]) -> tuple[Any, ...]:
    """The variables that an equation of a slice reads."""
    start = equation.params["signature"].num_leaves if is_value(equation, wanted) else 0
    return tuple(atom for atom in equation.invars[start:] if not jp.is_literal(atom))


def _kept(jaxpr: Any, wanted: frozenset[str], *, lanes: bool) -> Kept | None:
    """Backward from the terms: the equations that they read; None where a lane is wanted and all lanes are read."""
    graph = graph_of(jaxpr)
    roots = {graph.holder[address] for address in wanted}
    heap, kept, single, whole = sorted(-index for index in roots), {}, set(), set()
    while heap:
        index = -heapq.heappop(heap)
        if index in kept:
            continue
        equation = kept[index] = jaxpr.eqns[index]
        if lanes and equation.primitive is jp.lanes_p and not whole.intersection(equation.outvars):
            single.add(index)
        elif lanes and index in roots:
            return None
        operands = _operands(equation, wanted)
        whole.update(_whole(equation, operands, by_lane=index in single))
        for atom in operands:
            if atom in graph.maker:
                heapq.heappush(heap, -graph.maker[atom])
    order = sorted(kept)
    equations = tuple(kept[index] for index in order)
    by_lane = frozenset(i for i, index in enumerate(order) if index in single)
    return Kept(equations, tuple(_operands(equation, wanted) for equation in equations), by_lane)


def _whole(equation: Any, operands: tuple[Any, ...], *, by_lane: bool) -> list[Any]:
    """The variables of which an equation reads all lanes."""
    if not by_lane:
        return list(operands)
    pairs = zip(equation.invars, equation.params["batched"], strict=True)
    return [atom for atom, mapped in pairs if not mapped and not jp.is_literal(atom)]
