"""What surrounds a site while a model is being traced: the address prefix and the active plates.

The scope is a JAX user context, so it is part of the key of `jax.jit`'s cache (a jitted helper called under two scopes
is traced twice, not reused with the wrong addresses), it is local to the thread, and an exception restores it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import jax

from ppl.semantics.site import PlateFrame


class Scope(NamedTuple):
    """The prefix of addresses and the active plates from the outside in."""

    prefix: str = ""
    plates: tuple[PlateFrame, ...] = ()


_scope = jax.make_user_context(default_value=Scope())


def current() -> Scope:
    """The scope at this point of the trace."""
    return _scope.value


@contextmanager
def entered(scope: Scope) -> Iterator[Scope]:
    """Run a block under another scope."""
    with _scope(scope):
        yield scope


@contextmanager
def under(name: str) -> Iterator[Scope]:
    """Run a block in which addresses are under `name/`."""
    here = current()
    with entered(here._replace(prefix="/".join(part for part in (here.prefix, name) if part))) as inside:
        yield inside
