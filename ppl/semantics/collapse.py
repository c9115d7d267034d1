"""`ppl.collapse`: Rao-Blackwellised particles. A sub-program is integrated out inside a particle, in closed form.

    law = collapse("step", program, method)

multiplies the measure by the program's mass (a factor) and returns the law of its return value given its observations:
a distribution to carry on, in place of a draw. Law: drawing from what it returns gives the meaning of the program.
Doucet, de Freitas, Murphy and Russell, *Rao-Blackwellised particle filtering* (UAI 2000).
"""

from typing import Any, Protocol, runtime_checkable

import jax
import numpyro.distributions as dist

from ppl.distributions.finite import outcomes
from ppl.errors import MeasureError
from ppl.semantics import jaxpr as jp
from ppl.semantics.language import factor
from ppl.semantics.program import Program


@runtime_checkable
class CollapseMethod(Protocol):
    """A way to integrate a program in closed form."""

    def collapsed(self, program: Program) -> tuple[Any, Any]:
        """The log mass (nats), and the law of the return value given the observations."""
        ...


def collapse(address: str, program: Any, method: Any) -> Any:
    """Integrate a program out: its evidence is a factor, and the law of its value comes back as a distribution.

    Args:
        address: The name of the factor.
        program: A linear-Gaussian program for `ppl.Kalman()`, a finite one for `ppl.Exact()`.
        method: How.

    Returns:
        `ppl.Kalman()`: a `Normal` or a `MultivariateNormal`, as the program's value is a scalar or a vector.
        `ppl.Exact()`: a `Categorical`, where the value is a category: the result of a `Categorical` site.

    Raises:
        MeasureError: the method cannot integrate the program.

    Examples:
        >>> import ppl, ppl.distributions as dist
        >>> @ppl.model
        ... def move(before, y):
        ...     x = ppl.sample("x", dist.Normal(ppl.sample("before", before), 1.0))
        ...     ppl.sample("y", dist.Normal(x, 1.0), obs=y)
        ...     return x
        >>> @ppl.model
        ... def tracked(y):
        ...     after = ppl.collapse("step", move(dist.Normal(0.0, 1.0), y), ppl.Kalman())
        ...     return after.loc
        >>> round(float(tracked(3.0).sample(0)), 3)
        2.0
    """
    if not isinstance(program, Program) or not isinstance(method, CollapseMethod):
        raise MeasureError(
            f"ppl.collapse({address!r}, ...) was given a {type(program).__name__} and a {type(method).__name__}.\n"
            "Expected: a Program (call the model with its arguments) and ppl.Kalman() or ppl.Exact()."
        )
    log_mass, law = method.collapsed(program)
    factor(address, log_mass)
    return law


CATEGORIES = (dist.CategoricalProbs, dist.CategoricalLogits, dist.BernoulliProbs, dist.BernoulliLogits)


def returned_categories(program: Program) -> int:
    """The number of categories of the site whose choice a program returns.

    Raises:
        MeasureError: it returns anything else.
    """
    jaxpr = program.jaxpr
    for equation in jaxpr.eqns:
        if equation.primitive is jp.sample_p and list(equation.outvars) == list(jaxpr.outvars):
            signature = equation.params["signature"]
            leaves = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in equation.invars[: signature.num_leaves]]
            measure = jax.tree.unflatten(signature.measure_tree, leaves)
            if isinstance(measure, CATEGORIES) and not equation.outvars[0].aval.shape:
                return _count(signature, leaves)
    raise MeasureError(
        f"The program {program.name!r} was given to ppl.collapse(..., ppl.Exact()), but what it returns is not the "
        "choice of a scalar Categorical or Bernoulli site.\n"
        "Expected: `return ppl.sample(address, dist.Categorical(...))`.\n"
        "Fix: give the value a site of its own."
    )


def _count(signature: Any, leaves: list[Any]) -> int:
    def log_probs(leaves: list[Any]) -> Any:
        found = outcomes(jax.tree.unflatten(signature.measure_tree, leaves))
        return None if found is None else found.log_probs

    return jax.eval_shape(log_probs, leaves).shape[0]
