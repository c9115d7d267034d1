"""Programs: a model with its arguments bound. A `Program` denotes a measure over its choices and its return value.

A `Program` is a pytree whose leaves are the array arguments, so it passes
through `jit` and `vmap`. Its methods run the one interpreter with different handlers, compiled once a structure.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from ppl.errors import AddressError, ShapeError
from ppl.semantics import choices as ch
from ppl.semantics import scope
from ppl.semantics.binding import refuse_nan
from ppl.semantics.derived import Mapped, Rewritten
from ppl.semantics.enumeration import DEFAULT_LIMIT, enumerate_program
from ppl.semantics.finite import FiniteMeasure
from ppl.semantics.handlers import Density, Forward, Simulate, Term, Terms
from ppl.semantics.interpreter import run
from ppl.semantics.keys import as_key
from ppl.semantics.marginal import EXACTLY, MarginalMethod, NormalizeMethod, checked_addresses, marginal_model
from ppl.semantics.normalization import normalized_model
from ppl.semantics.protocol import Choices, Handler, Result
from ppl.semantics.rewrites import Condition, Intervene, Rewrite
from ppl.semantics.show import program_html, program_text
from ppl.semantics.site import SiteInfo, Source, user_source
from ppl.semantics.staging import Arguments, StagedProgram, partition, staged_program, unknown_address
from ppl.semantics.trace import DensityTerms, Trace


@jax.tree_util.register_pytree_node_class
class Program:
    """A measure given by a program: its choices by address, its return value, its (possibly unnormalised) density."""

    __slots__ = ("arguments", "dynamic", "function")

    def __init__(self, function: Callable[..., Any], arguments: Arguments, dynamic: tuple[Any, ...]) -> None:
        self.function = function
        self.arguments = arguments
        self.dynamic = dynamic

    @classmethod
    def of(
        cls, function: Callable[..., Any], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> "Program":
        """Bind a function of sites to its arguments."""
        dynamic, arguments = partition((args, kwargs or {}), getattr(function, "__name__", "program"))
        return cls(function, arguments, dynamic)

    def tree_flatten(self) -> tuple[tuple[Any, ...], Any]:
        """Array arguments are children; the rest is static."""
        return self.dynamic, (self.function, self.arguments)

    @classmethod
    def tree_unflatten(cls, static: Any, dynamic: tuple[Any, ...]) -> "Program":
        """Rebuild from leaves."""
        function, arguments = static
        return cls(function, arguments, tuple(dynamic))

    # --- what it is --------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The name of the function behind it."""
        function = self.function
        return getattr(function, "__name__", None) or getattr(function, "name", type(function).__name__)

    @property
    def staged(self) -> StagedProgram:
        """The traced program (cached by structure and shapes)."""
        return staged_program(self.function, self.arguments, self.dynamic)

    @property
    def jaxpr(self) -> Any:
        """The program's representation: a jaxpr with `sample`, `factor`, `deterministic` and `lanes` equations."""
        return self.staged.code.jaxpr

    @property
    def sites(self) -> dict[str, SiteInfo]:
        """What is known of each site without running the program, by address and in program order."""
        return dict(self.staged.infos)

    def __repr__(self) -> str:
        """A table of the sites."""
        return program_text(self.name, self.sites)

    def _repr_html_(self) -> str:
        """The table of the sites for Jupyter."""
        return program_html(self.name, self.sites)

    # --- running it --------------------------------------------------------------------------------------------------

    def run(self, handler: Handler, reads: Choices | None = None) -> tuple[Any, Result]:
        """Interpret the program with a handler; returns its value and the result (by site). For authors of handlers."""
        staged = self.staged
        result = run(staged.code, self.dynamic, handler, reads or {})
        return jax.tree.unflatten(staged.out_tree, result.outs), result

    def simulate(self, key: Any) -> Trace:
        """Draw every latent choice from its measure.

        Args:
            key: A JAX key (or an int seed).

        Returns:
            A `Trace`; its `log_weight` is that of the observations and factors.
        """
        return self.generate(key, {})

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Any:
        """Run the program forwards and return its value alone (choices in unbounded loops are fine here)."""
        if sample_shape:
            size = math.prod(sample_shape)
            values = jax.vmap(self.sample)(jax.random.split(as_key(key), size))
            return jax.tree.map(lambda x: x.reshape(*sample_shape, *x.shape[1:]), values)
        return _forward(self, as_key(key), {})

    def generate(self, key: Any, choices: Choices) -> Trace:
        """Take the given choices, draw the rest from their measures.

        Args:
            key: A JAX key (or an int seed).
            choices: Values of some latent addresses.

        Returns:
            A `Trace` whose `log_weight` is the importance weight: given choices, observations and factors.
        """
        given = ch.checked(choices, self.staged, "fix")
        return self._trace(key, given)

    def replay(self, choices: Choices) -> Trace:
        """The trace in which every latent choice has the given value; deterministic."""
        given = self._complete(choices, "replay")
        return self._trace(0, given)

    def _trace(self, key: Any, given: Choices) -> Trace:
        if any(info.unbounded for info in self.staged.infos.values()):
            return Trace(self, _forward(self, as_key(key), given), {})
        value, recorded = _simulate(self, as_key(key), given)
        order = {"choices": self.sites, "deterministic": self.sites}
        ordered = {k: {a: recorded[k][a] for a in sites if a in recorded[k]} for k, sites in order.items()}
        return Trace(self, value, {**recorded, **ordered})

    def log_density(self, choices: Choices) -> Any:
        """The joint log density of choices, observations and factors, in nats.

        Args:
            choices: A value for every latent address. Values outside the support have log density minus infinity;
                values of branches not taken count for nothing.

        Raises:
            AddressError, ShapeError, DtypeError: for unknown or missing addresses and for values that do not fit.
        """
        return _log_density(self, self._complete(choices, "score"))

    def estimate_log_density(self, key: Any, choices: Choices) -> Any:
        """The log of an unbiased estimate of the joint density (nats): of measures with estimated densities, `ppl.SIR`.

        Exact where nothing is estimated. Its own mean is a lower bound of the log density.

        Args:
            key: A JAX key (or an int seed).
            choices: A value for every latent address.
        """
        return self._trace(key, self._complete(choices, "score")).log_density

    def terms(self, choices: Choices) -> DensityTerms:
        """The joint log density by site (prior, likelihood, factor), each batch-shaped."""
        prior, likelihood, factor, _ = _terms(self, self._complete(choices, "score"))
        return DensityTerms(prior, likelihood, factor)

    def observed(self, choices: Choices) -> dict[str, Any]:
        """The observed values by address (they may depend on the choices)."""
        return _terms(self, self._complete(choices, "replay"))[3]

    def _complete(self, choices: Choices, verb: str) -> Choices:
        staged = self.staged
        ch.refuse_unbounded(staged, "density")
        return ch.checked(choices, staged, verb, complete=True)

    # --- making other programs of it ---------------------------------------------------------------------------------

    def condition(self, choices: Choices) -> "Program":
        """The program in which the given latent choices are observed."""
        return self._rewritten(partial(Condition, "observed"), choices, "condition")

    def substitute(self, choices: Choices) -> "Program":
        """The program in which the given latent choices are fixed; they go on counting as prior terms."""
        return self._rewritten(partial(Condition, "fixed"), choices, "substitute")

    def intervene(self, choices: Choices) -> "Program":
        """The program in which the given choices are replaced by values and no longer scored (Pearl's `do`)."""
        staged = self.staged
        for address in choices:
            if address not in staged.infos:
                raise unknown_address(address, staged.infos, "set")
        return self._rewritten(Intervene, choices, "set", observed_too=True)

    def map(self, f: Callable[[Any], Any]) -> "Program":
        """The program whose value is `f(value)`; its choices are the same."""
        return Program.of(Mapped(f), (self,))

    def marginal(self, addresses: str | list[str] | tuple[str, ...], method: MarginalMethod = EXACTLY) -> "Program":
        """The program seen through some of its choices, the others integrated out.

        Args:
            addresses: The latent addresses to keep; their values are a dict (one address given as a string: an array).
            method: How to integrate; `ppl.Exact()` sums finite choices along the structure of the program: lane by lane
                under `ppl.vmap`, by forward elimination in a `scan`. Observations and factors stay in the density.

        Returns:
            A `Program` over the kept addresses; it can be scored, differentiated, conditioned and sampled inside
            another.
        """
        kept = checked_addresses(addresses, self.staged)
        single = addresses if isinstance(addresses, str) else None
        return Program.of(marginal_model, (method.marginalize(self, kept), user_source(), single))

    def normalize(self, method: NormalizeMethod = EXACTLY) -> "Program":
        """The program divided by its mass: the law of its choices given its observations and factors.

        Args:
            method: How; `ppl.Exact()` enumerates to draw and sums along the program's structure to score.

        Returns:
            A `Program` over the same addresses with the same return value, of mass one; every draw has weight one.
        """
        return Program.of(normalized_model, (method.normalized(self), user_source()))

    def enumerate(self, limit: int = DEFAULT_LIMIT) -> FiniteMeasure:
        """The exact measure of the program, where every choice is finite.

        Args:
            limit: The most rows of the product of supports to make.

        Returns:
            A `FiniteMeasure` of the return value, with the choices by address; its mass is the evidence.

        Raises:
            NotFiniteError, EnumerationSizeError: naming the choices and their lines.
        """
        return enumerate_program(self, limit)

    def rewrite(self, handler: Rewrite, reads: Choices | None = None) -> Any:
        """Bind this program's sites, rewritten, in the model being traced; for authors of handlers."""
        value, _ = self.run(handler, reads)
        return value

    def inline(self, address: str, obs: Any, source: Source) -> Any:
        """Place this program's sites under `address/` in the model being traced (what `ppl.sample` does)."""
        here = scope.current()
        if here.plates:
            raise ShapeError(
                f"The program {self.name!r} was sampled as {address!r} at {source} inside the plate "
                f"{here.plates[-1].name!r}.\nA plate widens distributions, not programs. Use "
                f"ppl.vmap(lambda: ppl.sample({address!r}, program), axis_size={here.plates[-1].size})()."
            )
        program = self if obs is None else self.condition(self._flat_observation(obs, address, source))
        prefix = "/".join(part for part in (here.prefix, address) if part)
        with scope.entered(here._replace(prefix=prefix)):
            return program.rewrite(Rewrite())

    def _flat_observation(self, obs: Any, address: str, source: Source) -> Choices:
        latent = list(ch.latent_infos(self.staged))
        if isinstance(obs, dict):
            return obs
        if len(latent) == 1:
            return {latent[0]: obs}
        raise AddressError(
            f"The observation of the program sampled as {address!r} at {source} is a {type(obs).__name__}.\n"
            f"Expected: a dict of the program's choices by address: {latent}."
        )

    def _rewritten(
        self, make: Callable[[], Rewrite], choices: Choices, verb: str, *, observed_too: bool = False
    ) -> "Program":
        staged = self.staged
        if observed_too:
            staged = staged._replace(infos={a: _as_latent(i) for a, i in staged.infos.items()})
        ch.checked(choices, staged, verb)
        for address, value in choices.items():
            if isinstance(value, jax.Array) and not isinstance(value, Tracer):
                refuse_nan(value, address, staged.infos[address].source)
        choices = {address: jnp.asarray(value) for address, value in choices.items()}
        return Program.of(Rewritten(self.name, make), (self, dict(choices)))


