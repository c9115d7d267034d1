"""A mixture with its labels as choices: wines of three cultivars, told apart without being told.

Each wine picks a cultivar, and each cultivar has its own law of three measurements. The labels are written down as they
are meant, one finite choice a wine. `ppl.NUTS` sums them out exactly while it moves the rest (178 sums of three terms,
not 3^178) and afterwards draws them from their exact law. Any renaming of the cultivars leaves the posterior the same:
chains that start at the thirds of the wines by flavanoids stay with one naming.

Data: chemical analysis of 178 wines of three cultivars of Piedmont, from scikit-learn (packaged).
"""

import sys
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import matplotlib
import numpy as np
from sklearn.datasets import load_wine

import ppl
import ppl.distributions as dist

RAW: Any = load_wine()
FLAVANOIDS, COLOUR, PROLINE = (
    RAW["data"][:, RAW["feature_names"].index(name)] for name in ("flavanoids", "color_intensity", "proline")
)
COLUMNS = np.stack([FLAVANOIDS, np.log(COLOUR), PROLINE], axis=1)
WINES = ((COLUMNS - COLUMNS.mean(axis=0)) / COLUMNS.std(axis=0)).astype(np.float32)
TRUTH = 2 - RAW["target"]
"""The cultivars, which the model is not told, in the order of their flavanoids."""


@ppl.model
def cultivars(wines: Any) -> None:
    """Three cultivars with shares, means and spreads; each wine is of one of them."""
    share = ppl.sample("share", dist.Dirichlet(jnp.full(3, 5.0)))
    with ppl.plate("cultivar", 3):
        mean = ppl.sample("mean", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
        spread = ppl.sample("spread", dist.LogNormal(-0.7, 0.5).expand([3]).to_event(1))
    with ppl.plate("wine", wines.shape[0]):
        label = ppl.sample("label", dist.Categorical(share))
        ppl.sample("measured", dist.Normal(mean[label], spread[label]).to_event(1), obs=wines)


def thirds() -> dict[str, Any]:
    """A start: the cultivars are the thirds of the wines, in the order of their flavanoids."""
    groups = np.array_split(WINES[np.argsort(WINES[:, 0])], 3)
    mean, spread = (np.stack([f(group, axis=0) for group in groups]) for f in (np.mean, np.std))
    return {"share": np.full(3, 1 / 3, np.float32), "mean": mean, "spread": spread}


def label_probabilities(posterior: ppl.Posterior) -> np.ndarray:
    """The probability that each wine is of each cultivar, a row a wine."""
    labels = np.asarray(posterior.draws["label"]).reshape(-1, len(WINES))
    return (labels[:, :, None] == np.arange(3)).mean(axis=0)


def draw(posterior: ppl.Posterior, path: Path) -> None:
    """The wines, coloured by their probable cultivar, with rings around those that were told wrong."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    probabilities = label_probabilities(posterior)
    palette = np.array([[0.85, 0.28, 0.06], [0.30, 0.47, 0.66], [0.33, 0.63, 0.31]])
    wrong = probabilities.argmax(axis=1) != TRUTH
    figure, panels = plt.subplots(1, 2, figsize=(9, 4), sharex=True, layout="constrained")
    for panel, y, name in zip(panels, (COLOUR, PROLINE), ("colour intensity", "proline (mg/l)"), strict=True):
        panel.scatter(FLAVANOIDS, y, c=probabilities @ palette, s=20)
        panel.scatter(FLAVANOIDS[wrong], y[wrong], facecolors="none", edgecolors="k", s=70, label="told wrong")
        panel.set(xlabel="flavanoids", ylabel=name)
    panels[0].set_yscale("log")
    panels[0].set_yticks([2, 4, 8], ["2", "4", "8"])
    panels[0].minorticks_off()
    panels[0].legend(frameon=False)
    figure.suptitle("Wines, coloured by the posterior of their labels")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main(*, quick: bool = False, folder: str = "output") -> ppl.Posterior:
    """Print the posterior, and how many wines were told right; draw them."""
    program = cultivars(jnp.asarray(WINES))
    print(program, "\n")
    length = 500 if quick else 1000
    posterior = ppl.infer(program, ppl.NUTS(start=thirds()), key=0, chains=4, warmup=length, draws=length)
    print(posterior.summary(addresses=("share", "mean", "spread")), "\n")
    right = label_probabilities(posterior).argmax(axis=1) == TRUTH
    print(f"Told right: {right.sum()} of {len(right)} wines")
    path = Path(folder) / "mixture.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    draw(posterior, path)
    print(f"\nPicture: {path}")
    return posterior


if __name__ == "__main__":
    main(quick="--quick" in sys.argv)
