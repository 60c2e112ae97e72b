"""Fine-tuning and training by a recipe, to a checkpoint or an adapter."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import logging
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import EarlyStoppingCallback
from transformers.integrations import get_available_reporting_integrations
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import set_seed

from ..atomic_files import atomic_update, check_folder, lock_folder
from ..data import TtTDataCollator
from ..data.collator import EVALUATION_COPIES
from ..data.reading import require_datasets
from ..loading import (
    find_checkpoint,
    find_named_codec,
    is_adapter,
    load_model_and_processor,
    quantization_config,
    read_json,
    weight_files,
)
from ..memory import is_out_of_memory
from ..modeling import TtTConfig, TtTForConditionalGeneration
from ..names import EMBEDDED_ALIAS, EMBEDDED_NAMES, PROCESSOR_FILE
from ..processing import TtTProcessor
from ..processing.listening import MAX_SECONDS_KEY
from .adapters import add_adapter
from .arguments import ModelArguments, ObjectiveArguments, Recipe, RecipeTrainingArguments
from .card import write_card
from .preparation import prepare_samples
from .provenance import UNRECORDED, History, Run, deciding_keys, refuse, samples_digest
from .pushing import check_push, push_model
from .sample_replies import SampleRepliesCallback
from .saving import check_checkpoint, last_checkpoint, saving
from .trainer import TtTTrainer


logger = logging.getLogger(__name__)

# Encoded recordings lie beside the output folder, so that nothing uploads them with the model.
ENCODED_SUFFIX = "-encoded"
RESULTS_FILE = "all_results.json"


def train(recipe: Recipe) -> dict[str, float]:
    """Trains a model by a recipe, into its `output_dir`; resumes from the last checkpoint there, if there is one.

    An adapter is saved in PEFT's format, so that `PeftModel.from_pretrained(base, output_dir)` loads it; a full model
    is saved together with its processor and codec. What trained which steps is recorded in `output_dir`: a training of
    another recipe or other data is not continued, unless the recipe says `resume: force`.

    Args:
        recipe: As `load_recipe` returns it.

    Returns:
        The Trainer's metrics (`train_loss`, `train_runtime`, and of the last evaluation `eval_loss`, if there are
        evaluation data); of a training that is already finished, those that it had.

    Raises:
        BlockingIOError: If another process trains into `output_dir`.
        ImportError: If the recipe needs a package that is not installed; raised before the model is loaded.
        OSError, ValueError: If model or data cannot be used, or `output_dir` holds another training.
        FloatingPointError: If the loss is not a number.
        RuntimeError: If the device has too little memory; names the keys to change.
        PermissionError, ConnectionError: If `push_to_hub` is set and the result cannot be uploaded.
        KeyboardInterrupt: When interrupted; the next call resumes.
        SystemExit: When the process is asked to terminate, as by a scheduler; the next call resumes.
    """
    # Everything that can fail early does so before the model is loaded.
    check_recipe(recipe)
    with contextlib.ExitStack() as stack:
        # One process writes for all of a distributed training.
        if recipe.training.process_index == 0:
            stack.enter_context(lock_folder(Path(recipe.training.output_dir)))
        return _train(recipe)


def _train(recipe: Recipe) -> dict[str, float]:
    arguments = recipe.training
    out = Path(arguments.output_dir)
    # 1. What is in the folder: its keys are compared first, as that takes no model.
    checkpoint, history, keys = check_history(recipe)
    set_seed(arguments.seed)
    # 2. Model, data, and the adapter.
    model, processor = _load_base(recipe.model)
    train_set, eval_set, sources = _prepare_data(recipe, model, processor)
    samples = {"train": samples_digest(train_set), "eval": samples_digest(eval_set)}
    run = Run(_step_of(checkpoint), keys, samples, sources)
    if arguments.resume != "force":
        refuse(out, history.differences(keys, samples))
    if _is_finished(out, history) and not history.differences(keys, samples):
        return _finished(recipe, history)
    if recipe.model.lora_rank:
        model = add_adapter(model, recipe.model)
    # Checkpoints of a sharded training may hold parts of weights, which cannot be compared.
    if checkpoint is not None and not _is_sharded(arguments):
        check_checkpoint(checkpoint, model)
    # 3. Training. From here on the folder is one of this recipe.
    trainer = _make_trainer(recipe, model, processor, train_set, eval_set)
    history = history.continued(run)
    if trainer.is_world_process_zero():
        history.write(out)
    logger.info("training %d of %d weights", _count(model, trained=True), _count(model))
    try:
        result = trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint))
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise RuntimeError(
            "The device has too little memory for a step: halve per_device_train_batch_size and double "
            "gradient_accumulation_steps, or set gradient_checkpointing=true."
        ) from error
    # 4. Every process evaluates and takes part in saving; one writes metrics and card.
    metrics = dict(result.metrics)
    if eval_set is not None:
        metrics |= trainer.evaluate()
    _save(recipe, trainer, processor)
    if trainer.is_world_process_zero():
        with saving(out):
            trainer.save_metrics("all", metrics)
            trainer.save_state()
            write_card(recipe, history.runs, trainer.state)
            dataclasses.replace(history, finished_step=trainer.state.global_step).write(out)
        # 5. Upload, when the final files exist.
        if arguments.push_to_hub:
            logger.info("uploaded: %s", push_model(arguments))
    return metrics


def check_history(recipe: Recipe) -> tuple[Path | None, History, dict[str, Any]]:
    """Checks, without a model or data, that a recipe may go on with what is in its `output_dir`.

    Returns:
        The checkpoint to resume from, if any, what trained it (or the finished model), and the deciding keys.
    """
    out, keys = Path(recipe.training.output_dir), deciding_keys(recipe)
    checkpoint = _find_checkpoint(recipe.training)
    history = _history(out, checkpoint)
    if recipe.training.resume != "force":
        refuse(out, history.differences(keys))
    return checkpoint, history, keys


def training_samples(recipe: Recipe) -> tuple[Any, TtTConfig]:
    """The samples that a recipe trains on, not packed, and the configuration of its model."""
    model, processor = _load_base(recipe.model)
    data = dataclasses.replace(recipe.data, eval_data="", row_length=0)
    return _prepare_data(dataclasses.replace(recipe, data=data), model, processor)[0], model.config


def _find_checkpoint(arguments: RecipeTrainingArguments) -> Path | None:
    """The checkpoint that the training goes on from: the named one, else the last one in `output_dir`."""
    named = arguments.resume_from_checkpoint
    if not named or str(named).lower() == "true":
        return last_checkpoint(Path(arguments.output_dir))
    if not Path(named, TRAINER_STATE_NAME).is_file():
        raise FileNotFoundError(
            f"There is no checkpoint {named}: name a folder checkpoint-STEP, or leave out resume_from_checkpoint to "
            "go on from the last one."
        )
    return Path(named)


def _history(out: Path, checkpoint: Path | None) -> History:
    """What trained the checkpoint or, without one, the finished model in `out`."""
    if checkpoint is not None:
        # A checkpoint of another folder brings the history of that one.
        found = History.read(checkpoint.absolute().parent)
        finished_step = found.finished_step if checkpoint.absolute().parent == out.absolute() else None
        return History(found.until(_step_of(checkpoint)).runs or (UNRECORDED,), finished_step)
    found = History.read(out)
    return found.until(found.finished_step or 0)


def _step_of(checkpoint: Path | None) -> int:
    return 0 if checkpoint is None else read_json(checkpoint, TRAINER_STATE_NAME)["global_step"]


def _is_finished(out: Path, history: History) -> bool:
    has_weights = any(path.is_file() for path in weight_files(out))
    return history.finished_step is not None and has_weights and (out / RESULTS_FILE).is_file()


def _finished(recipe: Recipe, history: History) -> dict[str, float]:
    """The metrics of a finished training, which is uploaded if that is all that is left to do."""
    arguments = recipe.training
    logger.info(
        "%s is finished: these keys and data trained its %d steps; nothing is left to train",
        arguments.output_dir,
        history.finished_step,
    )
    if arguments.push_to_hub and arguments.process_index == 0:
        logger.info("uploaded: %s", push_model(arguments))
    return read_json(Path(arguments.output_dir), RESULTS_FILE)


def encoded_folder(arguments: RecipeTrainingArguments) -> Path:
    """The folder of the encoded recordings: beside `output_dir`, not in it."""
    out = Path(arguments.output_dir).absolute()
    return out.with_name(f"{out.name}{ENCODED_SUFFIX}")


def check_recipe(recipe: Recipe) -> None:
    """Checks everything that can be checked without loading model or data.

    Args:
        recipe: As `load_recipe` returns it.
    """
    arguments, model = recipe.training, recipe.model
    if not recipe.data.train_data:
        raise ValueError("The recipe has no train_data: name a folder, a file or a Hub id, train_data=DIR.")
    if arguments.early_stopping_patience and not (arguments.load_best_model_at_end and recipe.data.eval_data):
        raise ValueError(
            "early_stopping_patience needs eval_data, and load_best_model_at_end=true with eval_strategy=steps."
        )
    if arguments.resume not in ("same", "force"):
        raise ValueError(f"resume must be same or force, not {arguments.resume}.")
    if arguments.enable_jit_checkpoint:
        raise ValueError("Leave out enable_jit_checkpoint: SIGTERM saves a checkpoint without it.")
    if arguments.speak_steps and _is_sharded(arguments):
        raise ValueError("speak_steps needs a whole model in one process: leave it out with FSDP and DeepSpeed.")
    if arguments.eval_strategy != "no" and not recipe.data.eval_data:
        raise ValueError("eval_strategy needs eval_data: name a folder, a file or a Hub id, eval_data=DIR.")
    # The folder is tried before anything is downloaded into the cache.
    check_folder(Path(arguments.output_dir))
    check_folder(encoded_folder(arguments))
    _check_packages(recipe)
    if arguments.push_to_hub:
        check_push(arguments)
    folder = find_checkpoint(model.model, model.revision)
    if is_adapter(folder):
        raise ValueError(
            f"{folder} is an adapter, and adapters are trained on a whole model: name that in model, or merge the "
            "adapter into it first, see docs/training.md."
        )
    if model.codec:
        find_named_codec(model.codec)
    if model.load_in_4bit:
        if not torch.cuda.is_available():
            raise ValueError("load_in_4bit needs a CUDA device and bitsandbytes: train with lora_rank alone here.")
        if not model.lora_rank:
            raise ValueError("Weights in 4 bits cannot be trained: set lora_rank, to train an adapter on top of them.")
        # Called for its check of bitsandbytes.
        quantization_config(4, torch.bfloat16)


def _check_packages(recipe: Recipe) -> None:
    require_datasets()
    if recipe.model.lora_rank and find_spec("peft") is None:
        raise ImportError("Adapters need PEFT: pip install 'ttt-hf[train]'.")
    available = {"none", "all", *get_available_reporting_integrations()}
    for name in recipe.training.report_to:
        if name not in available:
            raise ImportError(f"report_to={name} needs the package {name}: pip install {name}, or report_to=none.")


def _load_base(arguments: ModelArguments) -> tuple[TtTForConditionalGeneration, TtTProcessor]:
    model, processor = load_model_and_processor(
        arguments.model,
        arguments.revision,
        arguments.codec,
        device="cpu",  # the Trainer moves it
        dtype=arguments.dtype,
        bits=4 if arguments.load_in_4bit else None,
        attn_implementation=arguments.attn_implementation,
        **arguments.audio_settings(),
    )
    # An adapter stores this as its base: the name in the recipe, which means the same on every computer.
    name = EMBEDDED_ALIAS if arguments.model in EMBEDDED_NAMES else arguments.model
    model.name_or_path = model.config.name_or_path = name
    return model, processor


def _prepare_data(
    recipe: Recipe, model: TtTForConditionalGeneration, processor: TtTProcessor
) -> tuple[Any, Any, list[dict[str, Any]]]:
    """Samples to train on, samples to evaluate on or `None`, and what the model card says of the former."""
    work = encoded_folder(recipe.training)
    sources: list[dict[str, Any]] = []

    def prepare(data: str, statistics: list[dict[str, Any]] | None, is_training: bool) -> Any:
        return prepare_samples(
            data,
            recipe.data,
            recipe.objective if is_training else ObjectiveArguments(noise_copies=EVALUATION_COPIES),
            processor,
            model.config if is_training else _evaluation_config(recipe, model.config),
            work,
            statistics,
            is_training=is_training,
            seed=recipe.training.seed,
        )

    # The first process encodes; the others wait for it and find the codes.
    with recipe.training.main_process_first():
        train_set = prepare(recipe.data.train_data, sources, is_training=True)
        eval_set = prepare(recipe.data.eval_data, None, is_training=False) if recipe.data.eval_data else None
    return train_set, eval_set, sources


def _make_trainer(recipe: Recipe, model: Any, processor: TtTProcessor, train_set: Any, eval_set: Any) -> TtTTrainer:
    arguments, config = recipe.training, model.config
    # The Trainer's own uploads would take the whole folder, and before the final files are in it.
    without_push = copy.copy(arguments)
    without_push.push_to_hub = False
    without_push.hub_token = None
    pad_token_id = processor.tokenizer.pad_token_id
    trainer = TtTTrainer(
        model=model,
        args=without_push,
        eval_collator=TtTDataCollator.for_evaluation(_evaluation_config(recipe, config), pad_token_id),
        train_dataset=train_set,
        eval_dataset=eval_set,
        data_collator=TtTDataCollator(
            config, pad_token_id, seed=arguments.seed, **dataclasses.asdict(recipe.objective)
        ),
    )
    if arguments.early_stopping_patience:
        trainer.add_callback(EarlyStoppingCallback(arguments.early_stopping_patience))
    if arguments.speak_steps:
        # Held-out samples show more than those that are being learned.
        samples = train_set if eval_set is None else eval_set
        count, every = arguments.speak_samples, arguments.speak_steps
        trainer.add_callback(SampleRepliesCallback(processor, config, samples, count, every, trainer.log))
    return trainer


def _evaluation_config(recipe: Recipe, config: TtTConfig) -> TtTConfig:
    """The configuration whose attention evaluations use: the model's, but not what the objective `ar` makes of it."""
    if recipe.objective.objective != "ar":
        return config
    # Otherwise the losses of this baseline could not be compared with those of the other objectives.
    own, result = (
        TtTConfig.from_pretrained(find_checkpoint(recipe.model.model, recipe.model.revision), trust_remote_code=False),
        copy.copy(config),
    )
    result.audio_attention, result.audio_block_length = own.audio_attention, own.audio_block_length
    return result


