"""Programmable variational inference: objectives are programs, their gradients unbiased estimators."""

from ppl.vi import guides
from ppl.vi.annealed import annealed_elbo
from ppl.vi.auxiliary import diwhvi, hvi, iwhvi
from ppl.vi.baselines import baseline, leave_one_out, moving_average
from ppl.vi.checks import check
from ppl.vi.divergences import forward_kl, symmetric_kl
from ppl.vi.fit_stop import Plateau
from ppl.vi.fitting import Fit, fit
from ppl.vi.implicit_derivatives import implicit
from ppl.vi.language import log_density, simulate, with_strategies
from ppl.vi.multi_sample import vimco
from ppl.vi.objective import Evaluation, Objective, expect, objective
from ppl.vi.objectives import elbo, iwelbo, renyi
from ppl.vi.pathwise import reparam
from ppl.vi.products import exp_expect, power_expect
from ppl.vi.sequential import biased_vsmc, vsmc
from ppl.vi.strategies import STRATEGIES, enumerate, score, strategies
from ppl.vi.wake import p_wake, q_wake
from ppl.vi.weak_derivatives import measure_valued

__all__ = [
    "annealed_elbo",
    "baseline",
    "biased_vsmc",
    "check",
    "diwhvi",
    "elbo",
    "enumerate",
    "Evaluation",
    "exp_expect",
    "expect",
    "fit",
    "Fit",
    "forward_kl",
    "guides",
    "hvi",
    "implicit",
    "iwelbo",
    "iwhvi",
    "leave_one_out",
    "log_density",
    "measure_valued",
    "moving_average",
    "Objective",
    "objective",
    "p_wake",
    "Plateau",
    "power_expect",
    "q_wake",
    "renyi",
    "reparam",
    "score",
    "simulate",
    "strategies",
    "STRATEGIES",
    "symmetric_kl",
    "vimco",
    "vsmc",
    "with_strategies",
]
