"""Products and exponentials of expected values, without bias: estimates assembled from independent ones.

    E[X_1 ... X_n] = m^n        exp(m) = e^(c + r) E[prod_(i <= N) (X_i - c) / r],   N ~ Poisson(r),   all X_i of mean m

Both are nested expectations (`vi.expect`): their values enter the cost linearly, or times other estimates. A product of
different expectations needs nothing new: `vi.expect("a", f) * vi.expect("b", g)`.

Papaspiliopoulos, *A methodological framework for Monte Carlo probabilistic inference for diffusion processes* (2009),
section 3 (the Poisson estimator).
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from ppl.errors import StrategyError
from ppl.semantics.program import Program
from ppl.vi.expectation import bound_expectation
from ppl.vi.objective import averaged, estimate
from ppl.vi.strategy import with_tangent


@dataclass(frozen=True)
class Power:
    """The product of independent estimates."""

    power: int

    def __call__(self, program: Program, key: Any, copies: int | None) -> Any:
        """An estimate of a power of the program's expected value, differentiable."""
        if copies is None:
            return estimate(program, key, sign=None, exact=True) ** self.power
        keys = jax.random.split(key, self.power)
        return jnp.prod(jax.vmap(lambda key: averaged(program, key, copies, sign=None))(keys))


@dataclass(frozen=True)
class Poisson:
    """The Poisson estimator of an exponential.

    The number of factors is not bounded, so that nothing is cut off; a loop of such a length has no derivative in
    reverse mode, and needs none: `d exp(m) = exp(m) dm`, the product of two independent estimates.
    """

    rate: float
    center: float | None

    def __call__(self, program: Program, key: Any, copies: int | None) -> Any:
        """An estimate of the exponential of the program's expected value, differentiable."""
        if copies is None:
            return jnp.exp(estimate(program, key, sign=None, exact=True))
        for_slope, for_center, for_count, for_factors = jax.random.split(key, 4)
        fixed = jax.tree.map(jax.lax.stop_gradient, program)

        def drawn(key: Any) -> Any:
            return averaged(fixed, key, copies, sign=None, primal=True)

        center = drawn(for_center) if self.center is None else jnp.asarray(self.center, jnp.result_type(float))

        def times(index: Any, product: Any) -> Any:
            return product * (drawn(jax.random.fold_in(for_factors, index)) - center) / self.rate

        count = jax.random.poisson(for_count, self.rate)
        product = jax.lax.fori_loop(0, count, times, jnp.ones_like(center))
        value = jax.lax.stop_gradient(jnp.exp(center + self.rate) * product)
        return with_tangent(value, value, averaged(program, for_slope, copies, sign=None))


def exp_expect(
    address: str, program: Program, copies: int = 1, *, rate: float = 1.0, center: float | None = None
) -> Any:
    r"""Inside an objective: an unbiased estimate of $e^{m}$, m the expected value of another objective.

    With independent estimates X of m and a center c, $W = e^{c + r} \prod_{i \le N} (X_i - c) / r$ with
    $N \sim \mathrm{Poisson}(r)$; $E[W^2] = \exp(2c + r + E[(X - c)^2] / r)$, smallest at $r^2 = E[(X - c)^2]$. W may
    be negative (not where c is below all X). Its derivative is W times that of one more estimate.

    Args:
        address: The name of the estimate, unique in the objective.
        program: An objective at some parameters (or any program whose value is a scalar float).
        copies: How many estimates are averaged to one X; more of them make W vary less.
        rate: The mean number r of factors.
        center: A number near m; by default one more estimate, which leaves W unbiased.

    Raises:
        StrategyError: the rate is not positive.

    Examples:
        >>> import jax, ppl, ppl.distributions as dist
        >>> from ppl import vi
        >>> @vi.objective
        ... def inner(p):
        ...     return 0.0 + ppl.sample("b", dist.Bernoulli(p), grad=vi.score())
        >>> outer = vi.objective(lambda p: vi.exp_expect("e", inner(p), copies=8))
        >>> keys = jax.random.split(jax.random.key(0), 4000)
        >>> values, grads = jax.vmap(lambda key: outer.value_and_grad(key, 0.25))(keys)
        >>> bool(abs(values.mean() - 1.284) < 0.1), bool(abs(grads.mean() - 1.284) < 0.2)  # exp(0.25)
        (True, True)
    """
    if not rate > 0.0:
        raise StrategyError(f"vi.exp_expect({address!r}, ...) was given rate={rate}.\nExpected: a positive number.")
    fixed = None if center is None else float(center)
    return bound_expectation(address, program, Poisson(float(rate), fixed), copies)


def power_expect(address: str, program: Program, power: int, copies: int = 1) -> Any:
    """Inside an objective: an unbiased estimate of the n-th power of another objective's expected value.

    It is the product of n independent estimates.

    Args:
        address: The name of the estimate, unique in the objective.
        program: An objective at some parameters (or any program whose value is a scalar float).
        power: The exponent n, a positive integer.
        copies: How many independent estimates are averaged to one factor.

    Raises:
        StrategyError: the power is no positive integer.

    Examples:
        >>> import ppl, ppl.distributions as dist
        >>> from ppl import vi
        >>> @vi.objective
        ... def inner(p):
        ...     return 1.0 + ppl.sample("b", dist.Bernoulli(p), grad=vi.enumerate())
        >>> float(vi.objective(lambda p: vi.power_expect("e", inner(p), 3)).grad(0, 0.5))  # 3 (1 + p)^2
        6.75
    """
    if not isinstance(power, int) or power < 1:
        raise StrategyError(f"vi.power_expect({address!r}, ...) was given {power}.\nExpected: a positive integer.")
    return bound_expectation(address, program, Power(power), copies)
