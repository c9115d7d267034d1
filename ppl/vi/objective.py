"""`@vi.objective`: a program whose return value is the cost, and unbiased estimates of its mean and gradient.

    value:  E[f(params)]        grad:  d/d params E[f(params)],    expectation over all choices of the program

The estimator is assembled from one strategy per choice (see `ppl.vi.strategy`).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, overload

import equinox as eqx
import jax
import jax.numpy as jnp

from ppl.errors import StrategyError
from ppl.semantics.jaxpr import Lane
from ppl.semantics.keys import as_key
from ppl.semantics.program import Program
from ppl.semantics.protocol import TOP, Position
from ppl.vi.baselines import Memory, remembered, started
from ppl.vi.checks import moving_inputs, refuse_invalid
from ppl.vi.expectation import bound_expectation
from ppl.vi.linearity import refuse_nonlinear
from ppl.vi.resolution import resolved
from ppl.vi.score import baselines
from ppl.vi.strategy import Run, nothing
from ppl.vi.surrogate import surrogate


class Evaluation(NamedTuple):
    """One evaluation of an objective: unbiased estimates of value and gradient, and what its baselines remember."""

    value: Any
    grads: Any
    memory: Memory


@dataclass(frozen=True, eq=False)
class Objective:
    """A function of parameters that samples, and returns a cost.

    Attributes:
        function: `function(*bound, params, *args) -> cost`, a scalar; it may contain sites.
        bound: Its first arguments.
        maximize: Whether the cost is to be made large.
        copies: How many independent estimates are averaged.
    """

    function: Callable[..., Any]
    bound: tuple[Any, ...] = ()
    maximize: bool = False
    copies: int = 1

    def __call__(self, params: Any, *args: Any) -> Program:
        """The objective at some parameters, as a program."""
        return Program.of(self.function, (*self.bound, params, *args))

    @property
    def sign(self) -> float:
        """1 where the cost is made large, -1 where small."""
        return 1.0 if self.maximize else -1.0

    def average(self, copies: int) -> "Objective":
        """The mean of independent estimates: less variance for more work, run side by side."""
        return replace(self, copies=copies)

    def value(self, key: Any, params: Any, *args: Any) -> Any:
        """An unbiased estimate of the expected cost.

        Args:
            key: A JAX key (or an int seed).
            params: The parameters, a pytree.
            *args: Further arguments (data).
        """
        return _value(self.function, (*self.bound, as_arrays(params), *args), as_key(key), self.copies)

    def grad(self, key: Any, params: Any, *args: Any) -> Any:
        """An unbiased estimate of the gradient of the expected cost in the parameters' float leaves."""
        return self.value_and_grad(key, params, *args)[1]

    def value_and_grad(self, key: Any, params: Any, *args: Any, memory: Memory | None = None) -> tuple[Any, Any]:
        """Both, from one evaluation; leaves of `params` that are no floats have gradient None."""
        found = self.evaluate(key, params, *args, memory=memory)
        return found.value, found.grads

    def memory(self, params: Any, *args: Any) -> Memory:
        """What the objective's baselines remember before the first evaluation; empty where none learns."""
        return started(baselines(resolved(self(params, *args).jaxpr)))

    def evaluate(self, key: Any, params: Any, *args: Any, memory: Memory | None = None) -> Evaluation:
        """Value and gradient, and what the baselines remember afterwards; for loops that carry it on.

        Args:
            key: A JAX key (or an int seed).
            params: The parameters, a pytree; leaves that are no floats have gradient None.
            *args: Further arguments (data).
            memory: What the baselines remember: `objective.memory(params, *args)`, or that of the evaluation before.
        """
        params = as_arrays(params)
        return _evaluation(self.function, self.bound, params, args, as_key(key), memory or {}, self.copies, self.sign)

    def surrogate(self, key: Any, params: Any, *args: Any, memory: Memory | None = None) -> Any:
        """The scalar whose value estimates the expected cost and whose `jax.grad` estimates its gradient."""
        program = self(params, *args)
        refuse_invalid(program, moving_inputs(self.bound, params, args))
        return averaged(program, as_key(key), self.copies, sign=self.sign, memory=memory)

    def expect(self, params: Any, *args: Any) -> Any:
        """The exact surrogate, where every choice is finite: all noise is summed out, as the laws need it."""
        return estimate(self(params, *args), as_key(0), sign=self.sign, exact=True)

    def __repr__(self) -> str:
        """`<objective elbo>`."""
        return f"<objective {getattr(self.function, '__name__', 'cost')}>"


@overload
def objective(function: Callable[..., Any], /) -> Objective: ...
@overload
def objective(*, maximize: bool = False) -> Callable[[Callable[..., Any]], Objective]: ...
def objective(function: Any = None, /, *, maximize: bool = False) -> Any:
    """Turn a function of parameters that samples into an objective.

    Args:
        function: `function(params, *args) -> cost`. It may contain `ppl.sample(..., grad=strategy)`, call
            `vi.simulate`, `vi.log_density` and `vi.expect`, and use JAX's control flow.
        maximize: Whether `vi.fit` is to make it large; by default a cost is made small.

    Returns:
        An `Objective`.

    Examples:
        >>> import jax, ppl, ppl.distributions as dist
        >>> from ppl import vi
        >>> @vi.objective
        ... def cost(p):
        ...     b = ppl.sample("b", dist.Bernoulli(p), grad=vi.enumerate())
        ...     return jax.numpy.where(b, 0.0, -p / 2)
        >>> round(float(cost.grad(0, 0.25)), 4)  # d/dp of -(1 - p) p / 2
        -0.25
    """
    if function is None:
        return lambda f: Objective(f, maximize=maximize)
    return Objective(function, maximize=maximize)


