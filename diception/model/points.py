"""The point embedder: up to five points of a prompt as five tokens of the context."""

from __future__ import annotations

import math

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.embeddings import get_2d_sincos_pos_embed_from_grid
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

ENCODINGS = ("fourier", "grid")
ORDERS = ("yx", "xy")
FREQUENCIES = 1024
"""Random Fourier features per sine and cosine, as released."""


class PointEmbedder(ModelMixin, ConfigMixin):
    """Every slot is encoded, an empty one at coordinate (0, 0); then the embedding of used or empty slots is added."""

    @register_to_config
    def __init__(
        self,
        width: int,
        encoding: str = "fourier",
        order: str = "yx",
        cells: int = 64,
        table_cells: int = 192,
        table_base: int = 64,
    ):
        """Sets up one of two encodings.

        Args:
            width: D, width of the transformer.
            encoding: `fourier`, random Fourier features as released, or `grid`, the transformer's own position table
                read between its cells, which a small model learns within minutes.
            order: order of the coordinates that the weights were trained with; only `fourier` depends on it.
            cells: for `grid`: patches along a side of the image.
            table_cells: for `grid`: patches along a side of the transformer's table (`pos_embed_max_size`).
            table_base: for `grid`: patches along a side of its native size (`sample_size // patch_size`).
        """
        super().__init__()
        if encoding not in ENCODINGS:
            raise ValueError(f"point encoding is {encoding!r}; allowed: {', '.join(ENCODINGS)}")
        if order not in ORDERS:
            raise ValueError(f"point order is {order!r}; allowed: {', '.join(ORDERS)}")
        self.encoding, self.order = encoding, order
        self.seg_embedding = nn.Parameter(torch.zeros(1, width))
        self.not_seg_embedding = nn.Parameter(torch.zeros(1, width))
        if encoding == "fourier":
            self.register_buffer("gaussian_matrix", torch.zeros(2, FREQUENCIES))
            inputs = 2 * FREQUENCIES
            self.mlp = nn.Sequential(nn.Linear(inputs, inputs), nn.GELU(), nn.Linear(inputs, width))
        else:
            self.mlp = nn.Sequential(nn.Linear(width, width))

    @torch.no_grad()
    def initialize(self, generator: torch.Generator) -> None:
        """Fresh weights; the linear map behind the table starts as the identity."""
        nn.init.normal_(self.seg_embedding, generator=generator)
        nn.init.normal_(self.not_seg_embedding, generator=generator)
        if self.encoding == "fourier":
            assert isinstance(self.gaussian_matrix, Tensor)
            self.gaussian_matrix.normal_(generator=generator)
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.zeros_(layer.bias)
                if self.encoding == "grid":
                    nn.init.eye_(layer.weight)
                else:
                    nn.init.xavier_uniform_(layer.weight, generator=generator)

    def forward(self, points: Tensor, point_mask: Tensor, cells: tuple[int, int] | None = None) -> Tensor:
        """Embeds the slots.

        Args:
            points: (B, P, 2) of (x, y) in [0, 1]; what an empty slot holds does not matter.
            point_mask: (B, P) bool, true where a slot is used.
            cells: patches along height and width, where they are not the native ones; only `grid` depends on it.

        Returns:
            (B, P, D) tokens.
        """
        points = torch.where(point_mask[..., None], points.float(), 0)
        with torch.autocast(points.device.type, enabled=False):  # neighbours would become one point in bfloat16
            encoded = self._fourier(points) if self.encoding == "fourier" else self._grid(points, cells)
        tokens = self.mlp(encoded.to(self.seg_embedding.dtype))
        return tokens + torch.where(point_mask[..., None], self.seg_embedding, self.not_seg_embedding)

    def _fourier(self, points: Tensor) -> Tensor:
        """SAM's encoding of a coordinate: (B, P, 2) to (B, P, 2 * FREQUENCIES), in float32."""
        if self.order == "yx":
            points = points.flip(-1)
        assert isinstance(self.gaussian_matrix, Tensor)
        phases = 2 * math.pi * ((2 * points - 1) @ self.gaussian_matrix.float())
        return torch.cat([phases.sin(), phases.cos()], dim=-1)

    def _grid(self, points: Tensor, cells: tuple[int, int] | None) -> Tensor:
        """The position table at fractional cells, where cell i covers [i, i + 1] / cells: (B, P, 2) to (B, P, D)."""
        config = self.config
        height, width = cells or (config["cells"], config["cells"])
        sides = points.new_tensor([width, height])
        crop = (config["table_cells"] - sides) // 2
        positions = (points * sides - 0.5 + crop) * (config["table_base"] / config["table_cells"])
        x, y = positions.unbind(-1)
        # The table encodes x in its first half (diffusers: "here w goes first").
        table = get_2d_sincos_pos_embed_from_grid(config["width"], torch.stack([x, y]), output_type="pt")
        return table.float().unflatten(0, points.shape[:2])
