"""Random finite programs for hypothesis: a fixed list of structures, times drawn tables of numbers.

Structures are few because each costs a compilation; their numbers go to the model as arrays. All numbers are dyadic
(multiples of 1/8; weights of 1/4), so sums and products of a few are exact in float64.
"""

from dataclasses import replace
from fractions import Fraction
from itertools import count, cycle
from typing import Any

from hypothesis import strategies as st

from tests.oracle.ast import (
    PROBABILITY,
    ROW,
    SPARSE,
    WEIGHT,
    ZERO,
    Block,
    Branch,
    Cat,
    Expr,
    Flip,
    Loop,
    Observe,
    Program,
    Score,
    Table,
    depth,
    map_tables,
    nested,
    skeleton,
    tables,
)

_WEIGHTS = tuple(Fraction(n, 4) for n in (4, 2, 1, 3, 6, 8, 0))


def fillings(structure: Program) -> st.SearchStrategy[Program]:
    """Programs of one structure with drawn numbers (values already there are ignored)."""
    drawn = st.tuples(*(_table(table) for table in tables(structure)))
    return drawn.map(lambda values: _filled(structure, values))


def programs(max_depth: int = 4, names: tuple[str, ...] | None = None) -> st.SearchStrategy[Program]:
    """Programs over all structures that are no deeper than `max_depth`, or over the named ones."""
    chosen = [SKELETONS[name] for name in names or SKELETONS if depth(SKELETONS[name]) <= max_depth]
    return st.sampled_from(chosen).flatmap(fillings)


def generic(structure: Program) -> Program:
    """One fixed program of the structure: no flip fair or certain, no weight one, neighbours different."""
    entries = {kind: cycle(nested(text.split())) for kind, text in _GENERIC.items()}
    turns = count(1)

    def fill(shape: tuple[int, ...], kind: str) -> Any:
        if kind == ROW and len(shape) == 1:
            return _steep(shape[0], next(turns))
        return tuple(fill(shape[1:], kind) for _ in range(shape[0])) if shape else next(entries[kind])

    return map_tables(structure, lambda table: replace(table, values=fill(table.shape, table.kind)))


def rows(length: int) -> st.SearchStrategy[tuple[Fraction, ...]]:
    """Probabilities in eighths that sum to one; zeros are common."""
    cuts = st.lists(st.integers(0, 8), min_size=length - 1, max_size=length - 1).map(sorted)
    return cuts.map(lambda c: tuple(Fraction(b - a, 8) for a, b in zip([0, *c], [*c, 8], strict=True)))


def _steep(length: int, turn: int) -> tuple[Fraction, ...]:
    """1/8 each and the rest of one at one place, which moves with the turn."""
    return tuple(Fraction(1 if j != turn % length else 9 - length, 8) for j in range(length))


def _filled(structure: Program, values: tuple[Any, ...]) -> Program:
    rest = iter(values)
    return map_tables(structure, lambda table: replace(table, values=next(rest)))


def _table(table: Table) -> st.SearchStrategy[Any]:
    if table.kind == ROW:
        return _nest(rows(table.shape[-1]), table.shape[:-1])
    return _nest(_ENTRIES[table.kind], table.shape)


def _nest(entries: st.SearchStrategy[Any], shape: tuple[int, ...]) -> st.SearchStrategy[Any]:
    for size in reversed(shape):
        entries = st.tuples(*[entries] * size)
    return entries


_ENTRIES = {
    PROBABILITY: st.integers(0, 8).map(lambda n: Fraction(n, 8)),
    WEIGHT: st.sampled_from(_WEIGHTS),
    SPARSE: st.sampled_from((Fraction(3, 2), Fraction(0))),
    ZERO: st.just(Fraction(0)),
}

_GENERIC = {PROBABILITY: "3/8 3/4 1/8 5/8 1/4", WEIGHT: "3/2 1/2 2 1/4 3/4 5/4 3", SPARSE: "3/2 0", ZERO: "0"}


# --- the structures; `**parents` gives each parent with its number of values ------------------------------------------


def _flip(name: str, **parents: int) -> Flip:
    return Flip(name, Table(PROBABILITY, tuple(parents), tuple(parents.values())))


def _cat(name: str, length: int, logits: bool = False, **parents: int) -> Cat:
    return Cat(name, Table(ROW, tuple(parents), (*parents.values(), length)), logits)


def _score(name: str, kind: str = WEIGHT, **parents: int) -> Score:
    return Score(name, Table(kind, tuple(parents), tuple(parents.values())))


def _observe(name: str, length: int, value: int, **parents: int) -> Observe:
    return Observe(name, Table(ROW, tuple(parents), (*parents.values(), length)), value)


def _sum(modulus: int | None = None, constant: int = 0, **coefficients: int) -> Expr:
    return Expr(tuple(coefficients.items()), constant, modulus)


def _block(*statements: Any, result: Expr) -> Block:
    return Block(statements, result)


def _straight() -> Program:
    """A flip, a choice that depends on it, one score."""
    return _block(_flip("a"), _cat("b", 3, a=2), _score("s", a=2, b=3), result=_sum(a=3, b=1))


def _observed() -> Program:
    """Scores before, between and after choices, one of them an observation."""
    return _block(
        _cat("a", 3),
        _score("s", a=3),
        _flip("b", a=3),
        _observe("y", 3, 2, b=2),
        _cat("c", 2, logits=True, a=3, b=2),
        _score("t", c=2, b=2),
        result=_sum(a=4, b=2, c=1),
    )


