"""The keys of a training recipe: documented dataclasses, read from a YAML file and `key=value` overrides."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from transformers import HfArgumentParser, TrainingArguments

from ..names import EMBEDDED_ALIAS
from ..overrides import nearest, read_yaml, split_override
from .shipped import recipe_file


@dataclass
class ModelArguments:
    """What is trained: a checkpoint, whole or through an adapter."""

    model: str = field(
        default=EMBEDDED_ALIAS,
        metadata={"help": "Folder or Hub id of the model; `embedded` is the one in this package."},
    )
    codec: str | None = field(
        default=None, metadata={"help": "Folder or Hub id of the codec, for models that come without."}
    )
    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of a model on the Hub."})
    dtype: str = field(default="float32", metadata={"help": "Data type of the weights in training."})
    attn_implementation: str = field(
        default="sdpa", metadata={"help": "`sdpa`, `eager`, or `flex_attention` for long rows on a GPU."}
    )
    audio_attention: str | None = field(
        default=None,
        metadata={"help": "`span` or `block_causal`: how audio sees audio in what is trained; as in the model."},
    )
    audio_block_length: int | None = field(
        default=None, metadata={"help": "Positions of a denoising block in what is trained; as in the model."}
    )
    lora_rank: int = field(
        default=0, metadata={"help": "Rank of the LoRA adapter; 0 trains all weights and makes no adapter."}
    )
    lora_alpha: int = field(default=16, metadata={"help": "Scale of the adapter, divided by its rank."})
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout before the adapter."})
    lora_targets: list[str] = field(
        default_factory=lambda: ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        metadata={"help": "Names of the linear layers that are adapted."},
    )
    lora_audio_tokens: bool = field(
        default=True,
        metadata={
            "help": "Whether the rows of all audio tokens in the embedding and the head are trained and saved with "
            "the adapter; without them the model does not learn new sounds."
        },
    )
    use_rslora: bool = field(default=False, metadata={"help": "Divide by the root of the rank (rsLoRA)."})
    use_dora: bool = field(default=False, metadata={"help": "Adapt magnitude and direction apart (DoRA)."})
    load_in_4bit: bool = field(
        default=False, metadata={"help": "Hold the frozen weights in 4 bits (QLoRA); needs CUDA and bitsandbytes."}
    )

    def audio_settings(self) -> dict[str, Any]:
        """The keys of the model's own configuration that the recipe changes."""
        given = {"audio_attention": self.audio_attention, "audio_block_length": self.audio_block_length}
        return {key: value for key, value in given.items() if value is not None}


@dataclass
class DataArguments:
    """What it is trained on."""

    train_data: str = field(
        default="",
        metadata={
            "help": "A data set (folder, file or Hub id), or a list of them: each a mapping with `path`, and "
            "optionally `task`, `ratio` and `split`. See docs/data.md."
        },
    )
    eval_data: str = field(default="", metadata={"help": "Data for evaluation during training, of the same form."})
    streaming: bool = field(default=False, metadata={"help": "Read the data while training, do not prepare it."})
    text_per_span: int = field(default=13, metadata={"help": "Text tokens before each span of a spoken reply."})
    audio_per_span: int = field(default=26, metadata={"help": "Codes in each span but the last."})
    max_length: int = field(
        default=2048, metadata={"help": "Tokens of a sample at most; longer ones are cut at a span or dropped."}
    )
    row_length: int = field(
        default=0,
        metadata={"help": "Pack samples into rows of so many positions, noised copies included; 0 packs nothing."},
    )
    audio_variants: int = field(
        default=0,
        metadata={
            "help": "Further encodings of each of the user's recordings, at another speed, with noise or in another "
            "room; each epoch draws one of them, or the plain one. Replies and eval_data have none."
        },
    )
    encoding_workers: int = field(default=1, metadata={"help": "Processes that encode audio to codes."})
    max_broken: float | None = field(
        default=None,
        metadata={
            "help": "Share of rows that may be left out because audio cannot be read; 0.01 by default, but at least "
            "5 rows."
        },
    )