def expect(address: str, program: Program, copies: int = 1) -> Any:
    """Inside an objective: an unbiased estimate of another objective's expected value.

    It may enter the cost linearly, or as a factor beside other estimates; any other function of it is biased, and is
    refused. See `vi.exp_expect` for an exponential, `vi.power_expect` for a power.

    Args:
        address: The name of the estimate, unique in the objective.
        program: An objective at some parameters (or any program whose value is a scalar float).
        copies: How many independent estimates are averaged.

    Examples:
        >>> import jax, ppl, ppl.distributions as dist
        >>> from ppl import vi
        >>> @vi.objective
        ... def inner(p, x):
        ...     return x * ppl.sample("b", dist.Bernoulli(p), grad=vi.enumerate())
        >>> @vi.objective
        ... def outer(p, xs):
        ...     return ppl.vmap(lambda x: vi.expect("inner", inner(p, x)))(xs).sum()
        >>> float(outer.grad(0, 0.25, jax.numpy.array([1.0, 2.0])))
        3.0
    """
    return bound_expectation(address, program, _estimator, copies)


def _estimator(program: Program, key: Any, copies: int | None) -> Any:
    if copies is None:
        return estimate(program, key, sign=None, exact=True)
    return averaged(program, key, copies, sign=None)


def estimate(
    program: Program,
    key: Any,
    *,
    sign: float | None,
    exact: bool = False,
    primal: bool = False,
    memory: Memory | None = None,
    where: Position = TOP,
) -> Any:
    """One surrogate of a program's expected value.

    Args:
        program: A program whose value is a scalar float.
        key: A JAX key.
        sign: 1 where the value is made large, -1 where small; None in a nested expectation, where that is not known.
        exact: Whether finite noise is summed out instead of drawn.
        primal: Whether only the value matters: every choice is drawn once, and nothing is differentiated.
        memory: What baselines remember.
        where: Lanes around it, each of which is to have draws of its own.

    Raises:
        StrategyError: the value is no scalar float, or no linear function of the estimates inside.
    """
    staged = program.staged
    avals = staged.out_avals
    if len(avals) != 1 or avals[0].shape or not jnp.issubdtype(avals[0].dtype, jnp.floating):
        raise StrategyError(
            f"The objective {program.name!r} returns {[str(aval) for aval in avals]}.\n"
            "Expected: one scalar float, the cost. Take the sum or mean of arrays, and .astype(float) of integers."
        )
    refuse_nonlinear(staged.code.jaxpr)
    run = Run(key, resolved(staged.code.jaxpr), nothing(), memory or {}, exact=exact, primal=primal, sign=sign)
    return surrogate(staged.code, program.dynamic, run, where)


def averaged(program: Program, key: Any, copies: int, **options: Any) -> Any:
    """The mean of independent surrogates; `options` are those of `estimate`.

    Where every choice is direct the copies are lanes that share a key: one draw with a batch axis, not a key a copy.
    """
    if copies == 1:
        return estimate(program, key, **options)
    if all(strategy.direct for strategy in resolved(program.staged.code.jaxpr).values()):
        lane = jax.vmap(
            lambda _: estimate(program, key, where=Position(lanes=1), **options), axis_name=Lane(0), axis_size=copies
        )
        return jnp.mean(lane(jnp.arange(copies)))
    keys = jax.random.split(key, copies)
    return jnp.mean(jax.vmap(lambda key: estimate(program, key, **options))(keys))


@eqx.filter_jit
def _value(function: Any, args: tuple[Any, ...], key: Any, copies: int) -> Any:
    return averaged(Program.of(function, args), key, copies, sign=1.0)


@eqx.filter_jit
def _evaluation(
    function: Any, bound: Any, params: Any, args: Any, key: Any, memory: Memory, copies: int, sign: float
) -> Evaluation:
    free, fixed = eqx.partition(params, _differentiable)

    def program(free: Any) -> Program:
        return Program.of(function, (*bound, eqx.combine(free, fixed), *args))

    def cost(free: Any) -> Any:
        return averaged(program(free), key, copies, sign=sign, memory=memory)

    refuse_invalid(program(free), moving_inputs(bound, params, args))
    value, grads = jax.value_and_grad(cost)(free)
    return Evaluation(value, grads, remembered(baselines(resolved(program(free).jaxpr)), memory, value))


def _differentiable(leaf: Any) -> bool:
    return isinstance(leaf, float) or eqx.is_inexact_array(leaf)


def as_arrays(params: Any) -> Any:
    """Parameters whose Python floats are arrays, so that new values need no compilation."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf) if isinstance(leaf, float) else leaf, params)
