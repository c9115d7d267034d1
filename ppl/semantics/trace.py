"""A trace: one run of a program with everything that it chose.

Law: `trace.log_density == program.log_density(trace.choices)`, and it is the sum of the terms of the sites.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
from jax.core import Tracer

from ppl.semantics.choices import refuse_unbounded


class DensityTerms(NamedTuple):
    """The log density by site, in nats, each batch-shaped with the leading axes of loops and lanes.

    `prior` holds latent choices, `likelihood` observations, `factor` bare weights. Terms of branches not taken are
    zero.
    """

    prior: dict[str, Any]
    likelihood: dict[str, Any]
    factor: dict[str, Any]


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False, repr=False)
class Trace:
    """One run of a program.

    Attributes:
        program: The program that ran.
        value: Its return value.
        choices: Latent choices by address.
        masks: For addresses inside branches, whether the choice was made; where it was not, the value means nothing.
        deterministic: Recorded values by address.
        log_density: Joint log density of choices, observations and factors, in nats.
        log_weight: Log weight of the observations, factors and given choices, in nats.
    """

    program: Any
    value: Any
    recorded: dict[str, Any] = field(repr=False)

    def _get(self, name: str) -> Any:
        if not self.recorded:
            refuse_unbounded(self.program.staged, "trace")
        return self.recorded[name]

    @property
    def choices(self) -> dict[str, Any]:
        """Latent choices by address."""
        return self._get("choices")

    @property
    def masks(self) -> dict[str, Any]:
        """Whether choices inside branches were made."""
        return self._get("masks")

    @property
    def deterministic(self) -> dict[str, Any]:
        """Recorded values by address."""
        return self._get("deterministic")

    @property
    def log_density(self) -> Any:
        """Joint log density, in nats."""
        return self._get("log_density")

    @property
    def log_weight(self) -> Any:
        """Log weight of observations, factors and given choices, in nats."""
        return self._get("log_weight")

    @property
    def terms(self) -> DensityTerms:
        """The joint log density by site."""
        return self.program.terms(self.choices)

    @property
    def observed(self) -> dict[str, Any]:
        """The observed values by address."""
        return self.program.observed(self.choices)

    def __repr__(self) -> str:
        """Addresses with shapes and short values."""
        if not self.recorded:
            return (
                f"Trace of {self.program.name}: value {_short(self.value)} (choices in a while_loop are not recorded)"
            )
        lines = [
            f"Trace of {self.program.name}: log density {_short(self.log_density)}, log weight "
            f"{_short(self.log_weight)}"
        ]
        width = max((len(a) for a in self.choices), default=0)
        for address, value in self.choices.items():
            made = "" if address not in self.masks else f"  made: {_short(self.masks[address])}"
            lines.append(f"  {address:<{width}}  {_short(value)}{made}")
        return "\n".join(lines)


def _short(value: Any) -> str:
    if isinstance(value, Tracer):
        return str(jax.typeof(value))
    text = str(value).replace("\n", "")
    if len(text) <= 60:
        return text
    return f"{jax.typeof(value)} {text[:40]}..." if isinstance(value, jax.Array) else f"{text[:57]}..."
