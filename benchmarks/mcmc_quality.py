"""The same quality of answer: effective sample sizes of a run, and its agreement with reference draws."""

from typing import Any

import numpy as np

from benchmarks.posteriordb import POSTERIORS, agreement, flatten, load_reference
from benchmarks.targets import SYNTHETIC
from ppl.diagnostics.convergence import effective_sample_size

REFERENCE_SHAPE = (10, 1000)


def quality(draws: dict[str, np.ndarray], target: str, folder: str | None) -> dict[str, Any]:
    """Minimum bulk ESS over the reference's parameters, and what disagrees with the reference.

    Args:
        draws: By address, shaped (chains, draws, *event).
        target: Its name.
        folder: The folder of posteriordb.

    Returns:
        `min_ess`; `worst`, the largest z-score, and `failures`, the parameters beyond the limit (None where there is
        no reference).
    """
    reference = reference_of(target, folder)
    if reference is None:
        minimum = min(float(np.min(effective_sample_size(x))) for x in draws.values())
        return {"min_ess": minimum, "worst": None, "failures": None}
    found = agreement(flatten(draws, reference), reference)
    return {"min_ess": found.min_ess, "worst": found.worst[1], "failures": found.failures}


def reference_of(target: str, folder: str | None) -> dict[str, np.ndarray] | None:
    """Reference draws: posteriordb's, or independent draws of a Gaussian; None for the logistic regression."""
    if target in POSTERIORS:
        return load_reference(folder, target)
    if not target.startswith("gaussian"):
        return None
    (root,) = SYNTHETIC[target]()
    normal = np.random.default_rng(2).normal(size=(*REFERENCE_SHAPE, len(root)))
    x = np.linalg.solve(root, normal.reshape(-1, len(root)).T).T.reshape(*REFERENCE_SHAPE, len(root))
    return {f"x[{i + 1}]": x[..., i] for i in range(len(root))}
