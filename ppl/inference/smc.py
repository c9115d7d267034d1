"""`ppl.SMC`: sequential Monte Carlo over any program, and what it saw on the way.

    sweep (resample scheme threshold) . hoist_first (spawn n) . suspend

The algorithm is a program (`ppl.semantics.suspension`); here it is drawn once, compiled as a whole, and its particles
become a `Posterior`. E[exp(log_evidence)] is the program's mass; expectations are biased by O(1/n).
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from ppl.errors import DegenerateWeightsError
from ppl.inference.ancestor_tree import TreeKeeper
from ppl.inference.data_checks import density_table
from ppl.inference.drawing import Drawn, draw
from ppl.inference.genealogy import standard_error
from ppl.inference.history import History, history, in_order_of_run, loop_records
from ppl.inference.method import CHAIN_SETTINGS, Settings, positive, refuse
from ppl.inference.particle_paths import paths
from ppl.inference.path_tree import PathTree
from ppl.inference.posterior import Evidence, Posterior
from ppl.inference.smoothing import LagKeeper
from ppl.numerics.weights import effective_sample_size, log_sum_exp
from ppl.semantics import choices as ch
from ppl.semantics.blocks import Transformer, compose, resample, spawn
from ppl.semantics.keeping import Keeper
from ppl.semantics.program import Program
from ppl.semantics.stages import outputs_of, plan_of, shared_values
from ppl.semantics.suspension import hoist_first, suspend, sweep
from ppl.typing import PRNGKey

Storage = Literal["paths", "filter", "tree", "lag", "none"]
STORAGES = ("paths", "filter", "tree", "lag", "none")


@dataclass(frozen=True)
class SMC:
    """Sequential Monte Carlo: particles advance from one observation to the next, and are resampled in between.

    Args:
        particles: Number of particles.
        resampling: The scheme: see `ppl.resample`.
        threshold: Resample where the effective sample size is below this fraction of the particles; None: always.
        store: What is kept of the way. `"paths"` (the default): every particle's choices from start to end; `"filter"`:
            in addition, particles and weights at every step, in `posterior.history`; `"tree"`: the paths as a tree of
            ancestors, `posterior.history.trees.paths()`, in O(T + N log N) memory, and choices outside loops; `"lag"`:
            moments of each step given observations up to `lag` steps later, `posterior.history.smoothed`, and choices
            outside loops; `"none"`: the evidence and the return values alone.
        lag: How many steps smoothing looks ahead, for `store="lag"`.
        replicates: Independent runs, one after the other, a chain each. The log evidence is that of their mean, and its
            standard error is told from their scatter.

    `posterior.history` has evidence, effective sample size and resamplings by step. The evidence's standard error is
    that of the run's families (`ppl.numerics.kinship`), or of replicates.

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
    lag: int = 10
    replicates: int = 1
    name: str = field(default="SMC", repr=False)

    def __post_init__(self) -> None:
        for name in ("particles", "lag", "replicates"):
            positive(name, getattr(self, name))
        resample(self.resampling, self.threshold)
        if self.store not in STORAGES:
            raise ValueError(f"store is {self.store!r}.\nExpected: one of {', '.join(map(repr, STORAGES))}.")

    @property
    def transformer(self) -> Transformer:
        """The algorithm: a transformer of suspended runs."""
        return self.algorithm()

    def algorithm(self, factor: float = 3.0) -> Transformer:
        """The algorithm, with a factor of the capacity of trees."""
        again = resample(self.resampling, self.threshold)
        keepers: dict[str, Keeper] = {"tree": TreeKeeper(factor), "lag": LagKeeper(self.lag)}
        settings = {"ancestry": self.store != "none", "families": True, "keeper": keepers.get(self.store)}
        return compose(sweep(again, **settings), hoist_first(spawn(self.particles)))

    def run(self, program: Program, key: PRNGKey, settings: Settings) -> Posterior:
        """Sweep once, or once a replicate."""
        refuse(settings, CHAIN_SETTINGS, f"ppl.{self.name}", f"Give it the number: ppl.{self.name}(1000).")
        keys = jax.random.split(key, self.replicates) if self.replicates > 1 else key[None]
        factor, found = 3.0, swept_runs(program, keys, self.transformer, self.store, self.resampling)
        while self.store == "tree" and any(bool(jnp.any(tree.overflow)) for tree in found["kept"].values()):
            factor *= 2
            found = swept_runs(program, keys, self.algorithm(factor), self.store, self.resampling)
        kept = found.pop("kept")
        found = jax.device_get(found)
        if np.all(np.isneginf(found["log_evidence"]) | np.isnan(found["log_evidence"])):
            raise _degenerate(self, program, jax.tree.map(lambda x: x[0], found))
        return _posterior(self, program, found, kept)


@partial(jax.jit, static_argnums=(2, 3, 4))
def swept_runs(
    program: Program, keys: Key[Array, "replicates"], transformer: Transformer, store: Storage, scheme: str
) -> dict[str, Any]:
    """`swept_run` for each key in turn."""
    if len(keys) == 1:
        return jax.tree.map(lambda x: x[None], swept_run(program, keys[0], transformer, store, scheme))
    return jax.lax.map(lambda key: swept_run(program, key, transformer, store, scheme), keys)


