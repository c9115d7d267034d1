"""QuasiBorel: a probabilistic programming language embedded in Python, on JAX."""

from ppl import distributions, errors
from ppl.semantics.finite import FiniteMeasure
from ppl.semantics.language import deterministic, factor, sample
from ppl.semantics.lanes import vmap
from ppl.semantics.plates import plate
from ppl.semantics.program import Model, Program, model
from ppl.semantics.site import SiteInfo
from ppl.semantics.trace import DensityTerms, Trace

__all__ = [
    "DensityTerms",
    "FiniteMeasure",
    "Model",
    "Program",
    "SiteInfo",
    "Trace",
    "deterministic",
    "distributions",
    "errors",
    "factor",
    "model",
    "plate",
    "sample",
    "vmap",
]
