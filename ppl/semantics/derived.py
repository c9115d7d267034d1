"""What stands behind a program made from another: hashable functions, so that their staging is cached."""

from collections.abc import Callable
from functools import partial
from typing import Any

from ppl.semantics import choices as ch
from ppl.semantics.rewrites import Rewrite


class _Named:
    """A hashable callable with a name: what stands behind a derived program."""

    __slots__ = ("make", "name")

    def __init__(self, name: str, make: Callable[..., Any]) -> None:
        self.name = name
        self.make = make

    def _identity(self) -> tuple[Any, ...]:
        make = self.make
        return (type(self), self.name, *((make.func, make.args) if isinstance(make, partial) else (make,)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Named) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())


class Rewritten(_Named):
    """Bind a program through a rewriting handler, with values to read."""

    def __call__(self, program: Any, choices: dict[str, Any]) -> Any:
        """Bind the program's sites, rewritten."""
        return program.rewrite(self.make(), ch.nest(choices, program.staged))


class Mapped(_Named):
    """Bind a program and map its value."""

    def __init__(self, f: Callable[[Any], Any]) -> None:
        super().__init__(getattr(f, "__name__", "map"), f)

    def __call__(self, program: Any) -> Any:
        """Bind the program's sites and map its value."""
        return self.make(program.rewrite(Rewrite()))
