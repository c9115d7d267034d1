"""`ppl.Pathfinder`: draws of Gaussians found on several ways uphill, with Pareto-smoothed importance weights.

    q = sum_i a_i q_i,   draw x of path i ~ q_i:   weight p(x, y) / q(x)

q_i is the Gaussian with the largest evidence lower bound on the i-th way, in R^n, and a_i the share of the draws that
are its own. Weights against the mixture (Veach and Guibas's balance heuristic) are unbiased as those against each
path's own Gaussian are, which the paper takes, and never vary more where the paths overlap. A mode that no path found
is missing, whatever Pareto k says.

References: Zhang, Carpenter, Gelman, Vehtari, "Pathfinder: parallel quasi-Newton variational inference", JMLR 23
(2022), algorithms 1 and 2; Veach and Guibas, "Optimally combining sampling techniques", SIGGRAPH 1995.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ppl.errors import DegenerateWeightsError
from ppl.inference.advice import say
from ppl.inference.approximation import Judged, judged
from ppl.inference.data_checks import density_table
from ppl.inference.finish import finish
from ppl.inference.method import Settings, positive, refuse
from ppl.inference.pathfinder import LOOKS, climb, densities
from ppl.inference.posterior import Posterior
from ppl.inference.progress import Progress, Reporter
from ppl.inference.tables import Note
from ppl.inference.vector_runs import target_of
from ppl.numerics.lbfgs_path import Gaussian
from ppl.semantics.program import Program
from ppl.typing import PRNGKey

REFUSED = ("chains", "warmup", "thin", "checkpoint", "layout")
DRAWS, BLOCK = 1000, 1024
TAG = 0x64726177


@dataclass(frozen=True, eq=False)
class Pathfinder:
    """Quasi-Newton variational inference: seconds, for posteriors that are not far from normal in R^n.

    Args:
        paths: Ways uphill, each from a point of its own; with one, single-path Pathfinder.

    Finite choices are summed out and drawn back. The draws are weighted (`Posterior.resample` gives equal weights);
    `stats["log_weight"]` has the raw log ratios (nats) and `stats["path"]` each draw's path, `diagnostics` the `elbo`
    of the mixture with its standard error, `pareto_k` and `ess`; `log_evidence` is unbiased before the logarithm.

    Examples:
        >>> import jax.numpy as jnp, ppl, ppl.distributions as dist
        >>> @ppl.model
        ... def normal(y):
        ...     mean = ppl.sample("mean", dist.Normal(0.0, 1.0))
        ...     ppl.sample("y", dist.Normal(mean, 1.0).expand([3]).to_event(1), obs=y)
        >>> posterior = ppl.infer(normal(jnp.array([1.0, 2.0, 3.0])), ppl.Pathfinder(), key=0)
        >>> bool(abs(posterior.resample(0).draws["mean"].mean() - 1.5) < 0.1)
        True
    """

    paths: int = 4

    def __post_init__(self) -> None:
        positive("paths", self.paths)

    def run(self, program: Program, key: PRNGKey, settings: Settings) -> Posterior:
        """Climb, draw, weigh."""
        refuse(settings, REFUSED, "ppl.Pathfinder", "It runs no chains: ppl.Pathfinder(paths), ppl.infer(..., draws=).")
        target, found = target_of(program), []
        with Reporter(self.paths, show=settings.progress) as reporter:
            for number in range(self.paths):
                way = climb(target, key, number)
                if way is not None and way.gaussian is not None and np.isfinite(way.bound):
                    found.append((number, way.gaussian))
                reporter.add(Progress(1, phase="paths", numbers={}))
        if not found:
            raise _nowhere(target, key, self.paths)
        numbers, gaussians = zip(*found, strict=True)
        places, log_q, paths = _mixture(gaussians, DRAWS if settings.draws is None else settings.draws, key)
        places = places.astype(jax.dtypes.canonicalize_dtype(float))
        log_p = densities(target, places)
        what = judged((log_p - log_q).astype(places.dtype))
        parts = finish(target, key, places[None], (0, 0), settings.keep, BLOCK)
        notes = [*_path_notes(np.asarray(numbers), self.paths), *what.notes("Use ppl.NUTS(), or ppl.VI(...).")]
        return _posterior(target, parts, what, np.asarray(numbers)[paths], notes)


def _mixture(
    gaussians: tuple[Gaussian, ...], draws: int, key: PRNGKey
) -> tuple[Float[np.ndarray, "draws dim"], Float[np.ndarray, "draws"], np.ndarray]:
    """Draws of several Gaussians in turn, their log densities under the mixture (nats), and whose they are."""
    seed = np.asarray(jax.random.key_data(jax.random.fold_in(key, TAG))).reshape(-1).tolist()
    noise = np.random.default_rng(seed).standard_normal((draws, len(gaussians[0].mean)))
    paths = np.arange(draws) % len(gaussians)
    places = np.empty_like(noise)
    for number, gaussian in enumerate(gaussians):
        places[paths == number] = gaussian.draws(noise[paths == number])[0]
    with np.errstate(divide="ignore"):
        shares = np.log(np.bincount(paths, minlength=len(gaussians)) / draws)
    log_q = [gaussian.log_density(places) + share for gaussian, share in zip(gaussians, shares, strict=True)]
    return places, np.logaddexp.reduce(log_q, axis=0), paths


def _posterior(target: Any, parts: Any, what: Judged, paths: np.ndarray, notes: list[Note]) -> Posterior:
    remarks = [note.text for note in notes[:-1]]  # Pareto k is said under every table of weighted draws
    posterior = Posterior(
        **parts._asdict(),
        log_weights=what.weights[None],
        log_evidence=what.evidence,
        stats={"log_weight": what.log_ratios[None], "path": paths[None]},
        diagnostics=what.diagnostics,
        program=target.program,
        method="Pathfinder",
        remarks=tuple([target.note, *remarks] if target.note else remarks),
    )
    say(notes, f"Pathfinder on {target.program.name!r}")
    return posterior


def _path_notes(numbers: np.ndarray, paths: int) -> list[Note]:
    if len(numbers) == paths:
        return [Note(f"{paths} path{'s' if paths > 1 else ''}")]
    return [Note(f"{paths - len(numbers)} of {paths} paths found no Gaussian, and were left out.", warning=True)]


def _nowhere(target: Any, key: PRNGKey, paths: int) -> DegenerateWeightsError:
    choices = target.choices(jnp.zeros(target.dim))
    complete = choices | target.recover(key, choices)
    return DegenerateWeightsError(
        f"None of {paths} paths of ppl.Pathfinder on {target.program.name!r} found a Gaussian: of {LOOKS} points "
        "looked at for each, none had a finite log density with a finite gradient, or no way led uphill from it.\n"
        f"Log density by site at the origin of R^n:\n{density_table(target.program, complete)}\n"
        "Fix: check the marked sites (data outside the support, a scale that under- or overflows), or use ppl.MH() or "
        "ppl.SMC()."
    )
