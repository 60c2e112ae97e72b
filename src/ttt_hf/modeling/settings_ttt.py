"""Generation keys: those that TtT adds to transformers' own, and those of transformers that it does not support."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from transformers import GenerationConfig

from .configuration_ttt import TtTConfig
from .samplers_ttt import REMASKING_STRATEGIES


AUDIO_VOCABULARIES = ("modality", "official")
# Copies of the same tokens that make a repetition.
MIN_REPETITIONS = 4

# Keys of transformers that need another decoding loop or outputs that TtT's does not collect, and the values of each
# that leave it off.
UNSUPPORTED_GENERATION_KEYS: dict[str, tuple[Any, ...]] = {
    "num_beams": (None, 1),
    "num_beam_groups": (None, 1),
    "penalty_alpha": (None, 0),
    "constraints": (None,),
    "force_words_ids": (None,),
    "prompt_lookup_num_tokens": (None,),
    "assistant_early_exit": (None,),
    "use_mtp": (None, False),
    "dola_layers": (None,),
    "guidance_scale": (None, 1),
    "token_healing": (None, False),
    "output_scores": (None, False),
    "output_logits": (None, False),
    "output_attentions": (None, False),
    "output_hidden_states": (None, False),
}


@dataclass(frozen=True)
class AudioGenerationSettings:
    """Generation keys of TtT, to be set in `generation_config.json` or passed to `generate()`.

    Args:
        audio_block_length: Number of positions denoised together. Defaults to the model's `config.audio_block_length`.
        audio_steps_per_block: Denoising steps, each a forward pass, per block.
        audio_max_span_length: Longest span in tokens, including the end marker.
        audio_temperature: 0 proposes the most likely tokens, a positive number samples them.
        audio_cfg_scale: Scale of classifier-free guidance; 0 turns it off, otherwise each denoising step runs a second
            forward in which everything but the block is masked.
        audio_remasking: How positions are ranked at a denoising step: `"low_confidence"`, `"random"`, `"entropy"` or
            `"margin"`.
        audio_confidence_threshold: Positions whose proposal has a higher probability are committed immediately, which
            saves steps; `None` and `"official"` follow the schedule only.
        audio_entropy_bound: At each step, as many of the first positions in that ranking are committed as the sum of
            their entropies, without the largest, stays within it, in nats (EB-Sampler, arXiv 2505.24857). It saves
            steps; at least those of the schedule are committed. `None` and `"official"` follow the schedule only.
        min_text_tokens_after_audio: Number of text tokens after a span before the end-of-sequence token is allowed.
        audio_vocabulary: `"modality"` allows text tokens in text, codes and end markers in spans, and enforces every
            limit; `"official"` is the algorithm of the official code (`inference_TtT.py`): any token anywhere (but no
            end of sequence in a span), always all steps of the schedule, limits checked between spans only.
        text_repetition_limit: Number of tokens after which a text that repeats itself ends, with `finish_reason`
            `"repetition"`: so many tokens in a row that consist of at least four copies of the same few. `None` lets
            it go on, as transformers does.
        seed: Seed for sampling: one number, from which every row derives a random stream of its own, or a list with
            one number per row. Drawn from torch's global generator by default.

    Raises:
        ValueError: If a value is out of range.
    """

    audio_block_length: int
    audio_steps_per_block: int = 10
    audio_max_span_length: int = 640
    audio_temperature: float = 0.0
    audio_cfg_scale: float = 0.0
    audio_remasking: str = "low_confidence"
    audio_confidence_threshold: float | None = None
    audio_entropy_bound: float | None = None
    min_text_tokens_after_audio: int = 0
    audio_vocabulary: str = "modality"
    text_repetition_limit: int | None = None
    seed: int | Sequence[int] | None = None

    def __post_init__(self) -> None:
        for name in ("audio_block_length", "audio_steps_per_block", "audio_max_span_length"):
            _check_integer(name, getattr(self, name), lowest=1)
        _check_integer("min_text_tokens_after_audio", self.min_text_tokens_after_audio)
        if self.text_repetition_limit is not None:
            _check_integer("text_repetition_limit", self.text_repetition_limit, lowest=MIN_REPETITIONS)
        _check_number("audio_temperature", self.audio_temperature)
        _check_number("audio_cfg_scale", self.audio_cfg_scale)
        if self.audio_confidence_threshold is not None:
            _check_number("audio_confidence_threshold", self.audio_confidence_threshold, highest=1.0)
        if self.audio_entropy_bound is not None:
            _check_number("audio_entropy_bound", self.audio_entropy_bound)
        if self.seed is not None:
            for seed in self.seed if isinstance(self.seed, (list, tuple)) else [self.seed]:
                _check_integer("seed", seed)
        for name, choices in (("audio_remasking", REMASKING_STRATEGIES), ("audio_vocabulary", AUDIO_VOCABULARIES)):
            value = getattr(self, name)
            if value not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}.")
        # The official code tests the limit between full blocks, so they must add up to it.
        if self.is_official and self.audio_max_span_length % self.audio_block_length:
            raise ValueError(
                f"audio_vocabulary='official' needs an audio_max_span_length that is a multiple of audio_block_length "
                f"{self.audio_block_length}, got {self.audio_max_span_length}."
            )

    @property
    def is_official(self) -> bool:
        """Whether the algorithm of the official code is reproduced exactly."""
        return self.audio_vocabulary == "official"

    @property
    def draws_audio(self) -> bool:
        """Whether spans need random numbers."""
        return self.audio_temperature > 0 or self.audio_remasking == "random"

    @classmethod
    def from_generation_config(
        cls, generation_config: GenerationConfig, config: TtTConfig
    ) -> "AudioGenerationSettings":
        """Reads the settings from a generation config; absent keys and `None` mean the default.

        Raises:
            ValueError: If a value is out of range or does not fit the model.
        """
        values: dict[str, Any] = {"audio_block_length": config.audio_block_length}
        for name in AUDIO_GENERATION_KEYS:
            value = getattr(generation_config, name, None)
            if value is not None:
                values[name] = value
        settings = cls(**values)
        # With block-causal attention, blocks of another length would be masked differently than in training.
        if config.audio_attention == "block_causal" and settings.audio_block_length != config.audio_block_length:
            raise ValueError(
                f"audio_block_length must stay {config.audio_block_length}, the block length of this model's "
                f"block-causal attention, got {settings.audio_block_length}."
            )
        return settings


AUDIO_GENERATION_KEYS = tuple(setting.name for setting in fields(AudioGenerationSettings))


def check_cache_implementation(value: str | None) -> None:
    """Checks transformers' key `cache_implementation`.

    Raises:
        ValueError: If it is neither `None` nor `"static"`.
    """
    if value not in (None, "static"):
        raise ValueError(
            f"cache_implementation={value!r} is not supported: TtT decodes with its own cache; leave it unset, or set "
            "'static' for fixed shapes, which are compiled on a GPU."
        )


def _check_integer(name: str, value: Any, lowest: int = 0) -> None:
    # `bool` is a subclass of `int`, but True is no number of steps.
    if not isinstance(value, int) or isinstance(value, bool) or value < lowest:
        raise ValueError(f"{name} must be an integer of at least {lowest}, got {value!r}.")


def _check_number(name: str, value: Any, highest: float = math.inf) -> None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not 0 <= value <= highest:
        limits = "of at least 0" if highest == math.inf else f"between 0 and {highest:g}"
        raise ValueError(f"{name} must be a number {limits}, got {value!r}.")


__all__ = ["AUDIO_GENERATION_KEYS", "AudioGenerationSettings", "check_cache_implementation"]
