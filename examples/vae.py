"""A variational autoencoder of handwritten digits: model and guide are programs, and the encoder is part of the guide.

The digits are scikit-learn's 8 x 8 images in 17 shades of grey: each pixel is a binomial count of 16.

    python examples/vae.py                         # a minute or two; writes output/vae.png
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax
from sklearn.datasets import load_digits

import ppl
import ppl.distributions as dist
from ppl import vi

PIXELS, HIDDEN, LATENT, SHADES = 64, 128, 8, 16
OUTPUT = Path(__file__).resolve().parents[1] / "output"


def network(key: Any, sizes: tuple[int, ...]) -> list[tuple[Any, Any]]:
    """Weights and biases of a multi-layer perceptron."""
    keys = jax.random.split(key, len(sizes) - 1)
    pairs = zip(keys, sizes[:-1], sizes[1:], strict=True)
    return [(jax.random.normal(k, (m, n)) / m**0.5, jnp.zeros(n)) for k, m, n in pairs]


def applied(layers: list[tuple[Any, Any]], x: Any) -> Any:
    """The network's output."""
    for weight, bias in layers[:-1]:
        x = jnp.tanh(x @ weight + bias)
    weight, bias = layers[-1]
    return x @ weight + bias


def logits(params: Any, z: Any) -> Any:
    """Log odds of each pixel."""
    return applied(params["decoder"], z)


def encoded(params: Any, x: Any) -> tuple[Any, Any]:
    """Mean and standard deviation of an image's latents."""
    mean, log_scale = jnp.split(applied(params["encoder"], x / SHADES - 0.5), 2, axis=-1)
    return mean, jnp.exp(log_scale)


@ppl.model
def model(params: Any, images: Any) -> None:
    """Latents, then pixels, image by image."""

    def image(x: Any) -> None:
        z = ppl.sample("z", dist.Normal(jnp.zeros(LATENT), 1.0).to_event(1))
        ppl.sample("x", dist.Binomial(SHADES, logits=logits(params, z)).to_event(1), obs=x)

    ppl.vmap(image)(images)


@ppl.model
def guide(params: Any, images: Any) -> None:
    """What the encoder believes of each image's latents."""

    def image(x: Any) -> None:
        ppl.sample("z", dist.Normal(*encoded(params, x)).to_event(1))

    ppl.vmap(image)(images)


def picture(params: Any, images: Any, path: Path) -> None:
    """Images, their reconstructions, and digits that the model makes up."""
    mean, _ = encoded(params, images)
    made_up = jax.random.normal(jax.random.key(5), (len(images), LATENT))
    rows = {"image": images / SHADES, "reconstruction": jax.nn.sigmoid(logits(params, mean))}
    rows["from the prior"] = jax.nn.sigmoid(logits(params, made_up))
    figure, axes = plt.subplots(3, len(images), figsize=(len(images), 3.4), squeeze=False)
    for line, (title, pixels) in zip(axes, rows.items(), strict=True):
        line[0].set_title(title, loc="left", fontsize=9)
        for axis, one in zip(line, pixels, strict=True):
            axis.imshow(one.reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
            axis.set_axis_off()
    path.parent.mkdir(exist_ok=True)
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main(quick: bool = False) -> float:  # noqa: FBT001, FBT002
    """Fit on all but 97 images, and draw some of those.

    Args:
        quick: Few steps, without a picture.

    Returns:
        The mean squared error of the held-out images' reconstructions, with pixels between 0 and 1.
    """
    images = jnp.asarray(load_digits(return_X_y=True)[0], int)
    seen, held_out = images[:1700], images[1700:]
    encoder, decoder = jax.random.split(jax.random.key(0))
    params = {
        "encoder": network(encoder, (PIXELS, HIDDEN, 2 * LATENT)),
        "decoder": network(decoder, (LATENT, HIDDEN, PIXELS)),
    }
    found = vi.fit(
        vi.elbo(model, guide), params, optimizer=optax.adam(2e-3), steps=100 if quick else 4000, key=1, args=(seen,),
        batch_size=100,
    )  # fmt: skip
    print(found)
    mean, _ = encoded(found.params, held_out)
    error = float(jnp.mean((jax.nn.sigmoid(logits(found.params, mean)) - held_out / SHADES) ** 2))
    print(f"mean squared error of {len(held_out)} held-out images: {error:.4f}")
    if not quick:
        picture(found.params, held_out[:12], OUTPUT / "vae.png")
    return error


if __name__ == "__main__":
    main()
