"""The noisy cone of Becker et al. (PLDI 2024), table 4: figures reached, beside NumPyro, and the time of one step.

    python -m benchmarks.vi.cone

Budget as published: SGD at 1e-3, 5000 steps of 64 estimates. Published initial values: the naive guide starts at means
(0, 0) (ELBO) and (3, 0) (importance-weighted bound) with log scales (1, 1); the ring at log scales (0, 0). NumPyro
starts where we start.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro
import optax
from jax import lax
from numpyro.infer import SVI, RenyiELBO, Trace_ELBO

import ppl
import ppl.distributions as dist
from benchmarks.harness import alternate, report
from ppl import vi

BATCH, STEPS, RATE, Z = 64, 5000, 1e-3, 5.0
EVALUATION = 200_000
TIMED = 2000


@ppl.model
def cone(z):
    """A point whose squared distance from the origin is observed."""
    x = ppl.sample("x", dist.Normal(0.0, 10.0))
    y = ppl.sample("y", dist.Normal(0.0, 10.0))
    squared = x**2 + y**2
    ppl.sample("z", dist.Normal(squared, 0.1 + squared / 100), obs=z)


@ppl.model
def naive(params):
    """Two independent normals."""
    means, log_scales = params
    ppl.sample("x", dist.Normal(means[0], jnp.exp(log_scales[0])))
    ppl.sample("y", dist.Normal(means[1], jnp.exp(log_scales[1])))


@ppl.model
def ring(log_scales):
    """A point near a ring, at a random angle."""
    angle = 2 * jnp.pi * ppl.sample("u", dist.Uniform(0.0, 1.0))
    ppl.sample("x", dist.Normal(jnp.sqrt(Z) * jnp.cos(angle), jnp.exp(log_scales[0])))
    ppl.sample("y", dist.Normal(jnp.sqrt(Z) * jnp.sin(angle), jnp.exp(log_scales[1])))


@ppl.model
def uniform(log_scales, choices):
    """The reverse model: the angle does not look at the point."""
    ppl.sample("u", dist.Uniform(0.0, 1.0))


class Case(NamedTuple):
    """An objective, its start, the best value (quadrature), the figure to beat, and NumPyro's loss where it has one."""

    objective: vi.Objective
    start: Any
    best: float
    least: float
    peer: Any = None


def cases() -> dict[str, Case]:
    """The objectives of the table."""
    model, zeros, ones = cone(jnp.array(Z)), jnp.zeros(2), jnp.ones(2)
    start, aside = (zeros, ones), (jnp.array([3.0, 0.0]), ones)
    marginal = lambda log_scales: ring(log_scales).marginal(["x", "y"], ppl.SIR(5, reverse))
    return {
        "ELBO": Case(vi.elbo(model, naive), start, -8.073, -8.103, Trace_ELBO(num_particles=BATCH)),
        "IWELBO_5": Case(vi.iwelbo(model, naive, 5), aside, -7.535, -7.60, RenyiELBO(alpha=0, num_particles=5)),
        "HVI": Case(vi.hvi(model, ring, uniform), zeros, -9.748, -9.778),
        "IWHVI_5": Case(vi.iwhvi(model, ring, uniform, 5), zeros, -8.183, -8.213),
        "IWHVI_5, marginal": Case(vi.elbo(model, marginal), zeros, -8.183, -8.213),
        "DIWHVI_5,5": Case(vi.diwhvi(model, ring, uniform, 5, 5), zeros, -7.313, -7.343),
    }


def reverse(kept: Any) -> ppl.Program:
    """The reverse model as a proposal of `ppl.SIR`."""
    return uniform(jnp.zeros(2), kept)


def ascend(value_and_grad: Callable[..., Any], steps: int) -> Callable[..., Any]:
    """Gradient ascent in one scan."""

    @jax.jit
    def run(params: Any, key: Any) -> Any:
        def step(params: Any, key: Any) -> Any:
            value, grads = value_and_grad(key, params)
            return jax.tree.map(lambda p, g: p + RATE * g, params, grads), value

        return lax.scan(step, params, jax.random.split(key, steps))

    return run


def log_evidence() -> float:
    """The log evidence by quadrature over the radius."""
    square = jnp.linspace(1e-4, 40.0, 2_000_001)  # x^2 + y^2 is exponential with mean 200
    log_density = -square / 200 - jnp.log(200.0) + dist.Normal(square, 0.1 + square / 100).log_prob(Z)
    return float(jnp.log(jnp.trapezoid(jnp.exp(log_density), square)))


# --- NumPyro ---------------------------------------------------------------------------------------------------------


def peer_model(z: Any) -> None:
    """The cone in NumPyro."""
    x: Any = numpyro.sample("x", dist.Normal(0.0, 10.0))
    y: Any = numpyro.sample("y", dist.Normal(0.0, 10.0))
    squared = x**2 + y**2
    numpyro.sample("z", dist.Normal(squared, 0.1 + squared / 100), obs=z)


def peer_guide(start: Any) -> Callable[..., None]:
    """The naive guide in NumPyro."""

    def guide(z: Any) -> None:
        del z
        means: Any = numpyro.param("means", start[0])
        log_scales: Any = numpyro.param("log_scales", start[1])
        numpyro.sample("x", dist.Normal(means[0], jnp.exp(log_scales[0])))
        numpyro.sample("y", dist.Normal(means[1], jnp.exp(log_scales[1])))

    return guide


