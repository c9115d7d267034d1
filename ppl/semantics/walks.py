"""Programs taken one site at a time, so that two of them can be walked in lockstep.

A `Walk` evaluates the equations of a code up to the next one that is a site or holds some (a loop, a branch, lanes),
and waits there until somebody says what its results are. It looks through `jit` and its like.
"""

from collections.abc import Generator, Sequence
from typing import Any

from ppl.semantics import jaxpr as jp
from ppl.semantics.interpreter import RULES
from ppl.semantics.protocol import TOP, Choices, Handler, Result
from ppl.semantics.table import addresses_in, site_table

REMATERIALIZED = ("checkpoint", "remat", "remat2")
"""Constructs that are looked through although the interpreter has a rule for them."""


class Walk:
    """A code under way: `current` is the equation that waits, with its operands (None at the end, when `outs` is set).

    Args:
        code: The code.
        args: The values of its inputs.
    """

    def __init__(self, code: jp.Code, args: Sequence[Any]) -> None:
        self.latent = latent_in_code(code)
        self.outs: list[Any] = []
        self.current: tuple[Any, list[Any]] | None = None
        self._under_way = _equations(code, args)
        self._resume(None)

    def give(self, results: Sequence[Any]) -> None:
        """Say what the current equation's results are, and walk on."""
        self._resume(list(results))

    @property
    def waiting(self) -> tuple[Any, list[Any]]:
        """The current equation, where it is known that there is one."""
        assert self.current is not None
        return self.current

    def _resume(self, results: list[Any] | None) -> None:
        try:
            self.current = self._under_way.send(results)
        except StopIteration as end:
            self.current, self.outs = None, end.value


def _equations(code: jp.Code, args: Sequence[Any]) -> Generator[tuple[Any, list[Any]], Any, list[Any]]:
    jaxpr = code.jaxpr
    environment = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*code.consts, *args), strict=True))
    for equation in jaxpr.eqns:
        operands = [jp.read(environment, atom) for atom in equation.invars]
        if not jp.has_sites(equation):
            outs = jp.evaluate(equation, operands)
        elif equation.primitive.name in RULES and equation.primitive.name not in REMATERIALIZED:
            outs = yield equation, operands
        else:
            outs = yield from _equations(jp.inner_codes(equation)[0], operands)
        environment.update(zip(equation.outvars, outs, strict=True))
    return [jp.read(environment, atom) for atom in jaxpr.outvars]


def interpreted(equation: Any, operands: Sequence[Any], handler: Handler, reads: Choices) -> Result:
    """One equation with sites, run by a rewriting handler."""
    inside = addresses_of(equation)
    given = {address: value for address, value in reads.items() if address in inside}
    return RULES[equation.primitive.name](equation, operands, handler, given, TOP)


def addresses_of(equation: Any) -> frozenset[str]:
    """The addresses of the sites in an equation, of every kind."""
    if equation.primitive in jp.SITES:
        return frozenset({equation.params["site"].address})
    return frozenset().union(*(addresses_in(code.jaxpr) for code in jp.inner_codes(equation)))


def latent_in(equation: Any) -> frozenset[str]:
    """The addresses of the latent choices that an equation makes, at any depth."""
    if equation.primitive in jp.SITES:
        site = equation.params["site"]
        return frozenset({site.address}) if site.kind == "latent" else frozenset()
    return frozenset().union(*(latent_in_code(code) for code in jp.inner_codes(equation)))


def latent_in_code(code: jp.Code) -> frozenset[str]:
    """The addresses of the latent choices of a code, at any depth."""
    return frozenset(a for a, entry in site_table(code.jaxpr).items() if entry.site.kind == "latent")


def always_made(equation: Any) -> frozenset[str]:
    """The addresses of the latent choices that an equation makes whichever branches are taken."""
    name = equation.primitive.name
    if equation.primitive in jp.SITES:
        return latent_in(equation)
    codes = jp.inner_codes(equation)
    made = [frozenset().union(*(always_made(e) for e in code.jaxpr.eqns if jp.has_sites(e))) for code in codes]
    return frozenset.intersection(*made) if name == "cond" else frozenset().union(*made)
