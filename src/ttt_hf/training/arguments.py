"""The keys of a training recipe: documented dataclasses, read from a YAML file and `key=value` overrides.

The list of keys in the documentation is generated from them:

python -m ttt_hf.training.arguments > docs/recipe-keys.md
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from transformers import HfArgumentParser, TrainingArguments

from ..names import EMBEDDED_ALIAS
from ..overrides import nearest, read_yaml, shorten, split_override
from .recipes import recipe_file


@dataclass
class ModelArguments:
    """Model and adapter."""

    model: str = field(
        default=EMBEDDED_ALIAS,
        metadata={"help": "Folder or Hub id of the model; `embedded` is the small model in this package."},
    )
    codec: str | None = field(
        default=None, metadata={"help": "Folder or Hub id of the codec, for checkpoints without one."}
    )
    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of a model on the Hub."})
    dtype: str = field(default="float32", metadata={"help": "Dtype of the weights in training."})
    attn_implementation: str = field(
        default="sdpa", metadata={"help": "`sdpa`, `eager`, or `flex_attention` for long rows on a GPU."}
    )
    audio_attention: str | None = field(
        default=None,
        metadata={"help": "Attention within a span, `span` or `block_causal`; by default that of the model."},
    )
    audio_block_length: int | None = field(
        default=None, metadata={"help": "Positions per denoising block; by default that of the model."}
    )
    lora_rank: int = field(
        default=0, metadata={"help": "Rank of the LoRA adapter; 0 trains all weights without an adapter."}
    )
    lora_alpha: int = field(default=16, metadata={"help": "Scale of the adapter, which is divided by its rank."})
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout of the adapter's input."})
    lora_targets: list[str] = field(
        default_factory=lambda: ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        metadata={"help": "Names of the linear layers with an adapter."},
    )
    lora_audio_tokens: bool = field(
        default=True,
        metadata={
            "help": "Whether to also train the rows of all audio tokens in the embedding and the output layer, and to "
            "save them with the adapter; without them the model does not learn new sounds."
        },
    )
    use_rslora: bool = field(
        default=False, metadata={"help": "Divide the scale by the square root of the rank (rsLoRA)."}
    )
    use_dora: bool = field(default=False, metadata={"help": "Adapt magnitude and direction separately (DoRA)."})
    load_in_4bit: bool = field(
        default=False, metadata={"help": "Quantize the frozen weights to 4 bits (QLoRA); needs CUDA and bitsandbytes."}
    )

    license: str | None = field(
        default=None,
        metadata={"help": "Licence of the result, for its model card; by default that of the model's card."},
    )
    language: list[str] = field(
        default_factory=list,
        metadata={"help": "Languages of the data (`en`), for the model card; by default those of the model's card."},
    )

    def audio_settings(self) -> dict[str, Any]:
        """Fields of the model's configuration that the recipe overrides."""
        given = {"audio_attention": self.audio_attention, "audio_block_length": self.audio_block_length}
        return {key: value for key, value in given.items() if value is not None}


@dataclass
class DataArguments:
    """Data."""

    train_data: str = field(
        default="",
        metadata={
            "help": "A dataset (folder, file or Hub id) or a list of them, each a mapping with `path` and optionally "
            "`task`, `ratio` and `split`; see docs/data.md."
        },
    )
    eval_data: str = field(
        default="",
        metadata={"help": "Evaluation data in the same form; every row counts once, whatever the `ratio`."},
    )
    task: str | None = field(
        default=None,
        metadata={
            "help": "`asr` or `tts`, for recordings with texts whose source names no task: set by the recipes "
            "`lora_asr` and `lora_tts`."
        },
    )
    streaming: bool = field(
        default=False, metadata={"help": "Read the data during training instead of preparing it before."}
    )
    text_per_span: int = field(default=13, metadata={"help": "Text tokens before each span of a spoken reply."})
    audio_per_span: int = field(default=26, metadata={"help": "Codes in each span of a spoken reply but the last."})
    max_length: int = field(
        default=2048,
        metadata={"help": "Maximum number of tokens per sample; longer ones are cut at a span or dropped."},
    )
    row_length: int = field(
        default=0,
        metadata={
            "help": "Pack samples into rows of this many positions, including noised copies; 0 turns packing off."
        },
    )
    audio_variants: int = field(
        default=0,
        metadata={
            "help": "Augmented encodings of each recording of the user, with another speed, noise or room acoustics; "
            "each epoch draws one of them or the original. Replies and eval_data are not augmented."
        },
    )
    encoding_workers: int = field(default=1, metadata={"help": "Number of processes that encode audio to codes."})
    max_broken: float | None = field(
        default=None,
        metadata={
            "help": "Share of rows that may be left out because they cannot be used; 0.01 by default, or up to "
            "5 rows of small data."
        },
    )