def _save(recipe: Recipe, trainer: TtTTrainer, processor: TtTProcessor) -> None:
    """Saves an adapter alone, in bfloat16, or a model with everything that is needed to talk to it."""
    out, has_adapter = Path(recipe.training.output_dir), bool(recipe.model.lora_rank)
    # Every process has a part of the weights, so all of them must take part in saving.
    if _is_sharded(recipe.training):
        trainer.save_model()
        if trainer.is_world_process_zero() and not has_adapter:
            processor.save_pretrained(out)
        return
    # Without sharding, every process has all weights: one of them writes.
    if not trainer.is_world_process_zero():
        return
    model: Any = trainer.model
    if has_adapter:
        # Usually trained in float32: in bfloat16 the adapter takes half the space.
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(torch.bfloat16)
    with atomic_update(out) as part:
        model.save_pretrained(part)
        # The recipe may have changed the attention within audio and its block length: PEFT stores neither.
        if has_adapter:
            model.config.to_json_file(part / "config.json")
            model.generation_config.save_pretrained(part)
            # Nor how long the recordings were; the rest of the processor is the base's.
            if processor.max_audio_seconds is not None:
                limit = json.dumps({MAX_SECONDS_KEY: processor.max_audio_seconds})
                (part / PROCESSOR_FILE).write_text(f"{limit}\n", encoding="utf-8")
        else:
            processor.save_pretrained(part)


def _is_sharded(arguments: RecipeTrainingArguments) -> bool:
    """Whether the model is sharded over processes: by a key of the recipe, or by accelerate's launcher."""
    # accelerate's launcher passes its configuration on in the environment.
    launched = (os.environ.get(f"ACCELERATE_USE_{name}", "false").lower() for name in ("FSDP", "DEEPSPEED"))
    return bool(arguments.fsdp or arguments.deepspeed or "true" in launched)


def _count(model: torch.nn.Module, trained: bool = False) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad or not trained)
