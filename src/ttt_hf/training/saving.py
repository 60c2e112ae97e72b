"""What a training saves and goes on from: whole or not there, and of the same training or refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR


ADAPTER_CONFIG = "adapter_config.json"
PART_FOLDER = ".saving"


@contextmanager
def saving(folder: Path) -> Iterator[None]:
    """Says in one sentence that something could not be saved.

    Args:
        folder: Where it goes.

    Raises:
        OSError: If writing failed, for example because there is no space left.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (OSError, RuntimeError, SafetensorError) as error:  # torch.save raises a RuntimeError
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise OSError(
            f"{folder} cannot be written ({reason}): free some space, or name another output_dir, and run the same "
            "command again; what was saved before is whole."
        ) from error


@contextmanager
def whole_checkpoint(folder: Path) -> Iterator[None]:
    """Leaves no part of a checkpoint behind when it cannot be saved.

    Args:
        folder: The checkpoint.

    Raises:
        OSError: As of `saving`.
    """
    try:
        with saving(folder):
            yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


@contextmanager
def whole_files(folder: Path) -> Iterator[Path]:
    """Lets files appear in a folder only when all of them are complete.

    Args:
        folder: The folder; made if missing.

    Yields:
        An empty folder to write them to. After an error those in `folder` are as they were.

    Raises:
        OSError: As of `saving`.
    """
    part = folder / PART_FOLDER
    try:
        with saving(folder):
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            yield part
            for path in [path for path in part.rglob("*") if path.is_file()]:
                target = folder / path.relative_to(part)
                target.parent.mkdir(parents=True, exist_ok=True)
                path.replace(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def last_checkpoint(out: Path) -> Path | None:
    """The last checkpoint in a folder, if there is one; those whose saving was cut off do not count."""
    states = out.glob(f"{PREFIX_CHECKPOINT_DIR}-*/{TRAINER_STATE_NAME}")  # which are written last
    steps = {state.parent.name.partition("-")[2]: state.parent for state in states}
    return max(((int(step), folder) for step, folder in steps.items() if step.isdigit()), default=(0, None))[1]


def check_checkpoint(checkpoint: Path, model: Any) -> None:
    """Checks that a model can go on from a checkpoint, by the names and shapes of the weights.

    Args:
        checkpoint: The checkpoint. One in a format of FSDP or DeepSpeed passes.
        model: The model to be trained.

    Raises:
        ValueError: If it is of another training: another model, or another adapter.
    """
    found = {}
    for path in checkpoint.glob("*.safetensors"):
        with safe_open(path, framework="pt") as tensors:
            found.update({name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()})  # noqa: SIM118
    if not found:
        return
    difference = _difference(checkpoint, found, model)
    if difference:
        raise ValueError(
            f"{checkpoint} is of another training ({difference}): name another output_dir, or give the model and the "
            "lora keys of that training."
        )


def _difference(checkpoint: Path, found: dict[str, tuple[int, ...]], model: Any) -> str | None:
    is_adapter = hasattr(model, "peft_config")
    if (checkpoint / ADAPTER_CONFIG).is_file() != is_adapter:
        return "of a whole model, not of an adapter" if is_adapter else "of an adapter, not of a whole model"
    if is_adapter:
        from peft import get_peft_model_state_dict

        expected = get_peft_model_state_dict(model, save_embedding_layers=False)
        names = [
            json.loads((checkpoint / ADAPTER_CONFIG).read_text(encoding="utf-8"))["base_model_name_or_path"],
            model.peft_config[model.active_adapter].base_model_name_or_path,
        ]
        if len({str(Path(name or "").resolve()) for name in names}) > 1:
            return f"its model is {names[0]}, not {names[1]}"
    else:
        expected = model.state_dict()
    stored = {expected[name].data_ptr() for name in found if name in expected}
    for name in sorted(found.keys() | expected.keys()):
        here = tuple(expected[name].shape) if name in expected else None
        if name not in found and expected[name].data_ptr() in stored:  # tied weights are stored once
            continue
        if found.get(name) != here:
            return f"{name} is {_shape(found.get(name))} there, {_shape(here)} here"
    return None


def _shape(shape: tuple[int, ...] | None) -> str:
    return " x ".join(map(str, shape)) if shape else "missing"
