"""How a run is spread over devices: replicas that share gradients (DDP), or pieces of every weight (FSDP2)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from diception.config import TrainConfig
from diception.evaluation import world
from diception.model.diception import Diception

STRATEGIES = ("auto", "ddp", "fsdp")


def check_strategy(config: TrainConfig) -> None:
    """ValueError where the strategy is unknown or does not go with the rest of the config."""
    if config.strategy not in STRATEGIES:
        raise ValueError(f"strategy is {config.strategy!r}; allowed: {', '.join(STRATEGIES)}")
    for launcher in ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS"):  # of torchrun, of srun
        ranks = os.environ.get(launcher, "1")
        if ranks not in ("1", str(config.devices * config.nodes)):
            asked = f"devices={config.devices} and nodes={config.nodes}"
            raise ValueError(f"{launcher} is {ranks}, but {asked}: every process would train alone in one folder")
    if config.strategy != "fsdp":
        return
    if config.adapter is not None:
        raise ValueError("strategy fsdp does not train an adapter: what it would share out is small; use ddp")
    if config.optim.name != "adamw":
        raise ValueError(f"strategy fsdp does not go with optim.name={config.optim.name}; allowed: adamw")


def build_strategy(config: TrainConfig) -> Strategy | str:
    """What Lightning's trainer takes; `auto` is one device alone, or DDP."""
    ranks = config.devices * config.nodes
    if config.strategy == "fsdp":
        return ShardedStrategy(data_parallel_size=ranks, tensor_parallel_size=1, save_distributed_checkpoint=False)
    if config.strategy == "ddp" or ranks > 1:
        # Every trained parameter is used in every step, and buckets that are views save a copy of all gradients.
        return DDPStrategy(gradient_as_bucket_view=True, broadcast_buffers=False)
    return "auto"


class ShardedStrategy(ModelParallelStrategy):
    """FSDP2 whose checkpoints are those of one device: whole tensors of what is trained, in one file."""

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        trained: Any = self.lightning_module
        return {f"model.{name}": tensor for name, tensor in gather(trained.trained()).items()}

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        state = getattr(optimizer, "_optimizer", optimizer).state_dict()
        state["state"] = {number: gather(values) for number, values in state["state"].items()}
        return state if self.global_rank == 0 else {}

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        return Strategy.load_checkpoint(self, checkpoint_path, weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        module: Any = self.lightning_module
        with torch.no_grad():
            for name, parameter in module.trained().items():
                parameter.copy_(spread_like(checkpoint["state_dict"][f"model.{name}"], parameter))

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            for number, values in state["state"].items():
                state["state"][number] = {k: spread_like(v, parameters[number]) for k, v in values.items()}
            optimizer.load_state_dict(state)


def shard(model: Diception, mesh: DeviceMesh, precision: str) -> None:
    """Shares out the weights of what is trained over a mesh of one dimension, block by block, in place.

    The autoencoder stays whole on every device: it is small and runs once a step.
    """
    # Gathered in the type of the computation, gradients summed in float32.
    policy = MixedPrecisionPolicy(torch.bfloat16 if "bf16" in precision else None, torch.float32, None, False)
    for part in (*model.transformer.transformer_blocks, model.transformer, model.points):
        # The outermost ones, too, must let go of what they put together: validation changes the pieces between passes.
        fully_shard(part, mesh=mesh, mp_policy=policy, reshard_after_forward=True)


def is_sharded(model: Diception) -> bool:
    """Whether `shard` was there."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def whole(tensor: Tensor) -> Tensor:
    """The tensor of which every rank holds a piece; to be called on all ranks. Any other is returned as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gather(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Whole tensors by name: plain ones as they are, of pieces a copy on the CPU of rank 0 and none elsewhere."""
    found = {}
    for name, tensor in tensors.items():
        if not isinstance(tensor, DTensor):
            found[name] = tensor
            continue
        full = whole(tensor.detach())
        if world()[0] == 0:
            found[name] = full.cpu()
    return found


def spread_like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """A whole tensor laid out as a parameter of its shape is; a scalar, such as a count of steps, as it is."""
    if not isinstance(parameter, DTensor) or tensor.shape != parameter.shape:
        return tensor
    return distribute_tensor(tensor.to(parameter.device), parameter.device_mesh, parameter.placements)