def _zero_weight() -> Program:
    """Many zero weights, with a branch whose one side has mass zero for certain."""
    dead = _block(_flip("d"), _score("zero", ZERO, d=2), result=_sum(2, d=1))
    alive = _block(_score("alive", SPARSE, a=2), result=_sum(2, constant=1))
    return _block(_flip("a"), Branch("r", "a", dead, alive), _flip("b", r=2), result=_sum(r=2, b=1))


def _branch() -> Program:
    """Two scores and one choice on one side, two choices and no score on the other; then a choice and a score."""
    then = _block(_cat("x", 3), _score("s", x=3), _score("t", c=2, x=3), result=_sum(3, x=1))
    orelse = _block(_flip("y"), _flip("z", y=2), result=_sum(3, y=1, z=1))
    tail = (_flip("e", r=3), _score("u", r=3, e=2))
    return _block(_flip("c"), Branch("r", "c", then, orelse), *tail, result=_sum(r=2, e=1))


def _branch_shared() -> Program:
    """Both sides use the address x, with different laws and scores (changing c by MH must rescore x)."""
    then = _block(_cat("x", 3), _score("s", x=3), result=_sum(3, x=1))
    orelse = _block(_cat("x", 3, logits=True), _observe("y", 2, 1, x=3), _score("t"), result=_sum(3, constant=1, x=1))
    return _block(_flip("c"), Branch("r", "c", then, orelse), result=_sum(c=3, r=1))


def _branch_nested() -> Program:
    """A branch in a branch; from no score to three."""
    inner = _block(_flip("x", a=2), _score("s", x=2), _score("t", x=2), result=_sum(3, constant=1, x=1))
    plain = _block(_cat("w", 3, b=2), result=_sum(3, w=1))
    deep = Branch("q", "b", inner, plain)
    then = _block(_flip("b"), deep, _score("u", b=2, q=3), result=_sum(3, q=1))
    orelse = _block(result=_sum(3, constant=2))
    return _block(_flip("a"), Branch("r", "a", then, orelse), result=_sum(a=3, r=1))


def _loop() -> Program:
    """Three steps of a two-state chain, each scored; the start is drawn."""
    body = _block(_flip("x", state=2), _score("s", state=2, x=2), result=_sum(2, state=1, x=1))
    return _block(_flip("a"), Loop("r", 3, _sum(2, a=1), body), result=_sum(a=2, r=1))


def _loop_observed() -> Program:
    """Two steps whose law changes with time, with an observation each, and a choice after them."""
    body = _block(_cat("x", 3, index=2, state=3), _observe("y", 2, 1, x=3), result=_sum(3, x=1))
    return _block(Loop("r", 2, _sum(3, constant=1), body), _flip("b", r=3), result=_sum(r=2, b=1))


def _loop_in_branch() -> Program:
    """A scored loop on one side, one score on the other: 2 and 1."""
    body = _block(_flip("x", state=2), _score("s", x=2, state=2), result=_sum(2, x=1, state=1))
    then = _block(Loop("l", 2, _sum(2, constant=1), body), result=_sum(3, l=2))
    orelse = _block(_cat("w", 3), _score("t", w=3), result=_sum(3, w=1))
    return _block(_flip("c"), Branch("r", "c", then, orelse), _flip("e", r=3), result=_sum(r=2, e=1))


def _branch_in_loop() -> Program:
    """Each step chooses whether to draw and score once more: both numbers depend on the path."""
    then = _block(_cat("v", 3, state=2), _score("s", v=3), result=_sum(2, v=1))
    orelse = _block(result=_sum(2, state=1, constant=1))
    body = _block(_flip("u", state=2), Branch("q", "u", then, orelse), result=_sum(2, q=1))
    return _block(_flip("a"), Loop("r", 2, _sum(2, a=1), body), _score("t", r=2), result=_sum(a=2, r=1))


def _nested_loops() -> Program:
    """A scored loop in a branch in a loop: choices with two axes, of which the first alone is masked."""
    inner = _block(_flip("x", state=2), _score("s", x=2, state=2), result=_sum(2, x=1, state=1))
    then = _block(Loop("l", 2, _sum(2, constant=1), inner), result=_sum(2, l=1))
    orelse = _block(_score("t", state=2), result=_sum(2, state=1))
    body = _block(_flip("u", index=2, state=2), Branch("q", "u", then, orelse), result=_sum(2, q=1))
    return _block(Loop("r", 2, _sum(2), body), result=_sum(r=1))


SKELETONS: dict[str, Program] = {
    "straight": skeleton(_straight()),
    "observed": skeleton(_observed()),
    "zero_weight": skeleton(_zero_weight()),
    "branch": skeleton(_branch()),
    "branch_shared": skeleton(_branch_shared()),
    "branch_nested": skeleton(_branch_nested()),
    "loop": skeleton(_loop()),
    "loop_observed": skeleton(_loop_observed()),
    "loop_in_branch": skeleton(_loop_in_branch()),
    "branch_in_loop": skeleton(_branch_in_loop()),
    "nested_loops": skeleton(_nested_loops()),
}
"""Structures by name; their tables hold slots, and `fillings` gives them numbers."""
