"""Reading error messages as a user would: the parts that must be there, and the lines that they must name."""

import inspect
from pathlib import Path

import pytest


def line_of(function, marker="# here"):
    """The file and line, inside a function, that carries a marker comment."""
    lines, start = inspect.getsourcelines(function)
    (offset,) = [i for i, text in enumerate(lines) if marker in text]
    return f"{Path(inspect.getsourcefile(function)).name}:{start + offset}"


def message_of(error, action):
    """The message of the error that an action must raise."""
    with pytest.raises(error) as caught:
        action()
    assert type(caught.value) is error
    return str(caught.value)


def says(message, *parts):
    """Each part must occur, in this order."""
    position = 0
    for part in parts:
        found = message.find(part, position)
        assert found >= 0, f"{part!r} is not in (or not in order in)\n{message}"
        position = found + len(part)
