"""What a sweep saw on its way, stage by stage, put in the order of the run: `History`."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ppl.inference.drawing import Drawn
from ppl.inference.particle_paths import paths
from ppl.semantics import choices as ch
from ppl.semantics.program import Program
from ppl.semantics.stages import Loop, plan_of


class History(NamedTuple):
    """What a sequential method saw, advance by advance; with replicates, their axis comes first.

    Attributes:
        log_evidence: Log evidence of the observations so far (nats).
        ess: Kish's effective sample size before the next resampling.
        resampled: Whether particles changed places before the advance.
        nan_weights: Numbers of weights that were NaN and counted as zero.
        log_weights: Unnormalised log weights of the particles there (nats); None where not stored.
        filtered: Choices and recorded values inside the program's loops, as drawn at each step: with `log_weights` of
            the same advances, the filtering distributions. Empty where not stored.
        first: With `filtered`: choices made before the first loop, of the particles that enter it.
        smoothed: Moments of choices inside loops, each given the observations up to `lag` steps later, by address
            (`ppl.inference.smoothing.Moments`). Empty unless `store="lag"`.
        trees: Trees of ancestors, a loop each (`ppl.inference.path_tree.PathTree`); None unless `store="tree"`.
    """

    log_evidence: Float[Array | np.ndarray, "*replicates advances"]
    ess: Float[Array | np.ndarray, "*replicates advances"]
    resampled: Bool[Array | np.ndarray, "*replicates advances"]
    nan_weights: Any
    log_weights: Float[Array | np.ndarray, "*replicates advances particles"] | None
    filtered: dict[str, Any]
    first: dict[str, Any] = {}
    smoothed: dict[str, Any] = {}
    trees: Any = None


def history(program: Program, drawn: Drawn, *, stored: bool) -> History:
    """The history of a sweep, with or without the particles at every step."""
    loops = [number for number, stage in enumerate(plan_of(program).stages) if isinstance(stage, Loop)]
    inside = {a for number in loops for a in plan_of(program).stages[number].addresses}
    filtered = {a: x for a, x in drawn.writes.items() if a in inside} if stored else {}
    first = paths(program, drawn, until=loops[0])[0] if stored and loops else {}
    return History(
        _after_each(program, drawn, "log_evidence"),
        _after_each(program, drawn, "ess"),
        resamplings(program, drawn),
        _by_advance(program, drawn, "nan_weights"),
        _by_advance(program, drawn, "log_weight") if stored else None,
        ch.flatten(filtered, program.staged, ("latent", "deterministic")),
        ch.flatten(first, program.staged, ("latent",)),
    )


def resamplings(program: Program, drawn: Drawn) -> Any:
    """Before which advances particles were resampled: where ancestors were drawn, inside the branch that draws them."""
    parts = []
    for number, stage in enumerate(plan_of(program).stages):
        sites = [a for a in drawn.writes if a.startswith(f"stage {number}/transformer") and a.endswith("/ancestors")]
        shape = (stage.length,) if isinstance(stage, Loop) else ()
        made = [drawn.masks.get(a, jnp.ones(shape, bool)) for a in sites]
        parts.append(made[0] if made else jnp.zeros(shape, bool))
    return _in_order(program, parts)


def loop_records(program: Program, drawn: Drawn, name: str) -> dict[int, Any]:
    """What the loops recorded under a name, by the number of the stage."""
    stages = enumerate(plan_of(program).stages)
    return {i: drawn.writes[f"stage {i}/{name}"] for i, stage in stages if isinstance(stage, Loop)}


def _by_advance(program: Program, drawn: Drawn, name: str) -> Any:
    """What every stage recorded under a name, one entry an advance, in the order of the run."""
    return _in_order(program, [drawn.writes[f"stage {i}/{name}"] for i in range(len(plan_of(program).stages))])


def _in_order(program: Program, parts: list[Any]) -> Any:
    """What the stages recorded, one entry an advance."""
    rows = []
    for stage, x in zip(plan_of(program).stages, parts, strict=True):
        rows.append(in_order_of_run(stage, x) if isinstance(stage, Loop) else x[None])
    return jnp.concatenate(rows)


def in_order_of_run(stage: Loop, recorded: Any) -> Any:
    """From the order of a loop's inputs to that of its steps, or back."""
    return jax.tree.map(lambda x: x[::-1], recorded) if stage.loop.reverse else recorded


def _after_each(program: Program, drawn: Drawn, name: str) -> Any:
    """What was recorded before every advance and at the end, as it was after every advance."""
    return jnp.concatenate([_by_advance(program, drawn, name)[1:], drawn.writes[name][None]])
