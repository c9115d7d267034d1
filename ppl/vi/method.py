"""`ppl.VI`: a guide is fitted to the posterior; draws of it come with their importance ratios and what they are worth.

    log ratio(x) = log p(x, y) - log q(x),   x ~ q:   ELBO = E[log ratio],   evidence = E[ratio]

The draws are those of the guide, and biased where it is; `correct=True` gives them Pareto-smoothed weights, which make
expectations right as the number of draws grows, where Pareto k is small. k is said aloud either way.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import optax

from ppl.inference.advice import say
from ppl.inference.approximation import judged
from ppl.inference.importance import Importance
from ppl.inference.method import Settings, positive, refuse
from ppl.inference.population import Runs, replayed
from ppl.inference.posterior import Posterior
from ppl.inference.tables import Note
from ppl.semantics.program import Program
from ppl.typing import PRNGKey
from ppl.vi.fit_stop import StopRule
from ppl.vi.fitting import Fit, fit
from ppl.vi.guides import Guide, flow, full_rank, laplace, low_rank, map, mean_field
from ppl.vi.guides.flow import CouplingFlow
from ppl.vi.guides.laplace import Laplace
from ppl.vi.guides.latents import Latents
from ppl.vi.guides.map import PointGuide
from ppl.vi.objective import Objective
from ppl.vi.objectives import elbo

Automatic = Guide | Laplace | PointGuide
RANK = 8
"""The most directions of a low-rank guide."""
GUIDES: dict[str, Callable[[Program], Automatic]] = {
    "mean_field": mean_field,
    "full_rank": full_rank,
    "low_rank": lambda program: low_rank(program, max(1, min(RANK, Latents(program).layout.dim))),
    "flow": flow,
    "laplace": laplace,
    "map": map,
}
"""Automatic guides by name."""
ADVICE = 'Use a richer guide ("full_rank", one of your own), more steps, or ppl.NUTS().'
REFUSED = ("chains", "warmup", "thin", "keep", "layout")
DRAWS = 1000
"""Draws by default."""
RATE, FLOW_RATE, LAST_SHARE = 0.05, 0.02, 0.01
"""Adam's step size at the start (that for the networks of a flow), and the share of it that is left at the end."""


@dataclass(frozen=True, eq=False)
class VI:
    """Variational inference: a guide fitted by stochastic gradients.

    Args:
        guide: The name of an automatic guide ("mean_field", "full_rank", "low_rank", "flow", "laplace", "map"), an
            automatic guide (`vi.guides.mean_field(program)`), or a function `(params) -> program` over the program's
            latent addresses. "laplace" climbs to the mode and takes the curvature there, without steps; "map" is the
            mode alone: one point, without ratios and evidence.
        params: Where the guide's parameters start; needed for a function, otherwise the guide knows.
        objective: From the program and the guide to an objective, such as `vi.elbo` (the default).
        optimizer: Any optax optimiser; by default Adam with a step size that decays from 0.05 by a cosine.
        steps: Steps of the optimiser.
        particles: Independent estimates of the gradient that are averaged in each step.
        restarts: Fits side by side; the best is taken. Automatic guides start each somewhere else.
        stop: When to stop early, such as `vi.Plateau()`.
        correct: Whether the draws are weighted by their Pareto-smoothed ratios.

    The posterior's `stats["log_weight"]` has the raw log ratios (nats), `log_evidence` the importance estimate of the
    evidence (unbiased before the logarithm), `diagnostics` `elbo` with `elbo_standard_error`, `pareto_k` and `ess`, and
    `history` the `Fit`. The ELBO is a lower bound of the log evidence.

    Examples:
        >>> import jax.numpy as jnp, ppl, ppl.distributions as dist
        >>> @ppl.model
        ... def normal(y):
        ...     mean = ppl.sample("mean", dist.Normal(0.0, 1.0))
        ...     ppl.sample("y", dist.Normal(mean, 1.0).expand([3]).to_event(1), obs=y)
        >>> posterior = ppl.infer(normal(jnp.array([1.0, 2.0, 3.0])), ppl.VI(steps=500), key=0, draws=2000)
        >>> bool(abs(posterior.draws["mean"].mean() - 1.5) < 0.1)
        True

    Reference:
        Yao, Vehtari, Simpson, Gelman, "Yes, but did it work? Evaluating variational inference", ICML 2018 (Pareto k).
    """

    guide: str | Automatic | Callable[..., Program] = "mean_field"
    params: Any = None
    objective: Callable[[Program, Any], Objective] = elbo
    optimizer: optax.GradientTransformation | None = None
    steps: int = 3000
    particles: int = 8
    restarts: int = 1
    stop: StopRule | None = None
    correct: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "particles", "restarts"):
            positive(name, getattr(self, name))
        if isinstance(self.guide, str) and self.guide not in GUIDES:
            raise ValueError(
                f"guide is {self.guide!r}.\nExpected: one of {', '.join(repr(name) for name in GUIDES)}, an automatic "
                "guide, or a function of parameters that returns a program."
            )
        if not isinstance(self.guide, str | Automatic) and self.params is None:
            raise ValueError(
                f"ppl.VI was given the guide {getattr(self.guide, '__name__', self.guide)!r} without parameters.\n"
                "Fix: ppl.VI(guide, params=...), where the fit is to start."
            )

    def run(self, program: Program, key: PRNGKey, settings: Settings) -> Posterior:
        """Fit, draw, weigh."""
        refuse(settings, REFUSED, "ppl.VI", "It runs no chains: ppl.infer(..., draws=...) alone.")
        fit_key, draw_key = jax.random.split(key)
        guide = GUIDES[self.guide](program) if isinstance(self.guide, str) else self.guide
        if isinstance(guide, Laplace):
            found, params = None, guide.fit(fit_key)
        else:
            found = self._fitted(program, guide, fit_key, settings)
            params = found.params
        if isinstance(guide, PointGuide):
            return _point(program, found, guide.draws(params, draw_key, settings.draws or 1)[0])
        draws = Importance(DRAWS if settings.draws is None else settings.draws, proposal=guide(params))
        return _posterior(program, found, draws.population(program, draw_key), correct=self.correct)

    def _fitted(self, program: Program, guide: Any, key: PRNGKey, settings: Settings) -> Fit:
        start_key, key = jax.random.split(key)
        init = guide.init if isinstance(guide, Automatic) else None
        params = init(start_key) if self.params is None and init is not None else self.params
        copies = 1 if isinstance(guide, PointGuide) else self.particles
        return fit(
            self.objective(program, guide).average(copies),
            params,
            optimizer=_adam(guide, self.steps) if self.optimizer is None else self.optimizer,
            steps=self.steps,
            key=key,
            restarts=self.restarts,
            init=init,
            stop=self.stop,
            progress=settings.progress,
            checkpoint=settings.checkpoint,
        )


