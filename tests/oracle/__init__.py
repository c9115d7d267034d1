"""The independent oracle of the law tests: finite programs, their exact meaning over Fractions, and generators.

Nothing here but `render` knows of `ppl` or JAX.
"""
