"""The meaning of a finite program, path by path, over `fractions.Fraction`: slow, exact, and independent of JAX.

    enumerate_program(program) = { (choices, value): mass }

Addresses are ppl's: a site in a loop has one flat address whose value has a leading axis of steps (a tuple); a site in
an untaken branch is absent (None; in a loop, None at the steps that did not make it, and for the whole if none did).
"""

from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any, NamedTuple

from tests.oracle.ast import Block, Branch, Cat, Expr, Flip, Loop, Observe, Program, Score, Statement, addresses

Choices = tuple[tuple[str, Any], ...]
Measure = dict[Any, Fraction]


class Path(NamedTuple):
    """One run of a program.

    Attributes:
        choices: (address, value or None) for every latent address, sorted by address.
        value: The return value.
        prior: The probability of the choices, > 0.
        weight: The product of scores and likelihoods, >= 0.
        scores: How many scores and observations the run met.
    """

    choices: Choices
    value: int
    prior: Fraction
    weight: Fraction
    scores: int

    @property
    def mass(self) -> Fraction:
        """The path's mass."""
        return self.prior * self.weight


class _Run(NamedTuple):
    """A partial run: visible variables, choices made by (address, loop indices), and the numbers of `Path`."""

    variables: dict[str, int]
    made: dict[tuple[str, tuple[int, ...]], int]
    prior: Fraction = Fraction(1)
    weight: Fraction = Fraction(1)
    scores: int = 0


def paths(program: Program) -> list[Path]:
    """All runs whose choices have positive probability, those of weight zero included."""
    shapes = addresses(program)
    return [
        Path(_choices(run.made, shapes), value, run.prior, run.weight, run.scores)
        for run, value in _block(program, _Run({}, {}), ())
    ]


def enumerate_program(program: Program) -> Measure:
    """The unnormalised measure over (choices, value); zero masses are left out."""
    measure: Measure = {}
    for path in paths(program):
        if path.mass:
            key = (path.choices, path.value)
            measure[key] = measure.get(key, Fraction(0)) + path.mass
    return measure


def total_mass(measure: Measure) -> Fraction:
    """The mass of the whole space."""
    return sum(measure.values(), Fraction(0))


def pushforward(measure: Measure, f: Callable[[Any], Any]) -> Measure:
    """The measure of f(point)."""
    pushed: Measure = {}
    for point, mass in measure.items():
        pushed[f(point)] = pushed.get(f(point), Fraction(0)) + mass
    return pushed


def value_measure(program: Program) -> Measure:
    """The measure on return values."""
    return pushforward(enumerate_program(program), lambda point: point[1])


def normalized(measure: Measure) -> Measure:
    """The probability measure in proportion; fails on a zero measure."""
    total = total_mass(measure)
    return {point: mass / total for point, mass in measure.items()}


def expectation(measure: Measure, f: Callable[[Any], Any]) -> Fraction:
    """The (unnormalised) integral of f."""
    return sum((mass * f(point) for point, mass in measure.items()), Fraction(0))


def score_counts(program: Program) -> dict[Choices, int]:
    """How many scores and observations each path meets, by its choices."""
    return {path.choices: path.scores for path in paths(program)}


def _block(block: Block, run: _Run, loop: tuple[int, ...]) -> Iterator[tuple[_Run, int]]:
    runs = [run]
    for statement in block.statements:
        runs = [after for before in runs for after in _step(statement, before, loop)]
    for after in runs:
        yield after, block.result.at(after.variables)


def _step(statement: Statement, run: _Run, loop: tuple[int, ...]) -> Iterator[_Run]:
    match statement:
        case Flip(name, prob):
            p = prob.at(run.variables)
            yield from _draw(name, (1 - p, p), run, loop)
        case Cat(name, probs):
            yield from _draw(name, probs.at(run.variables), run, loop)
        case Score(_, weight):
            yield _scored(run, weight.at(run.variables))
        case Observe(_, probs, value):
            yield _scored(run, probs.at(run.variables)[value])
        case Branch(name, condition, then, orelse):
            taken = then if run.variables[condition] else orelse
            yield from (_leave(after, run, name, value) for after, value in _block(taken, run, loop))
        case Loop():
            yield from _loop(statement, run, loop)


def _draw(name: str, row: tuple[Fraction, ...], run: _Run, loop: tuple[int, ...]) -> Iterator[_Run]:
    for value, p in enumerate(row):
        if p:
            variables = {**run.variables, name: value}
            yield run._replace(variables=variables, made={**run.made, (name, loop): value}, prior=run.prior * p)


def _scored(run: _Run, weight: Fraction) -> _Run:
    return run._replace(weight=run.weight * weight, scores=run.scores + 1)


def _leave(after: _Run, before: _Run, name: str, value: int) -> _Run:
    """Leave a block: its variables are forgotten, its result is bound."""
    return after._replace(variables={**before.variables, name: value})


def _loop(loop_statement: Loop, run: _Run, loop: tuple[int, ...]) -> Iterator[_Run]:
    states = [(run, _value(loop_statement.init, run))]
    for index in range(loop_statement.length):
        states = [
            advanced
            for before, state in states
            for advanced in _block(
                loop_statement.body, _enter(before, run, loop_statement, state, index), (*loop, index)
            )
        ]
    yield from (_leave(after, run, loop_statement.name, state) for after, state in states)


def _enter(before: _Run, outer: _Run, loop: Loop, state: int, index: int) -> _Run:
    return before._replace(variables={**outer.variables, loop.state: state, loop.index: index})


def _value(expr: Expr, run: _Run) -> int:
    return expr.at(run.variables)


def _choices(made: dict[tuple[str, tuple[int, ...]], int], shapes: dict[str, tuple[int, ...]]) -> Choices:
    return tuple((address, collapse(_gather(made, address, shapes[address]))) for address in sorted(shapes))


def _gather(made: dict[Any, int], address: str, axes: tuple[int, ...], at: tuple[int, ...] = ()) -> Any:
    if not axes:
        return made.get((address, at))
    return tuple(_gather(made, address, axes[1:], (*at, index)) for index in range(axes[0]))


def collapse(value: Any) -> Any:
    """None for a nested tuple of nothing but None."""
    if not isinstance(value, tuple):
        return value
    items = tuple(collapse(item) for item in value)
    return None if all(item is None for item in items) else value
