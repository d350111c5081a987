"""The LightningModule: one training step of flow matching, its optimizer, and what a checkpoint holds."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor

from diception.config import TrainConfig
from diception.datasets.sample import Batch
from diception.flow import add_noise, draw, flow_matching_loss, latent_weight, seeded_noise, velocity_target
from diception.model.diception import Diception
from diception.training.guard import Guard
from diception.training.optim import build_optimizer, build_schedule

SIGMA_BANDS = (0.25, 0.5, 0.75, 0.999)
FIXED_SIGMAS = (0.1, 0.25, 0.4, 0.55, 0.7, 0.85, 0.95, 1.0)
"""At these the loss of validation samples is taken."""


class DiceptionModule(L.LightningModule):
    """Trains whatever parameters of the model require a gradient."""

    def __init__(self, model: Diception, config: TrainConfig):
        super().__init__()
        self.model = model
        self.config = config
        self.guard = Guard(config.optim.clip, config.optim.spike, config.optim.max_skipped)
        self._keys: list[str] = []
        self.strict_loading = False  # checkpoints hold the trained parameters alone; on_load_checkpoint is strict

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        losses, sigmas = self.losses(batch)
        self._keys += batch.keys
        self.log_dict(_by_task_and_band(losses.detach(), sigmas, batch.tasks), batch_size=len(losses))
        return losses.mean()

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Flow-matching loss of every sample, (B,), and the sigmas (B,) at which it was taken."""
        latents = self._encode(batch)
        flow = self.config.flow
        shape = tuple(latents[0].shape[1:])
        drawn = draw(batch.seeds, shape, flow.density, flow.mean, flow.std, flow.share_at_one, flow.prompt_dropout)
        noise, sigmas, dropped = (t.to(self.device) for t in (drawn.noise, drawn.sigmas, drawn.drop_prompt))
        return self._losses_at(batch, *latents, noise, sigmas, dropped), sigmas

    @torch.no_grad()
    def fixed_losses(self, batch: Batch) -> dict[float, float]:
        """Mean loss at each of the fixed sigmas, with the samples' own noise: comparable from step to step."""
        latents = self._encode(batch)
        noise = seeded_noise(batch.seeds, tuple(latents[0].shape[1:])).to(self.device)
        kept = torch.zeros(len(batch), dtype=torch.bool, device=self.device)
        found = {}
        for sigma in FIXED_SIGMAS:
            sigmas = torch.full((len(batch),), sigma, device=self.device)
            found[sigma] = float(self._losses_at(batch, *latents, noise, sigmas, kept).mean())
        return found

    @torch.no_grad()
    def _encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Latents of image and target, (B, C, h, w) each, by one pass of the autoencoder."""
        assert batch.target is not None
        image_latents, latents = self.model.encode(torch.cat([batch.image, batch.target])).chunk(2)
        return image_latents, latents

    def _losses_at(
        self, batch: Batch, image_latents: Tensor, latents: Tensor, noise: Tensor, sigmas: Tensor, dropped: Tensor
    ) -> Tensor:
        """(B,) losses at given noise, sigmas (B,) and dropped prompts (B,)."""
        assert batch.valid is not None
        condition = self.model.condition(batch.prompts, batch.points, batch.point_mask)
        condition = condition.where(~dropped, self.model.uncondition(len(latents)))
        velocity = self.model.velocity(add_noise(latents, noise, sigmas), sigmas, image_latents, condition)
        weight = latent_weight(batch.valid, batch.valid.shape[-1] // latents.shape[-1])
        return flow_matching_loss(velocity, velocity_target(latents, noise), weight)

    def trained(self) -> dict[str, Tensor]:
        """Parameters that training changes, by name."""
        return dict(self.model.trainable_parameters())

    def configure_optimizers(self) -> Any:
        optimizer = build_optimizer(self.trained().values(), self.config.optim)
        schedule = build_schedule(optimizer, self.config.optim, self.config.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        keys, self._keys = self._keys, []
        norm = self.guard(self.trained().values(), self.global_step, keys)
        self.log("grad_norm", norm)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return batch.to(device)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        kept = {f"model.{name}" for name in self.trained()}
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in kept}
        # The bank grows as the stream brings new prompts; a resumed run must end with those of before, too.
        checkpoint["prompts"] = self.model.bank.prompts
        checkpoint["guard"] = self.guard.state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        expected = {f"model.{name}" for name in self.trained()}
        found = set(checkpoint["state_dict"])
        if expected != found:
            wrong = ", ".join(sorted(expected ^ found)[:5])
            raise ValueError(f"the checkpoint was made by another model: {len(expected ^ found)} keys differ: {wrong}")
        self.guard.load(checkpoint["guard"])
        self.model.bank.add(set(checkpoint["prompts"]) - set(self.model.bank.prompts))


def _by_task_and_band(losses: Tensor, sigmas: Tensor, tasks: list[str]) -> dict[str, Tensor]:
    """Mean loss over all, per task, and per band of sigma (the last band is sigma 1: the task without any hint)."""
    values = {"loss": losses.mean()}
    for task in dict.fromkeys(tasks):
        chosen = torch.tensor([t == task for t in tasks], device=losses.device)
        values[f"loss/{task}"] = losses[chosen].mean()
    bands = torch.bucketize(sigmas, torch.tensor(SIGMA_BANDS, device=sigmas.device))
    for band in bands.unique().tolist():
        values[f"loss_by_sigma/{band}"] = losses[bands == band].mean()
    return values
