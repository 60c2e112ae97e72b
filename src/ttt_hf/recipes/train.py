"""
Fine-tuning and training: from a recipe to a checkpoint or an adapter.

    python -m ttt_hf.recipes.train lora_asr "train_data={path: recordings, task: asr}" output_dir=adapter
"""

from __future__ import annotations

import dataclasses
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import EarlyStoppingCallback
from transformers.trainer_utils import get_last_checkpoint, set_seed

from .. import embedded_checkpoint
from ..data import TtTDataCollator
from ..modeling import TtTForConditionalGeneration
from ..processing import TtTProcessor
from .adapters import add_adapter
from .arguments import ModelArguments, Recipe, load_recipe
from .preparation import prepare_samples
from .trainer import TtTTrainer


logger = logging.getLogger(__name__)

WORK_FOLDER = "prepared"


def train(recipe: Recipe) -> dict[str, float]:
    """
    Trains what a recipe says, into its `output_dir`; goes on from the last checkpoint there, if there is one.

    An adapter is saved as PEFT does, so that `PeftModel.from_pretrained(base, output_dir)` loads it; a whole model is
    saved together with its processor and codec.

    Args:
        recipe (`Recipe`): As `load_recipe` gives it.

    Returns:
        `dict[str, float]`: The Trainer's measures (`train_loss`, `train_runtime`, and of the last evaluation
        `eval_loss`, if there are data for one).

    Raises:
        OSError, ValueError: If model or data cannot be used.
        FloatingPointError: If the loss is not a number.
        RuntimeError: If the device has too little memory; names the keys to change.
        KeyboardInterrupt: When interrupted; the next call goes on from there.
    """
    arguments = recipe.training
    if not recipe.data.train_data:
        raise ValueError("The recipe has no train_data: name a folder, a file or a Hub id, train_data=DIR.")
    if arguments.early_stopping_patience and not (arguments.load_best_model_at_end and recipe.data.eval_data):
        raise ValueError(
            "early_stopping_patience needs eval_data, and load_best_model_at_end=true with eval_strategy=steps."
        )
    set_seed(arguments.seed)
    out = Path(arguments.output_dir)
    model, processor = load_base(recipe.model)
    config = model.config
    copies = recipe.objective.noise_copies if recipe.objective.objective == "two_stream" else 0
    prepared = [
        prepare_samples(text, recipe.data, processor, config, copies, out / WORK_FOLDER) if text else None
        for text in (recipe.data.train_data, recipe.data.eval_data)
    ]
    if recipe.model.lora_rank:
        model = add_adapter(model, recipe.model)
    collator = TtTDataCollator(
        config, processor.tokenizer.pad_token_id, seed=arguments.seed, **dataclasses.asdict(recipe.objective)
    )
    callbacks = []
    if arguments.early_stopping_patience:
        callbacks.append(EarlyStoppingCallback(arguments.early_stopping_patience))
    trainer = TtTTrainer(
        model=model,
        args=arguments,
        train_dataset=prepared[0],
        eval_dataset=prepared[1],
        data_collator=collator,
        callbacks=callbacks,
    )
    logger.info("training %d of %d weights", _count(model, trained=True), _count(model))
    try:
        result = trainer.train(resume_from_checkpoint=_last_checkpoint(out, arguments.resume_from_checkpoint))
    except torch.OutOfMemoryError as error:
        raise RuntimeError(
            "The device has too little memory for a step: halve per_device_train_batch_size and double "
            "gradient_accumulation_steps, or set gradient_checkpointing=true."
        ) from error
    measures = dict(result.metrics)
    if prepared[1] is not None:
        measures |= trainer.evaluate()
    if trainer.is_world_process_zero():
        _save(trainer.model, processor, out, is_adapter=bool(recipe.model.lora_rank))
        trainer.save_metrics("all", measures)
        trainer.save_state()
    return measures


def load_base(arguments: ModelArguments) -> tuple[TtTForConditionalGeneration, TtTProcessor]:
    """
    Loads what is to be trained.

    Args:
        arguments (`ModelArguments`): Which model, and how.

    Returns:
        `tuple`: The model and its processor.

    Raises:
        OSError, ValueError: If it cannot be loaded, or 4 bits are asked for where there is no CUDA.
    """
    name = embedded_checkpoint() if arguments.model == "embedded" else arguments.model
    settings: dict[str, Any] = {}
    if arguments.load_in_4bit:
        if not torch.cuda.is_available():
            raise ValueError("load_in_4bit needs a CUDA device and bitsandbytes: train with lora_rank alone here.")
        from transformers import BitsAndBytesConfig

        settings["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=getattr(torch, arguments.dtype)
        )
    processor = TtTProcessor.from_pretrained(name, codec=arguments.codec)
    model = TtTForConditionalGeneration.from_pretrained(
        name,
        dtype=arguments.dtype,
        attn_implementation=arguments.attn_implementation,
        # The official format does not say which ids open a span; the tokenizer does.
        begin_audio_token_ids=processor.token_ids.begin_audio_token_ids,
        **settings,
    )
    return model, processor


def _save(model: Any, processor: TtTProcessor, out: Path, is_adapter: bool) -> None:
    """Saves an adapter alone, in half the size; a model with everything that is needed to talk to it."""
    if is_adapter:
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(torch.bfloat16)
        model.save_pretrained(out)
    else:
        model.save_pretrained(out)
        processor.save_pretrained(out)


def _last_checkpoint(out: Path, asked: str | None) -> str | None:
    if asked:
        return asked
    return get_last_checkpoint(str(out)) if out.is_dir() else None


def _count(model: torch.nn.Module, trained: bool = False) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad or not trained)


def main(words: Sequence[str] | None = None) -> dict[str, float]:
    """
    Command line: a recipe and `key=value` overrides.

    Args:
        words (`Sequence[str]`, *optional*): Arguments; those of the process by default.

    Returns:
        `dict[str, float]`: As of `train`.
    """
    words = list(sys.argv[1:] if words is None else words)
    if not words:
        raise SystemExit("usage: python -m ttt_hf.recipes.train RECIPE.yaml [key=value ...]")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    return train(load_recipe(words[0], words[1:]))


if __name__ == "__main__":
    main()
