"""Small checkpoints in exactly the official layout: flat config.json, safetensors in parts, Qwen's own files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM


# As in Qwen2.5's vocabulary, text tokens lie between those that open audio and <|audio|>.
TEXT_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>")
MARKERS = ("<|begin_of_audio|>", "<|begin_of_quad|>", "<|end_of_audio|>", "<|fim_pad|>", "<|repo_name|>")
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
    "tie_word_embeddings": True,
}
# Qwen2.5-3B with the vocabulary of the released TtT-3B.
RELEASED = {
    "model_type": "qwen2",
    "architectures": ["Qwen2ForARDiffLM"],
    "vocab_size": 168072,
    "hidden_size": 2048,
    "intermediate_size": 11008,
    "num_hidden_layers": 36,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
    "rope_theta": 1000000.0,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "mask_token": 168069,
    "audio_token_id_start": 151684,
    "unmasked_audio_prob": 0.1,
    "prefix_preservation_ratio": 0.3,
}


def byte_tokenizer() -> Tokenizer:
    """A token for each byte, and nothing else."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return backend


def text_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer of a text model that knows nothing of ChatML and does not pad."""
    return PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer())


def official_tokenizer(codes: int = 75, without: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with the added tokens in the official order, and Qwen's template without audio."""
    backend = byte_tokenizer()
    audio = ("<|audio|>", *(f"<|audio_{code}|>" for code in range(codes)))
    names = (*TEXT_TOKENS, *MARKERS, *audio, "<|mask_token|>", "<|end_of_audio_new|>", "<|end_of_audio_span_last|>")
    backend.add_special_tokens(
        [AddedToken(name, special=True, normalized=False) for name in names if name not in without]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        chat_template="{% for message in messages %}{{ message.content }}{% endfor %}",
    )


def write_official(folder: Path, codes: int = 75, dtype: torch.dtype = torch.bfloat16) -> Path:
    """Writes a random checkpoint that is eager to speak: to a line break, the last token of a prompt, it answers with
    a span of audio.
    """
    tokenizer = official_tokenizer(codes)
    tokenizer.save_pretrained(folder)
    vocab_size = -(-len(tokenizer) // 8) * 8
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Qwen2ForCausalLM(Qwen2Config(vocab_size=vocab_size, initializer_range=0.1, **SIZES))
    line_break, begin = tokenizer.convert_tokens_to_ids(["Ċ", "<|begin_of_audio|>"])
    with torch.no_grad():
        embeddings = model.get_input_embeddings().weight
        embeddings[line_break] *= 20
        embeddings[begin] = 2 * embeddings[line_break]
    model.to(dtype).save_pretrained(folder, max_shard_size="20KB")
    write_official_config(folder, tokenizer)
    # That of the text model: it samples otherwise and ends elsewhere.
    generation = {"bos_token_id": 256, "eos_token_id": 256, "do_sample": False, "max_new_tokens": 2048}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


def write_official_config(folder: Path, tokenizer: PreTrainedTokenizerFast, **changes: Any) -> None:
    """Writes config.json over that of the text model, as the official code has it."""
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "architectures": ["Qwen2ForARDiffLM"],
        "mask_token": tokenizer.convert_tokens_to_ids("<|mask_token|>"),
        "audio_token_id_start": tokenizer.convert_tokens_to_ids("<|audio|>"),
        "unmasked_audio_prob": 0.1,
        "prefix_preservation_ratio": 0.3,
        **changes,
    }
    config["torch_dtype"] = config.pop("dtype", "bfloat16")
    (folder / "config.json").write_text(json.dumps(config))