@dataclass
class ObjectiveArguments:
    """Objective and noise, as in `TtTDataCollator`."""

    objective: str = field(
        default="two_stream",
        metadata={
            "help": "`two_stream`, `paper`, or a baseline: `ar` (audio autoregressive) or `nar` (whole replies by "
            "diffusion)."
        },
    )
    noise_copies: int = field(
        default=1, metadata={"help": "Noised copies of each span (`two_stream`) or reply (`nar`)."}
    )
    complementary: bool = field(
        default=False, metadata={"help": "Mask in every second copy what the first one keeps."}
    )
    noise_per: str = field(default="sample", metadata={"help": "Draw a noise level per `sample` or per `span`."})
    weighting: str = field(
        default="inverse", metadata={"help": "Weight of masked positions: `inverse` to the noise level, or `flat`."}
    )
    block_canvas: bool = field(
        default=True,
        metadata={
            "help": "Shape copies like the canvas in decoding: clean blocks, then a noised one (`two_stream`, `nar`)."
        },
    )
    filler_weight: float = field(
        default=0.1, metadata={"help": "Loss weight of the end markers that fill a copy after the end of its span."}
    )
    clean_batch_probability: float = field(
        default=0.3, metadata={"help": "BANOM: probability of a clean batch (`paper`)."}
    )
    prefix_preservation: float = field(
        default=0.3, metadata={"help": "PPM: probability that the first spans of a sample stay clean (`paper`)."}
    )
    span_truncation: float = field(
        default=0.0, metadata={"help": "SST: probability that the last span of a sample is truncated at random."}
    )


