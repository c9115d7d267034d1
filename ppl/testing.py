"""The laws of this package for the user's own transformations."""

from ppl.semantics.laws import LawReport, LawViolation, check_transformer, finite_programs

__all__ = ["LawReport", "LawViolation", "check_transformer", "finite_programs"]
