"""`Posterior`: what every inference method returns, and how it leaves: tables, ArviZ, files, predictions, samples.

Law: it stands for the probability measure `sum_i W_i delta(draw_i)` over choices, with `W_i` in proportion to
`exp(log_weights)`, or equal where `log_weights` is None; whatever leaves it (moments, resampled draws, ArviZ's
groups) is of that measure. It runs no inference.
"""

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Shaped

from ppl.inference.axes import check_axes, chosen, flat, named_arrays
from ppl.inference.empirical import EmpiricalMeasure
from ppl.inference.moments import normalized_weights
from ppl.inference.overview import joined_draws, overview, posterior_notes
from ppl.inference.predictive import blanked, checked_groups, model_groups, predict
from ppl.inference.storage import flatten_storable, read, site_of, site_record, unflatten_tree, write
from ppl.inference.summary import Context, Summary, summarize
from ppl.inference.tables import Note, html_table, text_notes, text_table
from ppl.interop.arviz import to_datatree, weighted_stats
from ppl.numerics.resampling import systematic
from ppl.semantics.keys import as_key
from ppl.semantics.site import SiteInfo

ByAddress = dict[str, Shaped[Array | np.ndarray, "_chains _draws ..."]]
EXACT = "Exact"
PARTS = ("draws", "masks", "deterministic", "stats")