@dataclass
class RecipeTrainingArguments(TrainingArguments):
    """Training, with defaults for a short fine-tuning, and monitoring."""

    learning_rate: float = field(default=2e-4, metadata={"help": "Peak learning rate."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Learning rate schedule."})
    per_device_train_batch_size: int = field(
        default=8, metadata={"help": "Samples, or packed rows, per forward and device."}
    )
    logging_steps: float = field(default=10, metadata={"help": "Steps between two log entries."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Number of checkpoints to keep."})
    report_to: str = field(default="none", metadata={"help": "`tensorboard`, `wandb`, `trackio`, or `none`."})
    # The columns are those of samples; only the collator creates the inputs of `forward`.
    remove_unused_columns: bool = field(default=False, metadata={"help": "Must stay off."})
    hub_strategy: str = field(
        default="end", metadata={"help": "Must stay `end`: `push_to_hub` uploads the finished model, no checkpoints."}
    )
    resume: str = field(
        default="same",
        metadata={
            "help": "What happens if output_dir holds a training: `same` goes on if it is of the same recipe and data "
            "and refuses it otherwise, `force` goes on from its last checkpoint with this recipe."
        },
    )
    early_stopping_patience: int = field(
        default=0,
        metadata={"help": "Stop after this many evaluations without improvement; 0 turns early stopping off."},
    )
    speak_steps: int = field(
        default=0,
        metadata={"help": "Steps between sample replies, which are written to OUTPUT_DIR/spoken; 0 turns them off."},
    )
    speak_samples: int = field(
        default=4,
        metadata={"help": "Number of samples for these replies, the first ones of eval_data or else of train_data."},
    )


@dataclass(frozen=True)
class Recipe:
    """A recipe by groups of keys."""

    model: ModelArguments
    data: DataArguments
    objective: ObjectiveArguments
    training: RecipeTrainingArguments


GROUPS = (ModelArguments, DataArguments, ObjectiveArguments, RecipeTrainingArguments)


class _Parser(HfArgumentParser):
    """`HfArgumentParser` that raises a `ValueError` instead of exiting."""

    def error(self, message: str) -> NoReturn:
        # argparse names options of a command line: its sentence is put into one about keys.
        match = re.match(r"argument --(\w+)\S*: (.*)", message, re.DOTALL)
        raise ValueError(f"The key {match[1]} has a wrong value: {shorten(match[2], 300)}." if match else message)


def load_recipe(name: str, overrides: Iterable[str] = ()) -> Recipe:
    """Reads a recipe and checks its keys.

    Args:
        name: Path of a YAML file, or the name of a shipped recipe.
        overrides: `key=value` strings; the value is read as YAML.

    Raises:
        FileNotFoundError: If there is no such recipe.
        ValueError: If a key is unknown, or a value has the wrong type or cannot be read.
    """
    path = recipe_file(name)
    values = read_yaml(path) or {}
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold keys and values, one per line: learning_rate: 2.0e-4.")
    form = "key=value, for example learning_rate=1e-4"
    return parse_recipe(values | dict(split_override(override, form) for override in overrides))


def parse_recipe(values: Mapping[str, Any]) -> Recipe:
    """Checks the keys of a recipe.

    Args:
        values: Keys and values; keys that are missing or `None` get their defaults.
    """
    fields = {entry.name: entry for group in GROUPS for entry in dataclasses.fields(group) if entry.init}
    for key in values:
        if key not in fields:
            hint = nearest(str(key), fields, "docs/recipe-keys.md lists them")
            raise ValueError(f"There is no key {shorten(str(key))}: {hint}.")
    # Through a command line, since argparse converts values to the types of the fields and refuses wrong ones.
    # It has no word for `None`: such keys are left out.
    words = {key: _command_line(fields[key], value) for key, value in values.items() if value is not None}
    try:
        return _parse(words)
    # Raised by transformers, which checks the values of its arguments in their constructor.
    except Exception as error:
        reason = shorten(" ".join(str(error).split()).rstrip("."), 300)
        if reason.startswith("The key "):
            raise ValueError(f"{reason}.") from error
        culprit = next((key for key in reversed(words) if _is_parsed({**words, key: []})), None)
        # Without a package, the remedy is to install it: that is no wrong value.
        kind = ImportError if isinstance(error, ImportError) else ValueError
        what = f"The key {culprit}" if culprit else "The recipe"
        raise kind(f"{what} cannot be used here: {reason or type(error).__name__}.") from error


def _parse(words: Mapping[str, list[str]]) -> Recipe:
    # Without --help, which would print it and exit; and a name of the program, which help texts need.
    parser = _Parser(GROUPS, prog="recipe", add_help=False, allow_abbrev=False)
    recipe = Recipe(*parser.parse_args_into_dataclasses([word for key in words for word in words[key]]))
    for group in vars(recipe).values():
        for key, value in vars(group).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"The key {key} has a wrong value: {value} is no finite number.")
    return recipe


def _is_parsed(words: Mapping[str, list[str]]) -> bool:
    try:
        _parse(words)
    except Exception:
        return False
    return True


def _command_line(field: dataclasses.Field[Any], value: Any) -> list[str]:
    """A key and its value as command line arguments."""
    option = f"--{field.name}"
    # YAML reads the word no as false.
    if value is False and field.name.endswith("_strategy"):
        value = "no"
    if field.name in ("train_data", "eval_data") and isinstance(value, dict | list):
        return [f"{option}={json.dumps(value)}"]
    if isinstance(value, list):
        if "list" not in str(field.type):
            raise ValueError(f"The key {field.name} has a wrong value: one value belongs here, not a list.")
        entries = [entry if isinstance(entry, str) else json.dumps(entry) for entry in value]
        for entry in entries:
            # argparse would take it for an option.
            if not entry or entry.startswith("-"):
                raise ValueError(f"The key {field.name} has a wrong value: {shorten(entry)!r} in its list.")
        return [option, *entries] if entries else []
    # Mappings travel as JSON. With an equals sign, a value may begin with a dash.
    return [f"{option}={json.dumps(value) if isinstance(value, dict) else value}"]


# -- documentation ----------------------------------------------------------------------------------------------------

INTRODUCTION = """# Keys of a recipe

Made by `python -m ttt_hf.training.arguments`. Every key may be set in the YAML file of a recipe or after it on the
command line, `key=value`.
"""
FURTHER_KEYS = """
All other keys of transformers' [TrainingArguments][1] can be set, too (`bf16`, `gradient_accumulation_steps`,
`gradient_checkpointing`, `eval_strategy`, `fsdp`, `deepspeed`, ...).

[1]: https://huggingface.co/docs/transformers/main_classes/trainer#transformers.TrainingArguments
"""


def keys_page() -> str:
    """The page docs/recipe-keys.md, as Markdown."""
    parts = [INTRODUCTION]
    for group in GROUPS:
        title = (inspect.getdoc(group) or "").split("\n")[0].rstrip(".")
        parts.append(f"\n## {title}\n\n| key | default | meaning |\n|---|---|---|\n")
        for entry in dataclasses.fields(group):
            # Of transformers' own keys, those whose default is changed here.
            if group is not RecipeTrainingArguments or entry.name in RecipeTrainingArguments.__annotations__:
                explanation = " ".join(entry.metadata["help"].split())
                parts.append(f"| `{entry.name}` | {_default(entry)} | {explanation} |\n")
    return "".join([*parts, FURTHER_KEYS])


def _default(entry: dataclasses.Field[Any]) -> str:
    value = entry.default if entry.default_factory is dataclasses.MISSING else entry.default_factory()
    if isinstance(value, list):
        return ", ".join(f"`{item}`" for item in value)
    # Looked up by type first: 1 equals True, and would be shown as `true`.
    names = {None: "none", "": "none", True: "`true`", False: "`false`"}
    return names[value] if isinstance(value, bool | str | None) and value in names else f"`{value}`"


if __name__ == "__main__":
    print(keys_page(), end="")
