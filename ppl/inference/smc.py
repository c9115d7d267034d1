"""`ppl.SMC`: sequential Monte Carlo over any program, and what it saw on the way.

    sweep (resample scheme threshold) . hoist_first (spawn n) . suspend

The algorithm is a program (`ppl.semantics.suspension`); here it is drawn once, compiled as a whole, and its particles
become a `Posterior`. E[exp(log_evidence)] is the program's mass; expectations are biased by O(1/n).
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ppl.errors import DegenerateWeightsError
from ppl.inference.data_checks import density_table
from ppl.inference.drawing import Drawn, draw
from ppl.inference.genealogy import log_evidence_error
from ppl.inference.method import CHAIN_SETTINGS, Settings, positive, refuse
from ppl.inference.particle_paths import paths
from ppl.inference.posterior import Evidence, Posterior
from ppl.numerics.weights import effective_sample_size
from ppl.semantics import choices as ch
from ppl.semantics.blocks import Transformer, compose, resample, spawn
from ppl.semantics.program import Program
from ppl.semantics.stages import Loop, outputs_of, plan_of, shared_values
from ppl.semantics.suspension import hoist_first, suspend, sweep
from ppl.typing import PRNGKey

Storage = Literal["paths", "filter", "none"]


class History(NamedTuple):
    """What a sequential method saw, advance by advance.

    Attributes:
        log_evidence: Log evidence of the observations so far (nats).
        ess: Kish's effective sample size before the next resampling.
        resampled: Whether particles changed places before the advance.
        nan_weights: Numbers of weights that were NaN and counted as zero.
        log_weights: Unnormalised log weights of the particles there (nats); None where not stored.
        filtered: Choices and recorded values inside the program's loops, as drawn at each step: with `log_weights` of
            the same advances, the filtering distributions. Empty where not stored.
    """

    log_evidence: Float[Array | np.ndarray, "advances"]
    ess: Float[Array | np.ndarray, "advances"]
    resampled: Bool[Array | np.ndarray, "advances"]
    nan_weights: Any
    log_weights: Float[Array | np.ndarray, "advances particles"] | None
    filtered: dict[str, Any]


@dataclass(frozen=True)
class SMC:
    """Sequential Monte Carlo: particles advance from one observation to the next, and are resampled in between.

    Args:
        particles: Number of particles.
        resampling: The scheme: see `ppl.resample`.
        threshold: Resample where the effective sample size is below this fraction of the particles; None: always.
        store: What is kept of the way: `"paths"` (the default): every particle's choices from start to end;
            `"filter"`: in addition, particles and weights at every step, in `posterior.history`; `"none"`: the evidence
            and the return values alone (memory does not grow with the length).

    `posterior.history` has evidence, effective sample size and resamplings by step. The evidence's standard error is
    that of the run's genealogy (`ppl.inference.genealogy`).

    Examples:
        >>> import jax, jax.numpy as jnp, ppl, ppl.distributions as dist
        >>> @ppl.model
        ... def walk(ys):
        ...     def step(x, y):
        ...         x = ppl.sample("x", dist.Normal(x, 1.0))
        ...         ppl.sample("y", dist.Normal(x, 1.0), obs=y)
        ...         return x, None
        ...     return jax.lax.scan(step, jnp.float32(0.0), ys)[0]
        >>> posterior = ppl.infer(walk(jnp.array([1.0, 2.0, 3.0])), SMC(100), key=0)
        >>> posterior.draws["x"].shape, posterior.history.ess.shape
        ((1, 100, 3), (4,))
    """

    particles: int = 1000
    resampling: str = "systematic"
    threshold: float | None = 0.5
    store: Storage = "paths"
    name: str = field(default="SMC", repr=False)

    def __post_init__(self) -> None:
        positive("particles", self.particles)
        resample(self.resampling, self.threshold)
        if self.store not in ("paths", "filter", "none"):
            raise ValueError(f"store is {self.store!r}.\nExpected: 'paths', 'filter' or 'none'.")

    @property
    def transformer(self) -> Transformer:
        """The algorithm: a transformer of suspended runs."""
        again = resample(self.resampling, self.threshold)
        return compose(sweep(again, ancestry=self.store != "none"), hoist_first(spawn(self.particles)))

    def run(self, program: Program, key: PRNGKey, settings: Settings) -> Posterior:
        """Sweep once."""
        refuse(settings, CHAIN_SETTINGS, f"ppl.{self.name}", f"Give it the number: ppl.{self.name}(1000).")
        found = jax.device_get(swept_run(program, key, self.transformer, self.store))
        if not np.isfinite(found["log_evidence"]) and not np.isposinf(found["log_evidence"]):
            raise _degenerate(self, program, found)
        return _posterior(self, program, found)


@partial(jax.jit, static_argnums=(2, 3))
def swept_run(program: Program, key: PRNGKey, transformer: Transformer, store: Storage) -> dict[str, Any]:
    """Draw an algorithm that ends in a population: choices, values, weights and history, as arrays."""
    drawn = draw(transformer(suspend(program)).layer.program, key)
    shared, staged = shared_values(program), program.staged
    particles = drawn.value
    log_evidence, error = log_evidence_error(particles.log_weight, drawn.writes["eve"], resamplings(program, drawn))
    found = {
        "values": jax.vmap(lambda v: outputs_of(program, v, shared), axis_size=len(particles.log_weight))(particles.value),
        "log_weights": particles.log_weight,
        "log_evidence": log_evidence,
        "error": error,
        "ess": effective_sample_size(particles.log_weight),
        "history": history(program, drawn, stored=store == "filter"),
    }
    if store == "none":
        return {**found, "choices": {}, "masks": {}, "deterministic": {}}
    written, masks = paths(program, drawn)
    return {
        **found,
        "choices": ch.flatten(written, staged, ("latent",)),
        "masks": ch.spread(masks, staged),
        "deterministic": ch.flatten(written, staged, ("deterministic",)),
    }


def _by_advance(program: Program, drawn: Drawn, name: str) -> Any:
    """What every stage recorded under a name, one entry an advance, in the order of the run."""
    return _in_order(program, [drawn.writes[f"stage {i}/{name}"] for i in range(len(plan_of(program).stages))])


def _in_order(program: Program, parts: list[Any]) -> Any:
    """What the stages recorded, one entry an advance."""
    rows = []
    for stage, x in zip(plan_of(program).stages, parts, strict=True):
        reverse = isinstance(stage, Loop) and stage.loop.reverse
        rows.append(x[::-1] if reverse else x if isinstance(stage, Loop) else x[None])
    return jnp.concatenate(rows)


def _after_each(program: Program, drawn: Drawn, name: str) -> Any:
    """What was recorded before every advance and at the end, as it was after every advance."""
    return jnp.concatenate([_by_advance(program, drawn, name)[1:], drawn.writes[name][None]])


def resamplings(program: Program, drawn: Drawn) -> Any:
    """Before which advances particles were resampled: where ancestors were drawn, inside the branch that draws them."""
    parts = []
    for number, stage in enumerate(plan_of(program).stages):
        sites = [a for a in drawn.writes if a.startswith(f"stage {number}/transformer") and a.endswith("/ancestors")]
        shape = (stage.length,) if isinstance(stage, Loop) else ()
        made = [drawn.masks.get(a, jnp.ones(shape, bool)) for a in sites]
        parts.append(made[0] if made else jnp.zeros(shape, bool))
    return _in_order(program, parts)


def history(program: Program, drawn: Drawn, *, stored: bool) -> History:
    """The history of a sweep."""
    inside = {a for stage in plan_of(program).stages if isinstance(stage, Loop) for a in stage.addresses}
    filtered = {a: x for a, x in drawn.writes.items() if a in inside} if stored else {}
    return History(
        _after_each(program, drawn, "log_evidence"),
        _after_each(program, drawn, "ess"),
        resamplings(program, drawn),
        _by_advance(program, drawn, "nan_weights"),
        _by_advance(program, drawn, "log_weight") if stored else None,
        ch.flatten(filtered, program.staged, ("latent", "deterministic")),
    )


def _posterior(method: SMC, program: Program, found: dict[str, Any]) -> Posterior:
    lead = jax.tree.map(lambda x: x[None], {k: found[k] for k in ("choices", "masks", "deterministic", "values")})
    past: History = found["history"]
    return Posterior(
        draws=lead["choices"],
        masks=lead["masks"],
        values=lead["values"],
        deterministic=lead["deterministic"],
        log_weights=found["log_weights"][None],
        log_evidence=Evidence(float(found["log_evidence"]), float(found["error"])),
        diagnostics={
            "ess": float(found["ess"]),
            "least_ess": float(np.min(past.ess)),
            "resamplings": float(np.sum(past.resampled)),
            "nan_weights": float(np.sum(past.nan_weights)),
        },
        program=program,
        method=method.name,
        history=past,
    )


def _degenerate(method: SMC, program: Program, found: dict[str, Any]) -> DegenerateWeightsError:
    dead = int(np.argmax(np.isneginf(found["history"].log_evidence)))
    choices = {a: x[0] for a, x in found["choices"].items()}
    table = f"Log density by site of one of them:\n{density_table(program, choices)}\n" if choices else ""
    return DegenerateWeightsError(
        f"None of the {method.particles} particles of ppl.{method.name} on {program.name!r} has a positive weight: all "
        f"were lost at advance {dead} of {len(found['history'].log_evidence)}.\n{table}"
        "Likely causes: an observation outside its support, a factor of minus infinity or NaN, particles that never "
        "come near the data.\n"
        "Fix: check the marked sites, use more particles, or a proposal nearer to the data."
    )
