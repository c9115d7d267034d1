"""`ppl.Importance`: weighted draws from the prior or from a proposal, with Pareto-smoothed weights and the evidence.

    x ~ q,  weight p(x, y) / q(x):  E[weight f(x)] = integral of f(x) p(x, y)

q is the density of the *latent choices that the target knows*. A proposal with choices of its own has a joint density
over more than x, which is not q(x); dividing by it would be wrong, so such choices are summed out exactly or refused.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ppl.diagnostics.importance import ParetoSmoothed, pareto_smooth
from ppl.errors import AddressError, DegenerateWeightsError, NotFiniteError
from ppl.inference.data_checks import density_table
from ppl.inference.method import CHAIN_SETTINGS, Settings, positive, refuse
from ppl.inference.population import Given, Runs, one_particle, over_lanes, population
from ppl.inference.posterior import Evidence, Posterior
from ppl.numerics.weights import LogEvidence, effective_sample_size, log_evidence
from ppl.semantics.choices import latent_infos
from ppl.semantics.program import Program
from ppl.semantics.site import WEIGHING
from ppl.typing import PRNGKey


@dataclass(frozen=True)
class Importance:
    """Self-normalised importance sampling.

    Args:
        draws: Number of particles.
        proposal: None for the prior, or a program over the same latent addresses (its observations and factors neither
            move nor weigh its draws). Addresses that it lacks are drawn from the prior; finite choices that only it has
            are summed out.
        smooth: Whether the largest weights are Pareto-smoothed (a little bias for much less variance). The evidence is
            always that of the raw weights, which stay in `stats["log_weight"]`.
        batch_size: Particles drawn at a time; all at once by default. Another batch size gives other draws.

    The posterior's `diagnostics` hold `pareto_k` and `ess` (Kish's effective sample size of the raw weights).
    Expectations under it are biased by O(1/draws); the evidence (not its logarithm) is unbiased.
    """

    draws: int
    proposal: Program | None = None
    smooth: bool = True
    batch_size: int | None = None

    def __post_init__(self) -> None:
        positive("draws", self.draws)
        if self.batch_size is not None:
            positive("batch_size", self.batch_size)
        if self.proposal is not None and not isinstance(self.proposal, Program):
            raise TypeError(
                f"The proposal is a {type(self.proposal).__name__}.\n"
                "Expected: a Program: call the model with its arguments."
            )

    def run(self, program: Program, key: PRNGKey, settings: Settings) -> Posterior:
        """Draw, weigh, smooth."""
        refuse(settings, CHAIN_SETTINGS, "ppl.Importance", "Give it the number: ppl.Importance(1000).")
        particles = self.population(program, key)
        log_weights = np.asarray(particles.log_weight)
        if not np.nanmax(log_weights, initial=-np.inf) > -np.inf:
            raise _degenerate(program, particles)
        return _posterior(program, particles, log_weights, smooth=self.smooth)

    def population(self, program: Program, key: PRNGKey) -> Runs:
        """The particles with their raw weights, before anything is made of them."""
        proposal = None if self.proposal is None else fitted(self.proposal, program)
        size = min(self.batch_size or self.draws, self.draws)
        starts = range(0, self.draws, size)
        counts = [min(size, self.draws - start) for start in starts]
        keys = [key] if len(counts) == 1 else [jax.random.fold_in(key, i) for i in range(len(counts))]
        parts = [_batch(program, proposal, k, n) for k, n in zip(keys, counts, strict=True)]
        return parts[0] if len(parts) == 1 else jax.tree.map(lambda *x: jnp.concatenate(x), *parts)


def _batch(program: Program, proposal: Program | None, key: PRNGKey, count: int) -> Runs:
    if proposal is None:
        return population(program, key, count)
    particles, strays = _proposed(program, proposal, key, count)
    bad = [address for address, stray in strays.items() if bool(stray)]
    if bad:
        raise AddressError(
            f"The proposal {proposal.name!r} makes the choices {bad} in runs where the program "
            f"{program.name!r} does not make them.\nTheir density would be counted in the proposal and not in the "
            "program, which biases the weights.\n"
            "Fix: let the proposal's branches be those of the program."
        )
    return particles


@partial(jax.jit, static_argnums=3)
def _proposed(program: Program, proposal: Program, key: PRNGKey, count: int) -> tuple[Runs, dict[str, Any]]:
    drawn_key, rest_key = jax.random.split(key)

    def one() -> tuple[Runs, dict[str, Any]]:
        drawn = one_particle(proposal, drawn_key, {})
        made = {a: _aligned(drawn.masks[a], program, a) if a in drawn.masks else None for a in drawn.choices}
        run = one_particle(program, rest_key, {a: Given(x, made[a]) for a, x in drawn.choices.items()})
        stray = {a: jnp.any(_stray(made[a], _aligned(run.masks[a], program, a))) for a in made if a in run.masks}
        stray = {a: flag & (run.log_weight > -jnp.inf) for a, flag in stray.items()}
        return run._replace(log_weight=_difference(run.log_weight, drawn.log_proposal), log_proposal=None), stray

    particles, strays = over_lanes(one, count)
    return particles, jax.tree.map(jnp.any, strays)


def _stray(made: Any, wanted: Any) -> Any:
    """Whether the proposal made a choice that the program does not make."""
    return ~wanted if made is None else made & ~wanted


def _difference(log_target: Any, log_proposal: Any) -> Any:
    return jnp.where(log_target == -jnp.inf, -jnp.inf, log_target - log_proposal)


def _aligned(mask: Any, program: Program, address: str) -> Any:
    """The proposal's mask with the leading axes that the program's site has."""
    info, aval = next(
        (info, aval)
        for entry in program.staged.table.values()
        for info, aval in zip(entry.infos, entry.signature.avals, strict=True)
        if info.address == address
    )
    leading = info.shape[: len(info.shape) - len(aval.shape)]
    if mask.ndim > len(leading):
        raise AddressError(
            f"The proposal makes single elements of {address!r} or not, inside branches, but the program "
            f"({info.source}) makes it as a whole.\n"
            "Fix: let the proposal's loops and branches be those of the program."
        )
    return jnp.broadcast_to(mask.reshape(*mask.shape, *(1,) * (len(leading) - mask.ndim)), leading)


def fitted(proposal: Program, program: Program) -> Program:
    """A proposal over choices of the program alone: those that only the proposal has are summed out.

    Raises:
        AddressError: the two share no address, or there are choices that cannot be summed out.
    """
    mine, theirs = latent_infos(proposal.staged), latent_infos(program.staged)
    extra = [a for a in mine if a not in theirs]
    shared = [a for a in mine if a in theirs]
    if not shared:
        raise AddressError(
            f"The proposal {proposal.name!r} shares no latent address with the program {program.name!r}.\n"
            f"The proposal's: {list(mine)}. The program's: {list(theirs)}.\n"
            "Fix: give its choices the program's addresses."
        )
    return _summed_out(proposal, program, shared, extra) if extra else proposal


def _summed_out(proposal: Program, program: Program, shared: list[str], extra: list[str]) -> Program:
    infos = latent_infos(proposal.staged)
    where = ", ".join(f"{a!r} ({infos[a].source})" for a in extra)
    reason = (
        f"The proposal {proposal.name!r} has choices that the program {program.name!r} does not know: {where}.\n"
        "Its joint density over all its choices is not the density of the shared ones, so that weights made with it "
        "would be wrong"
    )
    fix = "Fix: marginalise them yourself (proposal.marginal(...)), or write the proposal without them."
    masked = [a for a in shared if infos[a].masked]
    weighing = [a for a, info in proposal.sites.items() if info.kind in WEIGHING]
    if masked or weighing:
        what = f"{masked} lie inside branches" if masked else f"{weighing} weigh the proposal's traces"
        raise AddressError(f"{reason}; and they cannot be summed out, because {what}.\n{fix}")
    marginal = proposal.marginal(shared)
    try:
        jax.eval_shape(lambda m: over_lanes(lambda: one_particle(m, jax.random.key(0), {}), 2), marginal)
    except NotFiniteError as error:
        raise AddressError(f"{reason}; and they are not finite, so that they cannot be summed out.\n{fix}") from error
    return marginal


def _posterior(program: Program, particles: Runs, log_weights: np.ndarray, *, smooth: bool) -> Posterior:
    smoothed = pareto_smooth(log_weights)
    evidence, ess = _evidence(particles.log_weight)
    return Posterior(
        draws=_with_chain(particles.choices),
        masks=_with_chain(particles.masks),
        values=_with_chain(particles.value),
        deterministic=_with_chain(particles.deterministic),
        log_weights=(_rescaled(smoothed, log_weights) if smooth else log_weights)[None],
        log_evidence=Evidence(float(evidence.value), float(evidence.standard_error)),
        stats={"log_weight": log_weights[None]},
        diagnostics={
            "pareto_k": float(smoothed.pareto_k),
            "ess": float(ess),
            "nan_weights": float(np.isnan(log_weights).sum()),
        },
        program=program,
        method="Importance",
    )


@jax.jit
def _evidence(log_weights: Array) -> tuple[LogEvidence, Array]:
    return log_evidence(log_weights), effective_sample_size(log_weights)


def _with_chain(tree: Any) -> Any:
    return jax.tree.map(lambda x: x[None], tree)


def _rescaled(smoothed: ParetoSmoothed, raw: Float[np.ndarray, "particles"]) -> Float[np.ndarray, "particles"]:
    """Smoothed weights with the sum of the raw ones; NaN weights stay NaN, so that the summary says them aloud."""
    log_sum = np.logaddexp.reduce(raw[~np.isnan(raw)].astype(np.float64))
    return np.where(np.isnan(raw), np.nan, smoothed.log_weights + log_sum).astype(raw.dtype)


def _degenerate(program: Program, particles: Runs) -> DegenerateWeightsError:
    count = len(particles.log_weight)
    first: dict[str, Array] = jax.tree.map(lambda x: x[0], particles.choices)
    return DegenerateWeightsError(
        f"None of {count} draws of {program.name!r} has a positive weight: there is no posterior to speak of.\n"
        "Log density by site at the first draw:\n"
        f"{density_table(program, first)}\n"
        "Likely causes: an observation outside its support, a factor of minus infinity, a proposal that never "
        "reaches the posterior.\n"
        "Fix: check the marked sites, use a proposal nearer to the data, or more draws."
    )
