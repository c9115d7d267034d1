"""What an inference method is: an object with `run(program, key, settings) -> Posterior`. Extension by protocol.

The settings are those of `ppl.infer`. A method takes the ones that mean something to it and refuses the others, so that
no number that a user gives is ignored in silence.
"""

import os
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

from ppl.inference.posterior import Posterior
from ppl.semantics.program import Program
from ppl.typing import PRNGKey


class Settings(NamedTuple):
    """What `ppl.infer` was asked for; None where the user said nothing.

    Attributes:
        chains: Number of independent chains.
        warmup: Steps of each chain that are thrown away.
        draws: Draws kept of each chain.
        thin: Steps a draw.
        progress: Whether to show a progress bar.
        checkpoint: A file from which an interrupted run is resumed, and to which it is saved.
        keep: The addresses to keep, or a function of the choices to keep the value of.
        layout: How chains are laid out: "threads", "vmap" or "devices".
        check_data: Whether to look at the observations first.
    """

    chains: int | None = None
    warmup: int | None = None
    draws: int | None = None
    thin: int | None = None
    progress: bool | None = None
    checkpoint: str | os.PathLike[str] | None = None
    keep: tuple[str, ...] | Callable[[dict[str, Any]], Any] | None = None
    layout: str | None = None
    check_data: bool = True


CHAIN_SETTINGS = ("chains", "warmup", "draws", "thin", "progress", "checkpoint", "keep", "layout")
"""Those that mean something only to methods that run chains."""


@runtime_checkable
class Method(Protocol):
    """A way to a posterior. The library's methods are frozen dataclasses; one of the user's own needs only `run`.

    A method with a true attribute `checks_data` looks at the observations itself, where `settings.check_data` says so.
    """

    def run(self, program: Program, key: PRNGKey, settings: Settings) -> Posterior:
        """Infer the normalised measure of the program."""
        ...


def refuse(settings: Settings, names: tuple[str, ...], method: str, fix: str) -> None:
    """Raise a `ValueError` where a setting was given that the method does not know."""
    given = [f"{name}={getattr(settings, name)}" for name in names if getattr(settings, name) is not None]
    if given:
        raise ValueError(f"ppl.infer was given {', '.join(given)}, but {method} knows no such setting.\n{fix}")


def positive(name: str, value: int, least: int = 1) -> int:
    """The number, or a `ValueError` where it is not an integer of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} is {value!r}.\nExpected: an integer of at least {least}.")
    return value
