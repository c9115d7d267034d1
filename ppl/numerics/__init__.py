"""Arrays only, never a model: log weights, resampling and its exact cells.

What stands here knows nothing of programs, traces or distributions, so that each piece can be tested against
a loop and reused by any floor above.
"""
