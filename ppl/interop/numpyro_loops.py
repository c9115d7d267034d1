"""NumPyro's handlers around a loop, seen from one step inside it.

In NumPyro a handler around `control_flow.scan` holds values, masks and scales for all steps at once. A `Step` stands
inside the loop's body: it passes each message of a step to the handlers around the loop, with their arrays cut to that
step. So a handler means the same around a loop as around the sites of a Python loop; loops may be nested.
"""

from functools import singledispatch
from typing import Any, NamedTuple, Protocol

import jax.numpy as jnp
from jaxtyping import Array, Int
from numpyro import handlers
from numpyro.primitives import _PYRO_STACK, Messenger


class Loop(NamedTuple):
    """A loop and the position of the step at hand (for a reversed loop: the position in `xs`)."""

    step: Int[Array, ""]
    length: int


class Relay(Protocol):
    """A messenger that takes messages from inside loops."""

    def relay(self, msg: dict[str, Any], loops: tuple[Loop, ...], origin: Messenger) -> None:
        """Treat a message of a step of `loops` (outermost first); `origin` received it."""
        ...


class Step(Messenger):
    """The innermost handler around the body of a loop.

    Args:
        parent: The messenger that met the loop; its messages go there in the end.
        loop: The loop and its step.
    """

    def __init__(self, parent: Any, loop: Loop) -> None:
        super().__init__()
        self.parent, self.loop = parent, loop
        self.around = tuple(reversed(_PYRO_STACK[_PYRO_STACK.index(parent) + 1 :]))

    def process_message(self, msg: dict[str, Any]) -> None:
        """Take a message of the step."""
        self.relay(msg, (), self)

    def relay(self, msg: dict[str, Any], loops: tuple[Loop, ...], origin: Messenger) -> None:
        """Pass a message outwards: through the handlers between this loop and the next, then to the parent."""
        loops = (self.loop, *loops)
        for handler in self.around:
            at_step(handler, msg, loops)
            if msg.get("stop"):
                return
        self.parent.relay(msg, loops, origin)
        msg["stop"] = True


@singledispatch
def at_step(handler: Messenger, msg: dict[str, Any], loops: tuple[Loop, ...]) -> None:
    """Let a handler around loops process one step's message; a value that it sets for all steps is cut to this one."""
    before = msg.get("value")
    handler.process_message(msg)
    value = msg.get("value")
    if value is None or value is before:
        return
    if msg["type"] == "plate":
        msg["value"] = _cut(value, 1, loops, msg)
    elif msg["type"] == "sample":
        shape = (*msg["kwargs"].get("sample_shape", ()), *msg["fn"].shape())
        msg["value"] = _cut(value, len(shape), loops, msg)


@at_step.register
def _mask(handler: handlers.mask, msg: dict[str, Any], loops: tuple[Loop, ...]) -> None:
    if msg["type"] == "sample":
        handler = handlers.mask(mask=_cut(handler.mask, len(msg["fn"].batch_shape), loops, msg))
    handler.process_message(msg)


@at_step.register
def _scale(handler: handlers.scale, msg: dict[str, Any], loops: tuple[Loop, ...]) -> None:
    if msg["type"] == "sample":
        handler = handlers.scale(scale=_cut(handler.scale, len(msg["fn"].batch_shape), loops, msg))
    handler.process_message(msg)


def _cut(value: Any, rank: int, loops: tuple[Loop, ...], msg: dict[str, Any]) -> Any:
    """Index the leading axes beyond `rank` by the innermost loops."""
    extra = jnp.ndim(value) - rank
    for loop in loops[-extra:] if extra > 0 else ():
        length = jnp.shape(value)[0]
        if length not in (1, loop.length):
            raise ValueError(
                f"A handler around a scan gives the site {msg['name']!r} an array for {length} steps; the scan has "
                f"{loop.length}.\nExpected: a leading axis of {loop.length} (or 1). Values for a part of the steps are "
                "not supported: pass them to the scan as `xs` with a mask."
            )
        value = jnp.asarray(value)[loop.step if length == loop.length else 0]
    return value
