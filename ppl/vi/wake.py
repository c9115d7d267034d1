"""Reweighted wake-sleep: the model and the guide learn from self-normalised importance samples of the posterior.

    q_wake_K:  minimise -E_{x ~ SIR_K}[log q(x)]        p_wake_K:  minimise -E_{x ~ SIR_K}[log p(x, y)]

SIR_K draws K particles of the guide and picks one in proportion to p(x, y) / q(x). Nothing inside it is
differentiated, and the picked particle is summed out: a self-normalised weighted sum. So the gradients are those of
E[log q] and E[log p] under the SIR of the current parameters, held fixed; the SIR's law differs from the posterior by
O(1/K), and both objectives are *biased* by that much where the posterior is meant. Bornschein and Bengio, *Reweighted
wake-sleep* (2015); Le et al., *Revisiting reweighted wake-sleep* (2019), eq. 5 and 9.
"""

from typing import Any

import jax
from jax import lax

import ppl.vi.pairing as pairs
from ppl.semantics.lanes import vmap
from ppl.semantics.program import Program
from ppl.semantics.protocol import Choices
from ppl.vi.language import held
from ppl.vi.objective import Objective
from ppl.vi.objectives import weighted_draw


def q_wake(model: Program | pairs.Maker, guide: pairs.Maker, particles: int) -> Objective:
    """The guide's phase: -E_{x ~ SIR_K}[log q(x)], which moves the guide to the posterior (forward KL).

    Args:
        model: A program, or a function `(params, *args) -> program`; its parameters get no gradient.
        guide: A function `(params, *args) -> program` over the model's latent addresses.
        particles: The number K of particles.

    Returns:
        An objective to be minimised.
    """
    return Objective(_q_wake, bound=(model, guide, particles))


def _q_wake(model: Any, guide: Any, particles: int, params: Any, *args: Any) -> Any:
    target, proposal = pairs.paired(model, guide, params, args)
    draws, _, weights = resampled(target, proposal, particles)
    return -weights @ jax.vmap(proposal.log_density)(draws)


def p_wake(model: pairs.Maker, guide: pairs.Maker, particles: int) -> Objective:
    """The model's phase: -E_{x ~ SIR_K}[log p(x, y)], an estimate of the maximum likelihood step.

    Args:
        model: A function `(params, *args) -> program`.
        guide: A function `(params, *args) -> program` over the model's latent addresses; it gets no gradient.
        particles: The number K of particles.

    Returns:
        An objective to be minimised.
    """
    return Objective(_p_wake, bound=(model, guide, particles))


def _p_wake(model: Any, guide: Any, particles: int, params: Any, *args: Any) -> Any:
    target, proposal = pairs.paired(model, guide, params, args)
    draws, subsets, weights = resampled(target, proposal, particles)
    return -weights @ jax.vmap(lambda choices: target.log_density({**choices, **subsets}))(draws)


def resampled(target: Program, proposal: Program, particles: int) -> tuple[Choices, Choices, Any]:
    """Particles of the proposal with their self-normalised weights; nothing is differentiated.

    Returns:
        The particles' choices (leading axis of particles), the random subsets that all of them share, and the weights,
        shape `(particles,)`, which sum to one.
    """
    fixed = held(proposal)
    subsets = pairs.missing_subsets(target, proposal)
    pairs.refuse_supports(target, proposal, "model in guide")
    draws, log_weights = vmap(lambda: weighted_draw(target, fixed, subsets), axis_size=particles)()
    return draws, subsets, lax.stop_gradient(jax.nn.softmax(log_weights))
