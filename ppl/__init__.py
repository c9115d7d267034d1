"""QuasiBorel: a probabilistic programming language embedded in Python, on JAX."""

from ppl import native

native.enable()

from ppl import distributions, errors, inference, testing, vi
from ppl.inference import (
    HMC,
    MAMS,
    MCMC,
    MH,
    NUTS,
    PMMH,
    SIR,
    SMC,
    SMC2,
    SMCP3,
    Exact,
    Gibbs,
    Importance,
    Kalman,
    OnlineFilter,
    ParticleFilter,
    ParticleGibbs,
    Pathfinder,
    Posterior,
    ResampleMove,
    TemperedSMC,
    infer,
    load,
)
from ppl.interop import from_numpyro
from ppl.semantics.blocks import compose, identity, proper, push_evidence, resample, spawn
from ppl.semantics.collapse import collapse
from ppl.semantics.finite import FiniteMeasure
from ppl.semantics.functions import random_function, random_table
from ppl.semantics.guided import guided
from ppl.semantics.lanes import vmap
from ppl.semantics.language import deterministic, factor, sample
from ppl.semantics.lookahead import lookahead
from ppl.semantics.model import Model, model
from ppl.semantics.nesting import nested, unweighed
from ppl.semantics.opening import explicit
from ppl.semantics.plates import plate
from ppl.semantics.program import Program
from ppl.semantics.reparam import noncentered, reparam, transformed
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
from ppl.semantics.suspension import Suspended, advance, finish, hoist, hoist_first, smc, suspend, sweep
from ppl.semantics.trace import DensityTerms, Trace
from ppl.semantics.unconstrained import Unconstrained, unconstrained
from ppl.vi.method import VI

__version__ = "0.1.0"

marginal = Program.marginal
normalize = Program.normalize

__all__ = [
    "DensityTerms",
    "Exact",
    "FiniteMeasure",
    "Gibbs",
    "HMC",
    "Importance",
    "Kalman",
    "MAMS",
    "MCMC",
    "MH",
    "Model",
    "NUTS",
    "PMMH",
    "OnlineFilter",
    "Particle",
    "ParticleFilter",
    "ParticleGibbs",
    "Pathfinder",
    "Population",
    "Posterior",
    "Program",
    "ResampleMove",
    "SIR",
    "SMC",
    "SMC2",
    "SMCP3",
    "SiteInfo",
    "Suspended",
    "TemperedSMC",
    "Trace",
    "Traced",
    "Unconstrained",
    "VI",
    "Weighted",
    "advance",
    "bind",
    "collapse",
    "compose",
    "deterministic",
    "distributions",
    "errors",
    "explicit",
    "factor",
    "finish",
    "from_numpyro",
    "guided",
    "hoist",
    "hoist_first",
    "identity",
    "infer",
    "inference",
    "load",
    "lookahead",
    "marginal",
    "meaning",
    "model",
    "nested",
    "noncentered",
    "normalize",
    "plate",
    "population",
    "proper",
    "push_evidence",
    "random_function",
    "random_table",
    "reparam",
    "resample",
    "sample",
    "smc",
    "spawn",
    "suspend",
    "sweep",
    "testing",
    "transformed",
    "unconstrained",
    "unit",
    "unweighed",
    "vi",
    "vmap",
    "weighted",
]
