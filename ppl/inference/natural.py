"""Densities written in the functions x, x^2, log x, log(1 - x), and the algebra that finds their coefficients.

    log density(x_i) = c_x x_i + c_x2 x_i^2 + c_log log x_i + c_log1m log(1 - x_i) + constant

The coefficients of a block's density are the natural parameters of its conditional: sums of sufficient statistics. They
are found operation by operation and not by evaluating the density, so that they are exact, and an operation that leads
out of these functions is refused.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.scipy.special import betaln, gammaln
from numpyro.distributions.distribution import ExpandedDistribution, Independent, MaskedDistribution

from ppl.distributions.density import log_prob
from ppl.distributions.scaled import Scaled
from ppl.inference.entries import NotSeparable, Parts, Term
from ppl.semantics import jaxpr as jp
from ppl.semantics.handlers import Density
from ppl.semantics.protocol import Outcome, Position, SampleSite

ONE, X, X2, LOG, LOG1M = "1", "x", "x^2", "log x", "log(1 - x)"


class Natural(Density):
    """The joint log density, with the exponential families written in logarithms of their parameters."""

    def sample(self, node: SampleSite, read: Any, where: Position) -> Outcome:
        """Score the given or observed value."""
        del where
        value = read if node.observed is None else node.observed
        return Outcome(value, jnp.sum(natural_log_prob(node.measure, value)).astype(jnp.result_type(float)))


def natural_log_prob(measure: Any, value: Any) -> Any:
    """The log density inside the support, as a sum of logarithms of the parameters and of the value."""
    rule = NATURAL.get(type(measure))
    if rule is not None:
        return rule(measure, value)
    if isinstance(measure, ExpandedDistribution):
        score = natural_log_prob(measure.base_dist, value)
        return jnp.broadcast_to(score, jnp.broadcast_shapes(measure.batch_shape, jnp.shape(score)))
    if isinstance(measure, Independent):
        score = natural_log_prob(measure.base_dist, value)
        return jnp.sum(score, axis=tuple(range(-measure.reinterpreted_batch_ndims, 0)))
    if isinstance(measure, Scaled):
        return natural_log_prob(measure.base_dist, value) * measure.scale
    if isinstance(measure, MaskedDistribution) and not isinstance(measure._mask, bool):
        present = jnp.reshape(measure._mask, (*jnp.shape(measure._mask), *(1,) * measure.event_dim))
        support: Any = measure.base_dist.support
        safe = jnp.where(present, value, support.feasible_like(value))
        return jnp.where(measure._mask, natural_log_prob(measure.base_dist, safe), 0.0)
    return log_prob(measure, value)


def _coin(m: Any, value: Any) -> Any:
    return value * jnp.log(m.probs) + (1 - value) * jnp.log1p(-m.probs)


def _binomial(m: Any, value: Any) -> Any:
    count = m.total_count
    ways = gammaln(count + 1.0) - gammaln(value + 1.0) - gammaln(count - value + 1.0)
    return value * jnp.log(m.probs) + (count - value) * jnp.log1p(-m.probs) + ways


def _geometric(m: Any, value: Any) -> Any:
    return value * jnp.log1p(-m.probs) + jnp.log(m.probs)


def _beta(m: Any, value: Any) -> Any:
    one, zero = m.concentration1, m.concentration0
    return (one - 1) * jnp.log(value) + (zero - 1) * jnp.log1p(-value) - betaln(one, zero)


def _gamma(m: Any, value: Any) -> Any:
    shape, rate = m.concentration, m.rate
    return (shape - 1) * jnp.log(value) - rate * value + shape * jnp.log(rate) - gammaln(shape)


def _exponential(m: Any, value: Any) -> Any:
    return jnp.log(m.rate) - m.rate * value


def _poisson(m: Any, value: Any) -> Any:
    return value * jnp.log(m.rate) - m.rate - gammaln(value + 1.0)


def _dirichlet(m: Any, value: Any) -> Any:
    weights = m.concentration
    total = jnp.sum(gammaln(weights), axis=-1) - gammaln(jnp.sum(weights, axis=-1))
    return jnp.sum((weights - 1) * jnp.log(value), axis=-1) - total


def _categorical(m: Any, value: Any) -> Any:
    chosen = jax.nn.one_hot(value, m.probs.shape[-1], dtype=m.probs.dtype)
    return jnp.sum(chosen * jnp.log(m.probs), axis=-1)


def _multinomial(m: Any, value: Any) -> Any:
    ways = gammaln(m.total_count + 1.0) - jnp.sum(gammaln(value + 1.0), axis=-1)
    return jnp.sum(value * jnp.log(m.probs), axis=-1) + ways


NATURAL: dict[type, Callable[[Any, Any], Any]] = {
    dist.BernoulliProbs: _coin,
    dist.BinomialProbs: _binomial,
    dist.GeometricProbs: _geometric,
    dist.Beta: _beta,
    dist.Gamma: _gamma,
    dist.Exponential: _exponential,
    dist.Poisson: _poisson,
    dist.Dirichlet: _dirichlet,
    dist.CategoricalProbs: _categorical,
    dist.MultinomialProbs: _multinomial,
}
"""Families whose NumPyro density clamps or checks what is a plain logarithm. Others (Normal) are taken as they are."""


# --- the algebra -----------------------------------------------------------------------------------------------------


class Forms:
    """Follows the coefficients of 1, x, x^2, log x and log(1 - x)."""

    def start(self, value: Any) -> Parts:
        """X itself."""
        return {X: jnp.ones(jnp.shape(value), jnp.result_type(value))}

    def constant(self, value: Any) -> Parts:
        """A constant."""
        return {ONE: value}

    def elementwise(self, equation: Any, operands: Sequence[Any]) -> Term:
        """The coefficients after an operation."""
        name = equation.primitive.name
        rule = _RULES.get(name)
        if rule is None:
            raise NotSeparable(f"the operation {name!r} leads out of the functions 1, x, x^2, log x and log(1 - x)")
        index = next(operand.index for operand in operands if isinstance(operand, Term))
        return rule(equation, operands)._replace(index=index)


def _parts(operand: Any) -> Parts:
    return operand.parts if isinstance(operand, Term) else {ONE: operand}


def _each(term: Term, f: Callable[[Any], Any], sign: int = 0) -> Term:
    return Term({name: f(x) for name, x in term.parts.items()}, term.index, sign)


def _linear(equation: Any, operands: Sequence[Any]) -> Term:
    """An operation that acts on each coefficient alike: negation, conversion, copies."""
    (term,) = operands
    turned = -term.sign if equation.primitive.name == "neg" else term.sign
    return _each(term, lambda x: jp.evaluate(equation, [x])[0], turned)


def _plus(equation: Any, operands: Sequence[Any]) -> Term:
    left, right = map(_parts, operands)
    flip = -1 if equation.primitive.name == "sub" else 1
    total = dict(left)
    for name, x in right.items():
        total[name] = total[name] + flip * x if name in total else flip * x
    return Term(total, None)


def _times(equation: Any, operands: Sequence[Any]) -> Term:
    del equation
    total: Parts = {}
    for one, a in _parts(operands[0]).items():
        for other, b in _parts(operands[1]).items():
            name = _product(one, other)
            total[name] = total[name] + a * b if name in total else a * b
    return Term(total, None)


def _product(one: str, other: str) -> str:
    if ONE in (one, other):
        return other if one == ONE else one
    if one == other == X:
        return X2
    raise NotSeparable(f"the product of {one} and {other} is not among the functions 1, x, x^2, log x and log(1 - x)")


def _over(equation: Any, operands: Sequence[Any]) -> Term:
    del equation
    if isinstance(operands[1], Term):
        raise NotSeparable("something is divided by a function of the choice")
    return _each(operands[0], lambda x: x / operands[1])


def _power(equation: Any, operands: Sequence[Any]) -> Term:
    if equation.params.get("y", 2) != 2:
        raise NotSeparable(f"the choice is raised to the power {equation.params['y']}")
    return _times(equation, [operands[0], operands[0]])


def _logarithm(equation: Any, operands: Sequence[Any]) -> Term:
    """log(c x) = log c + log x."""
    del equation
    (term,) = operands
    if set(term.parts) != {X}:
        raise NotSeparable("the logarithm is taken of something else than a multiple of the choice")
    scale = term.parts[X]
    return Term({ONE: jnp.log(scale), LOG: jnp.ones_like(scale)}, term.index)


def _log_one_plus(equation: Any, operands: Sequence[Any]) -> Term:
    del equation
    (term,) = operands
    if term.sign != -1:
        raise NotSeparable("log(1 + .) is taken of something else than the choice's negative")
    return Term({LOG1M: jnp.ones_like(term.parts[X])}, term.index)


def _select(equation: Any, operands: Sequence[Any]) -> Term:
    """A choice between cases by something fixed acts on each coefficient."""
    which, *cases = operands
    if isinstance(which, Term):
        raise NotSeparable("a case is chosen by the choice's value")
    aval = equation.outvars[0].aval

    def coefficient(name: str) -> Any:
        filled = [jnp.broadcast_to(jnp.asarray(_parts(c).get(name, 0), aval.dtype), aval.shape) for c in cases]
        return jp.evaluate(equation, [which, *filled])[0]

    names = dict.fromkeys(name for case in cases for name in _parts(case))
    return Term({name: coefficient(name) for name in names}, None)


_RULES: dict[str, Callable[..., Term]] = {
    **dict.fromkeys(("neg", "convert_element_type", "copy", "stop_gradient", "reduce_precision"), _linear),
    **dict.fromkeys(("add", "sub", "add_any"), _plus),
    "mul": _times,
    "div": _over,
    **dict.fromkeys(("square", "integer_pow"), _power),
    "log": _logarithm,
    "log1p": _log_one_plus,
    "select_n": _select,
}
