"""What the benchmark of generation runs: models, prompts and settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from plain import Settings
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import Qwen2Config

from ttt_hf import TtTConfig, TtTForConditionalGeneration, TtTProcessor
from ttt_hf.loading import load_model_and_processor
from ttt_hf.names import EMBEDDED_NAME


QUESTION = Path(__file__).resolve().parents[1] / "examples" / "question.wav"
# Ids of the random models, in order: text (the three below end the reply and begin audio), start of audio, codes,
# mask, end markers.
END_OF_REPLY, BEGIN_AUDIO, AUDIO_START, NUM_CODES = 3000, [3001, 3002], 3500, 16384
MASK, END_AUDIO = AUDIO_START + 1 + NUM_CODES, [AUDIO_START + 2 + NUM_CODES, AUDIO_START + 3 + NUM_CODES]
WORDS, BLOCK = 13, 26  # of a turn: text tokens, and positions of its span with the end marker

# How far the layout of a reply is pushed, in units of the final hidden state, and how far text and audio rows of the
# embeddings are apart. Logits of the wrong modality end up some 40 below, those of a marker some 40 above.
MARKER_PUSH, MODALITY_PUSH, MODALITY_DISTANCE = 200.0, 60.0, 0.3


@dataclass(frozen=True)
class Scenario:
    """A model, its prompts and its settings.

    Attributes:
        decoding_only: Whether the prefill is left out of the times.
        length: Number of new tokens that the layout of the reply fixes, if it does.
        processor: Decodes speech, where the model has a codec.
    """

    name: str
    model: TtTForConditionalGeneration
    prompts: list[list[int]]
    settings: Settings
    decoding_only: bool = False
    length: int | None = None
    processor: TtTProcessor | None = None


def embedded_scenario(device: str, dtype: torch.dtype) -> Scenario:
    """The embedded checkpoint answers the example question, and transcribes it."""
    model, processor = load_model_and_processor(EMBEDDED_NAME, device=device, dtype=dtype)
    conversation = [{"role": "user", "content": [{"type": "audio", "path": str(QUESTION)}]}]
    prompts = [
        processor.apply_chat_template(
            conversation, task=task, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )["input_ids"][0].tolist()
        for task in ("chat", "asr")
    ]
    shipped = model.generation_config
    block = shipped.audio_block_length
    # The plain implementation writes full blocks only, so the limit of a span has to be a multiple of a block.
    settings = Settings(
        block_length=block,
        steps_per_block=shipped.audio_steps_per_block,
        max_span_length=shipped.audio_max_span_length // block * block,
        max_new_tokens=512,
        min_text_tokens_after_audio=shipped.min_text_tokens_after_audio or 0,
    )
    return Scenario("embedded", model, prompts, settings, processor=processor)


def random_scenario(
    name: str, device: str, dtype: torch.dtype, *, context: int, turns: int, steps: int, decoding_only: bool
) -> Scenario:
    """A random model of 41 million parameters; a reply has `turns` turns of 13 words and a span of 26 positions.

    Which word and which code is chosen is up to the random weights, with the small margins that they have: only where
    a span begins and ends, and where the reply ends, is laid out.

    Args:
        context: Tokens of the prompt, three fifths of them text.
        steps: Denoising steps per span.
    """
    model = random_model(device, dtype)
    generator = torch.Generator().manual_seed(1)
    words = context * 3 // 5
    prompt = torch.randint(0, END_OF_REPLY, (words,), generator=generator).tolist()
    prompt += torch.randint(AUDIO_START + 1, MASK, (context - words,), generator=generator).tolist()
    turn: list[int | None] = [None] * WORDS + [BEGIN_AUDIO[0]] + [None] * (BLOCK - 1) + [END_AUDIO[0]]
    layout = [*turn * turns, END_OF_REPLY]
    lay_out(model, len(prompt), layout)
    settings = Settings(block_length=BLOCK, steps_per_block=steps, max_span_length=100 * BLOCK, max_new_tokens=1000)
    return Scenario(name, model, [prompt], settings, decoding_only, len(layout))


def random_model(device: str, dtype: torch.dtype) -> TtTForConditionalGeneration:
    """A random model whose text and audio ids can be told apart by one direction of the hidden state."""
    torch.manual_seed(0)
    config = TtTConfig(
        text_config=random_backbone(dtype),
        audio_token_start_id=AUDIO_START,
        audio_vocab_size=NUM_CODES,
        mask_token_id=MASK,
        begin_audio_token_ids=BEGIN_AUDIO,
        end_audio_token_ids=END_AUDIO,
    )
    model = TtTForConditionalGeneration(config).eval()
    model.generation_config.eos_token_id = END_OF_REPLY
    with torch.no_grad():
        weight = model.get_input_embeddings().weight
        direction = MODALITY_DISTANCE * unit_direction(weight.shape[1])
        weight[:AUDIO_START] += direction
        weight[AUDIO_START:] -= direction
    return model.to(device=device, dtype=dtype)


def random_backbone(dtype: torch.dtype) -> Qwen2Config:
    """Configuration of the backbone, also used by the peers."""
    return Qwen2Config(
        vocab_size=20000,
        hidden_size=512,
        intermediate_size=2048,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        dtype=dtype,
    )


def unit_direction(size: int) -> torch.Tensor:
    """The direction that tells text from audio: a random one of length 1, always the same."""
    direction = torch.randn(size, generator=torch.Generator().manual_seed(2))
    return direction / direction.norm()


def lay_out(
    model: TtTForConditionalGeneration, start: int, layout: list[int | None], modality_push: float = MODALITY_PUSH
) -> RemovableHandle:
    """Fixes where the spans of a random model's reply begin and end; its words and codes stay its own.

    Random weights never end a span. A hook on the backbone, which both implementations call, pushes the last hidden
    state: to a marker where the layout has one, and elsewhere to text or to audio, whichever is due.

    Args:
        start: Length of the prompt.
        layout: For every new token the id of a marker, or `None`.
        modality_push: How far other positions are pushed to text or to audio; 0 where their logits are apart anyway.

    Returns:
        Removes the hook, e.g. to lay out the reply again in another data type.
    """
    weight = model.get_input_embeddings().weight
    device, dtype = weight.device, weight.dtype
    push = torch.zeros(start + len(layout) + 1, weight.shape[1], device=device, dtype=dtype)
    direction = unit_direction(weight.shape[1]).to(device=device, dtype=dtype)
    is_audio = False
    for position, marker in enumerate(layout, start):
        if marker is None:
            push[position] = (-modality_push if is_audio else modality_push) * direction
        else:
            push[position] = MARKER_PUSH * weight[marker].detach()
            is_audio = marker in model.config.begin_audio_token_ids
    mask_embedding = weight[model.config.mask_token_id].detach().clone()

    def hook(module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        # The backbone gets no ids, so masked positions are recognized by their embedding.
        is_mask = (kwargs["inputs_embeds"] == mask_embedding).all(dim=-1)
        # A masked position writes its own token, any other position the next one.
        index = (kwargs["position_ids"] + (~is_mask).long()).clamp(max=len(push) - 1)
        output.last_hidden_state = output.last_hidden_state + push[index]
        return output

    return model.model.register_forward_hook(hook, with_kwargs=True)
