"""QuasiBorel: a probabilistic programming language embedded in Python, on JAX."""

from ppl import distributions, errors, testing
from ppl.semantics.blocks import compose, proper, push_evidence, resample, spawn
from ppl.semantics.finite import FiniteMeasure
from ppl.semantics.language import deterministic, factor, sample
from ppl.semantics.lanes import vmap
from ppl.semantics.plates import plate
from ppl.semantics.program import Model, Program, model
from ppl.semantics.representations import (
    Particle,
    Population,
    Traced,
    Weighted,
    bind,
    meaning,
    population,
    unit,
    weighted,
)
from ppl.semantics.site import SiteInfo
from ppl.semantics.suspension import Suspended, advance, finish, hoist, hoist_first, smc, suspend
from ppl.semantics.trace import DensityTerms, Trace

__all__ = [
    "DensityTerms",
    "FiniteMeasure",
    "Model",
    "Particle",
    "Population",
    "Program",
    "SiteInfo",
    "Suspended",
    "Trace",
    "Traced",
    "Weighted",
    "advance",
    "bind",
    "compose",
    "deterministic",
    "distributions",
    "errors",
    "factor",
    "finish",
    "hoist",
    "hoist_first",
    "meaning",
    "model",
    "plate",
    "population",
    "proper",
    "push_evidence",
    "resample",
    "sample",
    "smc",
    "spawn",
    "suspend",
    "testing",
    "unit",
    "vmap",
    "weighted",
]
