"""Fine-tuning and training: from a recipe to a checkpoint or an adapter.

python -m ttt_hf.training.finetuning lora_asr "train_data={path: recordings, task: asr}" output_dir=adapter
"""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import EarlyStoppingCallback
from transformers.trainer_utils import set_seed

from .. import embedded_checkpoint
from ..atomic_files import check_folder
from ..data import TtTDataCollator
from ..loading import find_named_codec, quantization_config
from ..modeling import TtTForConditionalGeneration
from ..processing import TtTProcessor
from .adapters import add_adapter
from .arguments import EMBEDDED, ModelArguments, Recipe, RecipeTrainingArguments, load_recipe
from .card import write_card
from .preparation import prepare_samples
from .saving import check_checkpoint, last_checkpoint, saving, whole_files
from .speaking import SpeakingCallback
from .trainer import TtTTrainer


logger = logging.getLogger(__name__)

WORK_FOLDER = "prepared"


def train(recipe: Recipe) -> dict[str, float]:
    """Trains what a recipe says, into its `output_dir`; goes on from the last checkpoint there, if there is one.

    An adapter is saved as PEFT does, so that `PeftModel.from_pretrained(base, output_dir)` loads it; a whole model is
    saved together with its processor and codec.

    Args:
        recipe: As `load_recipe` gives it.

    Returns:
        The Trainer's measures (`train_loss`, `train_runtime`, and of the last evaluation `eval_loss`, if there are
        data for one).

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
    is_divided = _is_divided(arguments)
    if arguments.speak_steps and is_divided:
        raise ValueError("speak_steps needs a whole model in one process: leave it out with FSDP and DeepSpeed.")
    if arguments.eval_strategy != "no" and not recipe.data.eval_data:
        raise ValueError("eval_strategy needs eval_data: name a folder, a file or a Hub id, eval_data=DIR.")
    out = Path(arguments.output_dir)
    check_folder(out)
    set_seed(arguments.seed)
    model, processor = load_base(recipe.model)
    config = model.config
    sources: list[dict[str, Any]] = []
    with arguments.main_process_first():  # which encodes; the others find it done
        prepared: list[Any] = [
            prepare_samples(
                text, recipe.data, recipe.objective, processor, config, out / WORK_FOLDER, facts, is_training
            )
            if text
            else None
            for text, facts, is_training in (
                (recipe.data.train_data, sources, True),
                (recipe.data.eval_data, None, False),
            )
        ]
    if recipe.model.lora_rank:
        model = add_adapter(model, recipe.model)
    checkpoint = Path(arguments.resume_from_checkpoint) if arguments.resume_from_checkpoint else last_checkpoint(out)
    if checkpoint is not None and not is_divided:
        check_checkpoint(checkpoint, model)
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
    if arguments.speak_steps:
        samples = prepared[0] if prepared[1] is None else prepared[1]
        count, every = arguments.speak_samples, arguments.speak_steps
        trainer.add_callback(SpeakingCallback(processor, config, samples, count, every, trainer.log))
    logger.info("training %d of %d weights", _count(model, trained=True), _count(model))
    try:
        result = trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint))
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        raise RuntimeError(
            "The device has too little memory for a step: halve per_device_train_batch_size and double "
            "gradient_accumulation_steps, or set gradient_checkpointing=true."
        ) from error
    measures = dict(result.metrics)
    if prepared[1] is not None:
        measures |= trainer.evaluate()
    if is_divided:  # all processes have to give their parts
        trainer.save_model()
    if trainer.is_world_process_zero():
        if not is_divided:
            _save(trainer.model, processor, out, is_adapter=bool(recipe.model.lora_rank))
        elif not recipe.model.lora_rank:
            processor.save_pretrained(out)
        with saving(out):
            trainer.save_metrics("all", measures)
            trainer.save_state()
            write_card(recipe, sources, trainer.state)
    return measures


def load_base(arguments: ModelArguments) -> tuple[TtTForConditionalGeneration, TtTProcessor]:
    """Loads what is to be trained.

    Args:
        arguments: Which model, and how.

    Returns:
        The model and its processor.

    Raises:
        OSError, ValueError: If it cannot be loaded, or 4 bits are asked for where there is no CUDA.
    """
    name = embedded_checkpoint() if arguments.model == EMBEDDED else arguments.model
    settings: dict[str, Any] = {}
    if arguments.load_in_4bit:
        if not torch.cuda.is_available():
            raise ValueError("load_in_4bit needs a CUDA device and bitsandbytes: train with lora_rank alone here.")
        settings["quantization_config"] = quantization_config(4, getattr(torch, arguments.dtype))
    settings |= arguments.audio_settings()
    codec = find_named_codec(arguments.codec) if arguments.codec else None
    processor = TtTProcessor.from_pretrained(name, codec=codec)
    model = TtTForConditionalGeneration.from_pretrained(
        name,
        dtype=arguments.dtype,
        attn_implementation=arguments.attn_implementation,
        **settings,
    )
    if arguments.audio_block_length is not None:  # what is trained in such blocks speaks in such blocks
        model.generation_config.audio_block_length = arguments.audio_block_length
    # What an adapter calls its base: the name in the recipe, which means the same on every computer.
    model.name_or_path = model.config.name_or_path = arguments.model
    return model, processor


def _save(model: Any, processor: TtTProcessor, out: Path, is_adapter: bool) -> None:
    """Saves an adapter alone, in half the size; a model with everything that is needed to talk to it."""
    if is_adapter:
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(torch.bfloat16)
    with whole_files(out) as part:
        model.save_pretrained(part)
        if is_adapter:  # how audio sees audio, and its blocks, may differ from those of the base
            model.config.to_json_file(part / "config.json")
            model.generation_config.save_pretrained(part)
        else:
            processor.save_pretrained(part)


def _is_divided(arguments: RecipeTrainingArguments) -> bool:
    """Whether processes hold parts of the model: by a key of the recipe, or by accelerate's launcher."""
    launched = (os.environ.get(f"ACCELERATE_USE_{name}", "false").lower() for name in ("FSDP", "DEEPSPEED"))
    return bool(arguments.fsdp or arguments.deepspeed or "true" in launched)


def _is_out_of_memory(error: Exception) -> bool:
    # On a CPU it is a plain RuntimeError.
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


def _count(model: torch.nn.Module, trained: bool = False) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad or not trained)


def main(words: Sequence[str] | None = None) -> dict[str, float]:
    """Command line: a recipe and `key=value` overrides.

    Args:
        words: Arguments; those of the process by default.

    Returns:
        As of `train`.
    """
    words = list(sys.argv[1:] if words is None else words)
    if not words:
        raise SystemExit("usage: python -m ttt_hf.training.finetuning RECIPE.yaml [key=value ...]")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    return train(load_recipe(words[0], words[1:]))


if __name__ == "__main__":
    main()
