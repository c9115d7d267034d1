"""`make bench`: every benchmark of the language, in turn. Prints figures; asserts no time."""

import platform

import jax

from benchmarks import density, gibbs, hmm, importance, startup


def main() -> None:
    """Run them all."""
    print(f"Python {platform.python_version()}, jax {jax.__version__}, {jax.default_backend()}, {platform.machine()}")
    for benchmark in (importance, density, hmm, gibbs, startup):
        benchmark.main()


if __name__ == "__main__":
    main()
