"""Lanes that hold a choice which needs the rest of the program: cut at the choice, which becomes one with a batch axis.

Everything before the choice runs in lanes, everything behind it too; in between stands one choice whose measure is
`Lanes(measure)`: independent lanes, the first axis of its value.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ppl.distributions.drawn import law_of_draws
from ppl.distributions.finite import Outcomes, outcomes
from ppl.errors import StrategyError
from ppl.semantics import jaxpr as jp
from ppl.semantics.interpreter import run_equations, sample_site
from ppl.semantics.protocol import Position
from ppl.semantics.scoring import draw
from ppl.vi.draws import Draws, opens
from ppl.vi.strategy import Node, Run, added

Tail = Callable[[list[Any], Run], Any]


@jax.tree_util.register_pytree_node_class
class Lanes:
    """Independent copies of a measure: leaves and values have a leading axis of lanes."""

    def __init__(self, measure: Any, size: int) -> None:
        self.measure = measure
        self.size = size

    def tree_flatten(self) -> tuple[tuple[Any], int]:
        """The measure is the child."""
        return (self.measure,), self.size

    @classmethod
    def tree_unflatten(cls, size: int, children: tuple[Any]) -> "Lanes":
        """Rebuild from leaves."""
        return cls(children[0], size)

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The lanes, then the measure's own batch."""
        shape = jax.eval_shape(jax.vmap(lambda m: jnp.zeros(getattr(m, "batch_shape", ()))), self.measure).shape
        return tuple(shape)

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Any:
        """One draw a lane; `sample_shape` must be empty."""
        assert not sample_shape
        lane = jax.vmap(lambda key, m: draw(law_of_draws(m), key, 1), (None, 0), axis_name=jp.Lane(0))
        return lane(key, self.measure)

    def log_prob(self, value: Any) -> Any:
        """Log density of each lane, in nats."""
        return jax.vmap(lambda m, x: law_of_draws(m).log_prob(x))(self.measure, value)

    def outcomes(self) -> Outcomes | None:
        """The outcomes of every lane, lanes behind the axis of outcomes."""
        found = jax.vmap(lambda m: outcomes(law_of_draws(m)), out_axes=1)(self.measure)
        return None if found is None else Outcomes(*found)


class Bundle(NamedTuple):
    """What is common to all stretches of one set of lanes."""

    size: int
    where: Position
    mapped: Position


def cut_lanes(equation: Any, operands: Sequence[Any], run: Run, where: Position, rest: Tail) -> Any:
    """Run a `lanes` equation that holds a choice which needs the rest; `rest` gets outputs with a lane axis."""
    params = equation.params
    if where.lanes:
        raise _too_deep(equation)
    bundle = Bundle(params["size"], where, where._replace(lanes=where.lanes + 1))
    args = list(zip(operands, params["batched"], strict=True))
    return _walked(params["body"], args, run, bundle, lambda outs, after: rest(_spread(outs, bundle.size), after))


def _walked(code: jp.Code, args: list[tuple[Any, bool]], run: Run, bundle: Bundle, tail: Any) -> Any:
    """Run a body over values that are told to be batched or shared."""
    jaxpr = code.jaxpr
    consts = [(const, False) for const in code.consts]  # those of lanes are their first operands
    start = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args), strict=True))

    def onward(index: int, environment: dict[Any, Any], run: Run) -> Any:
        count = len(jaxpr.eqns)
        stop = next((i for i in range(index, count) if opens(jaxpr.eqns[i], run)), count)
        made, run = _stretch(jaxpr.eqns[index:stop], environment, run, bundle)
        environment = {**environment, **made}
        if stop == count:
            return tail([_look(environment, atom) for atom in jaxpr.outvars], run)
        equation = jaxpr.eqns[stop]
        operands = [_look(environment, atom) for atom in equation.invars]

        def rest(outs: list[tuple[Any, bool]], run: Run) -> Any:
            return onward(stop + 1, {**environment, **dict(zip(equation.outvars, outs, strict=True))}, run)

        return _opened(equation, operands, run, bundle, rest)

    return onward(0, start, run)


def _stretch(equations: Sequence[Any], environment: Any, run: Run, bundle: Bundle) -> tuple[dict[Any, Any], Run]:
    """Equations that the interpreter can run, in lanes; returns what they make, all of it batched."""
    if not equations:
        return {}, run
    needed = list({a: None for e in equations for a in e.invars if not jp.is_literal(a) and a in environment})
    made = [var for equation in equations for var in equation.outvars if type(var).__name__ != "DropVar"]

    def lane(values: list[Any]) -> Any:
        inside = dict(zip(needed, values, strict=True))
        result = run_equations(equations, inside, Draws(run), {}, bundle.mapped)
        return [inside[var] for var in made], result.total

    values = [environment[var][0] for var in needed]
    axes = [0 if environment[var][1] else None for var in needed]
    mapped = jax.vmap(lane, (axes,), axis_size=bundle.size, axis_name=jp.Lane(bundle.where.lanes))
    outs, totals = mapped(values)
    totals = jax.tree.map(lambda x: jnp.sum(x, axis=0), totals)
    after = run._replace(totals=added(run.totals, totals))
    return {var: (value, True) for var, value in zip(made, outs, strict=True)}, after


def _opened(equation: Any, operands: list[tuple[Any, bool]], run: Run, bundle: Bundle, rest: Any) -> Any:
    name = equation.primitive.name
    if name == "sample":
        return _sample(equation, operands, run, bundle, rest)
    if name in ("scan", "cond", "while", "lanes"):
        raise _too_deep(equation)
    return _walked(jp.inner_codes(equation)[0], operands, run, bundle, rest)


def _sample(equation: Any, operands: list[tuple[Any, bool]], run: Run, bundle: Bundle, rest: Any) -> Any:
    """One choice for all lanes."""
    node = sample_site(equation, _spread(operands, bundle.size))
    choice = Node(node._replace(measure=Lanes(node.measure, bundle.size)), bundle.where)
    strategy = run.strategies[choice.address]

    def then(value: Any, after: Run) -> Any:
        return rest([(leaf, True) for leaf in jax.tree.leaves(value)], after)

    return strategy.expect(choice, run, then)


def _spread(values: list[tuple[Any, bool]], size: int) -> list[Any]:
    """Every value with a leading axis of lanes."""
    return [v if batched else jnp.broadcast_to(v, (size, *jnp.shape(v))) for v, batched in values]


def _look(environment: dict[Any, Any], atom: Any) -> tuple[Any, bool]:
    return (atom.val, False) if jp.is_literal(atom) else environment[atom]


def _too_deep(equation: Any) -> StrategyError:
    site = equation.params.get("site")
    place = f" at {site.source}" if site is not None else ""
    return StrategyError(
        f"A {equation.primitive.name} inside ppl.vmap{place} holds a choice whose strategy evaluates the rest of the "
        "program at several values.\nExpected: such choices at the top level of the lanes.\n"
        "Fix: give each lane an expectation of its own, ppl.vmap(lambda x: vi.expect(objective(x))), which opens any "
        "control flow inside; or use vi.score() or vi.reparam() there."
    )
