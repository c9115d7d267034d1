"""Finite programs as data: statements over named integer variables, whose numbers are exact tables.

A *skeleton* is a program whose tables hold slot numbers in the place of values; two programs with equal skeletons
differ in numbers only, so one compiled model serves both. Variables made in a branch or in a loop's body are visible
there only; a statement's name is its address.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

PROBABILITY, ROW, WEIGHT, SPARSE, ZERO = "probability", "row", "weight", "sparse", "zero"
"""What a table's entries are: a flip's probability, a row that sums to one, weights >= 0, many zeros, all zeros."""


@dataclass(frozen=True)
class Table:
    """Numbers indexed by earlier variables: `values[parent_1]...[parent_k]`, one more axis for a row.

    Attributes:
        kind: What the entries are; see the constants above.
        parents: The variables that index the leading axes.
        shape: Sizes of the parents and, for rows, the length of a row.
        values: Nested tuples of Fractions; an int (the slot) in a skeleton.
    """

    kind: str
    parents: tuple[str, ...]
    shape: tuple[int, ...]
    values: Any = None

    def at(self, variables: dict[str, int]) -> Any:
        """The entry (a Fraction or a row of them) for the values of the parents."""
        entry = self.values
        for parent in self.parents:
            entry = entry[variables[parent]]
        return entry


@dataclass(frozen=True)
class Expr:
    """The integer `(constant + sum of coefficient * variable)`, modulo `modulus` where there is one."""

    terms: tuple[tuple[str, int], ...] = ()
    constant: int = 0
    modulus: int | None = None

    def at(self, variables: dict[str, Any]) -> Any:
        """The value; also of traced variables."""
        value = self.constant + sum(c * variables[name] for name, c in self.terms)
        return value if self.modulus is None else value % self.modulus


@dataclass(frozen=True)
class Flip:
    """name ~ Bernoulli(prob)."""

    name: str
    prob: Table


@dataclass(frozen=True)
class Cat:
    """name ~ Categorical(row); `logits` says which parameter the rendered distribution gets."""

    name: str
    probs: Table
    logits: bool = False


@dataclass(frozen=True)
class Score:
    """Multiply the measure by a weight >= 0."""

    name: str
    weight: Table


@dataclass(frozen=True)
class Observe:
    """Observe `value` of a Categorical(row)."""

    name: str
    probs: Table
    value: int


@dataclass(frozen=True)
class Block:
    """Statements, then an integer result. A program is a block."""

    statements: tuple[Any, ...]
    result: Expr


@dataclass(frozen=True)
class Branch:
    """name = result of `then` if the variable `condition` is not 0, else of `orelse`."""

    name: str
    condition: str
    then: Block
    orelse: Block


@dataclass(frozen=True)
class Loop:
    """name = the state after `length` steps from `init`; a step sees `state` and `index` and gives the next state."""

    name: str
    length: int
    init: Expr
    body: Block
    state: str = "state"
    index: str = "index"


Statement = Flip | Cat | Score | Observe | Branch | Loop
Program = Block


def table_of(statement: Statement) -> tuple[str, Table] | None:
    """The field that holds a statement's table, and the table; None for control flow."""
    for field in ("prob", "probs", "weight"):
        if hasattr(statement, field):
            return field, getattr(statement, field)
    return None


def map_tables(block: Block, f: Callable[[Table], Table]) -> Block:
    """The program with every table replaced, in program order."""
    return replace(block, statements=tuple(_map_statement(s, f) for s in block.statements))


def _map_statement(statement: Statement, f: Callable[[Table], Table]) -> Statement:
    if isinstance(statement, Branch):
        then, orelse = map_tables(statement.then, f), map_tables(statement.orelse, f)
        return replace(statement, then=then, orelse=orelse)
    if isinstance(statement, Loop):
        return replace(statement, body=map_tables(statement.body, f))
    field, table = table_of(statement)
    return replace(statement, **{field: f(table)})


def tables(program: Program) -> list[Table]:
    """All tables in program order."""
    found: list[Table] = []

    def note(table: Table) -> Table:
        found.append(table)
        return table

    map_tables(program, note)
    return found


def skeleton(program: Program) -> Program:
    """The program's structure: its tables hold their slot, an index into `tables(program)`. Hashable."""
    slots = iter(range(len(tables(program))))
    return map_tables(program, lambda table: replace(table, values=next(slots)))


def children(statement: Statement) -> tuple[Block, ...]:
    """The blocks inside a statement."""
    if isinstance(statement, Branch):
        return statement.then, statement.orelse
    return (statement.body,) if isinstance(statement, Loop) else ()


def depth(block: Block) -> int:
    """1 for straight-line code, one more for each nested branch or loop."""
    return 1 + max((depth(b) for s in block.statements for b in children(s)), default=0)


def addresses(block: Block, axes: tuple[int, ...] = ()) -> dict[str, tuple[int, ...]]:
    """The latent addresses with their loop axes, in program order."""
    found: dict[str, tuple[int, ...]] = {}
    for statement in block.statements:
        if isinstance(statement, Flip | Cat):
            found[statement.name] = axes
        inner = (*axes, statement.length) if isinstance(statement, Loop) else axes
        for child in children(statement):
            found.update(addresses(child, inner))
    return found


def walk(block: Block) -> Iterator[Statement]:
    """All statements at any depth, in program order."""
    for statement in block.statements:
        yield statement
        for child in children(statement):
            yield from walk(child)


def number(text: str) -> Fraction:
    """A Fraction from text such as "3/8"."""
    return Fraction(text)


def nested(rows: Any) -> Any:
    """Nested lists of numbers or texts as nested tuples of Fractions."""
    return tuple(nested(r) for r in rows) if isinstance(rows, list | tuple) else Fraction(rows)


def table(kind: str, rows: Any, *parents: str) -> Table:
    """A table with values, its shape read off them: `table("row", [["1/2", "1/2"], [1, 0]], "a")`."""
    values = nested(rows)
    shape, level = [], values
    while isinstance(level, tuple):
        shape.append(len(level))
        level = level[0]
    return Table(kind, parents, tuple(shape), values)
