"""Native loops on the CPU: an XLA option that only the environment can set, before JAX's backend starts.

XLA:CPU compiles a `while_loop` into one native function only if it touches little memory; else it dispatches each
operation of each step, which is most of the time of a small model's sampler. `import ppl` raises the limit by adding

    --xla_backend_extra_options=xla_cpu_small_while_loop_byte_threshold=10000000

to `XLA_FLAGS`, unless the user's flags hold `xla_backend_extra_options` already, or `PPL_NATIVE_LOOPS=0` is set. Where
JAX's backend was up before `import ppl`, the option comes too late: samplers are several times slower and warn once.
Measurements: docs/benchmarks.md. It changes no results beyond rounding, and nothing on GPU or TPU.
"""

import os
import warnings

import jax

OPTION = "xla_backend_extra_options"
FLAG = f"--{OPTION}=xla_cpu_small_while_loop_byte_threshold=10000000"
OPT_OUT = "PPL_NATIVE_LOOPS"


class _Said:
    """What became of the option, and whether the user was told."""

    too_late = False
    told = False


def enable() -> bool:
    """Ask for native loops where the user has not decided otherwise; whether the option will hold."""
    flags = os.environ.get("XLA_FLAGS", "")
    if OPTION in flags:
        return "small_while_loop" in flags
    if os.environ.get(OPT_OUT, "1") == "0":
        return False
    if _backend_is_up():
        _Said.too_late = True
        return False
    os.environ["XLA_FLAGS"] = f"{flags} {FLAG}".strip()
    return True


def _backend_is_up() -> bool:
    """Whether JAX has started: a setting that must be made before cannot be made any more (by its documentation)."""
    devices = getattr(jax.config, "jax_num_cpu_devices")  # noqa: B009  (JAX makes it at run time)
    try:
        jax.config.update("jax_num_cpu_devices", devices + 2)  # the present value would be no change, and no error
    except RuntimeError:
        return True
    jax.config.update("jax_num_cpu_devices", devices)
    return False


def compiler_options(backend: str, *, quick: bool = False) -> dict[str, int]:
    """Options of `jax.jit` for a sampler's code, or (quick) for code that runs about once for each draw.

    On CPU the highest level of optimisation costs a sampler half as much compile time again and gains nothing
    (docs/decisions/0006).
    """
    return {"xla_backend_optimization_level": 1 if quick else 2} if backend == "cpu" else {}


def warn_if_too_late() -> None:
    """Say once that loops are slow, where JAX was in use before `import ppl`, on a CPU."""
    if _Said.too_late and not _Said.told and jax.default_backend() == "cpu":
        _Said.told = True
        warnings.warn(
            "JAX was in use before `import ppl`, so XLA's option for native loops could not be set: samplers of small "
            "models are several times slower than they could be.\n"
            f"Fix: import ppl before the first use of JAX, or set XLA_FLAGS={FLAG} in the environment. "
            f"{OPT_OUT}=0 says that this is as you wish.",
            stacklevel=4,
        )
