"""Which density terms some choices reach: forward through a jaxpr, along what depends on them.

    reach(jaxpr, inputs, block) = the addresses of the terms, and the outputs, that may change with the block's choices

A fixed choice stops the walk: its own term is reached, its value stays. Loops, branches and lanes are walked inside: a
term in a body counts as reached where any step, branch or lane reaches it. The answer may name too much, never too
little. The walk touches only the equations that it reaches, whatever the size of the program.
"""

import heapq
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from ppl.semantics import jaxpr as jp
from ppl.semantics.table import addresses_in

Block = frozenset[str]


class Reach(NamedTuple):
    """What depends on a block of choices.

    Attributes:
        outs: For each output of the code, whether it depends on the block.
        terms: The addresses of the density terms that do, the block's own included.
        switched: The addresses inside branches that the block chooses between.
    """

    outs: list[bool]
    terms: frozenset[str]
    switched: frozenset[str] = frozenset()


class Graph(NamedTuple):
    """A jaxpr's equations by what they read and make: who reads a variable, who makes it, who holds a site."""

    readers: dict[Any, list[int]]
    maker: dict[Any, int]
    holder: dict[str, int]


@lru_cache(maxsize=4096)
def graph_of(jaxpr: Any) -> Graph:
    """Read the graph off a jaxpr."""
    graph = Graph({}, {}, {})
    for index, equation in enumerate(jaxpr.eqns):
        for atom in equation.invars:
            if not jp.is_literal(atom):
                graph.readers.setdefault(atom, []).append(index)
        graph.maker.update(dict.fromkeys(equation.outvars, index))
        graph.holder.update(dict.fromkeys(held(equation), index))
    return graph


def held(equation: Any) -> frozenset[str]:
    """The addresses of the sites that an equation is or holds."""
    if equation.primitive in jp.SITES:
        return frozenset({equation.params["site"].address})
    if not jp.has_sites(equation):
        return frozenset()
    return frozenset().union(*(addresses_in(code.jaxpr) for code in jp.inner_codes(equation)))


def reach(jaxpr: Any, inputs: Sequence[bool], block: Block) -> Reach:
    """The terms and outputs that depend on some inputs or on the block's choices inside.

    Args:
        jaxpr: An open jaxpr.
        inputs: For each constant and input, whether it depends on the block.
        block: Site addresses; those that the jaxpr lacks do not matter.
    """
    graph, terms, switched = graph_of(jaxpr), set(), set()
    variables = (*jaxpr.constvars, *jaxpr.invars)
    tainted = {var for var, flag in zip(variables, inputs, strict=True) if flag}
    queue = Queue(graph, tainted, block)
    for index in queue:
        equation = jaxpr.eqns[index]
        found = equation_reach(equation, [_is_in(atom, tainted) for atom in equation.invars], block)
        terms |= found.terms
        switched |= found.switched
        fresh = {var for var, flag in zip(equation.outvars, found.outs, strict=True) if flag}
        tainted |= fresh
        queue.read(fresh)
    return Reach([_is_in(atom, tainted) for atom in jaxpr.outvars], frozenset(terms), frozenset(switched))


class Queue:
    """The equations to visit, each once, in program order: those that hold the block, and readers of what changed."""

    def __init__(self, graph: Graph, tainted: Iterable[Any], block: Block) -> None:
        self.graph = graph
        self.heap = sorted({graph.holder[address] for address in block if address in graph.holder})
        self.read(tainted)

    def read(self, variables: Iterable[Any]) -> None:
        """Visit the readers of these variables too."""
        for var in variables:
            for index in self.graph.readers.get(var, ()):
                heapq.heappush(self.heap, index)

    def __iter__(self) -> Any:
        """The next equations; readers always come after what they read."""
        last = -1
        while self.heap:
            index = heapq.heappop(self.heap)
            if index != last:
                last = index
                yield index


def _is_in(atom: Any, variables: set[Any]) -> bool:
    return not jp.is_literal(atom) and atom in variables


# --- one equation ----------------------------------------------------------------------------------------------------


def equation_reach(equation: Any, inputs: Sequence[bool], block: Block) -> Reach:
    """The terms inside an equation, and its outputs, that depend on some operands or on the block."""
    rule = _RULES.get(equation.primitive.name)
    if rule is None and not jp.has_sites(equation):
        return Reach([any(inputs)] * len(equation.outvars), frozenset())
    return (rule or _body)(equation, inputs, block)


def _sample(equation: Any, inputs: Sequence[bool], block: Block) -> Reach:
    address, count = equation.params["site"].address, equation.params["signature"].num_leaves
    chosen = address in block
    # A choice's value depends on nothing but itself; an observation's on the operands that hold it.
    outs = [chosen] * len(equation.outvars) if len(inputs) == count else list(inputs[count:])
    return Reach(outs, frozenset({address} if chosen or any(inputs) else ()))


def _factor(equation: Any, inputs: Sequence[bool], block: Block) -> Reach:
    del block
    return Reach([], frozenset({equation.params["site"].address} if any(inputs) else ()))


def _deterministic(equation: Any, inputs: Sequence[bool], block: Block) -> Reach:
    del equation, inputs, block
    return Reach([], frozenset())


def _body(equation: Any, inputs: Sequence[bool], block: Block) -> Reach:
    return reach(jp.inner_codes(equation)[0].jaxpr, inputs, block)


def _scan(equation: Any, inputs: Sequence[bool], block: Block) -> Reach:
    loop, flags = jp.loop_of(equation), list(inputs)
    carried = slice(loop.num_consts, loop.num_consts + loop.num_carry)
    while True:
        found = reach(loop.body.jaxpr, flags, block)
        grown = [old or new for old, new in zip(flags[carried], found.outs[: loop.num_carry], strict=True)]
        if grown == flags[carried]:
            return found._replace(outs=[*grown, *found.outs[loop.num_carry :]])
        flags[carried] = grown


def _cond(equation: Any, inputs: Sequence[bool], block: Block) -> Reach:
    index, *flags = inputs
    if index:
        inside = held(equation)
        return Reach([True] * len(equation.outvars), inside, inside)
    found = [reach(code.jaxpr, flags, block) for code in jp.inner_codes(equation)]
    outs = [any(flags) for flags in zip(*(branch.outs for branch in found), strict=True)]
    return Reach(outs, _union(b.terms for b in found), _union(b.switched for b in found))


def _union(sets: Iterable[frozenset[str]]) -> frozenset[str]:
    return frozenset().union(*sets)


def _while(equation: Any, inputs: Sequence[bool], block: Block) -> Reach:
    del block
    return Reach([any(inputs)] * len(equation.outvars), held(equation) if any(inputs) else frozenset())


_RULES = {
    "sample": _sample,
    "factor": _factor,
    "deterministic": _deterministic,
    "scan": _scan,
    "cond": _cond,
    "while": _while,
}
"""What depends on what, by primitive; of any other equation with sites inside, the body is walked."""
