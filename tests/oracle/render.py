"""From a finite program to a `ppl.Program` with the same sites; the numbers go in as arrays, one model a skeleton."""

from functools import lru_cache, partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

import ppl
import ppl.distributions as dist
from tests.oracle.ast import (
    Block,
    Branch,
    Cat,
    Flip,
    Loop,
    Observe,
    Program,
    Score,
    Statement,
    Table,
    addresses,
    skeleton,
    tables,
)
from tests.oracle.fractions_enumerator import Choices, Measure, collapse

Arrays = tuple[Any, ...]
Variables = dict[str, Any]


def to_program(program: Program) -> Any:
    """The program as a `ppl.Program`; its choices, masks and value are those of `fractions_enumerator`."""
    return model_of(skeleton(program))(arrays(program))


def arrays(program: Program) -> Arrays:
    """The tables' values in program order, in the default float type."""
    dtype = np.dtype(jnp.result_type(float))
    return tuple(jnp.asarray(np.array(table.values, dtype=dtype)) for table in tables(program))


@lru_cache(maxsize=256)
def model_of(structure: Program) -> Any:
    """A `ppl.model` of the arrays of a program with this skeleton. Cached, so that staging is reused."""

    @ppl.model
    def rendered(values: Arrays) -> Any:
        return run_block(structure, values, {})

    return rendered


def run_block(block: Block, values: Arrays, variables: Variables) -> Any:
    """Run a block's statements inside a model; gives its result (int32)."""
    for statement in block.statements:
        variables = {**variables, **_STATEMENTS[type(statement)](statement, values, variables)}
    return jnp.asarray(block.result.at(variables), jnp.int32)


def _entry(table: Table, values: Arrays, variables: Variables) -> Any:
    array = values[table.values]
    return array[tuple(variables[parent] for parent in table.parents)] if table.parents else array


def _flip(statement: Flip, values: Arrays, variables: Variables) -> Variables:
    drawn = ppl.sample(statement.name, dist.Bernoulli(probs=_entry(statement.prob, values, variables)))
    return {statement.name: drawn.astype(jnp.int32)}


def _cat(statement: Cat, values: Arrays, variables: Variables) -> Variables:
    row = _entry(statement.probs, values, variables)
    measure = dist.Categorical(logits=jnp.log(row)) if statement.logits else dist.Categorical(probs=row)
    return {statement.name: ppl.sample(statement.name, measure).astype(jnp.int32)}


def _score(statement: Score, values: Arrays, variables: Variables) -> Variables:
    ppl.factor(statement.name, jnp.log(_entry(statement.weight, values, variables)))
    return {}


def _observe(statement: Observe, values: Arrays, variables: Variables) -> Variables:
    measure = dist.Categorical(probs=_entry(statement.probs, values, variables))
    ppl.sample(statement.name, measure, obs=jnp.asarray(statement.value))
    return {}


def _branch(statement: Branch, values: Arrays, variables: Variables) -> Variables:
    then = partial(run_block, statement.then, values)
    orelse = partial(run_block, statement.orelse, values)
    return {statement.name: lax.cond(variables[statement.condition] != 0, then, orelse, variables)}


def _loop(statement: Loop, values: Arrays, variables: Variables) -> Variables:
    def step(state: Any, index: Any) -> Any:
        return run_block(statement.body, values, {**variables, statement.state: state, statement.index: index}), None

    init = jnp.asarray(statement.init.at(variables), jnp.int32)
    return {statement.name: lax.scan(step, init, jnp.arange(statement.length, dtype=jnp.int32))[0]}


_STATEMENTS: dict[type[Statement], Any] = {
    Flip: _flip,
    Cat: _cat,
    Score: _score,
    Observe: _observe,
    Branch: _branch,
    Loop: _loop,
}


# --- between the two worlds' records ---------------------------------------------------------------------------------


def choice_arrays(program: Program, choices: Choices) -> dict[str, np.ndarray]:
    """A path's choices as arrays that ppl takes; 0 where a choice was not made."""
    made = dict(choices)
    return {address: _filled(made[address], axes) for address, axes in addresses(program).items()}


def path_of(choices: dict[str, Any], masks: dict[str, Any], value: Any) -> tuple[Choices, int]:
    """A trace's choices, masks and value as the oracle's key (choices, value)."""
    masks = {address: np.asarray(mask) for address, mask in masks.items()}
    items = ((address, _masked(np.asarray(drawn), masks.get(address))) for address, drawn in sorted(choices.items()))
    return tuple((address, collapse(item)) for address, item in items), int(value)


def measure_of(finite: Any) -> dict[tuple[Choices, int], float]:
    """A `ppl.FiniteMeasure` of a program as {(choices, value): mass}; points of mass zero are left out."""
    measure: dict[tuple[Choices, int], float] = {}
    choices, masks, values, weights = (
        {a: np.asarray(c) for a, c in finite.choices.items()},
        {a: np.asarray(m) for a, m in finite.masks.items()},
        np.asarray(finite.values),
        np.exp(np.asarray(finite.log_weights)),
    )
    for i in np.flatnonzero(weights):
        key = path_of({a: c[i] for a, c in choices.items()}, {a: m[i] for a, m in masks.items()}, values[i])
        measure[key] = measure.get(key, 0.0) + float(weights[i])
    return measure


def distance(exact: Measure, measured: dict[Any, float]) -> float:
    """The largest difference of mass over single points."""
    points = exact.keys() | measured.keys()
    return max((abs(float(exact.get(point, 0)) - measured.get(point, 0.0)) for point in points), default=0.0)


def _filled(value: Any, axes: tuple[int, ...]) -> np.ndarray:
    if value is None:
        return np.zeros(axes, np.int32)
    return np.asarray(value if not axes else [_filled(item, axes[1:]) for item in value], np.int32)


def _masked(drawn: np.ndarray, mask: Any) -> Any:
    """The value as nested tuples, None where the mask (over its leading axes) is false."""
    if drawn.ndim:
        inner = [None] * len(drawn) if mask is None else mask if mask.ndim else [mask] * len(drawn)
        return tuple(_masked(item, made) for item, made in zip(drawn, inner, strict=True))
    return int(drawn) if mask is None or mask else None
