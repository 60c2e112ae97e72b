"""What transformers takes for the same sizes: `generate` per token, and DiffusionGemma per denoising step."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from common import clock, now
from scenarios import BLOCK, random_backbone
from torch import nn
from transformers import AutoModelForCausalLM


CONTEXT, STEPS, REPEAT = 150, 32, 5


def peers(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Measures both peers.

    Returns:
        Their `milliseconds`, and `lines` to print.
    """
    token = 1e3 * backbone_token_seconds(device, dtype)
    step = 1e3 * diffusion_gemma_step_seconds(device, dtype)
    return {
        "milliseconds": {"backbone_token": token, "diffusion_gemma_step": step},
        "lines": {
            "transformers, the bare backbone, dynamic cache": f"{token:.1f} ms a token.",
            f"transformers, DiffusionGemma of this size, {BLOCK} positions": f"{step:.1f} ms a denoising step.",
        },
    }


def backbone_token_seconds(device: torch.device, dtype: torch.dtype) -> float:
    """Seconds that a token takes in `generate` of the bare backbone, without the prefill."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(random_backbone(dtype)).to(device=device, dtype=dtype).eval()
    prompt = torch.randint(0, 3000, (1, CONTEXT), device=device)

    def seconds(tokens: int) -> float:
        start = now(device)
        # No token ends the reply; the mask says that nothing is padding.
        model.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=tokens, do_sample=False, eos_token_id=None
        )
        return clock(now(device) - start, device)

    seconds(2)
    return min(seconds(1 + STEPS) - seconds(1) for _ in range(REPEAT)) / STEPS


def diffusion_gemma_step_seconds(device: torch.device, dtype: torch.dtype) -> float:
    """Seconds from one denoising step to the next in DiffusionGemma's `generate`, with a random model of this size."""
    from transformers import DiffusionGemmaConfig, DiffusionGemmaForBlockDiffusion

    torch.manual_seed(0)
    ours = random_backbone(dtype)
    text = {
        "vocab_size": ours.vocab_size,
        "hidden_size": ours.hidden_size,
        "intermediate_size": ours.intermediate_size,
        "num_hidden_layers": ours.num_hidden_layers,
        "num_attention_heads": ours.num_attention_heads,
        "num_key_value_heads": ours.num_key_value_heads,
        "head_dim": ours.hidden_size // ours.num_attention_heads,
        "global_head_dim": ours.hidden_size // ours.num_attention_heads,
        "layer_types": ["full_attention"] * ours.num_hidden_layers,
        # Its experts beside the MLP cannot be left out; one of the smallest size costs next to nothing.
        "num_experts": 1,
        "top_k_experts": 1,
        "moe_intermediate_size": 8,
    }
    vision = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1,
        "num_key_value_heads": 1, "head_dim": 16,
    }  # fmt: skip
    config = DiffusionGemmaConfig(text_config=text, vision_config=vision, canvas_length=BLOCK)
    model = DiffusionGemmaForBlockDiffusion(config).to(device=device, dtype=dtype).eval()
    starts: list[Any] = []

    def note(module: nn.Module, *_: Any) -> None:
        starts.append(now(device))

    model.model.decoder.register_forward_pre_hook(note)
    prompt = torch.randint(0, 3000, (1, CONTEXT), device=device)
    for _ in range(REPEAT):
        model.generate(prompt, max_new_tokens=BLOCK, max_denoising_steps=STEPS, eos_token_id=None)
    # Runs are apart by a prefill, which the shortest interval leaves out.
    return min(clock(end - start, device) for start, end in pairwise(starts))
