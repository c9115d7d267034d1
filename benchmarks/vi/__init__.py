"""Variational inference: figures and times beside peers. Prints; asserts no time."""
