"""Architectures of torchvision, timm and diffusers, small, with inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
import timm
import torch
import torchvision
from timm.models.convmixer import ConvMixer
from torch import nn
from torchvision import models as tv

Made = tuple[nn.Module, Any]


def images(size: int) -> torch.Tensor:
    return torch.randn(2, 3, size, size)


def of_timm(name: str, size: int = 64, **options: Any) -> Callable[[], Made]:
    return lambda: (
        timm.create_model(name, pretrained=False, num_classes=5, **options),
        images(size),
    )


def of_torchvision(name: str, size: int = 64, **options: Any) -> Callable[[], Made]:
    return lambda: (getattr(tv, name)(weights=None, num_classes=5, **options), images(size))


def _raft() -> Made:
    model = torchvision.models.optical_flow.raft_small(weights=None)
    pair = (torch.rand(1, 3, 128, 128), torch.rand(1, 3, 128, 128))
    return model, pair


def _video() -> Made:
    return torchvision.models.video.r3d_18(weights=None), torch.randn(1, 3, 4, 32, 32)


def _vit() -> Made:
    model = tv.VisionTransformer(16, 4, num_layers=3, num_heads=2, hidden_dim=16, mlp_dim=32)
    return model, images(16)


SMALL_UNET = {
    "sample_size": 16,
    "block_out_channels": (8, 16),
    "layers_per_block": 2,
    "norm_num_groups": 4,
}


def _unet() -> Made:
    model = diffusers.UNet2DModel(
        **SMALL_UNET,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
    )
    return model, {"sample": images(16), "timestep": torch.tensor([3, 4])}


def _conditional_unet() -> Made:
    model = diffusers.UNet2DConditionModel(
        **SMALL_UNET,
        in_channels=3,
        out_channels=3,
        cross_attention_dim=12,
        attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )
    inputs = {
        "sample": images(16),
        "timestep": torch.tensor([3, 4]),
        "encoder_hidden_states": torch.randn(2, 5, 12),
    }
    return model, inputs


def _autoencoder() -> Made:
    model = diffusers.AutoencoderKL(
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=2,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )
    return model, {"sample": images(16)}


def _dit() -> Made:
    model = diffusers.DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=3,
        num_layers=3,
        sample_size=8,
        patch_size=2,
        norm_num_groups=1,
    )
    inputs = {
        "hidden_states": images(8),
        "timestep": torch.tensor([3, 4]),
        "class_labels": torch.tensor([1, 2]),
    }
    return model, inputs


def _flux() -> Made:
    model = diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=4,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=12,
        pooled_projection_dim=8,
        axes_dims_rope=(2, 2, 4),
    )
    inputs = {
        "hidden_states": torch.randn(1, 16, 4),
        "encoder_hidden_states": torch.randn(1, 5, 12),
        "pooled_projections": torch.randn(1, 8),
        "timestep": torch.tensor([0.5]),
        "img_ids": torch.zeros(16, 3),
        "txt_ids": torch.zeros(5, 3),
        "guidance": None,
    }
    return model, inputs


def _sd3() -> Made:
    model = diffusers.SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_layers=3,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=12,
        caption_projection_dim=16,
        pooled_projection_dim=8,
        out_channels=4,
        pos_embed_max_size=8,
    )
    inputs = {
        "hidden_states": torch.randn(1, 4, 8, 8),
        "encoder_hidden_states": torch.randn(1, 5, 12),
        "pooled_projections": torch.randn(1, 8),
        "timestep": torch.tensor([3.0]),
    }
    return model, inputs


#: Name -> makes a model and its inputs.
MODELS: dict[str, Callable[[], Made]] = {
    "timm/resnet18": of_timm("resnet18"),
    "timm/resnetv2_50": of_timm("resnetv2_50", 32, layers=(1, 2, 2, 1), channels=(16, 32, 48, 64)),
    "timm/regnetx_002": of_timm("regnetx_002"),
    "timm/regnety_002": of_timm("regnety_002"),
    "timm/convnext_atto": of_timm("convnext_atto", 32),
    "timm/convnextv2_atto": of_timm("convnextv2_atto", 32),
    "timm/efficientnet_b0": of_timm("efficientnet_b0", 32),
    "timm/mobilenetv3_small": of_timm("mobilenetv3_small_100", 32),
    "timm/vit_tiny": of_timm("vit_tiny_patch16_224", 32, img_size=32, depth=3),
    "timm/cait_xxs24": of_timm("cait_xxs24_224", 32, img_size=32, depth=3),
    "timm/xcit_nano": of_timm("xcit_nano_12_p16_224", 32, img_size=32, depth=3),
    "timm/swin": of_timm(
        "swin_tiny_patch4_window7_224",
        56,
        img_size=56,
        embed_dim=24,
        depths=(2, 2),
        num_heads=(2, 4),
    ),
    "timm/davit": of_timm("davit_tiny", 64, depths=(1, 2), embed_dims=(16, 32), num_heads=(2, 4)),
    "timm/poolformer": of_timm("poolformer_s12", 64),
    "timm/mixer": of_timm("mixer_s32_224", 64, img_size=64),
    "timm/resmlp": of_timm("resmlp_12_224", 64, img_size=64),
    "timm/gmlp": of_timm("gmlp_ti16_224", 64, img_size=64),
    "timm/convmixer": lambda: (ConvMixer(16, 4, kernel_size=3, num_classes=5), images(32)),
    "timm/densenet121": of_timm("densenet121", 64, block_config=(2, 3)),
    "timm/nfnet_l0": of_timm("nfnet_l0", 32),
    "timm/hiera_tiny": of_timm("hiera_tiny_224", 224),
    "timm/mambaout_femto": of_timm("mambaout_femto", 32),
    "timm/eva02_tiny": of_timm("eva02_tiny_patch14_224", 28, img_size=28, depth=3),
    "timm/inception_v3": of_timm("inception_v3", 96),
    "torchvision/resnet50": of_torchvision("resnet50", 32),
    "torchvision/regnet_y": of_torchvision("regnet_y_400mf", 32),
    "torchvision/efficientnet_v2": of_torchvision("efficientnet_v2_s", 32),
    "torchvision/mobilenet_v2": of_torchvision("mobilenet_v2", 32),
    "torchvision/mnasnet": of_torchvision("mnasnet0_5", 32),
    "torchvision/shufflenet_v2": of_torchvision("shufflenet_v2_x0_5", 32),
    "torchvision/squeezenet": of_torchvision("squeezenet1_1", 64),
    "torchvision/googlenet": of_torchvision("googlenet", 64, aux_logits=False, init_weights=False),
    "torchvision/vgg11": of_torchvision("vgg11", 32),
    "torchvision/alexnet": of_torchvision("alexnet", 64),
    "torchvision/swin_t": of_torchvision("swin_t", 32),
    "torchvision/convnext_tiny": of_torchvision("convnext_tiny", 32),
    "torchvision/vit": _vit,
    "torchvision/raft": _raft,
    "torchvision/r3d_18": _video,
    "diffusers/unet": _unet,
    "diffusers/conditional_unet": _conditional_unet,
    "diffusers/autoencoder": _autoencoder,
    "diffusers/dit": _dit,
    "diffusers/flux": _flux,
    "diffusers/sd3": _sd3,
}