class Averaged:
    """NumPyro's loss, the mean of many estimates (`RenyiELBO` has no batch of its own)."""

    can_infer_discrete = False

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def loss(self, key: Any, *args: Any, **kwargs: Any) -> Any:
        """The mean loss."""
        return jax.vmap(lambda key: self.inner.loss(key, *args, **kwargs))(jax.random.split(key, BATCH)).mean()


def peer_run(case: Case, steps: int) -> tuple[SVI, Callable[..., Any]]:
    """NumPyro's SVI in one scan."""
    loss = (
        case.peer if isinstance(case.peer, Trace_ELBO) and not isinstance(case.peer, RenyiELBO) else Averaged(case.peer)
    )
    svi = SVI(peer_model, peer_guide(case.start), optax.sgd(RATE), loss)
    return svi, jax.jit(lambda state: lax.scan(lambda s, _: svi.update(s, Z), state, None, length=steps))


# --- the table -------------------------------------------------------------------------------------------------------


def timed(run: Callable[..., Any], *args: Any) -> tuple[Any, float]:
    """The second call's result, and its seconds."""
    jax.block_until_ready(run(*args))
    start = time.perf_counter()
    result = jax.block_until_ready(run(*args))
    return result, time.perf_counter() - start


def fitted(case: Case, steps: int) -> tuple[float, float, float | None, float | None]:
    """Our value and seconds, and NumPyro's."""
    batch = case.objective.average(BATCH)
    (params, _), seconds = timed(ascend(batch.value_and_grad, steps), case.start, jax.random.key(0))
    final = case.objective.average(EVALUATION)
    value = float(final.value(1, params))
    if case.peer is None:
        return value, seconds, None, None
    svi, run = peer_run(case, steps)
    (state, _), peer_seconds = timed(run, svi.init(jax.random.key(0), Z))
    found = svi.get_params(state)
    return value, seconds, float(final.value(1, (found["means"], found["log_scales"]))), peer_seconds


def by_hand(key: Any, params: Any) -> Any:
    """The ELBO of 64 draws as one would write it in JAX."""

    def log_normal(x: Any, mean: Any, scale: Any) -> Any:
        return -0.5 * ((x - mean) / scale) ** 2 - jnp.log(scale) - 0.5 * jnp.log(2 * jnp.pi)

    def mean(params: Any) -> Any:
        means, scales = params[0], jnp.exp(params[1])
        xy = means + scales * jax.random.normal(key, (BATCH, 2))
        squared = jnp.sum(xy**2, axis=1)
        log_p = log_normal(xy, 0.0, 10.0).sum(1) + log_normal(Z, squared, 0.1 + squared / 100)
        return jnp.mean(log_p - log_normal(xy, means, scales).sum(1))

    return jax.value_and_grad(mean)(params)


def keyed(key: Any, params: Any) -> Any:
    """The same, with a key for each draw and each choice, as `jax.vmap` over keys makes it."""

    def log_normal(x: Any, mean: Any, scale: Any) -> Any:
        return -0.5 * ((x - mean) / scale) ** 2 - jnp.log(scale) - 0.5 * jnp.log(2 * jnp.pi)

    def one(key: Any, params: Any) -> Any:
        noise = jnp.stack([jax.random.normal(k) for k in jax.random.split(key)])
        scales = jnp.exp(params[1])
        xy = params[0] + scales * noise
        squared = jnp.sum(xy**2)
        log_p = log_normal(xy, 0.0, 10.0).sum() + log_normal(Z, squared, 0.1 + squared / 100)
        return log_p - log_normal(xy, params[0], scales).sum()

    def mean(params: Any) -> Any:
        return jnp.mean(jax.vmap(one, (0, None))(jax.random.split(key, BATCH), params))

    return jax.value_and_grad(mean)(params)


def step_times(rounds: int = 15) -> None:
    """One ELBO step inside `lax.scan`."""
    case, key = cases()["ELBO"], jax.random.key(0)
    svi, peer = peer_run(case, TIMED)
    state = svi.init(key, Z)
    runs = {
        "by hand, one normal draw": ascend(by_hand, TIMED),
        "by hand, a key a draw": ascend(keyed, TIMED),
        "ours": ascend(case.objective.average(BATCH).value_and_grad, TIMED),
    }
    calls = {name: lambda run=run: run(case.start, key) for name, run in runs.items()}
    timings = alternate({**calls, "NumPyro": lambda: peer(state)}, rounds, per_call=TIMED)
    for baseline in ("by hand, one normal draw", "by hand, a key a draw"):
        report("one ELBO step of 64 draws, in a scan", timings, baseline)


def main(steps: int = STEPS) -> None:
    """Print the table and the times."""
    print(f"log evidence {log_evidence():.4f} (quadrature; reference -5.3232)")
    print(f"{'objective':<18} {'best':>8} {'ours':>8} {'s':>6} {'NumPyro':>8} {'s':>6}  reached")
    for name, case in cases().items():
        value, seconds, peer, peer_seconds = fitted(case, steps)
        other = "  cannot      -" if peer is None else f"{peer:8.3f} {peer_seconds:6.2f}"
        print(f"{name:<18} {case.best:8.3f} {value:8.3f} {seconds:6.2f} {other}  {value >= case.least}")
    step_times()


if __name__ == "__main__":
    main()
