"""Every hyper-parameter of the embedded checkpoint, as one tree of dataclasses read from `tiny.yaml`.

The values stand in the YAML file alone, those of the codec as defaults in `CodecTraining`, so that there is one place
to look a number up and one place to change it. `load_settings` checks names and types and applies `section.key=value`
overrides; `fingerprint` turns sections into a short hash, by which a finished stage knows whether it was made with the
same settings.
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

from .train_codec import CodecTraining


RECIPE_FILE = Path(__file__).with_name("tiny.yaml")
# Settings that change how a stage runs, not what it makes.
NEUTRAL = frozenset({"workers", "logging_steps", "save_steps"})


@dataclass(frozen=True)
class DataSettings:
    """What is synthesised.

    Args:
        scale: 1 makes the whole data; less makes a small set with every family, voice and split.
        workers: Processes that synthesise speech.
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
        answer_places: Places in the grid of codes at which each answer of the domain is encoded; the one that Whisper
            base understands best is learned. 1 takes the answers as they are.
        ctc_weight, ctc_layer: Auxiliary loss that recognises the user's audio, and its layer.
        code_gradient_share: How much audio codes learn from other codes with the same quantiser digits.
        samples: Training samples drawn from the items; training goes over them again with new noise.
        steps: Optimiser steps.
        processes: Processes that train together on a CPU, each on batches of the size given.
        batch_size: Samples of a forward; a GPU takes those of all forwards and processes of a step at once.
        gradient_accumulation: Forwards of a step.
        learning_rate, warmup_steps, weight_decay, adam_beta2, max_grad_norm: AdamW with cosine decay.
        logging_steps, save_steps: When to log and to save.
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
    answer_places: int
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
    """Decoding that the finished checkpoint does by default (its `generation_config.json`).

    Args:
        max_new_tokens: Limit of a reply, text and audio together.
        do_sample, temperature, top_k, top_p: How text tokens are drawn; the last three count only when `do_sample` is
            on.
        audio_block_length: Positions denoised together.
        audio_steps_per_block: Denoising steps of a block.
        audio_max_span_length: Limit of one audio span.
        audio_temperature: Sampling temperature of audio codes; 0 takes the most probable code.
        audio_cfg_scale: Strength of classifier-free guidance; 0 is off.
        audio_remasking: `"low_confidence"`, `"random"`, `"entropy"` or `"margin"`.
        audio_confidence_threshold: Commit every position above it, whatever the schedule.
        min_text_tokens_after_audio: Text tokens behind a span before the reply may end.
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
    min_text_tokens_after_audio: int


@dataclass(frozen=True)
class ScoreSettings:
    """Size of the measurement.

    Args:
        seed: Draws the questions that are scored, the sampling of audio codes and the bootstrap.
        wording, sums, sentences, voice: Items scored of each split, at most.
        written: Questions of the split "wording" that are asked in writing, at most.
        yardsticks: Recordings of the reply voice that Whisper hears for comparison, at most, in a split.
        batch_size: Rows generated together.
        bootstrap_resamples: Resamples behind a 95 % interval.
        single_replies: Replies generated one by one to measure the speed that one user sees.
    """

    seed: int
    wording: int
    sums: int
    sentences: int
    voice: int
    written: int
    yardsticks: int
    batch_size: int
    bootstrap_resamples: int
    single_replies: int


@dataclass(frozen=True)
class TinySettings:
    """The whole recipe, one field a section of `tiny.yaml`."""

    data: DataSettings
    codec: CodecTraining
    lm: ModelSettings
    generation: GenerationSettings
    score: ScoreSettings


def load_settings(path: Path | str | None = None, overrides: Iterable[str] = ()) -> TinySettings:
    """Reads the recipe.

    Args:
        path: A YAML file with all sections; the shipped `tiny.yaml` by default.
        overrides: `section.key=value` strings; the value is read as YAML, so that numbers, lists, `true` and `null`
            mean what they do in the file.

    Returns:
        The checked settings.

    Raises:
        FileNotFoundError: The file is not there.
        ValueError: A name is unknown or missing, a value has the wrong type, or an override cannot be read.
    """
    path = Path(path) if path is not None else RECIPE_FILE
    tree = read_yaml(path)
    if not isinstance(tree, dict):
        raise ValueError(
            f"{path} has to hold the sections of the recipe (data:, codec:, ...), see {RECIPE_FILE.name}."
        )
    for override in overrides:
        _apply_override(tree, override)
    settings: TinySettings = _build(TinySettings, tree, "")
    return settings


def fingerprint(settings: TinySettings, sections: Iterable[str]) -> str:
    """A short hash of some sections: equal results, equal hash.

    Args:
        settings: The recipe.
        sections: Names of the sections that count.

    Returns:
        16 hexadecimal digits.
    """
    tree = {
        section: {
            key: value for key, value in dataclasses.asdict(getattr(settings, section)).items() if key not in NEUTRAL
        }
        for section in sections
    }
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:16]


def _apply_override(tree: dict[str, Any], override: str) -> None:
    """Sets one `section.key=value` in the tree that was read from YAML."""
    form = "section.key=value, for example lm.steps=100"
    name, value = split_override(override, form)
    section, dot, key = name.partition(".")
    if not (dot and key):
        raise ValueError(f"{override!r} is not an override: write {form}.")
    if not isinstance(tree.get(section), dict):
        raise ValueError(f"The recipe has no section {section!r}, {_nearest(section, tree)}.")
    tree[section][key] = value


def _build(kind: type[Any], tree: Any, where: str) -> Any:
    """Turns a mapping into the dataclass `kind`, checking names and types."""
    if not isinstance(tree, Mapping):
        raise ValueError(f"{where.rstrip('.')} has to be a section with keys, not {tree!r}.")
    hints = typing.get_type_hints(kind)
    for name in tree:
        if name not in hints:
            raise ValueError(f"The recipe has no setting {where}{name}, {_nearest(str(name), hints)}.")
    defaults = {field.name for field in dataclasses.fields(kind) if field.default is not dataclasses.MISSING}
    missing = [where + name for name in hints if name not in tree and name not in defaults]
    if missing:
        raise ValueError(f"The recipe lacks {', '.join(missing)}: add it to the YAML file.")
    values = {}
    for name, value in tree.items():
        hint = hints[name]
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            values[name] = _build(hint, value, f"{where}{name}.")
        else:
            values[name] = _check(value, hint, where + name)
    return kind(**values)


def _check(value: Any, hint: Any, name: str) -> Any:
    """Returns the value as the hinted type (an int is accepted where a float is meant), or says what is wrong."""
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
    elif hint is int and isinstance(value, bool):
        pass
    elif isinstance(value, hint):
        return value
    wanted = getattr(hint, "__name__", str(hint)) if typing.get_origin(hint) is None else str(hint)
    raise ValueError(f"The setting {name} has to be {wanted}, not {value!r}.")


def _nearest(name: str, known: Iterable[str]) -> str:
    return nearest(name, known, f"only {', '.join(known)}")
