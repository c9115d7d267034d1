"""Looks inside an objective: every program that it scores with `vi.log_density`, site by site.

A `Watch` stands in for the objective's function. While it is traced, each scored program's log density by site is
recorded (a `deterministic` site under `ADDRESS`), beside the objective's own choices, which any handler sees. Law: the
objective's value and choices are the same as without the watch.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ppl.errors import VmapError
from ppl.semantics.language import deterministic
from ppl.semantics.program import Program
from ppl.semantics.protocol import Choices
from ppl.semantics.site import SiteInfo

ADDRESS = "<scored>"
_watch: Any = jax.make_user_context(default_value=None)


class Scored(NamedTuple):
    """A program that the objective scored: its name, and what is known of its sites."""

    name: str
    sites: dict[str, SiteInfo]


class Watch:
    """The function of an objective, which records what is scored while it is traced.

    Attributes:
        function: The function.
        scored: The programs that were scored, by the address under which their terms are recorded.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.scored: dict[str, Scored] = {}

    def __call__(self, *args: Any) -> Any:
        """The function's value."""
        with _watch(self):
            return self.function(*args)

    def record(self, program: Program, choices: Choices) -> None:
        """Bind the log density of a program by site (nats) as a recorded value of the objective."""
        address = f"{ADDRESS}/{len(self.scored)}"
        self.scored[address] = Scored(program.name, program.sites)
        terms = program.terms(choices)
        sums = {a: jnp.sum(x) for part in terms for a, x in part.items()}
        with suppress(VmapError):  # under a plain jax.vmap nothing can be recorded
            deterministic(address, {a: sums[a] for a in program.sites if a in sums})


def watched(program: Program, choices: Choices) -> None:
    """Record a program that is about to be scored, where somebody watches."""
    watch = _watch.value
    if watch is not None:
        watch.record(program, choices)
