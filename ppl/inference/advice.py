"""What a run of chains says aloud when it is done: what is wrong, where it is worst, and what to try.

Law: a run with nothing to say costs no import and no compilation: a cheap screen (`ppl.diagnostics.screening`) picks
the scalars that look bad, and ArviZ's R-hat and effective sizes alone decide what is said of them. It changes no draw.
A run that is of no use at all raises in its method; what is said here is of draws that can be used with care.

Thresholds (Vehtari et al. 2021; Betancourt 2016): R-hat above 1.01, bulk or tail ESS below 100 a chain, E-BFMI below
0.3. Short runs are held to less, since they cannot do better: R-hat above 1 + 3 / draws, ESS below a quarter of the
draws of a chain.
"""

import dataclasses
import math
import sys
import warnings
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from ppl.diagnostics.convergence import MIN_DRAWS, effective_sample_size, r_hat
from ppl.diagnostics.energy import MIN_BFMI, energy_bfmi
from ppl.diagnostics.screening import screen
from ppl.errors import ConvergenceWarning
from ppl.inference.divergences import any_noncentered_rule, divergence_notes
from ppl.inference.scalars import Drawn, Scalars, scalars_of
from ppl.inference.tables import Note, text_notes
from ppl.semantics.site import is_library_file

MAX_R_HAT = 1.01
MIN_ESS = 100
MOST_JUDGED = 40
"""The most scalars that ArviZ is asked about, the worst by the screen."""
SHARE_AT_DEPTH = 0.02
NAMED = 3


class Judged(NamedTuple):
    """Scalars that ArviZ was asked about, by number, and its answers."""

    numbers: np.ndarray
    r_hat: Float[np.ndarray, "judged"]
    ess_bulk: Float[np.ndarray, "judged"]
    ess_tail: Float[np.ndarray, "judged"]


def mcmc_notes(posterior: Drawn, recovered: Collection[str] = ()) -> list[Note]:
    """Everything that is wrong with a run of chains, the gravest first; empty where nothing is.

    Args:
        posterior: draws of chains, without weights; `stats` may hold `diverging`, `max_tree_depth_reached`, `energy`.
        recovered: addresses of labels that were summed out and drawn afterwards: no chain moved them, so that they
            are not judged themselves; where chains disagree, switched labels are named as a cause.
    """
    if posterior.log_weights is not None:
        return []
    return [*divergence_notes(posterior), *convergence_notes(posterior, recovered), *sampler_notes(posterior)]


def say(notes: Sequence[Note], title: str) -> None:
    """Warn once, with all that is wrong in one block, from the user's line.

    Args:
        notes: what `mcmc_notes` found; nothing is said where none of them is a warning.
        title: what was run, such as `NUTS on 'eight_schools', 4 chains of 1000 draws`.
    """
    if any(note.warning for note in notes):
        text = f"{title}:\n{text_notes(notes)}"
        warnings.warn(text, ConvergenceWarning, stacklevel=_users_level(sys._getframe()))


def sampler_notes(posterior: Drawn) -> list[Note]:
    """What the numbers recorded with each draw say: low E-BFMI, trajectories cut short."""
    return [*_energy_notes(posterior), *_depth_notes(posterior)]


def convergence_notes(posterior: Drawn, recovered: Collection[str] = ()) -> list[Note]:
    """R-hat and effective sizes of what chains moved, chains that never moved, draws that are not finite."""
    chains, draws = posterior.shape
    scalars = scalars_of(posterior)
    moved = {a: x for a, x in scalars.arrays.items() if a not in recovered}
    scalars = dataclasses.replace(scalars, arrays=moved)
    if not scalars.count or draws < MIN_DRAWS:
        return []
    found = screen(scalars.matrix())
    want_r_hat, want_ess = wanted(chains, draws)
    suspects = np.flatnonzero((found.r_hat > 1 + 0.7 * (want_r_hat - 1)) | (found.ess < 1.5 * want_ess))
    judged = _judge(scalars, suspects[np.argsort(found.ess[suspects] / found.r_hat[suspects] ** 4)])
    more = len(suspects) > len(judged.numbers)
    notes = [*_bad_notes(scalars, found.bad), *_frozen_notes(found.frozen, found.bad)]
    high = _worst_first(judged.r_hat > want_r_hat, -judged.r_hat)
    if high.size and chains > 1:
        value = f"R-hat {judged.r_hat[high[0]]:.2f} (want below {want_r_hat:.3g})"
        advice = _longer(draws) + _switched(recovered)
        notes.append(_note(scalars, judged.numbers[high], value, advice, more=more))
    return notes + _ess_notes(scalars, judged, want_ess, more=more)


def wanted(chains: int, draws: int) -> tuple[float, float]:
    """The largest R-hat and the least effective size, all chains together, with which a run goes uncommented.

    Examples:
        >>> wanted(4, 1000), wanted(4, 100)
        ((1.01, 400.0), (1.03, 100.0))
    """
    return max(MAX_R_HAT, 1 + 3 / draws), float(chains * min(MIN_ESS, draws / 4))


