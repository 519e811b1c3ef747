"""Architectures of Transformers, each by a small configuration, with inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as hf
from torch import Tensor, nn

Made = tuple[nn.Module, Any]

TEXT: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
DEEP: dict[str, Any] = {**TEXT, "num_hidden_layers": 3}
KV: dict[str, Any] = {**DEEP, "num_key_value_heads": 1}
PAIR: dict[str, Any] = {
    "vocab_size": 50,
    "d_model": 16,
    "encoder_layers": 3,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
IMAGE: dict[str, Any] = {**DEEP, "image_size": 16, "patch_size": 4}
IMAGE.pop("vocab_size")


def ids(length: int = 9) -> Tensor:
    return torch.randint(3, 50, (2, length))


def pixels(size: int = 16) -> Tensor:
    return torch.randn(2, 3, size, size)


def text(model: nn.Module) -> Made:
    return model, {"input_ids": ids()}


def image(model: nn.Module, size: int = 16) -> Made:
    return model, {"pixel_values": pixels(size)}


def pair(model: nn.Module) -> Made:
    return model, {"input_ids": ids(), "decoder_input_ids": ids(5)}


def _detr() -> Made:
    backbone = hf.ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16],
        depths=[2, 2],
        layer_type="basic",
        out_features=["stage2"],
    )
    config = hf.DetrConfig(
        use_timm_backbone=False,
        backbone=None,
        use_pretrained_backbone=False,
        backbone_config=backbone,
        d_model=16,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        num_queries=5,
    )
    return image(hf.DetrForObjectDetection(config), 64)


def _upernet() -> Made:
    backbone = hf.ConvNextConfig(
        hidden_sizes=[8, 12, 16, 20],
        depths=[1, 1, 2, 1],
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = hf.UperNetConfig(
        backbone_config=backbone,
        hidden_size=16,
        auxiliary_in_channels=16,
        pool_scales=[1, 2],
        num_labels=3,
    )
    return image(hf.UperNetForSemanticSegmentation(config), 64)


def _dpt() -> Made:
    config = hf.DPTConfig(
        **{**IMAGE, "num_hidden_layers": 4},
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
        reassemble_factors=[4, 2, 1, 0.5],
        is_hybrid=False,
    )
    return image(hf.DPTForDepthEstimation(config), 16)


def _clip() -> Made:
    config = hf.CLIPConfig(
        text_config={**DEEP, "max_position_embeddings": 16, "eos_token_id": 2},
        vision_config=IMAGE,
        projection_dim=16,
    )
    return hf.CLIPModel(config), {"input_ids": ids(), "pixel_values": pixels()}


def _siglip() -> Made:
    config = hf.SiglipConfig(
        text_config={**DEEP, "max_position_embeddings": 16}, vision_config=IMAGE
    )
    return hf.SiglipModel(config), {"input_ids": ids(), "pixel_values": pixels()}


def _whisper() -> Made:
    config = hf.WhisperConfig(
        **PAIR, num_mel_bins=8, max_source_positions=16, max_target_positions=16
    )
    inputs = {"input_features": torch.randn(2, 8, 32), "decoder_input_ids": ids(5)}
    return hf.WhisperForConditionalGeneration(config), inputs


def _wav2vec2() -> Made:
    config = hf.Wav2Vec2Config(
        **DEEP,
        conv_dim=[8, 8],
        conv_stride=[2, 2],
        conv_kernel=[3, 3],
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
    )
    return hf.Wav2Vec2Model(config), {"input_values": torch.randn(2, 200)}


def _t5(kind: str) -> Made:
    config = getattr(hf, f"{kind}Config")(
        vocab_size=50,
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=3,
        num_decoder_layers=2,
        num_heads=2,
        pad_token_id=0,
        decoder_start_token_id=0,
    )
    return pair(getattr(hf, f"{kind}ForConditionalGeneration")(config))


#: Name -> makes a model and its inputs.
MODELS: dict[str, Callable[[], Made]] = {
    "hf/bert": lambda: text(hf.BertModel(hf.BertConfig(**DEEP))),
    "hf/albert": lambda: text(hf.AlbertModel(hf.AlbertConfig(**DEEP, embedding_size=8))),
    "hf/distilbert": lambda: text(
        hf.DistilBertModel(
            hf.DistilBertConfig(vocab_size=50, dim=16, n_layers=3, n_heads=2, hidden_dim=32)
        )
    ),
    "hf/deberta-v2": lambda: text(hf.DebertaV2Model(hf.DebertaV2Config(**DEEP))),
    "hf/xlnet": lambda: text(
        hf.XLNetModel(hf.XLNetConfig(vocab_size=50, d_model=16, n_layer=3, n_head=2, d_inner=32))
    ),
    "hf/gpt2": lambda: text(
        hf.GPT2LMHeadModel(
            hf.GPT2Config(vocab_size=50, n_positions=16, n_embd=16, n_layer=3, n_head=2)
        )
    ),
    "hf/gpt-j": lambda: text(
        hf.GPTJModel(
            hf.GPTJConfig(
                vocab_size=50, n_positions=16, n_embd=16, n_layer=3, n_head=2, rotary_dim=4
            )
        )
    ),
    "hf/gpt-neox": lambda: text(hf.GPTNeoXModel(hf.GPTNeoXConfig(**DEEP))),
    "hf/opt": lambda: text(
        hf.OPTModel(
            hf.OPTConfig(**DEEP, ffn_dim=32, word_embed_proj_dim=16, max_position_embeddings=32)
        )
    ),
    "hf/bloom": lambda: text(
        hf.BloomModel(hf.BloomConfig(vocab_size=50, hidden_size=16, n_layer=3, n_head=2))
    ),
    "hf/llama": lambda: text(hf.LlamaForCausalLM(hf.LlamaConfig(**KV))),
    "hf/gemma2": lambda: text(hf.Gemma2ForCausalLM(hf.Gemma2Config(**KV, head_dim=8))),
    "hf/phi": lambda: text(hf.PhiModel(hf.PhiConfig(**DEEP))),
    "hf/mixtral": lambda: text(hf.MixtralForCausalLM(hf.MixtralConfig(**KV, num_local_experts=4))),
    "hf/qwen2-moe": lambda: text(
        hf.Qwen2MoeForCausalLM(
            hf.Qwen2MoeConfig(
                **KV, num_experts=4, moe_intermediate_size=16, shared_expert_intermediate_size=16
            )
        )
    ),
    "hf/deepseek-v3": lambda: text(
        hf.DeepseekV3ForCausalLM(
            hf.DeepseekV3Config(
                **{**DEEP, "num_key_value_heads": 2},
                n_routed_experts=4,
                moe_intermediate_size=16,
                n_group=1,
                topk_group=1,
                num_experts_per_tok=2,
                first_k_dense_replace=1,
                q_lora_rank=8,
                kv_lora_rank=8,
                qk_rope_head_dim=4,
                qk_nope_head_dim=4,
                v_head_dim=8,
            )
        )
    ),
    "hf/mamba": lambda: text(
        hf.MambaForCausalLM(
            hf.MambaConfig(vocab_size=50, hidden_size=16, state_size=4, num_hidden_layers=3)
        )
    ),
    "hf/mamba2": lambda: text(
        hf.Mamba2ForCausalLM(
            hf.Mamba2Config(
                vocab_size=50,
                hidden_size=16,
                state_size=4,
                num_hidden_layers=3,
                head_dim=8,
                num_heads=4,
                n_groups=1,
                chunk_size=4,
            )
        )
    ),
    "hf/rwkv": lambda: text(
        hf.RwkvModel(
            hf.RwkvConfig(
                vocab_size=50,
                hidden_size=16,
                attention_hidden_size=16,
                num_hidden_layers=3,
                intermediate_size=32,
                context_length=16,
            )
        )
    ),
    "hf/t5": lambda: _t5("T5"),
    "hf/mt5": lambda: _t5("MT5"),
    "hf/bart": lambda: pair(hf.BartModel(hf.BartConfig(**PAIR))),
    "hf/marian": lambda: pair(hf.MarianMTModel(hf.MarianConfig(**{**PAIR, "vocab_size": 5000}))),
    "hf/nllb": lambda: pair(
        hf.M2M100ForConditionalGeneration(hf.M2M100Config(**{**PAIR, "vocab_size": 5000}))
    ),
    "hf/whisper": _whisper,
    "hf/wav2vec2": _wav2vec2,
    "hf/clip": _clip,
    "hf/siglip": _siglip,
    "hf/vit": lambda: image(hf.ViTModel(hf.ViTConfig(**IMAGE))),
    "hf/dinov2": lambda: image(hf.Dinov2Model(hf.Dinov2Config(**IMAGE))),
    "hf/beit": lambda: image(hf.BeitModel(hf.BeitConfig(**{**IMAGE, "vocab_size": 50}))),
    "hf/swin": lambda: image(
        hf.SwinModel(
            hf.SwinConfig(
                image_size=32,
                patch_size=2,
                embed_dim=8,
                depths=[2, 2],
                num_heads=[2, 2],
                window_size=4,
            )
        ),
        32,
    ),
    "hf/resnet": lambda: image(
        hf.ResNetModel(hf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[2, 2])), 32
    ),
    "hf/regnet": lambda: image(
        hf.RegNetModel(
            hf.RegNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 3], groups_width=4)
        ),
        32,
    ),
    "hf/convnext": lambda: image(
        hf.ConvNextModel(hf.ConvNextConfig(hidden_sizes=[8, 12], depths=[1, 3], num_stages=2)), 32
    ),
    "hf/poolformer": lambda: image(
        hf.PoolFormerModel(
            hf.PoolFormerConfig(
                hidden_sizes=[8, 12],
                depths=[2, 2],
                num_encoder_blocks=2,
                patch_sizes=[7, 3],
                strides=[4, 2],
                padding=[2, 1],
            )
        ),
        32,
    ),
    "hf/segformer": lambda: image(
        hf.SegformerModel(
            hf.SegformerConfig(
                hidden_sizes=[8, 16],
                depths=[2, 1],
                num_encoder_blocks=2,
                sr_ratios=[2, 1],
                num_attention_heads=[1, 2],
                patch_sizes=[7, 3],
                strides=[4, 2],
                mlp_ratios=[2, 2],
            )
        ),
        32,
    ),
    "hf/dpt": _dpt,
    "hf/upernet": _upernet,
    "hf/detr": _detr,
}
