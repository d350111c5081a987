"""The transformer against its parent, and against the outputs of the released code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
from golden.weights import GOLDEN, release, write_stable_diffusion
from small import generator, make_model, predict
from torch import Tensor

from diception.model.points import PointEmbedder
from diception.model.text_encoders import StableDiffusion3Encoder
from diception.model.transformer import DiceptionTransformer, init_small

SD3: dict = {
    "sample_size": 8,
    "num_layers": 3,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 24,
    "caption_projection_dim": 32,
    "pooled_projection_dim": 20,
    "pos_embed_max_size": 6,
}
SD35 = SD3 | {"dual_attention_layers": (0, 1), "qk_norm": "rms_norm"}
SD35_LARGE = SD3 | {"qk_norm": "rms_norm"}


def build(config: dict) -> DiceptionTransformer:
    transformer = DiceptionTransformer(**config)
    init_small(transformer, generator())
    torch.nn.init.normal_(transformer.proj_out.weight, std=0.1, generator=generator(1))
    return transformer


def inputs(height: int = 8, width: int = 8) -> dict[str, Tensor]:
    draw = generator(2)
    return {
        "hidden_states": torch.randn(2, 16, height, width, generator=draw),
        "image_latents": torch.randn(2, 16, height, width, generator=draw),
        "timestep": torch.tensor([1000.0, 12.5]),
        "encoder_hidden_states": torch.randn(2, 7, 24, generator=draw),
        "pooled_projections": torch.randn(2, 20, generator=draw),
        "point_tokens": torch.randn(2, 5, 32, generator=draw),
    }


@pytest.mark.parametrize("config", [SD3, SD35, SD35_LARGE], ids=["sd3", "sd3.5-medium", "sd3.5-large"])
@pytest.mark.parametrize("size", [(8, 8), (4, 12)])
def test_without_image_and_points_it_is_the_parent(config: dict, size: tuple[int, int]) -> None:
    transformer = build(config)
    parent = SD3Transformer2DModel(**config)
    parent.load_state_dict(transformer.state_dict())
    given = inputs(*size) | {"image_latents": None, "point_tokens": None}
    alone = {k: v for k, v in given.items() if v is not None}
    assert torch.equal(transformer(**given), parent(**alone).sample)


@pytest.mark.parametrize("config", [SD3, SD35, SD35_LARGE], ids=["sd3", "sd3.5-medium", "sd3.5-large"])
def test_image_points_and_text_all_change_the_velocity(config: dict) -> None:
    transformer, given = build(config), inputs(4, 12)
    velocity = transformer(**given)
    assert velocity.shape == given["hidden_states"].shape
    for name in given:
        assert not torch.allclose(transformer(**given | {name: given[name] * 0.5}), velocity), name


def test_image_and_noise_share_positions_but_not_their_roles() -> None:
    transformer, given = build(SD3), inputs()
    noisy, image = given["hidden_states"], given["image_latents"]
    tokens = transformer.pos_embed(image) - transformer.pos_embed(noisy)
    patches = transformer.pos_embed.proj(image) - transformer.pos_embed.proj(noisy)
    torch.testing.assert_close(tokens, patches.flatten(2).transpose(1, 2), atol=1e-5, rtol=1e-4)
    swapped = given | {"hidden_states": image, "image_latents": noisy}
    assert not torch.allclose(transformer(**swapped), transformer(**given))


def test_context_tokens_have_no_order() -> None:
    transformer, given = build(SD3), inputs()
    flipped = given | {"point_tokens": given["point_tokens"].flip(1)}
    torch.testing.assert_close(transformer(**flipped), transformer(**given), atol=1e-5, rtol=1e-4)


def test_gradient_checkpointing_gives_the_same_gradients() -> None:
    transformer, given = build(SD35), inputs()
    gradients = []
    for checkpointing in (False, True):
        (transformer.enable_gradient_checkpointing if checkpointing else transformer.disable_gradient_checkpointing)()
        transformer.zero_grad()
        transformer(**given).square().mean().backward()
        gradients.append({n: p.grad.clone() for n, p in transformer.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.equal(gradients[0][n], gradients[1][n]) for n in gradients[0])


@pytest.mark.parametrize("config", [SD3, SD35, SD35_LARGE], ids=["sd3", "sd3.5-medium", "sd3.5-large"])
def test_exactly_the_idle_parameters_get_no_gradient(config: dict) -> None:
    transformer = build(config)
    transformer(**inputs()).square().mean().backward()
    still = {n for n, p in transformer.named_parameters() if p.grad is None or not p.grad.any()}
    assert still == set(transformer.idle_parameters())
    assert any("add_q_proj" in name for name in still)


def test_init_small_is_a_function_of_the_generator_and_opens_the_gates() -> None:
    first, second = build(SD35), build(SD35)
    assert all(torch.equal(a, second.state_dict()[n]) for n, a in first.state_dict().items())
    gates = first.transformer_blocks[0].norm1.linear.bias.chunk(9)  # type: ignore[union-attr]
    assert [bool((gate == 0.7).all()) for gate in gates] == [i in (2, 5, 8) for i in range(9)]


def test_every_trainable_parameter_of_the_whole_model_gets_a_gradient() -> None:
    model = make_model()
    predict(model).square().mean().backward()
    trained = model.trainable_parameters()
    assert not [n for n, p in trained.items() if p.grad is None or not p.grad.any()]
    assert {name.split(".")[0] for name in trained} == {"transformer", "points"}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> StableDiffusion3Encoder:
    root = tmp_path_factory.mktemp("sd3")
    write_stable_diffusion(root)
    return StableDiffusion3Encoder.from_pretrained(root)


def relative(found: Tensor, expected: np.ndarray) -> float:
    reference = torch.from_numpy(expected).to(found)
    return float((found - reference).norm() / reference.norm())


CASES = {
    "depth_cfg2_s4": "[[image2depth]]",
    "seg_cfg2_s4": "[[image2segmentation]]",
    "semantic_cfg2_s2": "[[image2semantic]] person",
    "seg_yx_cfg2_s2": "[[image2segmentation]]",
}


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_text_is_the_released_one(encoder: StableDiffusion3Encoder, case: str) -> None:
    golden = np.load(GOLDEN)
    context, pooled = encoder(["", CASES[case]])
    assert relative(pooled, golden[f"{case}/pooled"]) < 1e-5
    assert relative(context[:, [0, 1, 5, 76, 77, 78, 82, 332]], golden[f"{case}/prompt_embeds_head"]) < 1e-5
    sums = context.double().sum((1, 2)).numpy()
    assert np.abs(sums - golden[f"{case}/prompt_embeds_sum"]).max() < 1e-5 * float(context.abs().sum())


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_point_tokens_are_the_released_ones(case: str) -> None:
    golden = np.load(GOLDEN)
    fed = torch.from_numpy(golden[f"{case}/coor_point"])
    mask = torch.from_numpy(golden[f"{case}/point_labels"])[..., 0] > 0
    for order, points in (("xy", fed), ("yx", fed.flip(-1))):
        embedder = released_points(order)
        assert relative(embedder(points, mask), golden[f"{case}/point_embeds"]) < 1e-5


@torch.no_grad()
def test_one_forward_is_the_released_one(encoder: StableDiffusion3Encoder) -> None:
    golden = {name: torch.from_numpy(values) for name, values in np.load(GOLDEN).items()}
    weights = release()["transformer"]
    config = {"sample_size": 16, "num_layers": 4, "attention_head_dim": 32, "num_attention_heads": 4}
    widths = {"joint_attention_dim": 64, "caption_projection_dim": 128, "pooled_projection_dim": 56}
    transformer = DiceptionTransformer(**config, **widths, pos_embed_max_size=24)  # type: ignore[arg-type]
    transformer.load_state_dict(weights)
    context, pooled = encoder([CASES["seg_cfg2_s4"]])
    points = golden["seg_cfg2_s4/point_embeds"]
    images = golden["fwd/image_latents"]
    velocity = transformer(golden["init_latents"], images, golden["fwd/t"], context, pooled, points)
    assert relative(velocity, golden["fwd/velocity"].numpy()) < 1e-5


def released_points(order: str) -> PointEmbedder:
    values = release()
    embedder = PointEmbedder(128, "fourier", order)
    state = {f"mlp.{name}": tensor for name, tensor in values["point_embedder"].items()}
    state["seg_embedding"] = values["seg_embeddings"]["weight"]
    state["not_seg_embedding"] = values["not_seg_embeddings"]["weight"]
    state["gaussian_matrix"] = values["positional_encoding_gaussian_matrix"]
    embedder.load_state_dict(state)
    return embedder