def _judge(scalars: Scalars, suspects: np.ndarray) -> Judged:
    index = suspects[:MOST_JUDGED]
    draws = scalars.matrix(index)
    if not index.size:
        return Judged(index, *(np.zeros(0) for _ in range(3)))
    return Judged(index, r_hat(draws), effective_sample_size(draws, "bulk"), effective_sample_size(draws, "tail"))


def _worst_first(flags: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Places of the flagged, sorted by `order`."""
    places = np.flatnonzero(flags)
    return places[np.argsort(order[places])]


def _ess_notes(scalars: Scalars, judged: Judged, want: float, *, more: bool) -> list[Note]:
    notes = []
    for kind, ess in (("bulk", judged.ess_bulk), ("tail", judged.ess_tail)):
        low = _worst_first(ess < want, ess)
        if low.size:
            least = max(float(ess[low[0]]), 1.0)
            advice = f"Run at least {math.ceil(want / least)} times as many draws, or reparameterise."
            value = f"{kind} ESS {least:.0f} (want {want:.0f})"
            notes.append(_note(scalars, judged.numbers[low], value, advice, more=more))
    return notes


def _note(scalars: Scalars, numbers: np.ndarray, value: str, advice: str, *, more: bool = False) -> Note:
    """A warning: the worst scalar with its value, how many others there are, what to do."""
    head, others = f"{scalars.label(int(numbers[0]))}: {value}", len(numbers) - 1
    if others:
        names = ", ".join(scalars.label(int(number)) for number in numbers[1 : 1 + NAMED])
        count = f"at least {others}" if more else f"{others}"
        dots = ", ..." if others > NAMED or more else ""
        head = f"{head}, and {count} more of {scalars.count} scalars ({names}{dots})"
    return Note(f"{head}. {advice}", warning=True)


def _longer(draws: int) -> str:
    longer = 2 * max(draws, 500)
    return (
        f"The chains have not mixed: run longer (warmup={longer}, draws={longer}), or reparameterise; where they sit "
        "in different modes, no length will do."
    )


def _switched(recovered: Collection[str]) -> str:
    """What to try where chains disagree about parameters of parts whose labels were summed out."""
    if not recovered:
        return ""
    return (
        f" The labels {', '.join(sorted(recovered))} were summed out: parts that share a prior can change their labels "
        "from chain to chain. Then give them an order (dist.TransformedDistribution with an OrderedTransform), or look "
        "only at what does not depend on labels."
    )


def _bad_notes(scalars: Scalars, bad: np.ndarray) -> list[Note]:
    index = np.flatnonzero(bad)
    if not index.size:
        return []
    value = f"{int(bad[index[0]])} draws are not finite"
    return [_note(scalars, index, value, "Its R-hat and ESS are not known; look for a division by zero.")]


def _frozen_notes(frozen: np.ndarray, bad: np.ndarray) -> list[Note]:
    stuck = np.flatnonzero(frozen[:, bad == 0].all(axis=1)) if (bad == 0).any() else np.zeros(0, int)
    if not stuck.size or not frozen.size:
        return []
    names = ", ".join(str(chain) for chain in stuck)
    return [Note(f"Chain {names} never moved: start it elsewhere (another key), or leave it out.", warning=True)]


def _energy_notes(posterior: Drawn) -> list[Note]:
    energy = np.asarray(posterior.stats.get("energy", np.zeros((0, 0))), np.float64)
    if energy.shape[-1] < MIN_DRAWS or not _energy_suspect(energy):
        return []
    values = energy_bfmi(energy)
    low = np.flatnonzero(values < MIN_BFMI)
    if not low.size:
        return []
    worst = int(low[np.argmin(values[low])])
    rule = any_noncentered_rule(posterior) or "reparameterise the choices that they scale"
    text = (
        f"E-BFMI {values[worst]:.2f} in chain {worst} (want above {MIN_BFMI}), low in {low.size} of {len(values)} "
        f"chains: the tails are not explored. Give heavy-tailed scales lighter priors, or {rule}."
    )
    return [Note(text, warning=True)]


def _energy_suspect(energy: np.ndarray) -> bool:
    """A cheap look, so that ArviZ is imported only where there is something to say."""
    with np.errstate(all="ignore"):
        values = np.square(np.diff(energy, axis=1)).mean(axis=1) / energy.var(axis=1)
    return bool((values < 1.1 * MIN_BFMI).any())


def _depth_notes(posterior: Drawn) -> list[Note]:
    reached = np.asarray(posterior.stats.get("max_tree_depth_reached", np.zeros((1, 1), bool)))
    count = int(reached.sum())
    if count <= SHARE_AT_DEPTH * reached.size:
        return []
    depth = f" {np.max(np.asarray(posterior.stats['tree_depth']))}" if "tree_depth" in posterior.stats else ""
    text = (
        f"{count} of {reached.size} trajectories were cut short at the largest tree depth{depth}: the draws are right, "
        "but each moves less far than it should. Allow a larger depth, warm up longer, or bring the parameters to one "
        "scale."
    )
    return [Note(text, warning=True)]


def _users_level(frame: Any) -> int:
    """The `stacklevel` that points from a frame at the nearest line outside this package."""
    level = 1
    while frame.f_back is not None and is_library_file(frame.f_code.co_filename):
        level, frame = level + 1, frame.f_back
    return level
