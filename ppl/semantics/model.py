"""`@ppl.model`: from a Python function to a maker of programs."""

from collections.abc import Callable
from functools import update_wrapper
from typing import Any

from ppl.semantics.program import Program


class Model:
    """A maker of programs: calling it binds the arguments of the function that it decorates."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        update_wrapper(self, function)

    def __call__(self, *args: Any, **kwargs: Any) -> Program:
        """Bind arguments: array leaves dynamically, all other leaves statically."""
        return Program.of(self.function, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        """A model is no program yet: say so where one of a program's methods is asked for."""
        if name.startswith("_") or not hasattr(Program, name):
            raise AttributeError(f"a model has no attribute {name!r}")
        made = self.function.__name__
        raise AttributeError(
            f"{made!r} is a model; {name!r} belongs to programs.\n"
            f"Call it with its arguments first: `{made}(...).{name}`."
        )

    def __repr__(self) -> str:
        """`<model eight_schools>`."""
        return f"<model {self.function.__name__}>"


def model(function: Callable[..., Any]) -> Model:
    """Turn a function that calls `ppl.sample` into a maker of programs.

    Args:
        function: The model. It is read once per structure and shapes of its arguments, with traced values; use JAX's
            control flow on random values.

    Returns:
        A callable; `model(...)` is a `Program`.

    Examples:
        >>> import jax, ppl, ppl.distributions as dist
        >>> @ppl.model
        ... def line(x):
        ...     slope = ppl.sample("slope", dist.Normal(0.0, 1.0))
        ...     return ppl.sample("y", dist.Normal(slope * x, 0.5))
        >>> program = line(jax.numpy.arange(3.0))
        >>> list(program.sites)
        ['slope', 'y']
    """
    return Model(function)
