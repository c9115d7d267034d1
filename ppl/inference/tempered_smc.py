r"""`ppl.TemperedSMC`: particles go from the prior, or from any program, to the posterior by powers of the likelihood.

    q = prior, beta_0 = 0:    choose beta' > beta, reweigh by (p / q)^(beta' - beta), resample, move;    until beta = 1

Law: for a given schedule and tuning the evidence is unbiased (`tempered_stage`); choosing them from the population
costs a bias of O(1/N). A population that has lost a mode does not find it again.

Reference: Del Moral, Doucet, Jasra, "Sequential Monte Carlo samplers", JRSS B 68 (2006).
"""

from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ppl.errors import ConvergenceError, DegenerateWeightsError
from ppl.inference.data_checks import density_table
from ppl.inference.decorrelation import ENOUGH
from ppl.inference.finish import finish
from ppl.inference.kernel_moves import KernelMoves, automatic, moves_of
from ppl.inference.kernels import KernelMaker, State
from ppl.inference.mcmc import BLOCK, finished
from ppl.inference.method import CHAIN_SETTINGS, Settings, positive, refuse
from ppl.inference.moments import normalized_weights
from ppl.inference.persistent import persistent_runs
from ppl.inference.posterior import Evidence, Posterior
from ppl.inference.summed import Summed
from ppl.inference.tempered_run import How, Run, Stages, adaptive_runs
from ppl.inference.tempering_path import TemperingPath, checked_path, vector_target
from ppl.inference.tuned_moves import Place
from ppl.numerics.resampling import resampler
from ppl.semantics.program import Program
from ppl.typing import PRNGKey

POOR_ACCEPTANCE = 0.05


@dataclass(frozen=True)
class TemperedSMC:
    """Adaptive tempered sequential Monte Carlo.

    Args:
        particles: Number of particles.
        initial: A program over the same choices to start from, near the posterior; the prior by default.
        kernel: `"random_walk"` and `"hmc"` tune themselves and move continuous choices (finite ones are summed out);
            `"auto"`: the first in up to 20 dimensions, the second above, if the density has gradients; or a maker of
            kernels for any program, such as `ppl.inference.trace_mh_kernel` or `ppl.inference.gibbs()`.
        ess: The share of the effective sample size that a step of the inverse temperature leaves.
        moves: Moves a stage; `"auto"`: until the particles have forgotten their starts (`ppl.inference.decorrelation`).
        waste_free: Keep this many states of each chain, of which there are `particles / waste_free` (Dau and Chopin
            2022); False: the last states only.
        persistent: Keep the populations of all stages, reweighted as one mixture (Karamanis and Seljak 2025).
        resampling: The scheme: see `ppl.resample`.
        replicates: Independent runs, one after the other; they are the posterior's chains, weighted by their evidence.
        max_stages: The most stages.

    `posterior.history` holds what every stage did (`Stages`; for replicates, of the first run), `posterior.remarks`
    what there is to say. The standard error of the evidence comes from replicates where there are any, else from the
    genealogy of the particles, or from the chains of a waste-free run; a persistent run alone has none (infinite).

    Examples:
        >>> import ppl, ppl.distributions as dist
        >>> @ppl.model
        ... def normal(y):
        ...     mu = ppl.sample("mu", dist.Normal(0.0, 1.0))
        ...     ppl.sample("y", dist.Normal(mu, 0.5), obs=y)
        >>> posterior = ppl.infer(normal(1.5), TemperedSMC(500), key=0)
        >>> posterior.draws["mu"].shape, bool(abs(posterior.log_evidence.estimate + 1.93) < 0.3)
        ((1, 500), True)
    """

    particles: int = 1000
    initial: Program | None = None
    kernel: str | KernelMaker = "auto"
    ess: float = 0.5
    moves: int | Literal["auto"] = "auto"
    waste_free: int | Literal[False] = False
    persistent: bool = False
    resampling: str = "systematic"
    replicates: int = 1
    max_stages: int = 100

    def __post_init__(self) -> None:
        positive("particles", self.particles)
        positive("replicates", self.replicates)
        positive("max_stages", self.max_stages)
        if self.kernel != "auto":
            moves_of(self.kernel)
        resampler(self.resampling)
        if not 0 < self.ess < 1:
            raise ValueError(f"ess is {self.ess!r}.\nExpected: a share of the particles, between 0 and 1.")
        if self.moves != "auto":
            positive("moves", self.moves)
        if self.waste_free is not False:
            _check_waste_free(self)

    @property
    def how(self) -> How:
        """What is part of the compiled code's identity; `"auto"` kernels need the program first (`run`)."""
        keep = 1 if self.waste_free is False else self.waste_free
        moves = moves_of(self.kernel)
        return How(self.particles, moves, self.ess, self.moves, keep, self.resampling, self.max_stages)

    def run(self, program: Program, key: PRNGKey, settings: Settings) -> Posterior:
        """Run the replicates, and put them together."""
        refuse(settings, CHAIN_SETTINGS, "ppl.TemperedSMC", "Give it the number: ppl.TemperedSMC(1000).")
        path = checked_path(program, self.initial)
        method = replace(self, kernel=automatic(path)) if self.kernel == "auto" else self
        runs = persistent_runs if method.persistent else adaptive_runs
        found = jax.device_get(runs(method.how, path, jax.random.split(key, method.replicates)))
        found = _trimmed(method, found)
        for replicate in range(method.replicates):
            _refuse_failed(method, program, jax.tree.map(lambda x, r=replicate: x[r], found), path)
        return _posterior(method, path, found, key)


