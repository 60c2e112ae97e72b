"""Checkpoints of a training: saved atomically, and resumed from only if they are of the same training."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..loading import is_adapter, read_json, read_shapes
from ..names import ADAPTER_CONFIG_FILE


@contextmanager
def saving(folder: Path) -> Iterator[None]:
    """Turns errors in saving into one sentence.

    Args:
        folder: The folder that is written to.
    """
    try:
        yield
    # A RuntimeError as well, but about the device, with another remedy.
    except torch.OutOfMemoryError:
        raise
    # torch.save raises a RuntimeError when the disk is full.
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise OSError(
            f"{folder} cannot be written ({reason}): free some space, or name another output_dir, and run the same "
            "command again; what was saved before is complete."
        ) from error


@contextmanager
def atomic_checkpoint(folder: Path) -> Iterator[None]:
    """Removes a checkpoint that could not be saved completely.

    Args:
        folder: The folder of the checkpoint; made by what is called inside.
    """
    try:
        with saving(folder):
            yield
    # Ctrl-C included: the Trainer would count an incomplete checkpoint among those that it keeps.
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def last_checkpoint(out: Path) -> Path | None:
    """The last complete checkpoint in a folder, if there is one."""
    # The Trainer writes its state after everything else: where it is, the checkpoint is complete.
    states = out.glob(f"{PREFIX_CHECKPOINT_DIR}-*/{TRAINER_STATE_NAME}")
    # By number: in the order of names, checkpoint-1000 comes before checkpoint-900.
    steps = {state.parent.name.partition("-")[2]: state.parent for state in states}
    return max(((int(step), folder) for step, folder in steps.items() if step.isdigit()), default=(0, None))[1]


def check_checkpoint(checkpoint: Path, model: Any) -> None:
    """Checks that training can resume from a checkpoint, by the names and shapes of the weights.

    Args:
        checkpoint: Folder of the checkpoint. One in a format of FSDP or DeepSpeed passes.
        model: The model that is trained, with its adapter, if any.
    """
    found: dict[str, tuple[int, ...]] = {}
    for path in checkpoint.glob("*.safetensors"):
        found |= read_shapes(path)
    # FSDP and DeepSpeed may store formats of their own, of which names and shapes are not known here.
    if not found:
        return
    difference = _difference(checkpoint, found, model)
    if difference:
        raise ValueError(
            f"{checkpoint} is of another training ({difference}): name another output_dir, or give the model and the "
            "lora keys of that training."
        )


def _difference(checkpoint: Path, found: dict[str, tuple[int, ...]], model: Any) -> str | None:
    has_adapter = hasattr(model, "peft_config")
    if is_adapter(checkpoint) != has_adapter:
        return "of a whole model, not of an adapter" if has_adapter else "of an adapter, not of a whole model"
    if has_adapter:
        from peft import get_peft_model_state_dict

        expected = get_peft_model_state_dict(model, save_embedding_layers=False)
        # Models of the same size take each other's adapters without an error: only the name of the base differs.
        names = [
            read_json(checkpoint, ADAPTER_CONFIG_FILE)["base_model_name_or_path"],
            model.peft_config[model.active_adapter].base_model_name_or_path,
        ]
        # Relative and absolute paths of one folder are the same model.
        if len({str(Path(name or "").expanduser().resolve()) for name in names}) > 1:
            return f"its model is {names[0]}, not {names[1]}"
    else:
        expected = model.state_dict()
    # Tied weights share their memory, and only one of their names is stored.
    stored = {expected[name].data_ptr() for name in found if name in expected}
    for name in sorted(found.keys() | expected.keys()):
        here = tuple(expected[name].shape) if name in expected else None
        if name not in found and expected[name].data_ptr() in stored:
            continue
        if found.get(name) != here:
            return f"{name} is {_shape(found.get(name))} there, {_shape(here)} here"
    return None


def _shape(shape: tuple[int, ...] | None) -> str:
    return " x ".join(map(str, shape)) if shape else "missing"
