"""The ELBO whose guide runs a Markov chain: draws of a simple guide are moved towards the posterior by Langevin steps.

    x_0 ~ q,   x_t ~ K_t(. | x_{t-1}) = N(x_{t-1} + e^2/2 grad log g_t(x_{t-1}), e^2),   g_t = q^(1 - t/T) p^(t/T)
    E[log p(x_T, y) - log q(x_0) + sum_t log K_t(x_{t-1} | x_t) - log K_t(x_t | x_{t-1})]

The states that the chain has left are auxiliary choices, whose reverse model is the chain run backwards; there is no
acceptance step, so that the gradient (in the step size too) is pathwise and unbiased. Salimans, Kingma, Welling,
*Markov chain Monte Carlo and variational inference* (2015), eq. 9; Thin et al., *Monte Carlo variational auto-encoders*
(2021), section 3.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import lax
from jax.flatten_util import ravel_pytree

import ppl.vi.pairing as pairs
from ppl.errors import MeasureError
from ppl.semantics.choices import latent_infos
from ppl.semantics.language import sample
from ppl.semantics.program import Program
from ppl.vi.language import simulate
from ppl.vi.objective import Objective
from ppl.vi.pathwise import reparam


def annealed_elbo(model: Program | pairs.Maker, guide: pairs.Maker, steps: int) -> Objective:
    """The ELBO of a guide that is followed by annealed Langevin steps, with the reversed chain as its reverse model.

    Args:
        model: A program, or a function `(params, *args) -> program`, whose latent choices live on the real line
            (`ppl.unconstrained(program).program` otherwise).
        guide: A function `(params, *args) -> program` over the model's latent addresses.
        steps: The number T of Langevin steps; without any it is `vi.elbo`.

    Returns:
        An objective to be maximised. Its parameters are a pair: those of model and guide, and the log of the step size.

    Raises:
        MeasureError: a choice is no float.
    """
    return Objective(_annealed, bound=(model, guide, steps), maximize=True)


def _annealed(model: Any, guide: Any, steps: int, params: Any, *args: Any) -> Any:
    inner, log_step = params
    target, proposal = pairs.paired(model, guide, inner, args)
    _check_floats(target)
    subsets = pairs.missing_subsets(target, proposal)
    choices, log_q = simulate(proposal)
    start, restore = ravel_pytree(choices)

    def log_bridge(x: Any, power: Any) -> Any:
        log_p = target.log_density({**restore(x), **subsets})
        return (1 - power) * proposal.log_density(restore(x)) + power * log_p

    def kernel(x: Any, power: Any) -> Any:
        drift = 0.5 * jnp.exp(2 * log_step) * jax.grad(log_bridge)(x, power)
        return dist.Normal(x + drift, jnp.exp(log_step)).to_event(1)

    def step(state: Any, power: Any) -> Any:
        x, log_ratio = state
        forward = kernel(x, power)
        moved = sample("chain", forward, grad=reparam())
        backward = kernel(moved, power)
        return (moved, log_ratio + backward.log_prob(x) - forward.log_prob(moved)), None

    powers = jnp.arange(1, steps + 1) / max(steps, 1)
    (last, log_ratio), _ = lax.scan(step, (start, -log_q), powers.astype(start.dtype))
    return target.log_density({**restore(last), **subsets}) + log_ratio


def _check_floats(target: Program) -> None:
    moved = {a: info for a, info in latent_infos(target.staged).items() if info.distribution != "RandomSubset"}
    wrong = [f"{a!r} ({i.source})" for a, i in moved.items() if not jnp.issubdtype(i.dtype, jnp.floating)]
    if wrong:
        raise MeasureError(
            f"vi.annealed_elbo moves all choices by Langevin steps; these of {target.name!r} are no floats: "
            f"{', '.join(wrong)}.\nExpected: choices on the real line. Sum the others out with program.marginal(...)."
        )
