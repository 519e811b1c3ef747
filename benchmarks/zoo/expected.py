"""What an expert would call a block in each architecture, written down before anything was run.

Of every architecture: globs over module names (`*` stays within one segment), each with how many
residual additions one call of such a block makes. Where globs overlap, the last one counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Expected = Sequence[tuple[str, int]]

_LAYERS = {"encoder": 2, "decoder": 3}


def _pair(parent: str, blocks: str) -> Expected:
    return [(f"{parent}{side}.{blocks}.*", count) for side, count in _LAYERS.items()]


#: Architecture -> globs with the number of residual additions.
EXPECTED: Mapping[str, Expected] = {
    # Transformers of text: post- and pre-norm alike have one addition per sublayer.
    "hf/bert": [("encoder.layer.*", 2)],
    "hf/albert": [("encoder.albert_layer_groups.*.albert_layers.*", 2)],  # one layer, called again
    "hf/distilbert": [("transformer.layer.*", 2)],
    "hf/deberta-v2": [("encoder.layer.*", 2)],
    "hf/xlnet": [("layer.*", 2)],
    "hf/gpt2": [("transformer.h.*", 2)],
    "hf/gpt-j": [("h.*", 1)],  # attention and MLP side by side: one addition to the stream
    "hf/gpt-neox": [("layers.*", 1)],
    "hf/opt": [("decoder.layers.*", 2)],
    "hf/bloom": [("h.*", 2)],
    "hf/llama": [("model.layers.*", 2)],
    "hf/gemma2": [("model.layers.*", 2)],
    "hf/phi": [("layers.*", 1)],
    "hf/mixtral": [("model.layers.*", 2)],
    "hf/qwen2-moe": [("model.layers.*", 2)],  # a shared expert is no addition to the stream
    "hf/deepseek-v3": [("model.layers.*", 2)],
    "hf/mamba": [("backbone.layers.*", 1)],
    "hf/mamba2": [("backbone.layers.*", 1)],  # nor is the D-skip of a state-space model
    "hf/rwkv": [("blocks.*", 2)],  # nor are token shifts
    "hf/t5": _pair("", "block"),
    "hf/mt5": _pair("", "block"),
    "hf/bart": _pair("", "layers"),
    "hf/marian": _pair("model.", "layers"),
    "hf/nllb": _pair("model.", "layers"),
    "hf/whisper": _pair("model.", "layers"),
    "hf/wav2vec2": [("encoder.layers.*", 2)],  # the convolutions before are the stem
    "hf/clip": [("text_model.encoder.layers.*", 2), ("vision_model.encoder.layers.*", 2)],
    "hf/siglip": [("text_model.encoder.layers.*", 2), ("vision_model.encoder.layers.*", 2)],
    # Images
    "hf/vit": [("layers.*", 2)],
    "hf/dinov2": [("encoder.layer.*", 2)],
    "hf/beit": [("layers.*", 2)],
    "hf/swin": [("encoder.layers.*.blocks.*", 2)],
    "hf/resnet": [("encoder.stages.*.layers.*", 1)],
    "hf/regnet": [("encoder.stages.*.layers.*", 1)],
    "hf/convnext": [("encoder.stages.*.layers.*", 1)],
    "hf/poolformer": [("encoder.block.*.*", 2)],
    "hf/segformer": [("stages.*.blocks.*", 2)],
    "hf/dpt": [
        ("dpt.encoder.layer.*", 2),
        ("neck.fusion_stage.layers.[123].residual_layer1", 1),  # the first has nothing to fuse
        ("neck.fusion_stage.layers.*.residual_layer2", 1),
    ],
    "hf/upernet": [("backbone.encoder.stages.*.layers.*", 1)],
    "hf/detr": [
        ("model.backbone.model.encoder.stages.*.layers.*", 1),
        *_pair("model.", "layers"),
    ],
    "timm/resnet18": [("layer*.*", 1)],
    "timm/resnetv2_50": [("stages.*.blocks.*", 1)],
    "timm/regnetx_002": [("s[1-4].b*", 1)],
    "timm/regnety_002": [("s[1-4].b*", 1)],
    "timm/convnext_atto": [("stages.*.blocks.*", 1)],
    "timm/convnextv2_atto": [("stages.*.blocks.*", 1)],
    "timm/efficientnet_b0": [("blocks.*.*", 1), ("blocks.*.0", 0)],
    "timm/mobilenetv3_small": [("blocks.[0-4].*", 1), ("blocks.[0-4].0", 0)],  # 5 is the head
    "timm/vit_tiny": [("blocks.*", 2)],
    "timm/cait_xxs24": [("blocks.*", 2), ("blocks_token_only.*", 2)],
    "timm/xcit_nano": [("blocks.*", 3), ("cls_attn_blocks.*", 2)],
    "timm/swin": [("layers.*.blocks.*", 2)],
    "timm/davit": [("stages.*.blocks.*.*", 4)],
    "timm/poolformer": [("stages.*.blocks.*", 2)],
    "timm/mixer": [("blocks.*", 2)],
    "timm/resmlp": [("blocks.*", 2)],
    "timm/gmlp": [("blocks.*", 1)],
    "timm/convmixer": [("blocks.*", 1)],
    "timm/densenet121": [("features.denseblock*.denselayer*", 0)],
    "timm/nfnet_l0": [("stages.*.*", 1)],
    "timm/hiera_tiny": [("blocks.*", 2)],
    "timm/mambaout_femto": [("stages.*.blocks.*", 1)],
    "timm/eva02_tiny": [("blocks.*", 2)],
    "timm/inception_v3": [("Mixed_*", 0)],
    "torchvision/resnet50": [("layer*.*", 1)],
    "torchvision/regnet_y": [("trunk_output.block*.block*-*", 1)],
    "torchvision/efficientnet_v2": [
        ("features.[1-6].*", 1),
        ("features.[2-6].0", 0),  # another width or resolution
    ],
    "torchvision/mobilenet_v2": [
        *((f"features.{n}", 1) for n in range(1, 18)),
        *((f"features.{n}", 0) for n in (1, 2, 4, 7, 11, 14, 17)),
    ],
    "torchvision/mnasnet": [
        *((f"layers.{n}.*", 1) for n in range(8, 14)),
        *((f"layers.{n}.0", 0) for n in range(8, 14)),
    ],
    "torchvision/shufflenet_v2": [("stage[234].*", 0)],
    "torchvision/squeezenet": [(f"features.{n}", 0) for n in (3, 4, 6, 7, 9, 10, 11, 12)],
    "torchvision/googlenet": [("inception*", 0)],
    # Flat: a block is an affine layer with the activation behind it, under the layer's name.
    "torchvision/vgg11": [
        *((f"features.{n}", 0) for n in (0, 3, 6, 8, 11, 13, 16, 18)),
        ("classifier.0", 0),
        ("classifier.3", 0),
    ],
    "torchvision/alexnet": [
        *((f"features.{n}", 0) for n in (0, 3, 6, 8, 10)),
        ("classifier.1", 0),
        ("classifier.4", 0),
    ],
    "torchvision/swin_t": [("features.[1357].*", 2)],
    "torchvision/convnext_tiny": [("features.[1357].*", 1)],
    "torchvision/vit": [("encoder.layers.*", 2)],
    "torchvision/raft": [
        ("feature_encoder.layer*.*", 1),
        ("context_encoder.layer*.*", 1),
        ("update_block", 0),  # the loop; the gates of its recurrent cell are no additions
    ],
    "torchvision/r3d_18": [("layer*.*", 1)],
    "diffusers/unet": [
        ("down_blocks.*.resnets.*", 1),
        ("down_blocks.*.attentions.*", 1),
        ("mid_block.resnets.*", 1),
        ("mid_block.attentions.*", 1),
        ("up_blocks.*.resnets.*", 1),
        ("up_blocks.*.attentions.*", 1),
    ],
    "diffusers/conditional_unet": [
        ("down_blocks.*.resnets.*", 1),
        ("down_blocks.*.attentions.*.transformer_blocks.*", 3),
        ("mid_block.resnets.*", 1),
        ("mid_block.attentions.*.transformer_blocks.*", 3),
        ("up_blocks.*.resnets.*", 1),
        ("up_blocks.*.attentions.*.transformer_blocks.*", 3),
    ],
    "diffusers/autoencoder": [
        ("encoder.down_blocks.*.resnets.*", 1),
        ("encoder.mid_block.resnets.*", 1),
        ("encoder.mid_block.attentions.*", 1),
        ("decoder.mid_block.resnets.*", 1),
        ("decoder.mid_block.attentions.*", 1),
        ("decoder.up_blocks.*.resnets.*", 1),
    ],
    "diffusers/dit": [("transformer_blocks.*", 2)],
    "diffusers/flux": [("transformer_blocks.*", 4), ("single_transformer_blocks.*", 1)],
    "diffusers/sd3": [("transformer_blocks.*", 4), ("transformer_blocks.2", 2)],  # one stream ends
}
