"""Whether the value of each nested expectation enters the cost as it may: linearly, or times independent estimates.

    E[g(estimate)] = g(E[estimate])  for all estimates only where g is affine; so  log, squares, maxima  are biased

Forward through the jaxpr: every value is told which estimates it is linear in, and which equation (if any) broke that.
A product of two values is linear in all their estimates where they share none. An estimate made anew in each step of a
loop is another estimate than that of the steps before; those of the lanes of a `ppl.vmap` are taken to be one, so that
their product is refused although it would be right.
"""

import linecache
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from ppl.errors import StrategyError
from ppl.semantics import jaxpr as jp
from ppl.semantics.dataflow import call_of, forward, settled
from ppl.semantics.influence import held
from ppl.semantics.site import Site, Source, is_library_file
from ppl.vi.expectation import Nested
from ppl.vi.resolution import resolved


class Estimate(NamedTuple):
    """One estimate: its site, and the loops of which an earlier step made it."""

    site: Site
    earlier: frozenset[int] = frozenset()


class Break(NamedTuple):
    """An estimate, and the equation that is not linear in it."""

    site: Site
    operation: str
    source: Source | None


class Linear(NamedTuple):
    """What a value is linear in, and what it is made of that is not."""

    estimates: frozenset[Estimate] = frozenset()
    breaks: frozenset[Break] = frozenset()


Strategies = dict[str, Any]

_ADDING = frozenset(
    ("add", "add_any", "sub", "neg", "copy", "copy_p", "broadcast_in_dim", "reshape", "squeeze", "expand_dims")
    + ("transpose", "reduce_sum", "cumsum", "rev", "slice", "concatenate", "pad", "reduce_precision", "stop_gradient")
    + ("split", "real", "deterministic", "mean", "optimization_barrier")
)
_WITHIN = {
    "div": (0,),
    "dynamic_slice": (0,),
    "gather": (0,),
    "dynamic_update_slice": (0, 1),
    "scatter": (0, 2),
    "scatter-add": (0, 2),
    "scatter_add": (0, 2),
}
"""Linear in some operands alone."""
_MULTIPLYING = frozenset(("mul", "dot_general", "conv_general_dilated"))


@lru_cache(maxsize=1024)
def refuse_nonlinear(jaxpr: Any) -> None:
    """Raise where an objective's cost is no linear function of an estimate inside it.

    Args:
        jaxpr: The objective's.

    Raises:
        StrategyError: with the estimate's address and line, the line that is not linear, and the fix.
    """
    strategies = resolved(jaxpr)
    if not any(isinstance(strategy, Nested) for strategy in strategies.values()):
        return
    breaks = frozenset().union(*(out.breaks for out in walked(jaxpr, [Linear()] * len(jaxpr.invars), strategies)))
    if breaks:
        raise StrategyError("\n".join([*sorted({_text(found) for found in breaks}), _ADVICE]))


def walked(jaxpr: Any, inputs: Sequence[Linear], strategies: Strategies) -> list[Linear]:
    """What the outputs of a jaxpr are linear in, given its inputs."""
    return forward(jaxpr, inputs, Linear(), lambda equation, operands: _equation(equation, operands, strategies))


def _equation(equation: Any, operands: list[Linear], strategies: Strategies) -> list[Linear]:
    name = equation.primitive.name
    if name in _RULES:
        return _RULES[name](equation, operands, strategies)
    if not any(one.estimates or one.breaks for one in operands) and not jp.has_sites(equation):
        return [Linear()] * len(equation.outvars)
    called = call_of(equation)
    if called is not None:
        return [_located(out, equation) for out in walked(called, operands, strategies)]
    return [_combined(name, equation, operands)] * len(equation.outvars)


def _located(value: Linear, equation: Any) -> Linear:
    """What broke inside a library function, at the user's line that called it."""
    line = _line_of_user(equation)
    return value._replace(breaks=frozenset(b if b.source else b._replace(source=line) for b in value.breaks))


