"""The laws of this package for the user's own transformations, methods and kernels."""

from ppl.diagnostics.calibration import Calibration, one_step_joint
from ppl.diagnostics.two_sample import TwoSample, two_sample
from ppl.inference.calibration import sbc
from ppl.inference.kernel_laws import KernelReport, check_kernel
from ppl.semantics.laws import LawReport, LawViolation, check_transformer, finite_programs
from ppl.vi.laws import EstimatorReport, Gap, check_estimator, gradient_gap

__all__ = [
    "Calibration",
    "EstimatorReport",
    "Gap",
    "KernelReport",
    "LawReport",
    "LawViolation",
    "TwoSample",
    "check_estimator",
    "check_kernel",
    "check_transformer",
    "finite_programs",
    "gradient_gap",
    "one_step_joint",
    "sbc",
    "two_sample",
]
