"""What an inference method is: an object with `run(program, key, settings) -> Posterior`. Extension by protocol.

The settings are those of `ppl.infer`. A method takes the ones that mean something to it and refuses the others, so that
no number that a user gives is ignored in silence.
"""

from typing import NamedTuple, Protocol, runtime_checkable

from ppl.inference.posterior import Posterior
from ppl.semantics.program import Program
from ppl.typing import PRNGKey


class Settings(NamedTuple):
    """What `ppl.infer` was asked for; None where the user said nothing.

    `chains` is the number of independent chains, `warmup` the steps of each that are thrown away, `draws` those kept.
    """

    chains: int | None = None
    warmup: int | None = None
    draws: int | None = None


@runtime_checkable
class Method(Protocol):
    """A way to a posterior. The library's methods are frozen dataclasses; one of the user's own needs only `run`."""

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
