"""LoRA adapters for TtT with PEFT, which also train the embedding rows of the audio tokens."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ..modeling import TtTConfig, TtTForConditionalGeneration


if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel

    from .arguments import ModelArguments


def audio_token_rows(config: TtTConfig) -> list[int]:
    """Sorted ids of all audio tokens: the markers that open a span, and everything from `<|audio|>` on."""
    last = max(config.mask_token_id, *(config.end_audio_token_ids or []))
    # `<|audio|>` itself, then as many codes: the last code has this id. Mask and end markers may lie above.
    last = max(last, config.audio_token_start_id + config.audio_vocab_size)
    return sorted({*(config.begin_audio_token_ids or []), *range(config.audio_token_start_id, last + 1)})


def lora_config(arguments: ModelArguments, config: TtTConfig) -> LoraConfig:
    """PEFT's configuration of the adapter.

    The audio tokens were new to the text model that a TtT was created from, so their rows of the embedding and of the
    output layer are trained, too. Only these rows are stored; the rest of both matrices is frozen. If embedding and
    output layer are tied, the rows are tied as well.

    Args:
        arguments: Rank, scale, dropout and target layers.
    """
    if arguments.lora_rank < 1:
        raise ValueError(f"lora_rank must be at least 1, or 0 for no adapter, not {arguments.lora_rank}.")
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise ImportError("Adapters need PEFT: pip install 'ttt-hf[train]'.") from error
    # Rows, not matrices: `modules_to_save` would store all of the embedding in the adapter.
    rows: dict[str, list[int]] | None = None
    if arguments.lora_audio_tokens:
        rows = {"embed_tokens": audio_token_rows(config)}
        # PEFT ties the rows of the output layer by itself where the matrices are tied.
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
    """Adds a new LoRA adapter to a model and freezes everything else.

    Args:
        model: The base model, changed in place.
        arguments: Rank, scale, dropout and target layers.

    Returns:
        The adapted model, with the same outputs as the base model until it is trained.
    """
    configuration = lora_config(arguments, model.config)
    from peft import get_peft_model

    adapted: Any = get_peft_model(model, configuration)
    # At every save PEFT would request the base's config from the Hub, to check for a resized vocabulary.
    adapted.save_pretrained = partial(adapted.save_pretrained, save_embedding_layers=False)
    return adapted


def check_adapters(model: Any) -> None:
    """Checks that the adapters of a model, if it has any, are of a kind that `generate` uses."""
    for name, config in (getattr(model, "peft_config", None) or {}).items():
        if getattr(config, "is_prompt_learning", False):
            raise ValueError(
                f"The adapter {name!r} ({config.peft_type.value}) learns a prompt, which generate() does not see: "
                "train a LoRA adapter, LoraConfig(task_type='CAUSAL_LM')."
            )
