"""A checkpoint that always gives the same reply, and audio to ask it with."""

import itertools
import wave
from pathlib import Path

import numpy as np
import torch
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen2Config

from ttt_hf.codecs import TtTTinyCodec, TtTTinyCodecConfig
from ttt_hf.modeling import TtTConfig, TtTForConditionalGeneration
from ttt_hf.processing import audio_token_ids


MAX_POSITIONS = 512
SPAN_LENGTH = 27


def make_codec(levels: tuple[int, ...] = (5, 5, 3)) -> TtTTinyCodec:
    sizes = ("encoder_frame", "encoder_code", "decoder_frame", "decoder_code", "vocoder")
    config = TtTTinyCodecConfig(
        fsq_levels=levels,
        **{f"{part}_size": 16 for part in sizes},
        **{f"{part}_layers": 1 for part in sizes},
    )
    return TtTTinyCodec(config).eval()


def make_model(tokenizer: PreTrainedTokenizerFast) -> TtTForConditionalGeneration:
    """A model whose next token depends on the last one alone: attention and MLP add nothing to the embeddings, those
    are unit vectors, and the output layer leads from each to its successor. It says "Hi", 26 equal codes, ".".
    """
    ids = audio_token_ids(tokenizer)
    names = ["Ċ", "H", "i", "<|begin_of_quad|>", "<|mask_token|>", "<|audio_7|>"]
    names += ["<|end_of_audio_span_last|>", ".", "<|im_end|>"]
    chain = tokenizer.convert_tokens_to_ids(names)
    text_config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=False,
    )
    model = TtTForConditionalGeneration(
        TtTConfig(text_config=text_config, audio_block_length=9, **ids.config_fields())
    )
    with torch.no_grad():
        layer = model.model.layers[0]
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.zero_()
        model.lm_head.weight.zero_()
        for channel, (token, successor) in enumerate(itertools.pairwise(chain)):
            model.model.embed_tokens.weight[token, channel] = 1.0
            model.lm_head.weight[successor, channel] = 5.0
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        max_new_tokens=200,
        audio_block_length=9,
        audio_steps_per_block=3,
        audio_max_span_length=SPAN_LENGTH,
    )
    return model.eval()


def tone(seconds: float, rate: int) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(0).normal(size=len(time))
    return (0.3 * np.sin(2 * np.pi * 220 * time) + 0.01 * noise).astype(np.float32)


def write_wav(path: Path, samples: np.ndarray, rate: int) -> None:
    """Writes 16 bit PCM; samples of shape (samples,) or (samples, channels)."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1 if samples.ndim == 1 else samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