@partial(jax.jit, static_argnums=(2, 3, 4))
def swept_run(
    program: Program, key: PRNGKey, transformer: Transformer, store: Storage, scheme: str = "systematic"
) -> dict[str, Any]:
    """Draw an algorithm that ends in a population: choices, values, weights and history, as arrays."""
    drawn = draw(transformer(suspend(program)).layer.program, key)
    shared, particles, n = shared_values(program), drawn.value, drawn.value.log_weight.shape[0]
    past = history(program, drawn, stored=store == "filter")
    growth, families = drawn.writes["families"]
    found = {
        "values": jax.vmap(lambda v: outputs_of(program, v, shared), axis_size=n)(particles.value),
        "log_weights": particles.log_weight,
        "log_evidence": log_sum_exp(particles.log_weight),
        "error": standard_error(growth, families, jnp.asarray(past.resampled), scheme, n),
        "history": past,
        "kept": _kept(program, drawn, store),
    }
    return {**found, **_choices(program, drawn, store)}


def _kept(program: Program, drawn: Drawn, store: Storage) -> dict[Any, Any]:
    """What keepers kept: trees by stage, or smoothed moments by address."""
    if store == "tree":
        return loop_records(program, drawn, "tree")
    if store != "lag":
        return {}
    leaving, last = loop_records(program, drawn, "lagged"), loop_records(program, drawn, "last")
    smoothed = {}
    for number in leaving:
        stage = plan_of(program).stages[number]

        def joined(left: Any, stayed: Any, stage: Any = stage) -> Any:
            rows = jnp.concatenate([in_order_of_run(stage, left[:, 0])[stayed.shape[0] :], stayed])[-stage.length :]
            return in_order_of_run(stage, rows)

        smoothed.update(jax.tree.map(joined, leaving[number], last[number]))
    return smoothed


def _choices(program: Program, drawn: Drawn, store: Storage) -> dict[str, Any]:
    if store == "none":
        return {"choices": {}, "masks": {}, "deterministic": {}}
    written, masks = paths(program, drawn, loops=store in ("paths", "filter"))
    return {
        "choices": ch.flatten(written, program.staged, ("latent",)),
        "masks": ch.spread(masks, program.staged),
        "deterministic": ch.flatten(written, program.staged, ("deterministic",)),
    }


def _posterior(method: SMC, program: Program, found: dict[str, Any], kept: dict[Any, Any]) -> Posterior:
    past, alone = found["history"], method.replicates == 1
    past = jax.tree.map(lambda x: x[0], past) if alone else past
    if method.store == "tree":
        past = past._replace(trees=_trees(program, kept, method.replicates))
    elif method.store == "lag":
        moments = jax.device_get(kept)
        past = past._replace(smoothed=jax.tree.map(lambda x: x[0], moments) if alone else moments)
    evidence = _evidence(found)
    return Posterior(
        draws=found["choices"],
        masks=found["masks"],
        values=found["values"],
        deterministic=found["deterministic"],
        log_weights=found["log_weights"],
        log_evidence=evidence,
        diagnostics={
            "ess": float(effective_sample_size(jnp.asarray(found["log_weights"]).reshape(-1))),
            "least_ess": float(np.min(past.ess)),
            "resamplings": float(np.sum(past.resampled)),
            "nan_weights": float(np.sum(past.nan_weights)),
        },
        program=program,
        method=method.name,
        history=past,
        remarks=_remarks(method, evidence, past),
    )


def _trees(program: Program, kept: dict[int, Any], replicates: int) -> PathTree | tuple[PathTree, ...]:
    trees = tuple(PathTree(program, jax.tree.map(lambda x, r=r: x[r], kept)) for r in range(replicates))
    return trees[0] if replicates == 1 else trees


def _evidence(found: dict[str, Any]) -> Evidence:
    """Of one run: its own. Of many: log of the mean, by the delta method from their scatter."""
    estimates = np.asarray(found["log_evidence"], np.float64)
    if len(estimates) == 1:
        return Evidence(float(estimates[0]), float(found["error"][0]))
    peak = np.max(estimates)
    relative = np.exp(estimates - peak) if np.isfinite(peak) else np.ones(len(estimates))
    mean = np.mean(relative)
    return Evidence(float(peak + np.log(mean)), float(np.std(relative, ddof=1) / mean / np.sqrt(len(estimates))))


def _remarks(method: SMC, evidence: Evidence, past: History) -> tuple[str, ...]:
    remarks = []
    if (count := int(np.sum(past.nan_weights))) > 0:
        remarks.append(f"{count} weights were NaN and counted as zero (`history.nan_weights` says at which advance).")
    if np.isinf(evidence.standard_error):
        remarks.append(
            "The error of the log evidence cannot be told from this run: too few of its first particles have "
            f"descendants. Use more particles, or replicates: ppl.{method.name}(..., replicates=10)."
        )
    return tuple(remarks)


def _degenerate(method: SMC, program: Program, found: dict[str, Any]) -> DegenerateWeightsError:
    dead = int(np.argmax(np.isneginf(found["history"].log_evidence)))
    addresses = {a for a, i in program.sites.items() if i.kind == "latent"}
    choices = {a: x[0] for a, x in found["choices"].items()}
    complete = choices and addresses <= choices.keys()
    table = f"Log density by site of one of them:\n{density_table(program, choices)}\n" if complete else ""
    return DegenerateWeightsError(
        f"None of the {method.particles} particles of ppl.{method.name} on {program.name!r} has a positive weight: all "
        f"were lost at advance {dead} of {len(found['history'].log_evidence)}.\n{table}"
        "Likely causes: an observation outside its support, a factor of minus infinity or NaN, particles that never "
        "come near the data.\n"
        "Fix: check the marked sites, use more particles, or a proposal nearer to the data."
    )
