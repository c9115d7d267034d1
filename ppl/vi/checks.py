"""The static check of an objective: choices whose strategy cannot give an unbiased derivative, found before it runs.

Two things are found, both from the jaxpr alone (Lew et al., POPL 2023, section 5: the side conditions of estimators):

- a jump (comparison, floor, argmax, integer cast) of something that moves with the parameters and varies with a
  continuous choice, and that reaches the cost;
- a support that moves with the parameters at a choice whose derivative comes from its density.

Supports that do not nest are in `ppl.vi.supports`. Nothing here says that an objective is right; what it names is
wrong, unless the cost is continuous where a jump makes it look otherwise.
"""

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp

from ppl.errors import StrategyError
from ppl.semantics.program import Program
from ppl.semantics.site import Site
from ppl.semantics.staging import is_array
from ppl.vi.flow import Flow, Pathwise, Seen, Walk, flows
from ppl.vi.resolution import resolved


def moving_inputs(bound: Any, params: Any, args: Any) -> tuple[bool, ...]:
    """For each array among the arguments of an objective, whether it is differentiated."""
    flags = []
    for group, ours in ((bound, False), (params, True), (args, False)):
        arrays = [leaf for leaf in jax.tree.leaves(group) if is_array(leaf)]
        flags += [ours and bool(jnp.issubdtype(jnp.result_type(leaf), jnp.floating)) for leaf in arrays]
    return tuple(flags)


def refuse_invalid(program: Program, moving: tuple[bool, ...]) -> None:
    """Raise where a strategy of an objective is invalid. Cached: a program is looked at once.

    Args:
        program: An objective at some parameters.
        moving: For each of its array arguments, whether it is differentiated.

    Raises:
        StrategyError: with all findings.
    """
    found = findings(program.jaxpr, moving)
    if found:
        raise StrategyError("\n".join([f"The gradient of the objective {program.name!r} would be biased:", *found]))


@lru_cache(maxsize=1024)
def findings(jaxpr: Any, moving: tuple[bool, ...]) -> tuple[str, ...]:
    """What is invalid in an objective's jaxpr, as messages, one for each kind of mistake."""
    strategies = resolved(jaxpr)
    walk = Walk(strategies, {})
    outs = flows(jaxpr, [Flow(flag) for flag in moving], walk)
    seen = sorted(frozenset().union(*(out.jumps for out in outs)), key=lambda one: one.jump.source)
    pathwise = [one for one in seen if _pathwise(one, strategies)]
    others = [one for one in seen if one not in pathwise]
    supports = [_support_text(site, strategies) for site in walk.supports.values()]
    texts = [_jumps_text(pathwise, _PATHWISE), _jumps_text(others, _NOT_PATHWISE)]
    return tuple(text for text in (*texts, "\n".join([*supports, _SUPPORT]) if supports else "") if text)


def _pathwise(seen: Seen, strategies: Any) -> bool:
    return any(isinstance(strategies.get(site.address), Pathwise) for site in seen.choices)


def _jumps_text(seen: list[Seen], advice: str) -> str:
    return "\n".join([*map(_jump_text, seen), advice]) if seen else ""


def _jump_text(seen: Seen) -> str:
    jump, sites = seen.jump, sorted(seen.choices, key=lambda site: site.source)
    names = ", ".join(f"{site.address!r} ({site.source})" for site in sites)
    line = f"\n    {jump.text}" if jump.text else ""
    choices = "choice" if len(sites) == 1 else "choices"
    return f"- {jump.source}: {jump.what}, of the parameters and the continuous {choices} {names}{line}"


_PATHWISE = """Expected: a cost that is continuous in a reparameterised choice; its derivative does not see jumps.
Fix: grad=vi.score() at the choice; or a smooth function in place of the jump; or, where both sides agree at the jump
(so that the cost is continuous), grad=vi.reparam(smooth=True) at the choice."""

_NOT_PATHWISE = """Expected: no jump whose place moves with the parameters; no derivative sees it move.
Fix: let the parameters enter the distribution of the choice instead; or put a smooth function in place of the jump."""

_SUPPORT = """Expected: a support that stays where it is; the derivative of the density does not see its ends move.
Fix: grad=vi.reparam() there; or draw on a fixed interval and scale the draw."""


def _support_text(site: Site, strategies: Any) -> str:
    name = type(strategies[site.address]).__name__.lower()
    return f"- {site.source}: the support of {site.address!r} moves with the parameters, under the strategy {name}"


def check(objective: Any, params: Any, *args: Any) -> None:
    """Look for choices of an objective whose strategy cannot give an unbiased gradient.

    It runs by itself when a gradient is first asked for.

    Args:
        objective: An `Objective`.
        params: Its parameters; their float leaves are what is differentiated.
        *args: Its further arguments.

    Raises:
        StrategyError: naming each choice, its line, the line of what is wrong there, and the fix.

    Examples:
        >>> import jax, ppl, ppl.distributions as dist
        >>> from ppl import vi
        >>> @vi.objective
        ... def above(mean):
        ...     x = ppl.sample("x", dist.Normal(mean, 1.0))
        ...     return jax.numpy.where(x > 0.0, 1.0, 0.0)
        >>> try:
        ...     vi.check(above, 0.3)
        ... except ppl.errors.StrategyError as error:
        ...     print(str(error).splitlines()[0])
        The gradient of the objective 'above' would be biased:
    """
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf) if isinstance(leaf, float) else leaf, params)
    refuse_invalid(objective(params, *args), moving_inputs(objective.bound, params, args))
