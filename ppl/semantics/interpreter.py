"""The one interpreter: walk a program's jaxpr and let a handler give each site its meaning.

    run(code, args, handler, reads) -> Result(outs, total, writes, masks)

A handler reads a value by address, returns the site's value, an *additive* contribution to the run's total, and what it
writes under the address. Control flow is handled here, once for all handlers, by a table of rules: in a `scan` reads
and writes gain a leading time axis; in `lanes` (ppl.vmap) a leading lane axis; in a `cond` every branch writes every
address of any branch, and `masks` tells which were really made. The totals of steps, lanes and branches taken add up.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ppl.errors import BranchError, UnboundedError
from ppl.semantics import jaxpr as jp
from ppl.semantics.lanes import vmap as ppl_vmap
from ppl.semantics.markov import shifted, steps_are_independent
from ppl.semantics.protocol import TOP, Choices, Handler, Outcome, Position, Result, SampleSite, add
from ppl.semantics.site import WEIGHING
from ppl.semantics.table import addresses_in, site_table


def run(code: jp.Code, args: Sequence[Any], handler: Handler, reads: Choices, where: Position = TOP) -> Result:
    """Interpret a code on its arguments."""
    jaxpr = code.jaxpr
    environment = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*code.consts, *args), strict=True))
    result = run_equations(jaxpr.eqns, environment, handler, reads, where)
    return result._replace(outs=[jp.read(environment, atom) for atom in jaxpr.outvars])


def run_equations(
    equations: Sequence[Any],
    environment: dict[Any, Any],
    handler: Handler,
    reads: Choices,
    where: Position = TOP,
) -> Result:
    """Interpret equations in turn; their results are added to the environment (the result's `outs` are empty)."""
    total, writes, masks = handler.zero(), {}, {}
    for equation in equations:
        operands = [jp.read(environment, atom) for atom in equation.invars]
        if jp.has_sites(equation):
            rule = RULES.get(equation.primitive.name, _inlined)
            step = rule(equation, operands, handler, reads, where)
            outs, total = step.outs, add(total, step.total)
            writes.update(step.writes)
            masks.update(step.masks)
        else:
            outs = jp.evaluate(equation, operands)
        environment.update(zip(equation.outvars, outs, strict=True))
    return Result([], total, writes, masks)


# --- sites -----------------------------------------------------------------------------------------------------------


def sample_site(equation: Any, operands: Sequence[Any]) -> SampleSite:
    """Rebuild the measure and the observed value of a `sample` equation from its operands."""
    site, signature = equation.params["site"], equation.params["signature"]
    count = signature.num_leaves
    measure = jax.tree.unflatten(signature.measure_tree, operands[:count])
    observed = jax.tree.unflatten(signature.value_tree, operands[count:]) if len(operands) > count else None
    return SampleSite(site, measure, observed, signature)


def _sample(equation: Any, operands: Sequence[Any], handler: Handler, reads: Choices, where: Position) -> Result:
    node = sample_site(equation, operands)
    outcome = handler.sample(node, reads.get(node.address), where)
    return _site_result(node.address, outcome, jax.tree.leaves(outcome.value))


def _factor(equation: Any, operands: Sequence[Any], handler: Handler, reads: Choices, where: Position) -> Result:
    del reads
    site = equation.params["site"]
    return _site_result(site.address, handler.factor(site, operands[0], where), [])


def _deterministic(equation: Any, operands: Sequence[Any], handler: Handler, reads: Choices, where: Position) -> Result:
    del reads
    site, tree = equation.params["site"], equation.params["value_tree"]
    return _site_result(site.address, handler.deterministic(site, jax.tree.unflatten(tree, operands), where), [])


def _site_result(address: str, outcome: Outcome, outs: list[Any]) -> Result:
    writes = {} if outcome.write is None else {address: outcome.write}
    return Result(outs, outcome.increment, writes, {})


# --- control flow ----------------------------------------------------------------------------------------------------


def _inlined(equation: Any, operands: Sequence[Any], handler: Handler, reads: Choices, where: Position) -> Result:
    """`jit`, `closed_call`, custom derivatives: walk into the body (a custom rule cannot know of the sites inside)."""
    (code, *_) = jp.inner_codes(equation)
    return run(code, operands, handler, reads, where)


def _checkpoint(equation: Any, operands: Sequence[Any], handler: Handler, reads: Choices, where: Position) -> Result:
    """Rematerialise the interpreted body as the user asked for the plain one."""
    (code,) = jp.inner_codes(equation)
    params = equation.params
    body = jax.checkpoint(
        lambda args, given: run(code, args, handler, given, where),
        prevent_cse=params.get("prevent_cse", True),
        policy=params.get("policy"),
    )
    return Result(*body(list(operands), _within(reads, code)))


def _scan(equation: Any, operands: Sequence[Any], handler: Handler, reads: Choices, where: Position) -> Result:
    loop = jp.loop_of(equation)
    consts, init, xs = split(operands, loop.num_consts, loop.num_carry)
    if handler.scores_given and steps_are_independent(loop, reads):
        return _side_by_side(loop, (consts, init, xs), handler, reads, where)

    def body(carry: Any, step: Any) -> Any:
        state, total = carry
        inputs, given, index = step
        inner = where._replace(loop=(*where.loop, index))
        result = run(loop.body, (*consts, *state, *inputs), handler, given, inner)
        state, ys = result.outs[: loop.num_carry], result.outs[loop.num_carry :]
        return (state, add(total, result.total)), (ys, result.writes, result.masks)

    steps = (list(xs), _within(reads, loop.body), jnp.arange(loop.length))
    carry, (ys, writes, masks) = lax.scan(
        body, (list(init), handler.zero()), steps, length=loop.length, reverse=loop.reverse, unroll=loop.unroll
    )
    return Result([*carry[0], *ys], carry[1], writes, masks)


def _side_by_side(loop: jp.Loop, operands: Any, handler: Handler, reads: Choices, where: Position) -> Result:
    """Score the steps of a loop at once: its carried values are settled by the given choices."""
    consts, init, xs = operands
    inputs = (list(xs), _within(reads, loop.body), jnp.arange(loop.length))

    def step(state: list[Any], inputs: Any) -> Result:
        x, given, index = inputs
        inner = where._replace(loop=(*where.loop, index))
        return run(loop.body, (*consts, *state, *x), handler, given, inner)

    after = jax.vmap(lambda inputs: step(init, inputs).outs[: loop.num_carry])(inputs)
    result = jax.vmap(step)(shifted(init, after, reverse=loop.reverse), inputs)
    last = [state[0 if loop.reverse else -1] for state in after]
    total = jax.tree.map(lambda x: jnp.sum(x, axis=0), result.total)
    return Result([*last, *result.outs[loop.num_carry :]], total, result.writes, result.masks)


def _lanes(equation: Any, operands: Sequence[Any], handler: Handler, reads: Choices, where: Position) -> Result:
    params = equation.params
    body, size = params["body"], params["size"]
    inner = where._replace(lanes=where.lanes + 1)

    def lane(args: list[Any], given: Choices) -> Result:
        return run(body, args, handler, given, inner)

    axes = ([0 if mapped else None for mapped in params["batched"]], 0)
    given = _within(reads, body)
    if handler.emits:
        result = Result(*ppl_vmap(lane, in_axes=axes, axis_size=size)(list(operands), given))
    else:
        mapped = jax.vmap(lane, in_axes=axes, axis_size=size, axis_name=jp.Lane(where.lanes))
        result = mapped(list(operands), given)
    return result._replace(total=jax.tree.map(lambda x: jnp.sum(x, axis=0), result.total))


def _while(equation: Any, operands: Sequence[Any], handler: Handler, reads: Choices, where: Position) -> Result:
    del reads
    params = equation.params
    condition, body = jp.code_of(params["cond_jaxpr"]), jp.code_of(params["body_jaxpr"])
    if jp.contains_sites(condition.jaxpr):
        raise UnboundedError(
            f"The condition of a while_loop holds the sites {addresses_in(condition.jaxpr)}.\n"
            "Draw in the loop's body, carry the value in the loop's state, and test that in the condition."
        )
    if jax.tree.leaves(handler.zero()):
        _refuse_weights(body)
    split_at = params["cond_nconsts"], params["body_nconsts"]
    cond_consts, body_consts, init = split(operands, *split_at)
    keep_going = jp.as_function(condition)

    def step(state: Any) -> Any:
        index, values = state
        inner = where._replace(loop=(*where.loop, index), unbounded=True)
        return index + 1, run(body, (*body_consts, *values), handler, {}, inner).outs

    _, outs = lax.while_loop(lambda s: keep_going(*cond_consts, *s[1])[0], step, (jnp.int32(0), list(init)))
    return Result(outs, handler.zero(), {}, {})


def _refuse_weights(body: jp.Code) -> None:
    """Whoever adds up weights or densities would miss those of a loop without a known number of steps."""
    sites = [entry.site for entry in site_table(body.jaxpr).values() if entry.site.kind in WEIGHING]
    if sites:
        names = ", ".join(f"{site.address!r} ({site.source})" for site in sites)
        raise UnboundedError(
            f"A weight was asked of a program that observes or weighs inside a while_loop: {names}.\n"
            "Expected: observations and factors in straight-line code, branches, lax.scan or lax.fori_loop with a "
            "fixed number of steps; what a while_loop weighs is not counted.\n"
            "Fix: lax.scan over the most steps there may be, with a lax.cond around those beyond the end."
        )


def _cond(equation: Any, operands: Sequence[Any], handler: Handler, reads: Choices, where: Position) -> Result:
    index, *args = operands
    codes = [jp.code_of(branch) for branch in equation.params["branches"]]
    runs: list[Callable[..., Result]] = [_branch(code, handler, where) for code in codes]
    given = {address: value for code in codes for address, value in _within(reads, code).items()}
    filled = _aligned(runs, args, given)
    return Result(*lax.switch(index, filled, args, given))


def _branch(code: jp.Code, handler: Handler, where: Position) -> Callable[..., Result]:
    def branch(args: list[Any], given: Choices) -> Result:
        return run(code, args, handler, _within(given, code), where)

    return branch


def _aligned(runs: list[Callable[..., Result]], args: list[Any], given: Choices) -> list[Callable[..., Result]]:
    """Make every branch write the addresses of all branches, masked where it does not make the choice."""
    shapes = [jax.eval_shape(branch, args, given) for branch in runs]
    writes: Choices = {}
    masks: Choices = {}
    for shape in shapes:
        for address, aval in shape.writes.items():
            _check_same(address, writes.setdefault(address, aval), aval)
            mask = shape.masks.get(address, jax.ShapeDtypeStruct((), bool))
            masks[address] = max(masks.get(address, mask), mask, key=lambda aval: len(aval.shape))

    def aligned(branch: Callable[..., Result], args: list[Any], given: Choices) -> Result:
        result = branch(args, given)
        made = {a: result.masks.get(a, jnp.ones((), bool)) for a in result.writes}
        absent = {a: _zeros(writes[a]) for a in writes if a not in result.writes}
        masked = {a: jnp.zeros(masks[a].shape, bool) for a in absent}
        everywhere = {a: _spread(made[a], masks[a].shape) for a in made}
        return Result(
            result.outs, result.total, _sorted({**result.writes, **absent}), _sorted({**everywhere, **masked})
        )

    return [partial(aligned, branch) for branch in runs]


def _spread(mask: Any, shape: tuple[int, ...]) -> Any:
    """A mask over the leading axes of a larger one."""
    return jnp.broadcast_to(jnp.reshape(mask, (*mask.shape, *(1,) * (len(shape) - mask.ndim))), shape)


def _check_same(address: str, first: Any, second: Any) -> None:
    if jax.tree.map(lambda x: (x.shape, x.dtype), first) != jax.tree.map(lambda x: (x.shape, x.dtype), second):
        raise BranchError(
            f"Two branches use the address {address!r} with different shapes or dtypes: "
            f"{jax.tree.leaves(first)} and {jax.tree.leaves(second)}.\n"
            "Expected: one shape and dtype an address. Give the two choices different addresses."
        )


def _zeros(aval: Any) -> Any:
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), aval)


def _sorted(tree: Choices) -> Choices:
    return {address: tree[address] for address in sorted(tree)}


def _within(reads: Choices, code: jp.Code) -> Choices:
    """The reads that belong to sites inside a body."""
    inside = addresses_in(code.jaxpr)
    return {address: value for address, value in reads.items() if address in inside}


def split(operands: Sequence[Any], *counts: int) -> list[list[Any]]:
    """Cut a flat list into groups of the given sizes, and the rest."""
    groups, start = [], 0
    for count in counts:
        groups.append(list(operands[start : start + count]))
        start += count
    return [*groups, list(operands[start:])]


RULES: dict[str, Callable[..., Result]] = {
    "sample": _sample,
    "factor": _factor,
    "deterministic": _deterministic,
    "lanes": _lanes,
    "scan": _scan,
    "while": _while,
    "cond": _cond,
    "remat2": _checkpoint,
    "checkpoint": _checkpoint,
    "remat": _checkpoint,
}
"""One rule a primitive; any other equation with sites inside is walked into."""
