"""Logistic regression: malignant or benign? Thirty measurements of 569 biopsies, and probabilities to be believed.

The prior on the coefficients of the standardised measurements is normal; its scale is a choice too, so how strongly to
shrink is learnt from the data, where scikit-learn would need a grid of penalties. A quarter of the biopsies is held
out: `Posterior.predict` runs the model at their measurements, averaging over what is not known of the coefficients.

Data: Wisconsin diagnostic breast cancer (Street, Wolberg, Mangasarian 1993), from scikit-learn (packaged).
"""

import sys
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import matplotlib
import numpy as np
from jax import nn
from sklearn.datasets import load_breast_cancer

import ppl
import ppl.distributions as dist
from ppl.plots import plot_forest

RAW: Any = load_breast_cancer()
NAMES = tuple(RAW["feature_names"])
X = ((RAW["data"] - RAW["data"].mean(axis=0)) / RAW["data"].std(axis=0)).astype(np.float32)
MALIGNANT = (RAW["target"] == 0).astype(np.int32)
HELD_OUT = np.arange(len(X)) % 4 == 0


@ppl.model
def biopsies(x: Any, malignant: Any = None) -> Any:
    """Log odds are linear in the measurements; returns the probabilities."""
    intercept = ppl.sample("intercept", dist.Normal(0.0, 3.0))
    scale = ppl.sample("scale", dist.HalfNormal(1.0))
    with ppl.plate("measurement", x.shape[1]):
        beta = ppl.sample("beta", dist.Normal(0.0, scale))
    logits = intercept + x @ beta
    with ppl.plate("biopsy", x.shape[0]):
        ppl.sample("malignant", dist.Bernoulli(logits=logits), obs=malignant)
    return nn.sigmoid(logits)


def probabilities(posterior: ppl.Posterior, x: Any) -> np.ndarray:
    """The predictive probability that each biopsy is malignant: the share of draws in which it is."""
    drawn = posterior.predict(biopsies(jnp.asarray(x)), key=1)["malignant"]
    return np.asarray(drawn).mean(axis=(0, 1))


def draw_calibration(probability: np.ndarray, truth: np.ndarray, path: Path) -> None:
    """The predicted probability of each held-out biopsy, in order, with what it was."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    order = np.argsort(probability)
    figure, axes = plt.subplots(figsize=(7, 3.8), layout="constrained")
    for value, color, label in ((0, "#4c78a8", "benign"), (1, "#d9480f", "malignant")):
        places = np.flatnonzero(truth[order] == value)
        axes.plot(places, probability[order][places], "o", color=color, markersize=4, label=label)
    axes.set(xlabel="held-out biopsies, in order", ylabel="probability of malignant")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main(*, quick: bool = False, folder: str = "output") -> ppl.Posterior:
    """Print the posterior and how well it predicts; draw coefficients and predictions."""
    program = biopsies(jnp.asarray(X[~HELD_OUT]), jnp.asarray(MALIGNANT[~HELD_OUT]))
    length = 500 if quick else 1000
    posterior = ppl.infer(program, ppl.NUTS(), key=0, chains=4, warmup=length, draws=length)
    print(posterior.summary(), "\n")
    probability, truth = probabilities(posterior, X[HELD_OUT]), MALIGNANT[HELD_OUT]
    right = (probability > 0.5) == truth
    print(f"Held out: {right.mean():.1%} right; expected from the probabilities themselves:", end=" ")
    print(f"{np.maximum(probability, 1 - probability).mean():.1%}")
    Path(folder).mkdir(parents=True, exist_ok=True)
    forest = plot_forest(posterior, addresses=["beta"])
    forest.axes[0].set_yticklabels(NAMES)
    forest.savefig(Path(folder) / "logistic_regression.png", dpi=150)
    draw_calibration(probability, truth, Path(folder) / "logistic_regression_held_out.png")
    print(f"\nPictures: {folder}/logistic_regression.png, {folder}/logistic_regression_held_out.png")
    return posterior


if __name__ == "__main__":
    main(quick="--quick" in sys.argv)
