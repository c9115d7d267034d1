"""What draws of an approximation q are worth as draws of a posterior: ELBO, evidence, Pareto k, and what is said of it.

    log ratio(x) = log p(x, y) - log q(x),   x ~ q:   ELBO = E[log ratio] <= log E[ratio] = log evidence

Law: every number is computed from raw log ratios of fresh draws, never from those by which q was chosen.

Reference: Yao, Vehtari, Simpson, Gelman, "Yes, but did it work? Evaluating variational inference", ICML 2018.
"""

import math
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float

from ppl.diagnostics.importance import ParetoSmoothed, pareto_smooth
from ppl.inference.posterior import Evidence
from ppl.inference.tables import Note
from ppl.numerics.weights import effective_sample_size, log_evidence

ADVICE = (
    "The approximation misses part of the posterior: moments, corrected ones too, and the evidence are not reliable. "
)


class Bound(NamedTuple):
    """An evidence lower bound and its standard error (nats)."""

    estimate: float
    standard_error: float


class Judged(NamedTuple):
    """An approximation by its draws.

    Attributes:
        log_ratios: The raw log ratios (nats).
        smoothed: Their Pareto-smoothed weights, and k.
        bound: The evidence lower bound.
        evidence: The importance estimate of the log evidence.
        ess: Kish's effective number of draws.
    """

    log_ratios: Float[np.ndarray, "draws"]
    smoothed: ParetoSmoothed
    bound: Bound
    evidence: Evidence
    ess: float

    @property
    def diagnostics(self) -> dict[str, float]:
        """The numbers that a posterior keeps."""
        return {
            "elbo": self.bound.estimate,
            "elbo_standard_error": self.bound.standard_error,
            "pareto_k": float(self.smoothed.pareto_k),
            "ess": self.ess,
            "nan_weights": float(np.isnan(self.log_ratios).sum()),
        }

    @property
    def weights(self) -> Float[np.ndarray, "draws"]:
        """Pareto-smoothed log weights whose sum is that of the raw ratios; NaN where those are."""
        raw = self.log_ratios
        log_sum = np.logaddexp.reduce(raw[~np.isnan(raw)].astype(np.float64))
        return np.where(np.isnan(raw), np.nan, self.smoothed.log_weights + log_sum).astype(raw.dtype)

    def notes(self, advice: str) -> list[Note]:
        """The bound and Pareto k, in words; a warning where they say that the draws are not to be trusted."""
        return [_bound_note(self.bound), _k_note(self.smoothed, advice)]


def judged(log_ratios: Float[Array | np.ndarray, "draws"]) -> Judged:
    """Judge an approximation.

    Args:
        log_ratios: Log ratios (nats) at independent draws of it.

    Examples:
        >>> import numpy as np
        >>> found = judged(-3.0 + 0.1 * np.random.default_rng(0).normal(size=1000))
        >>> round(found.bound.estimate, 1), round(found.evidence.estimate, 1), found.smoothed.reliable
        (-3.0, -3.0, True)
    """
    raw = np.asarray(log_ratios)
    evidence, ess = _evidence(raw)
    return Judged(raw, pareto_smooth(raw), _bound(raw), Evidence(float(evidence[0]), float(evidence[1])), float(ess))


@jax.jit
def _evidence(log_ratios: Any) -> Any:
    return log_evidence(log_ratios), effective_sample_size(log_ratios)


def _bound(log_ratios: np.ndarray) -> Bound:
    """The mean; minus infinity where one ratio is."""
    ratios = log_ratios.astype(np.float64)
    if not np.isfinite(ratios).all() or len(ratios) < 2:
        return Bound(float(np.mean(ratios)), math.inf)
    return Bound(float(ratios.mean()), float(ratios.std(ddof=1) / math.sqrt(len(ratios))))


def _bound_note(bound: Bound) -> Note:
    if math.isfinite(bound.estimate):
        return Note(f"ELBO {bound.estimate:.5g} \N{PLUS-MINUS SIGN} {bound.standard_error:.2g} nats, a lower bound")
    text = f"ELBO {bound.estimate}: some draws of the approximation are impossible under the program"
    return Note(f"{text} (their supports do not nest), or their densities are no numbers.", warning=True)


def _k_note(smoothed: ParetoSmoothed, advice: str) -> Note:
    k, most = smoothed.pareto_k, smoothed.threshold
    if smoothed.verdict == "constant":
        return Note("Pareto k: none, all ratios are equal: the approximation is the posterior")
    if smoothed.reliable:
        return Note(f"Pareto k of the approximation {k:.2f} (below {most:.2f}: reliable)")
    told = (
        f"k of the approximation {k:.2f} > {most:.2f}" if math.isfinite(k) else "k cannot be told: too few draws count"
    )
    return Note(f"Pareto {told}. {ADVICE}{advice}", warning=True)
