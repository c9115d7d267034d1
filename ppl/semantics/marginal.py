"""Marginals: a program seen through some of its choices, the others summed out. Itself a measure.

Program.marginal(addresses, method) : log density(kept) = log of the sum of the joint density over all other choices

It is the log mass of `program.condition(kept)`. So where a kept choice lies in a branch, the runs that do not make it
count whatever value it is given, as in every joint density here: summed over its values the density exceeds the mass.
"""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax

from ppl.distributions.finite import Outcomes
from ppl.errors import AddressError, MeasureError
from ppl.semantics import choices as ch
from ppl.semantics.binding import bind_sample
from ppl.semantics.elimination import log_marginal
from ppl.semantics.language import factor
from ppl.semantics.normalization import Normalized
from ppl.semantics.site import WEIGHING, Site, Source
from ppl.semantics.staging import merge, unknown_address


@runtime_checkable
class MarginalMethod(Protocol):
    """A way to integrate choices out."""

    def marginalize(self, program: Any, kept: tuple[str, ...]) -> Any:
        """A measure over a dict of the kept choices."""
        ...


@runtime_checkable
class NormalizeMethod(Protocol):
    """A way to divide a program by its mass."""

    def normalized(self, program: Any) -> Any:
        """A measure over a dict of all choices."""
        ...


@dataclass(frozen=True)
class SumOut:
    """Exact summation of finite choices along the program's structure."""

    def marginalize(self, program: Any, kept: tuple[str, ...]) -> "Marginal":
        """The exact marginal measure; of a marginal, that of the program behind it."""
        inner = _marginal_behind(program)
        return Marginal(program if inner is None else inner.program, kept)

    def normalized(self, program: Any) -> Normalized:
        """The exact law of the choices given the observations."""
        return Normalized(program)


EXACTLY = SumOut()
"""The default method of `Program.marginal`."""


@jax.tree_util.register_pytree_node_class
class Marginal:
    """The exact marginal of a program on some addresses: a measure whose values are dicts of those choices."""

    def __init__(self, program: Any, kept: tuple[str, ...]) -> None:
        self.program = program
        self.kept = kept

    def tree_flatten(self) -> tuple[tuple[Any], tuple[str, ...]]:
        """The program is the child; the addresses are static."""
        return (self.program,), self.kept

    @classmethod
    def tree_unflatten(cls, kept: tuple[str, ...], children: tuple[Any]) -> "Marginal":
        """Rebuild from leaves."""
        return cls(children[0], kept)

    def value_like(self) -> dict[str, Any]:
        """Shapes and dtypes of the kept choices."""
        return ch.values_like(self.program.staged, self.kept)

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> dict[str, Any]:
        """Draw the kept choices by running the whole program.

        Raises:
            MeasureError: the program has observations or factors, so that its own draws do not follow its measure.
        """
        masked = [a for a in self.kept if self.program.sites[a].masked]
        if masked:
            raise MeasureError(
                f"A marginal of the program {self.program.name!r} cannot be drawn from: {masked} lie inside a branch, "
                "so that a draw may not have them.\nExpected: addresses that every run has. Keep what the branch "
                "returns instead, by giving it a site of its own outside. Scoring and observing the marginal work."
            )
        weighing = [a for a, info in self.program.sites.items() if info.kind in WEIGHING]
        if weighing:
            raise MeasureError(
                f"A marginal of the program {self.program.name!r} cannot be drawn from: {weighing} weigh its traces.\n"
                "Expected: a program without observations or factors. Give the marginal's choices as observations, "
                "or draw from the posterior with ppl.infer."
            )
        if sample_shape:
            keys = jax.random.split(key, sample_shape)
            draw = self.sample
            for _ in sample_shape:
                draw = jax.vmap(draw)
            return draw(keys)
        choices = self.program.simulate(key).choices
        return {address: choices[address] for address in self.kept}

    def log_prob(self, value: dict[str, Any]) -> Any:
        """Log density of the kept choices with all others summed out, in nats; differentiable."""
        return log_marginal(self.program, ch.checked(value, self.program.staged, "score"))

    def outcomes(self) -> Outcomes | None:
        """All kept choices with their log masses, where the whole program is finite and always makes them."""
        if any(self.program.sites[address].masked for address in self.kept):
            return None
        measure = self.program.enumerate().marginal(list(self.kept))
        return Outcomes(measure.values, measure.log_weights)


def _marginal_behind(program: Any) -> Marginal | None:
    """The exact marginal that a program is nothing but, if so."""
    if program.function is not marginal_model:
        return None
    measure = merge(program.dynamic, program.arguments)[0][0]
    return measure if isinstance(measure, Marginal) else None


def marginal_model(measure: Any, source: Source, single: str | None) -> Any:
    """The model behind `Program.marginal`: one site over the kept addresses; keeping none, the mass as a factor."""
    if isinstance(measure, Marginal) and not measure.kept:
        factor("mass", measure.log_prob({}))
        return {}
    value = bind_sample(Site("", "latent", source), measure)
    return value if single is None else value[single]


def checked_addresses(addresses: str | list[str] | tuple[str, ...], staged: Any) -> tuple[str, ...]:
    """The addresses to keep, each of which the program must have as a latent choice."""
    kept = (addresses,) if isinstance(addresses, str) else tuple(addresses)
    known = ch.latent_infos(staged)
    for address in kept:
        if address not in staged.infos:
            raise unknown_address(address, staged.infos, "keep")
        if address not in known:
            info = staged.infos[address]
            raise AddressError(
                f"The marginal was asked to keep {address!r}, which is {info.kind} at {info.source}.\n"
                f"Expected: latent addresses: {', '.join(map(repr, known)) or 'there are none'}."
            )
    return kept
