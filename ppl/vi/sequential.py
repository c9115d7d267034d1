"""Variational sequential Monte Carlo: the ELBO whose guide is a particle filter.

    E[log Zhat] <= log p(y),      Zhat the evidence estimate of SMC with the guide as its proposal

The ancestors are choices of the objective. `vsmc` takes their score function and is unbiased; `biased_vsmc` drops
their gradient, as the published algorithms do, for much less variance. Naesseth, Linderman, Ranganath, Blei,
*Variational sequential Monte Carlo* (2018); Maddison et al., *Filtering variational objectives* (2017).
"""

from typing import Any

import ppl.vi.pairing as pairs
from ppl.numerics.weights import log_sum_exp
from ppl.semantics.choices import latent_infos
from ppl.semantics.guided import guided
from ppl.semantics.language import sample
from ppl.semantics.program import Program
from ppl.semantics.suspension import smc, suspend
from ppl.vi.language import with_strategies
from ppl.vi.objective import Objective
from ppl.vi.pathwise import Noise
from ppl.vi.resolution import choices_in

SCHEME = "multinomial"
"""The resampling scheme: the only one whose probabilities are cheap for any number of particles."""


def vsmc(model: Program | pairs.Maker, guide: pairs.Maker, particles: int) -> Objective:
    """The expected log evidence of a particle filter, with an unbiased gradient.

    Particles wait for each other at the model's observations and are resampled there, by the multinomial scheme, before
    each of them. With one particle, and for a model with one observation, it is `vi.elbo` and `vi.iwelbo`.

    Args:
        model: A program, or a function `(params, *args) -> program`.
        guide: A function `(params, *args) -> program`; loops are walked in lockstep with the model's (`ppl.guided`).
        particles: How many particles the filter has.

    Returns:
        An objective to be maximised.
    """
    return Objective(_vsmc, bound=(model, guide, particles, True), maximize=True)


def biased_vsmc(model: Program | pairs.Maker, guide: pairs.Maker, particles: int) -> Objective:
    """The expected log evidence of a particle filter; its gradient is *biased*: that of resampling is dropped.

    Args:
        model: As for `vsmc`.
        guide: As for `vsmc`.
        particles: As for `vsmc`.

    Returns:
        An objective to be maximised.
    """
    return Objective(_vsmc, bound=(model, guide, particles, False), maximize=True)


def _vsmc(model: Any, guide: Any, particles: int, unbiased: bool, params: Any, *args: Any) -> Any:  # noqa: FBT001
    target, proposal = pairs.paired(model, guide, params, args)
    law = smc(particles, None, SCHEME)(suspend(_strategic(guided(target, proposal), proposal))).program
    if not unbiased:
        ancestors = [a for a, info in latent_infos(law.staged).items() if info.distribution == "Ancestors"]
        law = with_strategies(law, dict.fromkeys(ancestors, Noise()))
    return log_sum_exp(sample("smc", law).log_weight)


def _strategic(program: Program, proposal: Program) -> Program:
    """The guided program, whose choices have the strategies of the proposal's."""
    sites = (choice.equation.params["site"] for choice in choices_in(proposal.jaxpr))
    given = {site.address: site.grad for site in sites if site.grad is not None}
    return with_strategies(program, given) if given else program
