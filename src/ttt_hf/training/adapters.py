"""LoRA adapters for TtT through PEFT: attention and MLP, and the rows of the audio tokens."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ..modeling import TtTConfig, TtTForConditionalGeneration


if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel

    from .arguments import ModelArguments


def audio_token_rows(config: TtTConfig) -> list[int]:
    """Ids of all tokens that have to do with speech: the markers that open a span, and everything from `<|audio|>` on.

    Args:
        config: Names them.

    Returns:
        The ids, ascending.
    """
    last = max(config.mask_token_id, *(config.end_audio_token_ids or []))
    last = max(last, config.audio_token_start_id + config.audio_vocab_size)
    return sorted({*(config.begin_audio_token_ids or []), *range(config.audio_token_start_id, last + 1)})


def lora_config(arguments: ModelArguments, config: TtTConfig) -> LoraConfig:
    """PEFT's configuration of the adapter.

    The audio tokens are new to the text model that a TtT grew from, so their rows of the embedding and of the head are
    trained as well, as rows: the rest of both matrices stays as it is and is not stored. When embedding and head are
    tied, the rows are, too.

    Args:
        arguments: Rank, scale, targets.
        config: Names the audio tokens.

    Returns:
        For `peft.get_peft_model`.

    Raises:
        ValueError: If the rank is negative.
        ImportError: If PEFT is not installed.
    """
    if arguments.lora_rank < 1:
        raise ValueError(f"lora_rank must be at least 1, or 0 for no adapter, not {arguments.lora_rank}.")
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise ImportError("Adapters need PEFT: pip install 'ttt-hf[train]'.") from error
    rows: dict[str, list[int]] | None = None
    if arguments.lora_audio_tokens:
        rows = {"embed_tokens": audio_token_rows(config)}
        if not config.tie_word_embeddings:
            rows["lm_head"] = rows["embed_tokens"]
    return LoraConfig(
        task_type="CAUSAL_LM",
        revision=arguments.revision,
        r=arguments.lora_rank,
        lora_alpha=arguments.lora_alpha,
        lora_dropout=arguments.lora_dropout,
        target_modules=arguments.lora_targets,
        use_rslora=arguments.use_rslora,
        use_dora=arguments.use_dora,
        trainable_token_indices=rows,
    )


def add_adapter(model: TtTForConditionalGeneration, arguments: ModelArguments) -> PeftModel:
    """Puts a fresh LoRA adapter on a model; everything else is frozen.

    Args:
        model: The base, changed in place.
        arguments: Rank, scale, targets.

    Returns:
        The adapted model, which computes what the base did until it is trained.

    Raises:
        ValueError: If no layer has one of the target names.
        ImportError: If PEFT is not installed.
    """
    configuration = lora_config(arguments, model.config)
    from peft import get_peft_model

    adapted: Any = get_peft_model(model, configuration)
    # PEFT would look for the base on the Hub at every saving, to learn whether the vocabulary has grown; it has not.
    adapted.save_pretrained = partial(adapted.save_pretrained, save_embedding_layers=False)
    return adapted
