"""Programmable variational inference: objectives are programs, their gradients unbiased estimators."""

from ppl.vi.language import log_density, simulate, with_strategies
from ppl.vi.objective import Objective, expect, objective
from ppl.vi.objectives import elbo, iwelbo
from ppl.vi.pathwise import reparam
from ppl.vi.strategies import STRATEGIES, enumerate, score, strategies

__all__ = [
    "Objective",
    "STRATEGIES",
    "elbo",
    "enumerate",
    "expect",
    "iwelbo",
    "log_density",
    "objective",
    "reparam",
    "score",
    "simulate",
    "strategies",
    "with_strategies",
]
