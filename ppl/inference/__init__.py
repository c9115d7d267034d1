"""Inference: one door for most users, and the kernels and populations that its methods are made of."""

from ppl.inference.backward_simulation import backward_simulation
from ppl.inference.combinators import cycle, mixture, on, repeat
from ppl.inference.conditional_smc import conditional_smc
from ppl.inference.conjugate import conjugate
from ppl.inference.door import infer
from ppl.inference.elliptical import elliptical_slice
from ppl.inference.exact import Exact
from ppl.inference.gibbs import gibbs
from ppl.inference.gibbs_method import Gibbs
from ppl.inference.hamiltonian import hmc
from ppl.inference.importance import Importance
from ppl.inference.independence import independence
from ppl.inference.involution_check import check_involution
from ppl.inference.involutive import involutive
from ppl.inference.kalman import Kalman
from ppl.inference.kernels import State
from ppl.inference.langevin import mala
from ppl.inference.many_chains import MAMS
from ppl.inference.mcmc import MCMC
from ppl.inference.method import Method, Settings
from ppl.inference.metropolis import mh
from ppl.inference.model_criticism import loo
from ppl.inference.nuts import HMC, NUTS
from ppl.inference.online import OnlineFilter
from ppl.inference.parallel_tempering import ParallelTempering
from ppl.inference.partial import up_to
from ppl.inference.particle_filter import ParticleFilter
from ppl.inference.particle_gibbs import ParticleGibbs, particle_gibbs
from ppl.inference.pathfinder_method import Pathfinder
from ppl.inference.pimh import pimh
from ppl.inference.pmmh import pmmh
from ppl.inference.pmmh_method import PMMH
from ppl.inference.posterior import Evidence, Posterior, load
from ppl.inference.random_walk import random_walk
from ppl.inference.reachability import Reachability, irreducible, transitions
from ppl.inference.resample_move import ResampleMove
from ppl.inference.sir import SIR
from ppl.inference.slice_sampling import slice_sampling
from ppl.inference.smc import SMC
from ppl.inference.smc2 import SMC2
from ppl.inference.smcp3 import SMCP3
from ppl.inference.tempered_smc import TemperedSMC
from ppl.inference.tempered_stage import tempered_population
from ppl.inference.tempering import replicated, tempered
from ppl.inference.trace_mh import MH, trace_mh_kernel

__all__ = [
    "HMC",
    "MAMS",
    "MCMC",
    "MH",
    "Evidence",
    "Exact",
    "Gibbs",
    "Importance",
    "Kalman",
    "Method",
    "NUTS",
    "OnlineFilter",
    "ParallelTempering",
    "ParticleFilter",
    "PMMH",
    "ParticleGibbs",
    "Pathfinder",
    "Posterior",
    "Reachability",
    "ResampleMove",
    "SIR",
    "SMC",
    "SMC2",
    "SMCP3",
    "Settings",
    "State",
    "TemperedSMC",
    "backward_simulation",
    "check_involution",
    "conditional_smc",
    "conjugate",
    "cycle",
    "elliptical_slice",
    "gibbs",
    "hmc",
    "independence",
    "infer",
    "involutive",
    "irreducible",
    "load",
    "loo",
    "mala",
    "mh",
    "mixture",
    "on",
    "particle_gibbs",
    "pimh",
    "pmmh",
    "random_walk",
    "repeat",
    "replicated",
    "slice_sampling",
    "tempered",
    "tempered_population",
    "trace_mh_kernel",
    "transitions",
    "up_to",
]
