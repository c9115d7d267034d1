"""`ppl.VI`: a guide is fitted to the posterior; draws of it come with their importance ratios and what they are worth.

    log ratio(x) = log p(x, y) - log q(x),   x ~ q:   ELBO = E[log ratio],   evidence = E[ratio]

The draws are those of the guide, and biased where it is; `correct=True` gives them Pareto-smoothed weights, which make
expectations right as the number of draws grows, where Pareto k is small. k is said aloud either way.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import optax

from ppl.inference.advice import say
from ppl.inference.approximation import judged
from ppl.inference.importance import Importance
from ppl.inference.method import Settings, positive, refuse
from ppl.inference.population import Runs
from ppl.inference.posterior import Posterior
from ppl.inference.tables import Note
from ppl.semantics.program import Program
from ppl.typing import PRNGKey
from ppl.vi.fit import Fit, fit
from ppl.vi.fit_stop import StopRule
from ppl.vi.guides import Guide, full_rank, low_rank, mean_field
from ppl.vi.guides.latents import Latents
from ppl.vi.objective import Objective
from ppl.vi.objectives import elbo

RANK = 8
"""The most directions of a low-rank guide."""
GUIDES: dict[str, Callable[[Program], Guide]] = {
    "mean_field": mean_field,
    "full_rank": full_rank,
    "low_rank": lambda program: low_rank(program, max(1, min(RANK, Latents(program).layout.dim))),
}
"""Automatic guides by name."""
ADVICE = 'Use a richer guide ("full_rank", one of your own), more steps, or ppl.NUTS().'
REFUSED = ("chains", "warmup", "thin", "keep", "layout")
DRAWS = 1000
"""Draws by default."""
RATE, LAST_RATE = 0.05, 0.01
"""Adam's step size at the start, and the share of it that is left at the end."""


@dataclass(frozen=True, eq=False)
class VI:
    """Variational inference: a guide fitted by stochastic gradients.

    Args:
        guide: The name of an automatic guide ("mean_field", "full_rank", "low_rank"), an automatic guide
            (`vi.guides.mean_field(program)`), or a function `(params) -> program` over the program's latent addresses.
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

    guide: str | Guide | Callable[..., Program] = "mean_field"
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
                f"guide is {self.guide!r}.\nExpected: one of {', '.join(map(repr, GUIDES))}, an automatic guide, or a "
                "function of parameters that returns a program."
            )
        if not isinstance(self.guide, str | Guide) and self.params is None:
            raise ValueError(
                f"ppl.VI was given the guide {getattr(self.guide, '__name__', self.guide)!r} without parameters.\n"
                "Fix: ppl.VI(guide, params=...), where the fit is to start."
            )

    def run(self, program: Program, key: PRNGKey, settings: Settings) -> Posterior:
        """Fit, draw, weigh."""
        refuse(settings, REFUSED, "ppl.VI", "It runs no chains: ppl.infer(..., draws=...) alone.")
        start_key, fit_key, draw_key = jax.random.split(key, 3)
        guide = GUIDES[self.guide](program) if isinstance(self.guide, str) else self.guide
        init = guide.init if isinstance(guide, Guide) else None
        params = self.params
        if params is None and init is not None:
            params = init(start_key)
        found = fit(
            self.objective(program, guide).average(self.particles),
            params,
            optimizer=_adam(self.steps) if self.optimizer is None else self.optimizer,
            steps=self.steps,
            key=fit_key,
            restarts=self.restarts,
            init=init,
            stop=self.stop,
            progress=settings.progress,
            checkpoint=settings.checkpoint,
        )
        draws = Importance(DRAWS if settings.draws is None else settings.draws, proposal=guide(found.params))
        return _posterior(program, found, draws.population(program, draw_key), correct=self.correct)


def _adam(steps: int) -> optax.GradientTransformation:
    return optax.adam(optax.cosine_decay_schedule(RATE, steps, LAST_RATE))


def _posterior(program: Program, found: Fit, runs: Runs, *, correct: bool) -> Posterior:
    what = judged(runs.log_weight)
    notes = [_fit_note(found), *what.notes(ADVICE)]
    posterior = Posterior(
        draws=_with_chain(runs.choices),
        masks=_with_chain(runs.masks),
        values=_with_chain(runs.value),
        deterministic=_with_chain(runs.deterministic),
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


def _with_chain(tree: Any) -> Any:
    return jax.tree.map(lambda x: x[None], tree)


def _fit_note(found: Fit) -> Note:
    endings = {"steps": "all made", "stop": "stopped by the rule", "interrupted": "interrupted"}
    ending = endings.get(found.stopped, found.stopped)
    text = f"{found.steps} steps ({ending}); objective at the end {found.average:.6g}"
    if len(found.restarts) == 1:
        return Note(text)
    others = ", ".join(
        f"{one.average:.6g}" if one.stopped != "not finite" else f"not finite at step {len(one.history)}"
        for one in found.restarts
    )
    return Note(f"{text}, the best of {len(found.restarts)} restarts ({others})")
