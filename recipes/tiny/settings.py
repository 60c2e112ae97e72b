"""The settings of the recipe: a tree of dataclasses that is read from `tiny.yaml`.

Values are given in the YAML file only (those of the codec are the defaults of `CodecTraining`), so that each number is
defined once. `load_settings` checks names and types and applies `section.key=value` overrides; `fingerprint` hashes
sections, so that a finished stage can tell whether its settings have changed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ttt_hf.overrides import nearest, read_yaml, split_override

from .codec_objective import CodecTraining


RECIPE_FILE = Path(__file__).with_name("tiny.yaml")
# Settings that do not change the results of a stage.
NEUTRAL = frozenset({"workers", "logging_steps", "save_steps"})


@dataclass(frozen=True)
class DataSettings:
    """The amount of data.

    Args:
        scale: 1 makes the full data; less makes a small set with every family, voice and split.
        workers: Processes that synthesize speech.
    """

    scale: float
    workers: int


@dataclass(frozen=True)
class ModelSettings:
    """Shape and training of the language model.

    Args:
        seed: Initialisation, order of the samples and diffusion noise.
        text_vocab_size: Size of the text vocabulary, special tokens included.
        hidden_size, intermediate_size, num_layers, num_heads, num_kv_heads: Shape of the Qwen2 backbone.
        audio_attention: `"span"` or `"block_causal"`.
        audio_block_length: Positions of a denoising block.
        text_per_span, audio_per_span: Interleaving of a reply: text tokens, then audio codes.
        objective: `"two_stream"` or `"paper"`.
        noise_copies: Noised copies of each span (`two_stream`).
        augmented_copies: Noisy variants of each spoken question, besides the clean one.
        answer_offsets: Offsets in the grid of codes at which each answer of the domain is encoded; the model learns
            the codes that are the most intelligible to Whisper base. 1 encodes the answers once.
        ctc_weight, ctc_layer: Weight of the auxiliary CTC loss that transcribes the user's audio, and its layer.
        code_gradient_share: Weight of the gradients that audio codes get from codes with the same quantizer digits.
        samples: Training samples drawn from the items; each epoch adds new noise to them.
        steps: Optimizer steps.
        processes: Data-parallel processes on a CPU.
        batch_size: Samples per forward and process. A GPU computes all samples of a step in one forward.
        gradient_accumulation: Forwards per step.
        learning_rate, warmup_steps, weight_decay, adam_beta2, max_grad_norm: AdamW with cosine decay.
        logging_steps, save_steps: Steps between log entries and between saved states.
    """

    seed: int
    text_vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    audio_attention: str
    audio_block_length: int
    text_per_span: int
    audio_per_span: int
    objective: str
    noise_copies: int
    augmented_copies: int
    answer_offsets: int
    ctc_weight: float
    ctc_layer: int
    code_gradient_share: float
    samples: int
    steps: int
    processes: int
    batch_size: int
    gradient_accumulation: int
    learning_rate: float
    warmup_steps: int
    weight_decay: float
    adam_beta2: float
    max_grad_norm: float
    logging_steps: int
    save_steps: int


@dataclass(frozen=True)
class GenerationSettings:
    """Decoding defaults of the finished checkpoint (its `generation_config.json`).

    Args:
        max_new_tokens: Limit of a reply, text tokens and audio codes together.
        do_sample, temperature, top_k, top_p: Sampling of text tokens; the last three apply only with `do_sample`.
        audio_block_length: Positions denoised together.
        audio_steps_per_block: Denoising steps per block.
        audio_max_span_length: Limit of one audio span, in codes.
        audio_temperature: Sampling temperature of audio codes; 0 takes the most probable code.
        audio_cfg_scale: Strength of classifier-free guidance; 0 turns it off.
        audio_remasking: `"low_confidence"`, `"random"`, `"entropy"` or `"margin"`.
        audio_confidence_threshold: Commits every position above it, beyond the schedule.
        audio_entropy_bound: Commits positions beyond the schedule while their entropies sum up to less.
        min_text_tokens_after_audio: Text tokens after a span before the reply may end.
        text_repetition_limit: Tokens after which a text that repeats itself ends.
    """

    max_new_tokens: int
    do_sample: bool
    temperature: float
    top_k: int
    top_p: float
    audio_block_length: int
    audio_steps_per_block: int
    audio_max_span_length: int
    audio_temperature: float
    audio_cfg_scale: float
    audio_remasking: str
    audio_confidence_threshold: float | None
    audio_entropy_bound: float | None
    min_text_tokens_after_audio: int
    text_repetition_limit: int | None


@dataclass(frozen=True)
class ScoreSettings:
    """How the checkpoint is scored.

    Args:
        batch_size: Replies generated together.
    """

    batch_size: int


@dataclass(frozen=True)
class TinySettings:
    """All settings; each field is a section of `tiny.yaml`."""

    data: DataSettings
    codec: CodecTraining
    lm: ModelSettings
    generation: GenerationSettings
    score: ScoreSettings


def load_settings(path: Path | str | None = None, overrides: Iterable[str] = ()) -> TinySettings:
    """Reads the recipe.

    Args:
        path: YAML file with all sections; `tiny.yaml` beside this module by default.
        overrides: `section.key=value` strings; values are read as YAML.

    Returns:
        The checked settings.

    Raises:
        FileNotFoundError: The file is not there.
        ValueError: A name is unknown or missing, a value has the wrong type, or an override is malformed.
    """
    path = Path(path) if path is not None else RECIPE_FILE
    tree = read_yaml(path)
    if not isinstance(tree, dict):
        raise ValueError(
            f"{path} has to hold the sections of the recipe (data:, codec:, ...), see {RECIPE_FILE.name}."
        )
    # Before the checks, so that a misspelled override gets the same error as a misspelled key of the file.
    for override in overrides:
        _apply_override(tree, override)
    settings: TinySettings = _build(TinySettings, tree, "")
    return settings


def fingerprint(settings: TinySettings, sections: Iterable[str]) -> str:
    """Hashes the settings of some sections that change the results.

    Args:
        settings: The recipe.
        sections: Names of the sections.

    Returns:
        16 hexadecimal digits.
    """
    # Sorted keys: the hash must not depend on the order of the fields.
    tree = {
        section: {
            key: value for key, value in dataclasses.asdict(getattr(settings, section)).items() if key not in NEUTRAL
        }
        for section in sections
    }
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:16]


def _apply_override(tree: dict[str, Any], override: str) -> None:
    """Sets one `section.key=value` in the tree."""
    form = "section.key=value, for example lm.steps=100"
    name, value = split_override(override, form)
    section, dot, key = name.partition(".")
    if not (dot and key):
        raise ValueError(f"{override!r} is not an override: write {form}.")
    if not isinstance(tree.get(section), dict):
        raise ValueError(f"The recipe has no section {section!r}, {_nearest(section, tree)}.")
    tree[section][key] = value


def _build(kind: type[Any], tree: Any, where: str) -> Any:
    """Builds the dataclass `kind` from a mapping; checks names and types."""
    if not isinstance(tree, Mapping):
        raise ValueError(f"{where.rstrip('.')} has to be a section with keys, not {tree!r}.")
    # Annotations are strings in this module; this evaluates them.
    hints = typing.get_type_hints(kind)
    for name in tree:
        if name not in hints:
            raise ValueError(f"The recipe has no setting {where}{name}, {_nearest(str(name), hints)}.")
    # Of all sections, only the codec's has defaults.
    defaults = {field.name for field in dataclasses.fields(kind) if field.default is not dataclasses.MISSING}
    missing = [where + name for name in hints if name not in tree and name not in defaults]
    if missing:
        raise ValueError(f"The recipe lacks {', '.join(missing)}: add it to the YAML file.")
    values = {}
    for name, value in tree.items():
        hint = hints[name]
        # A section; its keys get its name in messages.
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            values[name] = _build(hint, value, f"{where}{name}.")
        else:
            values[name] = _check(value, hint, where + name)
    return kind(**values)


def _check(value: Any, hint: Any, name: str) -> Any:
    """Returns the value as the hinted type; an int is accepted for a float."""
    # `X | None`: either nothing, or checked as X.
    if isinstance(hint, types.UnionType):
        if value is None and type(None) in hint.__args__:
            return None
        hint = next(part for part in hint.__args__ if part is not type(None))
    if typing.get_origin(hint) is list:
        if isinstance(value, list):
            return [_check(entry, hint.__args__[0], name) for entry in value]
    elif hint is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        # YAML 1.1 reads 1e-3 (no dot) as text: take it for the number that was meant.
        with contextlib.suppress(ValueError):
            return float(value)
    # A bool is an int in Python, but `true` is no number here: falls through to the error.
    elif hint is int and isinstance(value, bool):
        pass
    elif isinstance(value, hint):
        return value
    wanted = getattr(hint, "__name__", str(hint)) if typing.get_origin(hint) is None else str(hint)
    raise ValueError(f"The setting {name} has to be {wanted}, not {value!r}.")


def _nearest(name: str, known: Iterable[str]) -> str:
    return nearest(name, known, f"only {', '.join(known)}")
