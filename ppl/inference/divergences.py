"""Where a Hamiltonian run diverged, and what to try there.

Divergent draws gather where the density curves more sharply than the step size allows, such as the neck of a funnel.
The scalar whose divergent draws lie most one-sidedly among all its draws is named, with the region; if the prior of a
location-scale choice depends on it, the advice is to draw that choice non-centred.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from ppl.errors import PplError
from ppl.inference.scalars import Drawn, Scalars, scalars_of
from ppl.inference.tables import Note
from ppl.semantics.program import Program

LOCATION_SCALE = ("Normal", "StudentT", "Cauchy", "Laplace", "Logistic", "Gumbel", "LogNormal", "MultivariateNormal")
LOUD = 4.0
"""Standard deviations that the mean rank of divergent draws must be off for a region to be named."""
MOST_SCALARS = 500
SHARE = 0.8
MOST_PARENTS = 5


class Region(NamedTuple):
    """A half line in which most of the divergent draws lie, and the share of all draws that it holds."""

    address: str
    label: str
    below: bool
    bound: float
    share: float


def divergence_notes(posterior: Drawn) -> list[Note]:
    """A warning where draws diverged: how many, where, what to try."""
    diverging = np.asarray(posterior.stats.get("diverging", np.zeros((1, 1), bool)), bool)
    count = int(diverging.sum())
    if not count:
        return []
    region = concentration(scalars_of(posterior), diverging)
    where, rule = "", None
    if region is not None:
        sign = "<" if region.below else ">"
        where = (
            f", {SHARE:.0%} of them where {region.label} {sign} {region.bound:.3g} ({region.share:.0%} of all draws)"
        )
        rule = noncentered_rule(posterior, region.address)
    rule = rule or any_noncentered_rule(posterior)
    text = (
        f"{count} of {diverging.size} draws diverged{where}: the posterior is not explored there. Try "
        f"ppl.NUTS(target_acceptance={_nearer_to_one(posterior)}){f', or {rule}' if rule else ''}."
    )
    return [Note(text, warning=True)]


def _nearer_to_one(posterior: Drawn) -> float:
    """A target acceptance above the one that the run had."""
    reached = float(np.mean(posterior.stats.get("acceptance", 0.8)))
    return next((target for target in (0.9, 0.95, 0.99) if target > reached + 0.04), 0.999)


def concentration(scalars: Scalars, diverging: np.ndarray) -> Region | None:
    """The scalar and the half line that the divergent draws prefer most; None where there is no clear preference."""
    flags = diverging.ravel()
    count = int(flags.sum())
    looked_at = np.arange(scalars.count)[:: max(math.ceil(scalars.count / MOST_SCALARS), 1)]
    if not looked_at.size or count == flags.size:
        return None
    matrix = scalars.matrix(looked_at).reshape(flags.size, -1)
    places = _places(matrix, flags)
    loudness = (places.mean(axis=0) - 0.5) * math.sqrt(12 * count)
    loudness = np.where(np.ptp(matrix, axis=0) > 0, loudness, 0.0)
    best = int(np.argmax(np.abs(loudness)))
    if not abs(loudness[best]) > LOUD:
        return None
    below = bool(loudness[best] < 0)
    bound = float(np.quantile(matrix[flags, best], SHARE if below else 1 - SHARE))
    inside = matrix[:, best] < bound if below else matrix[:, best] > bound
    number = looked_at[best]
    return Region(scalars.address(number), scalars.label(number), below, bound, float(inside.mean()))


def _places(matrix: np.ndarray, flags: np.ndarray) -> np.ndarray:
    """The shares of all draws that lie below each flagged one, scalar by scalar; equal ones count half."""
    columns = np.sort(np.ascontiguousarray(matrix.T), axis=1)
    flagged = matrix[flags].T
    pairs = zip(columns, flagged, strict=True)
    below = [np.searchsorted(c, x, "left") + np.searchsorted(c, x, "right") for c, x in pairs]
    return np.stack(below, axis=1) / (2 * flags.size)


def noncentered_rule(posterior: Drawn, parent: str) -> str | None:
    """`ppl.reparam(program, {...})` for the location-scale choices whose prior depends on `parent`; None for none."""
    program = posterior.program
    if not isinstance(program, Program) or parent not in posterior.draws:
        return None
    found = [a for a in children(program, posterior, parent) if program.sites[a].distribution in LOCATION_SCALE]
    if not found:
        return None
    rules = ", ".join(f"{address!r}: ppl.noncentered()" for address in found[:3])
    return f"draw what it scales in units of it: ppl.reparam(program, {{{rules}}})"


def any_noncentered_rule(posterior: Drawn) -> str | None:
    """The same for the first scalar choice that any location-scale choice depends on."""
    scalars = [a for a, x in posterior.draws.items() if x.ndim == 2 and np.issubdtype(x.dtype, np.floating)]
    rules = (noncentered_rule(posterior, address) for address in scalars[:MOST_PARENTS])
    return next((rule for rule in rules if rule), None)


def children(program: Program, posterior: Drawn, parent: str) -> list[str]:
    """Choices whose prior terms change with the value of `parent`, all else as in the first draw."""
    first = {address: np.asarray(x)[0, 0] for address, x in posterior.draws.items()}
    other = np.asarray(posterior.draws[parent])[-1, -1]
    try:
        before, after = (_prior(program, choices) for choices in (first, first | {parent: other}))
    except PplError:  # the posterior keeps only some choices, or the program is another
        return []
    return [a for a in before if a != parent and not np.array_equal(before[a], after[a])]


def _prior(program: Program, choices: dict[str, Any]) -> dict[str, np.ndarray]:
    return {address: np.asarray(term) for address, term in program.terms(choices).prior.items()}
