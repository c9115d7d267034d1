"""What a posterior says of itself: one line an address, and what must be known of its weights and chains.

It takes the posterior as an object with `arrays`, `stats`, `diagnostics` and so on; it computes no table of moments.
"""

import dataclasses
from typing import Any

import jax
import numpy as np

from ppl.diagnostics.importance import pareto_k_threshold
from ppl.errors import DegenerateWeightsError
from ppl.inference.moments import normalized_weights, tail_shape
from ppl.inference.notes import evidence_note, weight_notes
from ppl.inference.tables import Note, axes_text

Overview = tuple[list[str], list[list[str]], list[Note]]
PARTS = ("draws", "masks", "deterministic", "stats")


def posterior_notes(posterior: Any, weights: np.ndarray | None, *, exact: bool) -> list[Note]:
    """Notes on the evidence, the weights and the divergences.

    Args:
        posterior: The posterior.
        weights: Its normalised weights; None for equal ones.
        exact: Whether the draws are all outcomes.
    """
    notes, diagnostics = [Note(remark) for remark in posterior.remarks], posterior.diagnostics
    if posterior.log_evidence is not None:
        notes.append(evidence_note(*(float(x) for x in posterior.log_evidence)))
    if weights is not None and not exact:
        pareto_k = float(diagnostics.get("pareto_k", tail_shape(weights)))
        counted = float(np.isnan(np.asarray(posterior.log_weights)).sum())
        nan_weights = int(diagnostics.get("nan_weights", counted))
        notes += weight_notes(weights, nan_weights, pareto_k, pareto_k_threshold(weights.size))
    if count := int(np.sum(np.asarray(posterior.stats.get("diverging", 0)))):
        draws = "draw" if count == 1 else "draws"
        notes.append(Note(f"{count} {draws} diverged: the posterior is not explored there.", warning=True))
    return notes


def overview(posterior: Any, *, exact: bool) -> Overview:
    """The header, a row an address, and the notes."""
    rows = [
        [
            address,
            "choice" if address in posterior.draws else "deterministic",
            str(x.dtype),
            axes_text(x.shape[2:], posterior.dims.get(address, ())),
        ]
        for address, x in posterior.arrays.items()
    ]
    try:
        weights = None if posterior.log_weights is None else normalized_weights(posterior.log_weights)
        notes = posterior_notes(posterior, weights, exact=exact)
    except DegenerateWeightsError:
        notes = [Note("All log weights are -inf: there is no posterior to speak of.", warning=True)]
    return ["address", "kind", "dtype", "shape"], rows, notes


def joined_draws(first: Any, second: Any) -> Any:
    """One posterior with the draws of two runs of the same chains, one after the other."""

    def join(a: Any, b: Any) -> Any:
        return np.concatenate([np.asarray(a), np.asarray(b)], axis=1)

    parts = {part: jax.tree.map(join, getattr(first, part), getattr(second, part)) for part in (*PARTS, "values")}
    return dataclasses.replace(second, **parts)
