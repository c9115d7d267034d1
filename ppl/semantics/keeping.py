"""What a sweep keeps of a loop while it runs: the protocol of keepers.

A sweep records choices step by step, which takes memory for every particle at every step. A keeper sees the same and
keeps less: a tree of ancestors without the branches that died out, or the last few steps. Law: it only looks; the
particles are what they are without it.
"""

from typing import Any, NamedTuple, Protocol, runtime_checkable


class Step(NamedTuple):
    """One step of a loop, as a keeper sees it.

    Attributes:
        time: The place of the step's inputs.
        ancestors: Each particle's place before the transformation that came before the step.
        written: Choices and recorded values by address with a leading axis of particles, and their masks.
        log_weight: The particles' log weights (nats) after the step.
    """

    time: Any
    ancestors: Any
    written: Any
    log_weight: Any


@runtime_checkable
class Keeper(Protocol):
    """A frozen, hashable object; whatever it records with `deterministic` stands under the loop's `stage k/`."""

    def start(self, n: int, written: Any, length: int) -> Any:
        """The state before the first of `length` steps of `n` particles, from shapes and dtypes of what one writes."""
        ...

    def step(self, state: Any, step: Step) -> Any:
        """The state after a step."""
        ...

    def end(self, state: Any, log_weight: Any) -> None:
        """Record what is kept."""
        ...
