"""What trained the weights in an output folder: recipes and data by step, recorded beside the checkpoints."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence, Sized
from enum import Enum
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, cast

from ..atomic_files import atomic_write_text
from ..loading import read_json
from ..names import EMBEDDED_ALIAS, EMBEDDED_NAMES
from ..overrides import shorten
from .arguments import Recipe, parse_recipe
from .preparation import parse_sources


RUNS_FILE = "training_runs.json"

# Keys that change neither the weights nor what is measured of them, beyond the rounding of another device. All others
# count, those of a later transformers included: a difference that does not matter is refused rather than missed.
INDIFFERENT_KEYS = (
    *("output_dir", "resume", "resume_from_checkpoint", "license", "language", "push_to_hub", "hub_*", "speak_*"),
    *("log_*", "logging_*", "report_to", "run_name", "project", "trackio_*", "disable_tqdm", "save_total_limit"),
    "do_*",
    *("attn_implementation", "gradient_checkpointing*", "activation_checkpointing*", "torch_compile*", "use_cpu"),
    *("ddp_*", "fsdp*", "local_rank", "max_broken", "encoding_workers", "dataloader_num_workers", "dataloader_p*"),
    "per_device_eval_batch_size",
)
# When is evaluated and saved decides only which checkpoint is the best one.
BEST_CHECKPOINT_KEYS = (
    *("eval_strategy", "eval_steps", "eval_delay", "eval_on_start", "save_strategy", "save_steps", "save_only_model"),
    *("metric_for_best_model", "greater_is_better", "early_stopping_patience"),
)


@dataclasses.dataclass(frozen=True)
class Run:
    """A part of a training that one recipe did.

    Args:
        first_step: Number of steps that were done before it.
        keys: As of `deciding_keys`; `None` if the part was not recorded.
        samples: Hashes of the samples to train and to evaluate on (`train`, `eval`), where they are known.
        sources: What the model card says of the training data, see `write_card`.
    """

    first_step: int
    keys: dict[str, Any] | None
    samples: dict[str, str | None]
    sources: list[dict[str, Any]]


# Steps without a record, such as those of an earlier version.
UNRECORDED = Run(0, None, {}, [])


@dataclasses.dataclass(frozen=True)
class History:
    """The runs of an output folder in their order, and its number of steps if the training is finished."""

    runs: tuple[Run, ...] = ()
    finished_step: int | None = None

    @classmethod
    def read(cls, folder: Path) -> History:
        """Reads the history of an output folder, which is empty if there is no record."""
        if not (folder / RUNS_FILE).is_file():
            return cls()
        try:
            content = read_json(folder, RUNS_FILE)
            runs = tuple(Run(**run) for run in content["runs"])
            if not all(isinstance(run.first_step, int) and isinstance(run.samples, dict) for run in runs):
                raise TypeError("a run without its first step or samples")
            return cls(runs, content["finished_step"])
        except (TypeError, KeyError, ValueError) as error:
            raise ValueError(
                f"{folder / RUNS_FILE}, the record of what trained this folder, is damaged ({error}): name another "
                "output_dir."
            ) from None

    def write(self, folder: Path) -> None:
        """Writes the record; raises like `atomic_write_text`."""
        folder.mkdir(parents=True, exist_ok=True)
        content = {"runs": [dataclasses.asdict(run) for run in self.runs], "finished_step": self.finished_step}
        atomic_write_text(folder / RUNS_FILE, json.dumps(content, indent=2, ensure_ascii=False) + "\n")

    def until(self, step: int) -> History:
        """The runs that did the first `step` steps; a run that got no further than it began is not among them."""
        return History(tuple(run for run in self.runs if run.first_step < step), self.finished_step)

    def differences(self, keys: Mapping[str, Any], samples: Mapping[str, str | None] | None = None) -> list[str]:
        """What a recipe would change in this training.

        Args:
            keys: As of `deciding_keys`.
            samples: As of `Run`; not compared by default.

        Returns:
            A description of each difference with the recorded value and the new one; none if there is no run.
        """
        if not self.runs:
            return []
        last = self.runs[-1]
        if last.keys is None:
            return ["what trained it is not recorded"]
        found = [
            f"{name} was {_show(old)} and is {_show(new)} here"
            for name, (old, new) in _pairs(last.keys, keys).items()
            if old != new
        ]
        for name, digest in (samples or {}).items():
            before = last.samples.get(name)
            # Other data by name is among the keys already.
            if before is not None and digest is not None and before != digest and not found:
                found.append(f"{name}_data holds other samples than before")
        return found

    def continued(self, run: Run) -> History:
        """The history when `run` goes on: its recipe is noted only if it is another one."""
        earlier = History(self.until(run.first_step).runs or ((UNRECORDED,) if run.first_step else ()))
        is_same = bool(earlier.runs) and not earlier.differences(run.keys or {}, run.samples)
        return earlier if is_same else History((*earlier.runs, run))


def deciding_keys(recipe: Recipe) -> dict[str, Any]:
    """The keys of a recipe that may change its weights or what is measured of them, all with their values.

    Returns:
        Keys and values in types of JSON. Models and data that are on this computer have absolute paths.
    """
    # Now, since it parses a recipe, which resets the state that accelerate has once there is a Trainer.
    _defaults()
    # A step holds the batches of all processes.
    return {**_deciding(recipe), "processes": recipe.training.world_size}


def changed_keys(keys: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `deciding_keys` that differ from their defaults."""
    return {name: old for name, (old, default) in _pairs(keys, {}).items() if old != default}


