"""What the options of an adaptation mean for the trainer."""

from __future__ import annotations

from dataclasses import asdict, replace

from diception.config import (
    AdapterConfig,
    AugmentConfig,
    DataConfig,
    FewShotConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
)


def in_one_step(config: FewShotConfig) -> FewShotConfig:
    """Where asked for: sigma 1 alone and zeros for noise, so that the one answer is the mean of all."""
    if not config.one_step:
        return config
    flow = replace(config.flow, share_at_one=1.0, start="zero", prompt_dropout=0.0)
    return replace(config, flow=flow, sampling=replace(config.sampling, steps=1, guidance_scale=1.0, start="zero"))


def augmentation(config: FewShotConfig) -> AugmentConfig:
    """How images are changed: in windows where it is tiled, mirrored where views are turned."""
    zoom, turns = config.zoom if config.tile else 0.0, config.turns or config.augment.turns
    hflip = 0.5 if config.turns else config.augment.hflip  # views are mirrored, too
    return replace(config.augment, windows=zoom, turns=turns, hflip=hflip)


def train_config(config: FewShotConfig) -> TrainConfig:
    """The run that trains it: warm-up of a twentieth, a falling rate, the average of the weights."""
    return TrainConfig(
        run=config.out,
        seed=config.seed,
        steps=config.steps,
        batch_size=config.batch_size,
        accumulate=config.accumulate,
        precision=config.precision,
        validate_every=0,
        model=ModelConfig(
            base=config.model,
            base_precision=config.base_precision,
            autoencoder_precision=config.autoencoder_precision,
            gradient_checkpointing=config.gradient_checkpointing,
            compile=config.compile,
        ),
        data=DataConfig(size=config.size, workers=0 if config.cached else config.workers),
        flow=config.flow,
        optim=OptimConfig(
            name=config.optimizer, lr=config.lr, warmup=max(1, config.steps // 20), schedule="cosine", ema=0.99
        ),
        sampling=config.sampling,
        adapter=AdapterConfig(**asdict(config.adapter)) if config.adapter else None,
    )
