r"""Flow guides: standard normals bent by coupling layers of splines, then an affine map as in `full_rank`.

$u = m + s \odot U f_L(\ldots f_1(\epsilon))$. A layer leaves one half of the vector as it is, and moves each element
of the other half by a monotone spline and an affine map whose parameters a network makes of the first half. Both
directions cost one pass, so densities are as cheap at given points as at draws. At the start every layer is the
identity: the family holds all full-rank normals.

Dinh, Sohl-Dickstein, Bengio, *Density estimation using Real NVP* (2017); Durkan et al., *Neural spline flows* (2019).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ppl.semantics.program import Program
from ppl.semantics.site import user_source
from ppl.typing import PRNGKey
from ppl.vi.guides import spline
from ppl.vi.guides.full_rank import Triangular, factor_params
from ppl.vi.guides.guide import Guide, Params
from ppl.vi.guides.joint import log_standard_normal

Network = list[dict[str, Any]]
"""Dense layers, `weight` and `bias`."""
STEEPEST = 3.0
"""The most that one layer scales an element by, in nats."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Flow:
    """Coupling layers, then an affine map.

    Attributes:
        affine: The last map.
        networks: One network a layer.
        bins: The number of bins of each spline.
    """

    affine: Triangular
    networks: Sequence[Network]
    bins: int = field(metadata={"static": True})

    @property
    def noise(self) -> int:
        """One normal an element."""
        return self.affine.noise

    @property
    def _layers(self) -> list["_Layer"]:
        halves = partitions(self.noise, len(self.networks))
        return [_Layer(*pair, network, self.bins) for pair, network in zip(halves, self.networks, strict=True)]

    def drawn(self, noise: Float[Array, "dim"]) -> tuple[Float[Array, "dim"], Float[Array, ""]]:
        """The draw made of the noise, with its log density (nats)."""
        bent, log_q = noise, log_standard_normal(noise)
        for layer in self._layers:
            bent, log_det = layer.forward(bent)
            log_q = log_q - log_det
        vector, log_det = self.affine.forward(bent)
        return vector, log_q - log_det

    def log_prob(self, vector: Float[Array, "dim"]) -> Float[Array, ""]:
        """Log density (nats), by the way back."""
        bent, total = self.affine.inverse(vector)
        for layer in reversed(self._layers):
            bent, log_det = layer.inverse(bent)
            total = total + log_det
        return log_standard_normal(bent) - total


class _Layer(NamedTuple):
    """One coupling layer: the elements that stay, those that move, and the network that says how."""

    stay: np.ndarray
    move: np.ndarray
    network: Network
    bins: int

    def forward(self, vector: Any) -> tuple[Any, Any]:
        """The image, and the log Jacobian determinant."""
        points, shift, log_scale = self._bends(vector)
        image, log_slope = spline.forward(points, vector[self.move])
        moved = shift + jnp.exp(log_scale) * image
        return vector.at[self.move].set(moved), jnp.sum(log_slope) + jnp.sum(log_scale)

    def inverse(self, image: Any) -> tuple[Any, Any]:
        """The vector with this image, and the log Jacobian determinant there."""
        points, shift, log_scale = self._bends(image)
        straight = (image[self.move] - shift) * jnp.exp(-log_scale)
        moved, log_slope = spline.inverse(points, straight)
        return image.at[self.move].set(moved), jnp.sum(log_slope) + jnp.sum(log_scale)

    def _bends(self, vector: Any) -> tuple[spline.Knots, Any, Any]:
        """The spline, shift and log scale of each element that moves; the same before and after."""
        raw = _evaluated(self.network, vector[self.stay]).reshape(len(self.move), -1)
        return spline.knots(raw[:, 2:]), raw[:, 0], STEEPEST * jnp.tanh(raw[:, 1] / STEEPEST)


