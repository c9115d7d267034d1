"""Interop: models of other languages in."""

from ppl.interop.numpyro_models import NumpyroModelError, from_numpyro

__all__ = ["NumpyroModelError", "from_numpyro"]