def samples_digest(samples: Any) -> str | None:
    """Hash of prepared samples; `None` for a stream, whose samples are not known before the training."""
    if not isinstance(samples, Sized):
        return None
    digest, dataset = hashlib.sha256(), cast(Any, samples)
    for table in dataset.with_format("arrow").iter(batch_size=1000):
        for batch in table.combine_chunks().to_batches():
            digest.update(batch.serialize())
    return digest.hexdigest()


def refuse(folder: Path, differences: Sequence[str]) -> None:
    """Refuses to go on with a training of another recipe."""
    if differences:
        raise ValueError(
            f"{folder} holds another training ({'; '.join(differences)}): name another output_dir, or go on from its "
            "last checkpoint with resume=force."
        )


def _deciding(recipe: Recipe) -> dict[str, Any]:
    indifferent = (*INDIFFERENT_KEYS, *(() if recipe.training.load_best_model_at_end else BEST_CHECKPOINT_KEYS))
    values = {
        name: value
        for name, value in _values(recipe).items()
        if not any(fnmatch(name, pattern) for pattern in indifferent)
    }
    for name in ("train_data", "eval_data"):
        sources = parse_sources(values[name]) if values[name] else []
        values[name] = [{**source, "path": _absolute(source["path"])} for source in sources]
    for name in ("model", "codec"):
        values[name] = EMBEDDED_ALIAS if values[name] in EMBEDDED_NAMES else _absolute(values[name])
    return values


def _values(recipe: Recipe) -> dict[str, Any]:
    groups = (recipe.model, recipe.data, recipe.objective, recipe.training)
    return {
        entry.name: json.loads(json.dumps(getattr(group, entry.name), default=_plain))
        for group in groups
        for entry in dataclasses.fields(group)
    }


@functools.cache
def _defaults() -> dict[str, Any]:
    # Parsed rather than read from the fields, since TrainingArguments derive some defaults from others.
    recipe = parse_recipe({"output_dir": "."})
    return {**_values(recipe), **_deciding(recipe), "processes": 1}


def _pairs(keys: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Both values of each key; one that is missing, as keys of another version are, has its default."""
    defaults = _defaults()
    return {
        name: (keys.get(name, defaults.get(name)), others.get(name, defaults.get(name)))
        for name in dict.fromkeys([*keys, *others])
    }


def _show(value: Any) -> str:
    return shorten(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), 120)


def _absolute(path: str | None) -> str | None:
    return str(Path(path).expanduser().resolve()) if path and Path(path).expanduser().exists() else path


def _plain(value: Any) -> Any:
    """A value of a recipe that JSON has no type for, such as an enumeration or a configuration of accelerate."""
    if isinstance(value, Enum):
        return value.value
    return value.to_dict() if hasattr(value, "to_dict") else type(value).__name__
