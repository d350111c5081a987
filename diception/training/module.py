"""The LightningModule: one training step of flow matching, its optimizer, and what a checkpoint holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor

from diception.config import FlowConfig, TrainConfig
from diception.datasets.sample import Batch
from diception.flow import (
    Density,
    add_noise,
    check_weighting,
    flow_matching_loss,
    latent_weight,
    loss_weight,
    seeded_noise,
    velocity_target,
)
from diception.model.attention import PlainAttention
from diception.model.diception import Diception
from diception.training.drawing import Drawing
from diception.training.guard import Guard
from diception.training.meter import LossMeter
from diception.training.optim import build_optimizer, build_schedule
from diception.training.sharding import is_sharded, shard

FIXED_SIGMAS = (0.1, 0.25, 0.4, 0.55, 0.7, 0.85, 0.95, 1.0)
"""At these the loss of validation samples is taken."""


class DiceptionModule(L.LightningModule):
    """Trains whatever parameters of the model require a gradient."""

    def __init__(self, model: Diception, config: TrainConfig, tasks: Sequence[str] = ()):
        """`tasks`: names of those that the stream brings."""
        super().__init__()
        self.model = model
        self.config = config
        self.drawing = build_drawing(config.flow, model)
        """Of noise and sigmas; the loaders do it where there are any."""
        self.meter = LossMeter(tasks)
        self.grad_norm = 0.0
        """Of the last step, before clipping."""
        self.guard = Guard(config.optim.clip, config.optim.spike, config.optim.max_skipped)
        self._keys: list[str] = []
        self._processors: dict[str, Any] = {}
        self.strict_loading = False  # checkpoints hold the trained parameters alone; on_load_checkpoint is strict

    def configure_model(self) -> None:
        if self.config.precision == "bf16-mixed" and self.model.device.type == "cpu" and not torch.cuda.is_available():
            self._processors = self.model.transformer.attn_processors
            self.model.transformer.set_attn_processor(PlainAttention())  # type: ignore[arg-type]
        if self.config.model.compile:
            torch.compiler.reset()  # what was compiled for models before this one counts against the limit
            self.model.transformer.compile_repeated_blocks()  # by the name of their class, which `shard` changes
        if self.config.strategy == "fsdp" and not is_sharded(self.model):
            shard(self.model, self.device_mesh["data_parallel"], self.config.precision)  # type: ignore[index]

    def teardown(self, stage: str) -> None:
        if self._processors:  # the model computes again as it did before training, bit for bit
            self.model.transformer.set_attn_processor(self._processors)
            self._processors = {}
        for module in self.model.transformer.modules():
            module._compiled_call_impl = None

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        losses, sigmas = self.losses(batch)
        self._keys += batch.keys
        self.meter.add(losses.detach(), sigmas, batch.tasks, 1 - self._weight(batch).mean(dim=(1, 2, 3)))
        return (losses * loss_weight(sigmas, self.config.flow.weighting)).mean()

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Flow-matching loss of every sample, (B,), and the sigmas (B,) at which it was taken."""
        batch = self.drawing(batch)
        assert batch.noise is not None and batch.sigmas is not None and batch.drop_prompt is not None
        latents, noise = self._encode(batch), self._start(batch.noise)
        return self._losses_at(batch, *latents, noise, batch.sigmas, batch.drop_prompt), batch.sigmas

    @torch.no_grad()
    def fixed_losses(self, batch: Batch) -> dict[float, float]:
        """Mean loss at each of the fixed sigmas, with the samples' own noise: comparable from step to step."""
        latents = self._encode(batch)
        noise = self._start(seeded_noise(batch.seeds, tuple(latents[0].shape[1:])).to(self.device))
        kept = torch.zeros(len(batch), dtype=torch.bool, device=self.device)
        found = {}
        for sigma in FIXED_SIGMAS:
            sigmas = torch.full((len(batch),), sigma, device=self.device)
            found[sigma] = float(self._losses_at(batch, *latents, noise, sigmas, kept).mean())
        return found

    def _start(self, noise: Tensor) -> Tensor:
        return torch.zeros_like(noise) if self.config.flow.start == "zero" else noise

    @torch.no_grad()
    def _encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Latents of image and target, (B, C, h, w) each: the batch's own, or by one pass of the autoencoder."""
        if batch.latents is not None:
            return batch.latents[:, 0].float(), batch.latents[:, 1].float()
        assert batch.target is not None
        image_latents, latents = self.model.encode(torch.cat([batch.image, batch.target])).chunk(2)
        return image_latents, latents

    def _weight(self, batch: Batch) -> Tensor:
        """(B, 1, h, w), 1 where a latent cell counts in the loss."""
        assert batch.valid is not None
        if batch.latents is not None:
            return batch.valid.float()
        return latent_weight(batch.valid, self.model.autoencoder.factor)

    def _losses_at(
        self, batch: Batch, image_latents: Tensor, latents: Tensor, noise: Tensor, sigmas: Tensor, dropped: Tensor
    ) -> Tensor:
        """(B,) losses at given noise, sigmas (B,) and dropped prompts (B,)."""
        height, width = (side * self.model.autoencoder.factor for side in latents.shape[-2:])
        condition = self.model.condition(batch.prompts, batch.points, batch.point_mask, (height, width))
        condition = condition.where(~dropped, self.model.uncondition(len(latents)))
        velocity = self.model.velocity(add_noise(latents, noise, sigmas), sigmas, image_latents, condition)
        return flow_matching_loss(velocity, velocity_target(latents, noise), self._weight(batch))

    def logged(self) -> dict[str, float]:
        """Means of the losses since the last call, over all ranks, which all call."""
        return self.meter.take(self._over_ranks)

    def _over_ranks(self, sums: Tensor) -> Tensor:
        return self.trainer.strategy.reduce(sums, reduce_op="sum")

    def trained(self) -> dict[str, Tensor]:
        """Parameters that training changes, by name."""
        return dict(self.model.trainable_parameters())

    def configure_optimizers(self) -> Any:
        optimizer = build_optimizer(self.trained().values(), self.config.optim, fused=not is_sharded(self.model))
        schedule = build_schedule(optimizer, self.config.optim, self.config.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        keys, self._keys = self._keys, []
        self.grad_norm = self.guard(self.trained().values(), self.global_step, keys)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return batch.to(device, non_blocking=device.type == "cuda")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        kept = {f"model.{name}" for name in self.trained()}
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in kept}
        # The bank grows as the stream brings new prompts; a resumed run must end with those of before, too.
        checkpoint["prompts"] = self.model.bank.prompts
        checkpoint["guard"] = self.guard.state()
        checkpoint["meter"] = self._over_ranks(self.meter.sums.clone()).cpu()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        expected = {f"model.{name}" for name in self.trained()}
        found = set(checkpoint["state_dict"])
        if expected != found:
            wrong = ", ".join(sorted(expected ^ found)[:5])
            raise ValueError(f"the checkpoint was made by another model: {len(expected ^ found)} keys differ: {wrong}")
        _set_batches(checkpoint, self.config.accumulate)
        self.guard.load(checkpoint["guard"])
        if self.global_rank == 0:  # sums of all ranks
            self.meter.sums = checkpoint["meter"]
        self.model.bank.add(set(checkpoint["prompts"]) - set(self.model.bank.prompts))
        self.model.bank.release_encoder()


def build_density(config: FlowConfig) -> Density:
    """The density of sigma that a config names; ValueError where it or the weighting is unknown."""
    check_weighting(config.weighting)
    return Density(config.density, config.mean, config.std, config.mode_scale, config.share_at_one)


def build_drawing(config: FlowConfig, model: Diception) -> Drawing:
    """What is drawn for every sample that a model is trained on."""
    autoencoder = model.autoencoder
    return Drawing(build_density(config), config.prompt_dropout, autoencoder.channels, autoencoder.factor)


def _set_batches(checkpoint: dict[str, Any], accumulate: int) -> None:
    """Counts the batches before a checkpoint as this run would have, which may split steps into other parts."""
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    for counts in (progress["total"], progress["current"]):
        counts.update(dict.fromkeys(counts, checkpoint["global_step"] * accumulate))