def _check_waste_free(method: TemperedSMC) -> None:
    keep = method.waste_free
    if isinstance(keep, bool):
        raise ValueError(  # noqa: TRY004 - a setting like the others
            "waste_free is True.\nExpected: how many states of each chain to keep, such as 20; or False."
        )
    positive("waste_free", keep, 2)
    if method.particles % keep:
        raise ValueError(
            f"waste_free is {keep}, which does not divide particles={method.particles}.\n"
            f"Expected: {method.particles} particles as chains of equal length."
        )
    if method.persistent or method.moves != "auto":
        raise ValueError(
            "waste_free was given together with persistent or moves.\n"
            "Expected: one of them. A waste-free chain makes waste_free - 1 moves, and no population is kept."
        )


def _trimmed(method: TemperedSMC, found: Run) -> Run:
    """Without the populations of a pool that no run made."""
    if not method.persistent:
        return found
    size = (int(np.max(found.made)) + 1) * method.particles
    places, log_weights = jax.tree.map(lambda x: x[:, :size], (found.places, found.log_weights))
    return found._replace(places=places, log_weights=log_weights)


# --- failures ---------------------------------------------------------------------------------------------------------


def _refuse_failed(method: TemperedSMC, program: Program, run: Run, path: TemperingPath) -> None:
    """Raise where a run did not arrive."""
    if np.isneginf(run.log_evidence) or run.alive == 0 or np.isnan(run.log_evidence):
        raise _dead(method, program, run, path)
    if run.beta < 1:
        raise _unfinished(method, program, run)


def _dead(method: TemperedSMC, program: Program, run: Run, path: TemperingPath) -> DegenerateWeightsError:
    place = jax.tree.map(lambda x: jnp.asarray(x[0]), run.places)
    choices = method.how.moves.choices(path, place).choices
    table = f"Log density by site of one of them:\n{density_table(program, choices)}\n" if choices else ""
    return DegenerateWeightsError(
        f"None of the {method.particles} particles of ppl.TemperedSMC on {program.name!r} has a positive weight at "
        f"inverse temperature {float(run.beta):.3g}: every log likelihood is minus infinity or NaN.\n{table}"
        "Likely causes: an observation outside its support, a hard constraint that no draw of the start meets.\n"
        "Fix: check the marked sites, use more particles, or give `initial`, a program nearer to the data."
    )


def _unfinished(method: TemperedSMC, program: Program, run: Run) -> ConvergenceError:
    stages, count = run.stages, int(run.made)
    forced = int(np.sum(stages.forced[:count]))
    last = ", ".join(f"{x:.4g}" for x in stages.beta[:count][-3:])
    why = (
        f"In {forced} of them even the smallest step that {stages.beta.dtype} arithmetic can make left too few "
        "particles: log likelihoods differ by too much, or one of them is plus infinity.\n"
        "Fix: check the likelihood for singular points (a scale that can be zero), enable double precision, or give "
        "`initial`, a program nearer to the posterior."
        if forced
        else f"Fix: more stages (max_stages={4 * method.max_stages}), larger steps (a smaller ess), more moves, or "
        "`initial`, a program nearer to the posterior."
    )
    return ConvergenceError(
        f"ppl.TemperedSMC on {program.name!r} made {count} stages, all that max_stages allows, and reached the inverse "
        f"temperature {float(run.beta):.4g} (the last ones: {last}), not 1.\n{why}"
    )


# --- the posterior ----------------------------------------------------------------------------------------------------


class _Parts(NamedTuple):
    """Draws, masks, recorded and return values with leading axes (replicates, particles); a note on them."""

    arrays: dict[str, Any]
    note: str


