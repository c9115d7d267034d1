"""Nested expectations: inside an objective, an unbiased estimate of another objective's expected value.

    expect(address, program) = a number whose mean is E[program], and whose derivative's mean is the derivative of that

It may enter the cost linearly, or multiplied by other, independent estimates. (A logarithm or a square of it would be
biased.) Every estimate opens the control flow of its own program alone, so that an expectation in each lane of a
`ppl.vmap`, or in each step of a loop, costs what its program costs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from ppl.errors import StrategyError
from ppl.semantics.language import sample
from ppl.semantics.program import Program
from ppl.vi.strategy import Node, Rest, Run, Totals, nothing

Estimator = Callable[[Program, Any, int | None], Any]
"""From a program, a key and a number of copies (None: exactly) to an estimate of the program's expected value."""


@jax.tree_util.register_pytree_node_class
class Expectation:
    """A program's expected value as a measure: its draws are unbiased estimates."""

    def __init__(self, program: Program, estimator: Estimator, copies: int) -> None:
        self.program = program
        self.estimator = estimator
        self.copies = copies

    def tree_flatten(self) -> tuple[tuple[Program], tuple[Estimator, int]]:
        """The program is the child."""
        return (self.program,), (self.estimator, self.copies)

    @classmethod
    def tree_unflatten(cls, static: tuple[Estimator, int], children: tuple[Program]) -> "Expectation":
        """Rebuild from leaves."""
        return cls(children[0], *static)

    def value_like(self) -> Any:
        """One number."""
        return jax.ShapeDtypeStruct((), jnp.result_type(float))

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Any:
        """One estimate; `sample_shape` must be empty."""
        assert not sample_shape
        return self.estimator(self.program, key, self.copies)

    def exact(self) -> Any:
        """The expectation itself, where the program is finite."""
        return self.estimator(self.program, jax.random.key(0), None)

    def log_prob(self, value: Any) -> Any:
        """An estimate has no density that could be told.

        Raises:
            StrategyError: always.
        """
        del value
        raise StrategyError("The density of an estimate was asked for.\nExpected: vi.expect inside objectives only.")


@dataclass(frozen=True)
class Nested:
    """The strategy of a nested expectation: its estimate is differentiated."""

    direct: bool = True

    def made(self, node: Node, raw: Any, run: Run) -> tuple[Any, Totals]:
        """The estimate, with its derivative."""
        del node, run
        return raw, nothing()

    def expect(self, node: Node, run: Run, rest: Rest) -> Any:
        """The rest at the expectation itself (only exact runs ask for this)."""
        return rest(node.sample.measure.exact(), run)


def bound_expectation(address: str, program: Program, estimator: Estimator, copies: int) -> Any:
    """Bind the estimate as a choice of the objective."""
    return sample(address, Expectation(program, estimator, copies))
