"""Inference: one door for most users, and the kernels and populations that its methods are made of."""

from ppl.inference.door import infer
from ppl.inference.exact import Exact
from ppl.inference.importance import Importance
from ppl.inference.involution_check import check_involution
from ppl.inference.involutive import involutive
from ppl.inference.mcmc import MCMC
from ppl.inference.method import Method, Settings
from ppl.inference.nuts import NUTS
from ppl.inference.posterior import Evidence, Posterior, load
from ppl.inference.reachability import Reachability, irreducible, transitions
from ppl.inference.trace_mh import MH, trace_mh_kernel

__all__ = [
    "MCMC",
    "MH",
    "Evidence",
    "Exact",
    "Importance",
    "Method",
    "NUTS",
    "Posterior",
    "Reachability",
    "Settings",
    "check_involution",
    "infer",
    "involutive",
    "irreducible",
    "load",
    "trace_mh_kernel",
    "transitions",
]