def _parts(method: TemperedSMC, path: TemperingPath, places: Any, key: PRNGKey) -> _Parts:
    if isinstance(method.how.moves, KernelMoves):
        return _Parts(finished(path.program, State(*places), None), "")
    target = vector_target(path)
    place: Place = places
    done = finish(target, key, np.asarray(place.position), (0, 0), None, BLOCK)
    arrays = {"draws": done.draws, "masks": done.masks, "deterministic": done.deterministic, "values": done.values}
    return _Parts(arrays, target.note if isinstance(target, Summed) else "")


def _posterior(method: TemperedSMC, path: TemperingPath, found: Run, key: PRNGKey) -> Posterior:
    parts = _parts(method, path, found.places, key)
    count = int(found.made[0])
    history = Stages(*(x[0][:count] for x in found.stages))
    log_weights = found.log_weights + (found.log_evidence - np.max(found.log_evidence))[:, None]
    even = method.replicates == 1 and not method.persistent and count > 0
    return Posterior(
        **parts.arrays,
        log_weights=None if even else log_weights,
        log_evidence=_evidence(found),
        diagnostics=_diagnostics(found, history, log_weights),
        program=path.program,
        method="TemperedSMC",
        remarks=tuple(_remarks(method, found, history, parts.note)),
        history=history,
    )


def _evidence(found: Run) -> Evidence:
    """The log of the mean evidence of the replicates and its error; that of the run itself, if there is one."""
    count = len(found.log_evidence)
    if count == 1:
        return Evidence(float(found.log_evidence[0]), float(found.error[0]))
    peak = np.max(found.log_evidence)
    relative = np.exp(np.asarray(found.log_evidence, np.float64) - peak)
    error = np.std(relative, ddof=1) / np.sqrt(count) / np.mean(relative)
    return Evidence(float(peak + np.log(np.mean(relative))), float(error))


def _diagnostics(found: Run, history: Stages, log_weights: Any) -> dict[str, float]:
    named = {
        "ess": float(1.0 / np.sum(normalized_weights(log_weights) ** 2)),
        "stages": float(np.mean(found.made)),
        "moves": float(np.sum(history.moves)),
        "acceptance": float(np.min(history.acceptance, initial=1.0)),
        "nan_weights": float(np.sum(history.nan_weights)),
    }
    if len(found.log_evidence) > 1:
        named["log_evidence_sd"] = float(np.std(found.log_evidence, ddof=1))
    return named


def _remarks(method: TemperedSMC, found: Run, history: Stages, note: str) -> list[str]:
    """What there is to say of a run that arrived."""
    told = [f"Reached beta = 1 in {len(history.beta)} stages with {int(np.sum(history.moves))} moves a particle."]
    if note:
        told.append(note)
    if (alive := float(np.min(found.alive))) < method.ess:
        told.append(f"Only {alive:.2%} of the first particles had a positive likelihood; the others were lost at once.")
    if forced := int(np.sum(history.forced)):
        told.append(f"At {forced} stages even the smallest step left fewer particles than asked for.")
    if nan := int(np.sum(history.nan_weights)):
        told.append(f"{nan} log likelihoods were NaN and counted as weight zero.")
    worst = int(np.argmin(history.acceptance)) if len(history.acceptance) else 0
    if len(history.acceptance) and history.acceptance[worst] < POOR_ACCEPTANCE:
        told.append(
            f"At beta = {history.beta[worst]:.3g} only {history.acceptance[worst]:.1%} of the moves were accepted: the "
            "particles hardly moved. Another kernel, or more moves, would help."
        )
    told += _stuck(method, history)
    if not np.isfinite(_evidence(found).standard_error):
        told.append("One run cannot tell the error of this evidence: ask for replicates, such as replicates=10.")
    return told


def _stuck(method: TemperedSMC, history: Stages) -> list[str]:
    """Where moves ended although the particles knew their starts (by more than a sample's own correlation)."""
    late = history.correlation > ENOUGH + 2.0 / np.sqrt(method.particles / (method.waste_free or 1))
    if not np.any(late):
        return []
    worst = int(np.argmax(history.correlation))
    better = {"random_walk": 'kernel="hmc"', "hmc": "more particles"}.get(str(method.kernel), "another kernel")
    return [
        f"The particles did not forget where they were: at {int(np.sum(late))} of {len(late)} stages their correlation "
        f"with the start of the moves was still above {ENOUGH} (at beta = {history.beta[worst]:.3g} it was "
        f"{history.correlation[worst]:.2f} after {history.moves[worst]:.0f} moves). Evidence and draws may be off by "
        f"more than the error says. Where modes lie far apart this must be; else try {better}, or more moves."
    ]