def _combined(name: str, equation: Any, operands: list[Linear]) -> Linear:
    if name in _ADDING or (name == "convert_element_type" and equation.outvars[0].aval.dtype.kind in "fVc"):
        return _sum(operands)
    if name in _WITHIN:
        inside = [one for index, one in enumerate(operands) if index in _WITHIN[name]]
        return _sum([*inside, *(_broken(one, equation) for one in operands if one not in inside)])
    if name in _MULTIPLYING:
        left, right = operands[0], operands[1]
        shared = Linear(left.estimates & right.estimates)
        return _sum([left, right, _broken(shared, equation)])
    return _broken(_sum(operands), equation)


def _sum(parts: Sequence[Linear]) -> Linear:
    estimates: frozenset[Estimate] = frozenset().union(*(part.estimates for part in parts))
    breaks: frozenset[Break] = frozenset().union(*(part.breaks for part in parts))
    return Linear(estimates, breaks)


def _broken(value: Linear, equation: Any, operation: str | None = None) -> Linear:
    """A value that is no linear function of its estimates any more."""
    what, source = operation or equation.primitive.name, _line_of_user(equation)
    return Linear(breaks=value.breaks | {Break(one.site, what, source) for one in value.estimates})


def _line_of_user(equation: Any) -> Source | None:
    traceback = equation.source_info.traceback
    frames = () if traceback is None else traceback.frames
    return next((Source(f.file_name, f.line_num) for f in frames if not is_library_file(f.file_name)), None)


# --- one rule a primitive --------------------------------------------------------------------------------------------


def _sample(equation: Any, operands: list[Linear], strategies: Strategies) -> list[Linear]:
    site = equation.params["site"]
    before = _broken(_sum(operands), equation, f"the choice {site.address!r}, which depends on it,")
    made = frozenset({Estimate(site)}) if isinstance(strategies.get(site.address), Nested) else frozenset()
    return [Linear(made, before.breaks)] * len(equation.outvars)


def _select(equation: Any, operands: list[Linear], strategies: Strategies) -> list[Linear]:
    del strategies
    return [_sum([_broken(operands[0], equation, "a choice between cases"), *operands[1:]])]


def _cond(equation: Any, operands: list[Linear], strategies: Strategies) -> list[Linear]:
    index, *args = operands
    branches = [walked(code.jaxpr, args, strategies) for code in jp.inner_codes(equation)]
    broken = _broken(index, equation, "a choice between branches")
    return [_sum([broken, *column]) for column in zip(*branches, strict=True)]


def _scan(equation: Any, operands: list[Linear], strategies: Strategies) -> list[Linear]:
    loop, inside = jp.loop_of(equation), held(equation)

    def past(value: Linear) -> Linear:
        """The estimates of this step, as later steps see them."""
        moved = (e._replace(earlier=e.earlier | {id(equation)}) for e in value.estimates if e.site.address in inside)
        others = (e for e in value.estimates if e.site.address not in inside)
        return Linear(frozenset((*moved, *others)), value.breaks)

    def step(inner: list[Linear]) -> list[Linear]:
        return [past(out) for out in walked(loop.body.jaxpr, inner, strategies)]

    return settled(loop, operands, step, lambda *both: _sum(both))


def _while(equation: Any, operands: list[Linear], strategies: Strategies) -> list[Linear]:
    del strategies
    return [_broken(_sum(operands), equation, "a while_loop")] * len(equation.outvars)


_RULES = {"sample": _sample, "select_n": _select, "cond": _cond, "scan": _scan, "while": _while}


# --- the message -----------------------------------------------------------------------------------------------------

_ADVICE = (
    "Expected: the value of vi.expect in the cost linearly, or multiplied by estimates with other addresses; the mean "
    "of any other function of an estimate is another number.\n"
    "Fix: for an exponential vi.exp_expect(address, program); for a power vi.power_expect(address, program, n), or a "
    "product of vi.expect at different addresses; else sum the choices out exactly (vi.enumerate(), ppl.Exact())."
)


def _text(found: Break) -> str:
    line = ""
    if found.source is not None:
        code = linecache.getline(found.source.file, found.source.line).strip()
        line = f" at {found.source}" + (f"\n    {code}" if code else "")
    return (
        f"The estimate {found.site.address!r} ({found.site.source}) does not enter the cost linearly: "
        f"{found.operation}{line}"
    )
