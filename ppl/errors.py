"""The errors that users see.

Each message says what was expected, what was got, the address, the user's source line, and what to do.
Law: an error leaves no state behind (no handler, scope or plate stays active). This file raises nothing itself.
"""

from typing import Any


class PplError(Exception):
    """Base class of every error that QuasiBorel raises on purpose."""


class OutsideModelError(PplError):
    """A site was met where no interpreter was there to give it a meaning."""


class VmapError(PplError):
    """A plain `jax.vmap` was put around a site; `ppl.vmap` draws once per lane."""


class AddressError(PplError):
    """An address was given that the program does not have, or one that it needs is missing."""


class DuplicateAddressError(PplError):
    """Two sites of one program have the same address."""


class MeasureError(PplError):
    """The object given to `ppl.sample` is not a measure."""


class ShapeError(PplError):
    """A value has another shape than its site."""


class DtypeError(PplError):
    """A value has a dtype that its site cannot take."""


class NaNError(PplError):
    """Data holds NaN."""


class SupportError(PplError):
    """A value lies outside the support of its distribution."""


class BranchError(PplError):
    """Two branches use one address for sites of different shapes."""


class PythonControlFlowError(PplError):
    """Python control flow (`if`, `while`, `for`, `int()`) met a traced value."""


class UnboundedError(PplError):
    """A trace or density was asked of choices inside a loop whose number of steps is not known beforehand."""


class UnsupportedPrimitiveError(PplError):
    """A site was met inside a JAX construct into which no interpreter can look."""


class NotFiniteError(PplError):
    """Exact enumeration was asked where a choice has no finite support of known size."""


class EnumerationSizeError(PplError):
    """Exact enumeration would need more rows than the limit allows."""


class StaticArgumentError(PplError):
    """An argument of a model is neither an array nor hashable."""


class ReturnValueError(PplError):
    """A model returned something that is not a pytree of arrays."""


class ReparameterizationError(PplError):
    """A reparameterisation rule does not fit the distribution at its site."""


class StrategyError(PplError):
    """A gradient strategy does not fit its choice, or the place of the choice in the program."""


class DegenerateWeightsError(PplError):
    """Every log weight is minus infinity: there is no posterior to speak of."""


class ConvergenceError(PplError):
    """An inference method reports that its result must not be used as it is."""


class FitError(PplError):
    """A fit met a value that is not finite; its attribute `fit` holds what there was before."""

    fit: Any = None


class LawViolation(PplError):
    """A transformation, kernel, method or estimator does not keep a law; the message holds the smallest evidence."""


class ConvergenceWarning(UserWarning):
    """What a finished run says aloud about its draws: usable with the care that the message names."""


class FileFormatError(PplError):
    """A file is damaged, foreign, or of another version."""
