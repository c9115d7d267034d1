"""What is said aloud under a posterior's table: evidence, tails of weights, effective sizes, chains that disagree.

Law: a number that must not be trusted is named in a warning, with what to do about it. It computes no statistic.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ppl.inference.tables import Note, format_number

MIN_EFFECTIVE = 100.0
MAX_R_HAT = 1.01

MIXING = "The chains disagree: run longer, or reparameterise."
POOR = "Use more draws, or a proposal nearer to the posterior."
FEW = "Run more draws before you trust the intervals."
HEAVY = (
    "The estimates are not reliable, and more draws will hardly help: use a proposal nearer to the posterior "
    "(ppl.Importance(draws, proposal=...)), or MCMC."
)


class Check(NamedTuple):
    """A column's test: `bad(x)` marks rows, `worst` picks one of them to name."""

    column: str
    bad: Callable[[np.ndarray], np.ndarray]
    worst: Callable[[np.ndarray], np.intp]
    claim: str
    advice: str


def row_warnings(
    labels: Sequence[str],
    columns: Mapping[str, Float[np.ndarray, "rows"]],
    nan_draws: Sequence[float],
) -> list[Note]:
    """Warnings about rows: NaN draws, r_hat, effective sizes.

    Args:
        labels: the rows' labels.
        columns: the table's numbers; NaN where not defined.
        nan_draws: the number of draws that are NaN in each row.
    """
    checks = [
        Check("r_hat", lambda x: x > MAX_R_HAT, np.nanargmax, f"r_hat > {MAX_R_HAT}", MIXING),
        Check("ess_bulk", lambda x: x < MIN_EFFECTIVE, np.nanargmin, "ess_bulk < 100", FEW),
        Check("ess_tail", lambda x: x < MIN_EFFECTIVE, np.nanargmin, "ess_tail < 100", FEW),
        Check("ess", lambda x: x < MIN_EFFECTIVE, np.nanargmin, "ess < 100", POOR),
    ]
    notes = [
        Note(f"{label}: {count:.0f} draws are NaN, so no number is given.", warning=True)
        for label, count in zip(labels, nan_draws, strict=True)
        if count
    ]
    return notes + [note for check in checks for note in _failures(check, labels, columns)]


def _failures(check: Check, labels: Sequence[str], columns: Mapping[str, np.ndarray]) -> list[Note]:
    values = columns.get(check.column, np.array([]))
    count = int(np.sum(check.bad(values)))
    if not count:
        return []
    index = int(check.worst(values))
    worst = f"worst {labels[index]}: {format_number(float(values[index]))}"
    text = f"{check.claim} in {count} of {len(labels)} rows ({worst}). {check.advice}"
    return [Note(text, warning=True)]


def evidence_note(estimate: float, standard_error: float) -> Note:
    """The log evidence (nats) and its standard error; a warning where it is not finite or hardly known."""
    if standard_error == 0:
        return Note(f"log evidence {estimate:.6g} nats (exact)")
    decimals = 2
    if math.isfinite(standard_error) and standard_error > 0:
        decimals = min(max(1 - math.floor(math.log10(standard_error)), 0), 6)
    value = format_number(float(estimate), decimals)
    error = format_number(float(standard_error), decimals)
    text = f"log evidence {value} \N{PLUS-MINUS SIGN} {error} nats (standard error)"
    sound = math.isfinite(estimate) and standard_error < 1
    return Note(text if sound else f"{text}: of little use", warning=not sound)


def weight_notes(
    weights: Float[np.ndarray, "n"],
    nan_weights: int,
    pareto_k: float,
    max_k: float,
) -> list[Note]:
    """Kish's effective sample size, the verdict of Pareto k, and weights that are NaN.

    Args:
        weights: normalised weights.
        nan_weights: the number of log weights that were NaN.
        pareto_k: shape of the tail of the weights.
        max_k: the k above which so many draws are unreliable.
    """
    kish = 1 / float(np.sum(np.square(weights)))
    notes = [Note(f"effective draws {kish:.0f} of {weights.size}", warning=kish < MIN_EFFECTIVE)]
    if pareto_k == math.inf:
        notes.append(Note(f"Pareto k cannot be told: too few draws have any weight. {POOR}", warning=True))
    elif not pareto_k <= max_k:
        notes.append(Note(f"Pareto k {pareto_k:.2f} > {max_k:.2f}. {HEAVY}", warning=True))
    elif math.isfinite(pareto_k):
        notes.append(Note(f"Pareto k {pareto_k:.2f} (below {max_k:.2f}: reliable)"))
    if nan_weights:
        notes.append(Note(f"{nan_weights} log weights are NaN: counted as zero weight.", warning=True))
    return notes
