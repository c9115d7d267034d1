"""Programmable variational inference: objectives are programs, their gradients unbiased estimators."""

from ppl.vi.baselines import baseline, leave_one_out, moving_average
from ppl.vi.checks import check
from ppl.vi.language import log_density, simulate, with_strategies
from ppl.vi.measure_valued import measure_valued
from ppl.vi.objective import Evaluation, Objective, expect, objective
from ppl.vi.objectives import elbo, iwelbo
from ppl.vi.pathwise import reparam
from ppl.vi.strategies import STRATEGIES, enumerate, score, strategies

__all__ = [
    "Evaluation",
    "Objective",
    "STRATEGIES",
    "check",
    "baseline",
    "elbo",
    "enumerate",
    "expect",
    "iwelbo",
    "leave_one_out",
    "log_density",
    "measure_valued",
    "moving_average",
    "objective",
    "reparam",
    "score",
    "simulate",
    "strategies",
    "with_strategies",
]
