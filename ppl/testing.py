"""The laws of this package for the user's own transformations, methods and kernels."""

from ppl.diagnostics.calibration import Calibration, one_step_joint
from ppl.diagnostics.two_sample import TwoSample, two_sample
from ppl.inference.calibration import sbc
from ppl.inference.kernel_laws import KernelReport, check_kernel
from ppl.semantics.laws import LawReport, LawViolation, check_transformer, finite_programs

__all__ = [
    "Calibration",
    "KernelReport",
    "LawReport",
    "LawViolation",
    "TwoSample",
    "check_kernel",
    "check_transformer",
    "finite_programs",
    "one_step_joint",
    "sbc",
    "two_sample",
]