def partitions(dim: int, layers: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each layer the elements that stay and those that move: halves and their exchange, then odds and evens.

    Examples:
        >>> [(stay.tolist(), move.tolist()) for stay, move in partitions(3, 2)]
        [([0], [1, 2]), ([1, 2], [0])]
    """
    everything = np.arange(dim)
    if dim == 1:
        return [(everything[:0], everything)] * layers
    cuts = [everything < dim // 2, everything % 2 == 0]
    pairs = []
    for layer in range(layers):
        first = cuts[(layer // 2) % 2] ^ bool(layer % 2)
        pairs.append((everything[first], everything[~first]))
    return pairs


def _evaluated(network: Network, inputs: Any) -> Any:
    for layer in network[:-1]:
        inputs = jnp.tanh(layer["weight"] @ inputs + layer["bias"])
    return network[-1]["weight"] @ inputs + network[-1]["bias"]


def _network(key: PRNGKey, sizes: Sequence[int]) -> Network:
    """Random layers; the last one is zero, so that the bend it makes is none."""
    keys = jax.random.split(key, len(sizes))
    layers = []
    for index, (before, after) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        last = index == len(sizes) - 2
        scale = 0.0 if last else max(before, 1) ** -0.5
        layers.append({"weight": scale * jax.random.normal(keys[index], (after, before)), "bias": jnp.zeros(after)})
    return layers


@dataclass(frozen=True)
class CouplingFlow:
    """Flows with the parameters of a full-rank normal, and one network a layer.

    Attributes:
        layers: The number of coupling layers.
        bins: The number of bins of each spline.
        hidden: The width of each network's two hidden layers.
        sd: The standard deviation to start from.
    """

    layers: int
    bins: int
    hidden: int
    sd: float = 0.1

    def init(self, key: PRNGKey, mean: Float[Array, "dim"]) -> Params:
        """About a point; a normal."""
        outputs, keys = 2 + 3 * self.bins - 1, jax.random.split(key, self.layers)
        networks = [
            _network(own, (len(stay), self.hidden, self.hidden, len(move) * outputs))
            for own, (stay, move) in zip(keys, partitions(len(mean), self.layers), strict=True)
        ]
        return {**factor_params(mean, self.sd * jnp.eye(len(mean))), "networks": networks}

    def law(self, params: Params) -> Flow:
        """The flow."""
        affine = Triangular(params["mean"], params["log_scale"], params["lower"])
        return Flow(affine, params["networks"], self.bins)


def flow(program: Program, *, layers: int = 4, bins: int = 8, hidden: int = 64, sticking: bool = False) -> Guide:
    """A normalising flow in R^n over all continuous choices: for posteriors that no normal fits.

    Args:
        program: The model; finite choices get categoricals of their own, independent of the rest.
        layers: The number of coupling layers; an even one moves every element equally often.
        bins: The number of bins of each spline.
        hidden: The width of each network's two hidden layers.
        sticking: Leave the score term, whose mean is zero, out of the ELBO's gradient (see `mean_field`).

    Returns:
        A guide with the parameters of `full_rank`, and `networks`.

    Raises:
        ValueError: there are no layers, or fewer than two bins.

    Examples:
        >>> import ppl, ppl.distributions as dist
        >>> from ppl import vi
        >>> @ppl.model
        ... def banana():
        ...     x = ppl.sample("x", dist.Normal(0.0, 1.0))
        ...     ppl.sample("y", dist.Normal(x**2, 0.1))
        >>> guide = vi.guides.flow(banana(), layers=2, hidden=8)
        >>> params = guide.init(0)
        >>> sorted(params), len(params["networks"])
        (['log_scale', 'lower', 'mean', 'networks'], 2)
    """
    if layers < 1 or bins < 2:
        raise ValueError(f"layers is {layers} and bins {bins}.\nExpected: at least 1 layer and 2 bins.")
    return Guide(program, CouplingFlow(layers, bins, hidden), sticking, user_source())
