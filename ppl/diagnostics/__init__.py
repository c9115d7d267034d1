"""How far results can be trusted: convergence of chains, and tails of importance weights.

These are host-side functions on plain arrays. ArviZ is imported on the first call, not with the package: it costs
about 0.8 s, more than everything else (docs/decisions/0002-arviz-on-first-use.md).
"""
