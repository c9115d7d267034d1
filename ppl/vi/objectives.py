"""The library of objectives, each a few lines of the language that users write their own in.

    elbo       E_q[log p(x, y) - log q(x)]
    iwelbo     E[log mean_i w_i],   w_i = p(x_i, y) / q(x_i),  x_i ~ q

Each is a maker: `vi.elbo(model, guide)` is an `Objective` of the parameters, whose gradient is assembled from the
strategies of the guide's choices.
"""

from typing import Any

import jax
import jax.numpy as jnp

import ppl.vi.pairing as pairs
from ppl.semantics.lanes import vmap
from ppl.semantics.program import Program
from ppl.semantics.protocol import Choices
from ppl.vi.language import log_density, simulate
from ppl.vi.objective import Objective


def elbo(model: Program | pairs.Maker, guide: pairs.Maker) -> Objective:
    """The evidence lower bound: E_q[log p(x, y) - log q(x)] <= log p(y).

    Args:
        model: A program, or a function `(params, *args) -> program`.
        guide: A function `(params, *args) -> program` over the model's latent addresses. Random subsets that it lacks
            are drawn from the model (unbiased minibatches).

    Returns:
        An objective to be maximised.

    Examples:
        >>> import jax, ppl, ppl.distributions as dist
        >>> from ppl import vi
        >>> @ppl.model
        ... def model(y):
        ...     x = ppl.sample("x", dist.Normal(0.0, 1.0))
        ...     ppl.sample("y", dist.Normal(x, 1.0), obs=y)
        >>> @ppl.model
        ... def guide(mean):
        ...     ppl.sample("x", dist.Normal(mean, 0.5**0.5))
        >>> objective = vi.elbo(model(2.0), guide)
        >>> round(float(objective.value(0, 1.0)), 4)  # the guide is the posterior: the log evidence, without variance
        -2.2655
    """
    return Objective(_elbo, bound=(model, guide), maximize=True)


def _elbo(model: Any, guide: Any, params: Any, *args: Any) -> Any:
    target, proposal = pairs.paired(model, guide, params, args)
    subsets = pairs.missing_subsets(target, proposal)
    pairs.refuse_supports(target, proposal, "guide in model")
    return weighted_draw(target, proposal, subsets)[1]


def weighted_draw(target: Program, proposal: Program, subsets: Choices) -> tuple[Choices, Any]:
    """A draw of the proposal, and its log importance weight (nats); `subsets` are the target's own choices."""
    choices, log_q = simulate(proposal)
    return choices, log_density(target, {**choices, **subsets}) - log_q


def iwelbo(model: Program | pairs.Maker, guide: pairs.Maker, particles: int) -> Objective:
    """The importance-weighted bound: E[log mean_i p(x_i, y) / q(x_i)], between the ELBO and log p(y).

    Burda, Grosse, Salakhutdinov, *Importance weighted autoencoders* (2016), eq. 8. All particles see one random subset
    of the data; the bound is then one of the *expected* log of a subsample's mean weight.

    Args:
        model: A program, or a function `(params, *args) -> program`.
        guide: A function `(params, *args) -> program` over the model's latent addresses.
        particles: How many draws of the guide one estimate takes.

    Returns:
        An objective to be maximised.
    """
    return Objective(_iwelbo, bound=(model, guide, particles), maximize=True)


def _iwelbo(model: Any, guide: Any, particles: int, params: Any, *args: Any) -> Any:
    target, proposal = pairs.paired(model, guide, params, args)
    return log_mean_exp(log_weights(target, proposal, particles))


def log_weights(target: Program, proposal: Program, particles: int) -> Any:
    """Log importance weights of independent draws of the proposal, in nats, shape `(particles,)`."""
    subsets = pairs.missing_subsets(target, proposal)
    return vmap(lambda: weighted_draw(target, proposal, subsets)[1], axis_size=particles)()


def log_mean_exp(log_values: Any) -> Any:
    """The log of the mean of the exponentials, over the first axis; NaN stays NaN, so that a fit sees it.

    (`ppl.numerics.weights.log_mean_exp` counts NaN as weight zero, which is right for particles.)
    """
    return jax.scipy.special.logsumexp(log_values, axis=0) - jnp.log(len(log_values))


def renyi(model: Program | pairs.Maker, guide: pairs.Maker, particles: int, order: float) -> Objective:
    r"""The variational Renyi bound: E[log mean_i w_i^(1 - a)] / (1 - a) of order a.

    Order 0 is the importance-weighted bound, order 1 (as a limit) the ELBO; with one particle every order is the ELBO.
    Orders below 0 give no lower bound of log p(y). Li and Turner, *Renyi divergence variational inference* (2016),
    eq. 9; it is a *biased* estimate of the Renyi bound itself, of the order of one over the number of particles.

    Args:
        model: A program, or a function `(params, *args) -> program`.
        guide: A function `(params, *args) -> program` over the model's latent addresses.
        particles: How many draws of the guide one estimate takes.
        order: The order a, not 1.

    Returns:
        An objective to be maximised.

    Raises:
        ValueError: the order is 1.
    """
    if order == 1:
        raise ValueError("vi.renyi was given order 1.\nExpected: another order; the limit at 1 is vi.elbo.")
    return Objective(_renyi, bound=(model, guide, particles, order), maximize=True)


def _renyi(model: Any, guide: Any, particles: int, order: float, params: Any, *args: Any) -> Any:
    target, proposal = pairs.paired(model, guide, params, args)
    return log_mean_exp((1 - order) * log_weights(target, proposal, particles)) / (1 - order)