def _as_latent(info: SiteInfo) -> SiteInfo:
    return info._replace(kind="latent") if info.kind in ("observed", "fixed") else info


@jax.jit
def _forward(program: Program, key: Any, given: Choices) -> Any:
    return program.run(Forward(key), given)[0]


@jax.jit
def _simulate(program: Program, key: Any, given: Choices) -> Any:
    staged = program.staged
    value, result = program.run(Simulate(key), given)
    recorded = {
        "choices": ch.flatten(result.writes, staged, ("latent",)),
        "masks": ch.spread(result.masks, staged),
        "deterministic": ch.flatten(result.writes, staged, ("deterministic",)),
        "log_density": result.total.log_density,
        "log_weight": result.total.log_weight,
    }
    return value, recorded


@jax.jit
def _log_density(program: Program, given: Choices) -> Any:
    return program.run(Density(), given)[1].total


@jax.jit
def _terms(program: Program, given: Choices) -> Any:
    staged = program.staged
    writes = program.run(Terms(), given)[1].writes
    groups: dict[str, dict[str, Any]] = {"prior": {}, "observed": {}, "factor": {}}
    values = {a: t.value for a, t in writes.items() if isinstance(t, Term)}
    for address, entry in staged.table.items():
        kind = {"latent": "prior", "fixed": "prior"}.get(entry.site.kind, entry.site.kind)
        if kind in groups and address in writes:
            groups[kind][address] = writes[address].log_density
    return groups["prior"], groups["observed"], groups["factor"], ch.flatten(values, staged, ("observed",))
