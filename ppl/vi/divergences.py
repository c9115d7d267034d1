"""Divergences from a target that can be drawn from: a program of mass one, or draws at hand.

    forward_kl      KL(p | q) = E_p[log p(x) - log q(x)]
    symmetric_kl    KL(p | q) + KL(q | p)

The reverse direction KL(q | p) alone is minus the ELBO, up to the log evidence.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

import ppl.vi.pairing as pairs
from ppl.errors import MeasureError
from ppl.semantics.program import Program
from ppl.semantics.protocol import Choices
from ppl.semantics.site import WEIGHING
from ppl.vi.language import held, log_density, simulate
from ppl.vi.objective import Objective


def forward_kl(target: Program | Choices, guide: pairs.Maker, given: Sequence[str] = ()) -> Objective:
    """The inclusive divergence KL(p | q) = E_p[log p(x) - log q(x)], which makes the guide cover the target.

    Args:
        target: A program of mass one to draw from (no observations or factors); or draws of p as a dict by address,
            with a leading axis. Of draws only the cross entropy -E_p[log q(x)] is known, which lacks a constant.
        guide: A function `(params, *args) -> program` over the target's addresses, those in `given` apart.
        given: Addresses of the target whose values the guide is told, as `guide(params, *values, *args)`: it learns
            their posterior for all values at once (the sleep phase of wake-sleep). The entropy of the given ones then
            is a constant in the objective.

    Returns:
        An objective to be minimised.

    Raises:
        MeasureError: the target has observations or factors.

    Examples:
        >>> import jax.numpy as jnp, ppl, ppl.distributions as dist
        >>> from ppl import vi
        >>> @ppl.model
        ... def target():
        ...     ppl.sample("x", dist.Bernoulli(0.25))
        >>> @ppl.model
        ... def guide(p):
        ...     ppl.sample("x", dist.Bernoulli(p))
        >>> round(float(vi.forward_kl(target(), guide).expect(jnp.array(0.5))), 3)
        0.131
    """
    _check_drawable(target, "vi.forward_kl")
    return Objective(_forward_kl, bound=(target, guide, tuple(given)))


def _forward_kl(target: Any, guide: Any, given: tuple[str, ...], params: Any, *args: Any) -> Any:
    return _inclusive(target, None, guide, given, params, args)


def symmetric_kl(target: Program, guide: pairs.Maker, draws: Choices | None = None) -> Objective:
    """The symmetric (Jeffreys) divergence KL(p | q) + KL(q | p).

    Args:
        target: A program over the guide's addresses. Without draws it has mass one; with draws of its posterior it may
            have observations and factors: the log evidence cancels between the two directions.
        guide: A function `(params, *args) -> program` over the target's latent addresses.
        draws: Draws of p as a dict by address, with a leading axis; by default they are made by the target.

    Returns:
        An objective to be minimised.

    Raises:
        MeasureError: the target has observations or factors, and no draws are given.
    """
    if draws is None:
        _check_drawable(target, "vi.symmetric_kl")
    return Objective(_symmetric_kl, bound=(target, guide, draws))


def _symmetric_kl(target: Any, guide: Any, draws: Choices | None, params: Any, *args: Any) -> Any:
    inclusive = _inclusive(target if draws is None else draws, target, guide, (), params, args)
    choices, log_q = simulate(pairs.program_at(guide, "guide", params, args), "guide")
    return inclusive + log_q - log_density(target, choices)


def _inclusive(source: Any, target: Any, guide: Any, given: tuple[str, ...], params: Any, args: tuple[Any, ...]) -> Any:
    """E_p[log p(x) - log q(x)]: over draws of the source; without a target, draws at hand have log p(x) = 0."""

    def log_q(choices: Choices) -> Any:
        told = tuple(choices[address] for address in given)
        rest = {address: value for address, value in choices.items() if address not in given}
        return pairs.program_at(guide, "guide", params, (*told, *args)).log_density(rest)

    if isinstance(source, Program):
        choices, log_p = simulate(held(source), "target")
        return log_p - log_q(choices)
    gains = jax.vmap(lambda choices: (0.0 if target is None else target.log_density(choices)) - log_q(choices))
    return jnp.mean(gains(source))


def _check_drawable(target: Any, objective: str) -> None:
    if not isinstance(target, Program):
        return
    weighing = [f"{a!r} ({info.source})" for a, info in target.sites.items() if info.kind in WEIGHING]
    if weighing:
        raise MeasureError(
            f"{objective} draws from {target.name!r}, which weighs its draws at {', '.join(weighing)}.\n"
            "Expected: a program of mass one, whose draws are the target's.\n"
            "Fix: give draws of the posterior as a dict by address, or program.normalize(method)."
        )
