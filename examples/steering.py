"""Steering a small language model while it writes: particles against best-of-N at equal cost.

A character-level network is trained on Python's own manual (it ships with Python, in `pydoc_data`). The program below
*is* the language model, one choice a character, times a potential that punishes words of more than five letters: its
posterior is the law of what the model would write if it only knew short words. Sequential Monte Carlo spends its
particles where both agree; best-of-N writes N texts and hopes. After Puri et al., *A Probabilistic Inference Approach
to Inference-Time Scaling of LLMs using Particle-Based Monte Carlo Methods* (2025).
"""

import re
import sys
from pathlib import Path
from pydoc_data import topics
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from matplotlib.figure import Figure

import ppl
import ppl.distributions as dist

ALPHABET = " abcdefghijklmnopqrstuvwxyz.,"
TEXT = np.array([ALPHABET.index(c) for c in re.sub(r"[^a-z.,]+", " ", "".join(topics.topics.values()).lower())])
LENGTH, LONGEST, STRENGTH = 80, 5, 3.0
"""Characters to write; letters of the longest word allowed; nats that each letter beyond costs."""


class Writer(eqx.Module):
    """A recurrent network that predicts the next character."""

    cell: eqx.nn.GRUCell
    head: eqx.nn.Linear

    def __init__(self, key: Any, size: int = 128) -> None:
        self.cell = eqx.nn.GRUCell(len(ALPHABET), size, key=key)
        self.head = eqx.nn.Linear(size, len(ALPHABET), key=jax.random.fold_in(key, 1))

    def __call__(self, state: Any, char: Any) -> tuple[Any, Any]:
        """The state after a character, and logits of the next one."""
        state = self.cell(jax.nn.one_hot(char, len(ALPHABET)), state)
        return state, self.head(state)


def trained(steps: int, batch: int = 32, window: int = 64) -> Writer:
    """Train by Adam on random windows of the text."""
    writer, optimizer = Writer(jax.random.key(0)), optax.adam(optax.cosine_decay_schedule(4e-3, steps))

    def loss(writer: Writer, rows: Any) -> Any:
        start = jnp.zeros(writer.cell.hidden_size)
        predicted = jax.vmap(lambda row: lax.scan(lambda s, c: writer(s, c), start, row[:-1])[1])(rows)
        return optax.softmax_cross_entropy_with_integer_labels(predicted, rows[:, 1:]).mean()

    @jax.jit
    def step(number: Any, carry: Any) -> Any:
        writer, state, _ = carry
        places = jax.random.randint(jax.random.fold_in(jax.random.key(1), number), (batch, 1), 0, len(TEXT) - window)
        value, slope = jax.value_and_grad(loss)(writer, jnp.asarray(TEXT)[places + jnp.arange(window)[None]])
        change, state = optimizer.update(slope, state)
        return eqx.apply_updates(writer, change), state, value

    carry: Any = (writer, optimizer.init(eqx.filter(writer, eqx.is_array)), jnp.inf)
    for number in range(steps):
        carry = step(number, carry)
    print(f"Trained on {len(TEXT):,} characters: {carry[2] / np.log(2):.2f} bits a character")
    return carry[0]


@ppl.model
def written(writer: Writer, strength: Any) -> Any:
    """The language model, times exp(-strength) for each letter beyond the fifth of a word."""

    def step(carry: Any, _: Any) -> tuple[Any, Any]:
        state, logits = writer(*carry[:2])
        char = ppl.sample("char", dist.Categorical(logits=logits))
        letters = jnp.where((char > 0) & (char < 27), carry[2] + 1, 0)
        ppl.factor("short words", -strength * (letters > LONGEST))
        return (state, char, letters), letters > LONGEST

    start = jnp.zeros(writer.cell.hidden_size), jnp.int32(0), jnp.int32(0)
    return jnp.sum(lax.scan(step, start, length=LENGTH)[1])


def best(writer: Writer, particles: int, key: int, strength: float) -> tuple[int, str]:
    """The text with the fewest letters too many among the particles; at strength 0 they are N independent texts."""
    posterior = ppl.infer(written(writer, strength), ppl.SMC(particles), key=key)
    excess = np.where(np.isfinite(np.asarray(posterior.log_weights)[0]), posterior.values[0], LENGTH)
    text = "".join(ALPHABET[c] for c in posterior.draws["char"][0, excess.argmin()])
    return int(excess.min()), text


def main(*, quick: bool = False, folder: str = "output") -> dict[str, list[float]]:
    """Print both ways' texts; plot how many letters too many they have, by the number of texts written."""
    writer, repeats = trained(60 if quick else 1500), 3 if quick else 20
    sizes = (4, 16) if quick else (4, 8, 16, 32, 64)
    ways, found = {"best of N": 0.0, "particles": STRENGTH}, {}
    for name, strength in ways.items():
        runs = [[best(writer, n, key, strength) for key in range(repeats)] for n in sizes]
        found[name] = [float(np.mean([excess for excess, _ in row])) for row in runs]
        print(f"{name:>10}, N = {sizes[-1]}: {runs[-1][0][1]!r}")
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    for (name, means), color in zip(found.items(), ("0.5", "#1971c2"), strict=True):
        print(f"{name:>10}: letters too many at N = {sizes}: {', '.join(f'{m:.2f}' for m in means)}")
        axes.plot([str(n) for n in sizes], means, "o-", color=color, label=name)
    axes.set(xlabel="texts written (N)", ylabel="letters too many, best text", ylim=(0, None))
    axes.legend(frameon=False)
    Path(folder).mkdir(parents=True, exist_ok=True)
    figure.savefig(Path(folder) / "steering.png", dpi=150)
    return found


if __name__ == "__main__":
    main(quick="--quick" in sys.argv)