@dataclass
class ObjectiveArguments:
    """How the noise is drawn; the keys are those of `TtTDataCollator`, where they are explained."""

    objective: str = field(
        default="two_stream",
        metadata={
            "help": "`two_stream`, `paper`, or a baseline: `ar` (audio code by code), `nar` (replies all diffused)."
        },
    )
    noise_copies: int = field(
        default=1, metadata={"help": "Noised copies of each span (`two_stream`) or reply (`nar`)."}
    )
    complementary: bool = field(default=False, metadata={"help": "Noise in every second copy what the first kept."})
    noise_per: str = field(default="sample", metadata={"help": "What has one noise level: `sample` or `span`."})
    weighting: str = field(default="inverse", metadata={"help": "`inverse` to the noise level, or `flat`."})
    block_canvas: bool = field(
        default=True, metadata={"help": "Cut copies like inference's canvas (`two_stream`, `nar`)."}
    )
    filler_weight: float = field(default=0.1, metadata={"help": "Weight of end markers behind a span's end."})
    clean_batch_probability: float = field(default=0.3, metadata={"help": "BANOM: share of clean batches (`paper`)."})
    prefix_preservation: float = field(
        default=0.3, metadata={"help": "PPM: share of samples whose first spans stay clean (`paper`)."}
    )
    span_truncation: float = field(
        default=0.0, metadata={"help": "SST: share of samples whose last span is cut at a random place."}
    )


@dataclass
class RecipeTrainingArguments(TrainingArguments):
    """Transformers' own keys, with the defaults of a short fine-tuning, and what is told on the way."""

    learning_rate: float = field(default=2e-4, metadata={"help": "Peak learning rate."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Course of the learning rate."})
    per_device_train_batch_size: int = field(default=8, metadata={"help": "Samples, or packed rows, of a forward."})
    logging_steps: float = field(default=10, metadata={"help": "Steps between two lines of the log."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints that are kept."})
    report_to: str = field(default="none", metadata={"help": "`tensorboard`, `wandb`, `trackio`, or `none`."})
    # The collator names the inputs of `forward`, which the Trainer would not find among the columns.
    remove_unused_columns: bool = field(default=False, metadata={"help": "Has to stay off."})
    early_stopping_patience: int = field(
        default=0, metadata={"help": "Stop after so many evaluations without a better one; 0 goes on to the end."}
    )
    speak_steps: int = field(
        default=0, metadata={"help": "Steps between replies that are written to OUTPUT_DIR/spoken; 0 makes none."}
    )
    speak_samples: int = field(
        default=4, metadata={"help": "How many of the first samples of eval_data, or else train_data, are replied to."}
    )


@dataclass(frozen=True)
class Recipe:
    """A whole recipe, one field a group of keys."""

    model: ModelArguments
    data: DataArguments
    objective: ObjectiveArguments
    training: RecipeTrainingArguments


GROUPS = (ModelArguments, DataArguments, ObjectiveArguments, RecipeTrainingArguments)


class _Parser(HfArgumentParser):
    """`HfArgumentParser` whose errors can be caught."""

    def error(self, message: str) -> NoReturn:
        match = re.match(r"argument --(\w+)\S*: (.*)", message)
        raise ValueError(f"The key {match[1]} has a wrong value: {match[2]}." if match else message)


def load_recipe(name: str, overrides: Iterable[str] = ()) -> Recipe:
    """Reads a recipe and checks its keys.

    Args:
        name: Path of a YAML file, or the name of a shipped recipe.
        overrides: `key=value` strings; the value is read as YAML.

    Returns:
        The keys by group.

    Raises:
        FileNotFoundError: If there is no such recipe.
        ValueError: If a key is unknown, or a value is of the wrong type or cannot be read.
    """
    path = recipe_file(name)
    values = read_yaml(path) or {}
    if not isinstance(values, dict):
        raise ValueError(f"{path} has to hold keys and values, one a line: learning_rate: 2.0e-4.")
    form = "key=value, for example learning_rate=1e-4"
    values |= dict(split_override(override, form) for override in overrides)
    return parse_recipe(values)


def parse_recipe(values: Mapping[str, Any]) -> Recipe:
    """Checks the keys of a recipe and sorts them into their groups.

    Args:
        values: Keys and values; keys that are missing or `None` get their defaults.

    Returns:
        The keys by group.

    Raises:
        ValueError: If a key is unknown (names the nearest one), or a value is of the wrong type.
    """
    known = {entry.name for group in GROUPS for entry in dataclasses.fields(group) if entry.init}
    for key in values:
        if key not in known:
            raise ValueError(f"There is no key {key}: {nearest(str(key), known, 'docs/recipe-keys.md lists them')}.")
    words: list[str] = []
    for key, value in values.items():
        if value is not None:
            words += [f"--{key}", *_words(value)]
    return Recipe(*_Parser(GROUPS).parse_args_into_dataclasses(words))


def _words(value: Any) -> list[str]:
    """A value as it would stand on a command line."""
    if isinstance(value, list) and not any(isinstance(entry, dict | list) for entry in value):
        return [str(entry) for entry in value]
    return [json.dumps(value) if isinstance(value, dict | list) else str(value)]