class Evidence(NamedTuple):
    """An estimate of the log evidence and its standard error, both in nats; an error of 0 says that it is exact."""

    estimate: float
    standard_error: float


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Posterior:
    """Draws of a program's choices, perhaps weighted.

    Attributes:
        draws: values of the choices by address, with leading axes (chain, draw).
        masks: for choices inside branches, True where the choice was made; the others' values mean nothing.
        values: the program's return values, a pytree with the same leading axes; None where not kept.
        deterministic: values of `ppl.deterministic` sites by address.
        log_weights: unnormalised log weights (nats); None for equal weights.
        log_evidence: estimate of the log evidence; None where the method gives none.
        stats: numbers per draw, such as `log_density` or `accepted`.
        diagnostics: numbers about the run, such as `pareto_k` and `ess`.
        program: the program it came from; not saved.
        method: name of the method; `"Exact"` says that the draws are all outcomes, with exact weights.
        sites: what is known of the sites; taken from `program` where not given.
        continuation: what is needed to go on, of methods that can; not saved.
        remarks: what the method has to say of how it worked, a sentence each.
        history: what a sequential method saw, step by step; not saved.
    """

    draws: ByAddress
    masks: dict[str, Bool[Array | np.ndarray, "_chains _draws ..."]] = dataclasses.field(default_factory=dict)
    values: Any = None
    deterministic: ByAddress = dataclasses.field(default_factory=dict)
    log_weights: Float[Array | np.ndarray, "_chains _draws"] | None = None
    log_evidence: Evidence | None = None
    stats: ByAddress = dataclasses.field(default_factory=dict)
    diagnostics: dict[str, float] = dataclasses.field(default_factory=dict)
    program: Any = None
    method: str = ""
    sites: Mapping[str, SiteInfo] | None = None
    continuation: Any = None
    remarks: tuple[str, ...] = ()
    history: Any = None

    def __post_init__(self) -> None:
        if self.sites is None:
            object.__setattr__(self, "sites", {} if self.program is None else dict(self.program.sites))
        check_axes(self._named_arrays(), self.masks, self.draws)

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of chains and of draws in each."""
        return self._named_arrays()[0][1].shape[:2]

    @property
    def dims(self) -> dict[str, tuple[str | None, ...]]:
        """Names of the axes after (chain, draw) by address: plates' names, None where an axis has no plate."""
        return {address: tuple(info.dims) for address, info in (self.sites or {}).items()}

    @property
    def arrays(self) -> ByAddress:
        """Choices and deterministic values, in the program's order where it is known."""
        arrays = {**self.draws, **self.deterministic}
        known = (address for address in self.sites or {} if address in arrays)
        return {address: arrays[address] for address in dict.fromkeys((*known, *arrays))}

    def summary(self, hdi_prob: float = 0.94, addresses: Sequence[str] | None = None) -> Summary:
        """Moments, intervals and how far to trust them, one row per scalar.

        Args:
            hdi_prob: weight inside the highest-density interval.
            addresses: which choices and deterministic values; all by default.

        Raises:
            AddressError: an address is not one of the posterior's.
            DegenerateWeightsError: every log weight is minus infinity.
        """
        if not 0 < hdi_prob < 1:
            raise ValueError(f"hdi_prob must lie between 0 and 1, got {hdi_prob}.")
        weights = None if self.log_weights is None else normalized_weights(self.log_weights)
        return summarize(
            chosen(self.arrays, addresses),
            masks=self.masks,
            context=Context(weights, self._exact, hdi_prob),
            dims=self.dims,
            notes=posterior_notes(self, weights, exact=self._exact),
            title=self._title(),
        )

    def resample(self, key: Any, draws: int | None = None) -> "Posterior":
        """Equally weighted draws of the same measure, in one chain, by systematic resampling.

        Args:
            key: an int or a JAX key.
            draws: how many; as many as there are by default.

        Returns:
            A posterior without weights. Copies of a draw stand side by side, so that an ESS computed from the
            result still sees that they are copies. The log evidence and diagnostics are kept.
        """
        return self._take(self._ancestors(key, draws))

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> dict[str, Shaped[Array, "..."]]:
        """Draw from the posterior in proportion to weight.

        Args:
            key: an int or a JAX key.
            sample_shape: shape of a batch of independent draws.

        Returns:
            Choices by address, each of shape `sample_shape` + the site's shape; NaN where a float was not made.
        """
        return self.as_measure().sample(as_key(key), sample_shape)

    def extend(self, draws: int) -> "Posterior":
        """This posterior with more draws of every chain: the same as a run that was longer from the start.

        Args:
            draws: how many more, in each chain.

        Raises:
            ValueError: the method runs no chains, or the posterior was loaded from a file.
        """
        if self.continuation is None:
            raise ValueError(
                f"The posterior by {self.method or 'an unnamed method'} cannot be extended: it does not know where its "
                "chains stand.\nExpected: one that ppl.infer returned for a method that runs chains (not one from a "
                "file).\nFix: run ppl.infer with more draws, or with checkpoint=path."
            )
        return joined_draws(self, self.continuation.extend(draws))

    def as_measure(self) -> EmpiricalMeasure:
        """The posterior as a measure that a program can sample: `ppl.sample("old", posterior.as_measure())`.

        Choices that a draw did not make (see `masks`) are NaN where floats; other dtypes keep a placeholder.
        """
        log_weights = np.zeros(self.shape) if self.log_weights is None else self.log_weights
        with np.errstate(divide="ignore"):
            normalized = jnp.asarray(np.log(normalized_weights(log_weights)))
        return EmpiricalMeasure({a: flat(blanked(x, self.masks.get(a))) for a, x in self.draws.items()}, normalized)

    def predict(
        self, program: Any, *, key: Any, redraw: Sequence[str] = ()
    ) -> dict[str, Shaped[Array, "_chains _draws ..."]]:
        """Draw what the posterior does not hold from `program`, once for each draw.

        A choice of `program` with an address of the posterior is fixed to the draw's value if that draw made it
        (`masks`); observations of `program` stay; all else is drawn. Addresses that `program` lacks are unused.

        Args:
            program: usually the same model without its data, or with new arguments.
            key: an int or a JAX key.
            redraw: choices to draw anew from `program`, such as those of groups that the data did not have.

        Returns:
            By address, the choices drawn and the deterministic values, with axes (chain, draw); NaN where a choice
            inside a branch was not made and is a float. They carry the posterior's weights, if it has any.

        Raises:
            AddressError: no address of the posterior is in `program`, one of `redraw` is not, or nothing is to draw.
            ShapeError: a choice has another shape in `program`, as where a plate has another size.
        """
        return predict(program, self.draws, key, masks=self.masks, redraw=redraw)

    def to_arviz(
        self,
        groups: Sequence[str] | None = None,
        *,
        key: Any = 0,
        draws: int | None = None,
        coords: Mapping[str, Sequence[Any]] | None = None,
    ) -> Any:
        """An `xarray.DataTree` in ArviZ's layout, with dims and coords from plates.

        ArviZ knows no weights, so a weighted posterior is resampled to equal weights (`resample`; its one chain
        has copies side by side). `sample_stats` then has, beside each draw's own numbers, `ancestor` (the particle
        that it copies) and `log_weights` (nats) of all particles in their first order. `/` in addresses becomes `.`.

        Args:
            groups: names of groups; by default `posterior`, `sample_stats` and, with a program, all of
                `log_likelihood`, `observed_data`, `posterior_predictive`, `prior` and `prior_predictive` that it has.
            key: an int or a JAX key, for resampling and for the predictive groups.
            draws: how many draws a weighted posterior is resampled to; by default as many as there are,
                and at least 1000 for exact ones.
            coords: labels of plates, by the plate's name.

        Raises:
            ValueError: a group is unknown, or needs the program and there is none.
        """
        names = checked_groups(groups, self.program, self.draws)
        equal, extra = self, {}
        if self.log_weights is not None:
            minimum = 1000 if self._exact else 0
            ancestors = self._ancestors(key, draws or max(math.prod(self.shape), minimum))
            equal, extra = self._take(ancestors), weighted_stats(ancestors, self.log_weights)
        tables = {"posterior": {**equal.draws, **equal.deterministic}, "sample_stats": dict(equal.stats)}
        if self.program is not None:
            tables |= model_groups(self.program, equal.draws, equal.masks, equal.shape, groups=names, key=key)
        return to_datatree(
            {name: tables[name] for name in names if name in tables},
            masks=equal.masks,
            dims=self.dims,
            coords=coords or {},
            particle_stats=extra,
            attrs=self._attributes(),
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything but `program` to one file (safetensors with a JSON header, no pickle).

        `values` that hold functions or other objects are left out: the header says why, and None is loaded.

        Args:
            path: the file; an old one is replaced only when the new one is complete.

        Raises:
            FileFormatError: the directory does not exist, or draws (or numbers about them) cannot be stored.
        """
        arrays = {f"{part}:{name}": x for part in PARTS for name, x in getattr(self, part).items()}
        if self.log_weights is not None:
            arrays["log_weights"] = self.log_weights
        leaves, structure, left_out = flatten_storable(self.values, "values")
        record = {
            "method": self.method,
            "remarks": list(self.remarks),
            "evidence": None if self.log_evidence is None else [float(x) for x in self.log_evidence],
            "diagnostics": {name: float(x) for name, x in self.diagnostics.items()},
            "sites": [site_record(info) for info in (self.sites or {}).values()],
            "values": structure,
            "values_left_out": left_out,
        }
        write(path, "posterior", arrays | leaves, record)

    def _named_arrays(self) -> list[tuple[str, Any]]:
        parts = {part: getattr(self, part) for part in PARTS}
        return named_arrays(parts, self.values, self.log_weights)

    @property
    def _exact(self) -> bool:
        return self.method == EXACT and self.log_weights is not None

    def _title(self) -> str:
        chains, draws = self.shape
        count = f"{draws} outcomes" if self._exact else f"{draws} draws"
        count = count if chains == 1 else f"{chains} chains of {count}"
        return f"Posterior by {self.method or 'an unnamed method'}: {count}"

    def _ancestors(self, key: Any, draws: int | None) -> np.ndarray:
        count = math.prod(self.shape) if draws is None else draws
        measure = self.as_measure()
        uniform = jax.random.uniform(as_key(key))
        return np.asarray(_systematic(uniform, measure.log_weights, count))

    def _take(self, ancestors: np.ndarray) -> "Posterior":
        def take(x: Any) -> Any:
            return flat(x)[ancestors][None]

        parts = {part: {name: take(x) for name, x in getattr(self, part).items()} for part in PARTS}
        values = jax.tree.map(take, self.values)
        return dataclasses.replace(self, **parts, values=values, log_weights=None)

    def _attributes(self) -> dict[str, Any]:
        attrs = {"inference_method": self.method, "created_by": "quasiborel"} | self.diagnostics
        if self.log_evidence is not None:
            attrs["log_evidence"] = float(self.log_evidence.estimate)
            attrs["log_evidence_standard_error"] = float(self.log_evidence.standard_error)
        return attrs

    def _overview(self) -> tuple[list[str], list[list[str]], list[Note]]:
        return overview(self, exact=self._exact)

    def __repr__(self) -> str:
        """What it holds, one line per address."""
        header, rows, notes = self._overview()
        return f"{self._title()}\n\n{text_table(header, rows, left=4)}\n\n{text_notes(notes)}".rstrip()

    def _repr_html_(self) -> str:
        header, rows, notes = self._overview()
        return html_table(self._title(), header, rows, notes, left=4)


_systematic = jax.jit(systematic, static_argnums=2)
"""One compilation: step by step, the first call takes seconds."""


def load(path: str | os.PathLike[str]) -> Posterior:
    """Read a posterior that `Posterior.save` wrote, bit for bit, without its program.

    Args:
        path: the file.

    Returns:
        The posterior; arrays of 64 bits stay NumPy arrays while JAX runs without x64.

    Raises:
        FileFormatError: the file is missing, foreign, damaged, of another version, or no posterior.
    """
    arrays, record = read(path, "posterior")
    parts: dict[str, dict[str, Any]] = {part: {} for part in PARTS}
    for name, x in arrays.items():
        part, colon, address = name.partition(":")
        if colon and part in parts:
            parts[part][address] = x
    return Posterior(
        **parts,
        values=unflatten_tree(record["values"], arrays),
        log_weights=arrays.get("log_weights"),
        log_evidence=None if record["evidence"] is None else Evidence(*record["evidence"]),
        diagnostics=record["diagnostics"],
        method=record["method"],
        remarks=tuple(record.get("remarks", ())),
        sites={info["address"]: site_of(info) for info in record["sites"]},
    )