def _adam(guide: Any, steps: int) -> optax.GradientTransformation:
    rate = FLOW_RATE if isinstance(guide, Guide) and isinstance(guide.family, CouplingFlow) else RATE
    return optax.adam(optax.cosine_decay_schedule(rate, steps, LAST_SHARE))


def _posterior(program: Program, found: Fit | None, runs: Runs, *, correct: bool) -> Posterior:
    what = judged(runs.log_weight)
    notes = [*_fit_notes(found), *what.notes(ADVICE)]
    posterior = Posterior(
        **_parts(runs),
        log_weights=what.weights[None] if correct else None,
        log_evidence=what.evidence,
        stats={"log_weight": what.log_ratios[None]},
        diagnostics=what.diagnostics,
        program=program,
        method="VI",
        remarks=tuple(note.text for note in notes),
        history=found,
    )
    say(notes, f"VI on {program.name!r}")
    return posterior


def _point(program: Program, found: Fit | None, choices: dict[str, Any]) -> Posterior:
    runs = replayed(program, choices)
    notes = [*_fit_notes(found), Note("One point, the posterior mode: it says nothing of the spread")]
    return Posterior(
        **_parts(runs),
        stats={"log_density": np.asarray(runs.log_weight)[None]},
        program=program,
        method="VI",
        remarks=tuple(note.text for note in notes),
        history=found,
    )


def _parts(runs: Runs) -> dict[str, Any]:
    parts = {"draws": runs.choices, "masks": runs.masks, "values": runs.value, "deterministic": runs.deterministic}
    return {name: jax.tree.map(lambda x: x[None], part) for name, part in parts.items()}


def _fit_notes(found: Fit | None) -> list[Note]:
    if found is None:
        return []
    endings = {"steps": "all made", "stop": "stopped by the rule"}
    text = f"{found.steps} steps ({endings.get(found.stopped, found.stopped)})"
    text = f"{text}; objective at the end {found.average:.6g}"
    if len(found.restarts) == 1:
        return [Note(text)]
    others = ", ".join(
        f"{one.average:.6g}" if one.stopped != "not finite" else f"not finite at step {len(one.history)}"
        for one in found.restarts
    )
    return [Note(f"{text}, the best of {len(found.restarts)} restarts ({others})")]
