"""Assembles the trained parts: one folder with model, codec, tokenizer and chat template for `from_pretrained`.

    python -m recipes.tiny.assemble --out build/tiny             # makes build/tiny/ttt-tiny
    python -m recipes.tiny.assemble --out build/tiny --install   # copies it into the package

Weights are stored in 16 bits while the configurations say float32: the folder is half as large, and a loaded model
computes in full precision. The codec's weights were rounded to bfloat16 at the end of its training, so that storing
them as bfloat16 is exact; the model's are stored as float16, which has three more mantissa bits.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from ttt_hf.atomic_files import atomic_folder
from ttt_hf.codecs import load_codec
from ttt_hf.data.augmentation import SPEEDS
from ttt_hf.loading import load_model_and_processor
from ttt_hf.modeling import TtTForConditionalGeneration
from ttt_hf.names import CODEC_FOLDER, EMBEDDED_NAME
from ttt_hf.processing import TtTProcessor

from .settings import GenerationSettings, load_settings
from .tables import read_rows


SIZE_LIMIT = 24_000_000
# Keys of text sampling, which generate() warns about while sampling is off.
SAMPLING_KEYS = ("temperature", "top_k", "top_p")


def assemble(out: Path, settings: GenerationSettings, size_limit: int = SIZE_LIMIT) -> Path:
    """Writes OUT/ttt-tiny from OUT/model/final, OUT/codec and OUT/tokenizer.

    Args:
        out: The recipe's output root.
        settings: Decoding defaults for `generation_config.json`.
        size_limit: Bytes that the folder may have.

    Returns:
        The finished folder.

    Raises:
        FileNotFoundError: A part has not been trained yet.
        ValueError: The folder is larger than the limit, or the checkpoint does not load and answer.
    """
    for part in ("model/final", "codec", "tokenizer"):
        if not (out / part).is_dir():
            raise FileNotFoundError(f"There is no {out / part}: run the earlier stages of the recipe first.")
    model = TtTForConditionalGeneration.from_pretrained(out / "model" / "final", dtype=torch.float32)
    codec = load_codec(out / "codec", dtype=torch.float32)
    tokenizer = TtTProcessor.from_pretrained(out / "tokenizer").tokenizer
    # The clips of the training are cut around their speech, see `voices.speak`.
    codec.config.trim_silence = True
    # Set before saving, which writes generation_config.json from it.
    model.generation_config = generation_config(settings, tokenizer.eos_token_id, tokenizer.pad_token_id)

    # All checks run before the folder gets its name: a checkpoint that fails them does not replace the last one.
    with atomic_folder(out / EMBEDDED_NAME, replace=True) as folder:
        # Saving records the 16-bit types in the configurations, which then declare float32 again.
        model.to(torch.float16).save_pretrained(folder)
        processor = TtTProcessor(tokenizer, codec.to(torch.bfloat16))
        processor.max_audio_seconds = longest_question(out / "data")
        processor.save_pretrained(folder)
        for config in (folder / "config.json", folder / CODEC_FOLDER / "config.json"):
            _clean_config(config)
        # `save_pretrained` adds the model's code for the Hub; inside the package the code is there already.
        for path in folder.glob("*.py"):
            path.unlink()
        size = folder_size(folder)
        if size > size_limit:
            raise ValueError(
                f"The checkpoint takes {size / 1e6:.1f} MB and may take {size_limit / 1e6:.1f} MB: "
                "make the model or the codec smaller in tiny.yaml."
            )
        check_checkpoint(folder)
    return out / EMBEDDED_NAME


def longest_question(data: Path) -> float:
    """Seconds of the longest recording that the model has heard in training, rounded up: at the slowest speed."""
    items = read_rows(data / "items.jsonl")
    questions = {name for item in items if item["split"] == "train" for name in item["question_audio"]}
    seconds = (row["seconds"] for row in read_rows(data / "utterances.jsonl") if row["id"] in questions)
    return float(math.ceil(max(seconds) / SPEEDS[0]))


def generation_config(settings: GenerationSettings, eos_token_id: int, pad_token_id: int) -> GenerationConfig:
    """Builds the `GenerationConfig` of the checkpoint.

    It is built from scratch: one derived from a model's configuration has a private flag that makes transformers drop
    its keys on loading.

    Args:
        settings: The decoding keys.
        eos_token_id: Id that ends a reply.
        pad_token_id: Id that fills up the shorter rows of a batch.

    Returns:
        The configuration, without keys whose value is `None`.
    """
    keys = {
        key: value
        for key, value in asdict(settings).items()
        if value is not None and (settings.do_sample or key not in SAMPLING_KEYS)
    }
    return GenerationConfig(**keys, eos_token_id=eos_token_id, pad_token_id=pad_token_id)


def check_checkpoint(folder: Path) -> None:
    """Loads a checkpoint with the data type of its config.json and generates one reply.

    Args:
        folder: The checkpoint.

    Raises:
        ValueError: The weights do not load as float32, a generation key got lost, or the reply has neither text nor
            audio.
    """
    # `auto` follows config.json, like a user's call without a data type.
    model, processor = load_model_and_processor(str(folder), device="cpu", dtype="auto")
    for name, part in (("model", model), ("codec", processor.codec)):
        kinds = {parameter.dtype for parameter in part.parameters()}
        if kinds != {torch.float32}:
            raise ValueError(f"The {name} of {folder} loads as {kinds}, not as float32: check its config.json.")
    stored = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
    # transformers may drop these keys on loading, see `generation_config`.
    lost = [key for key in stored if key.startswith("audio_") and not hasattr(model.generation_config, key)]
    if lost:
        raise ValueError(f"The generation keys {', '.join(lost)} of {folder} do not survive loading.")
    # Any reply will do: the scores tell how good the replies are.
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "text", "text": "What is one plus one?"}]}],
        task="chat",
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    output = model.generate(**inputs, return_dict_in_generate=True, max_new_tokens=64)
    reply = processor.decode_reply(output, row=0)
    if not reply.text and not reply.segments:
        raise ValueError(f"The checkpoint {folder} answers with nothing: train it longer.")


def install(checkpoint: Path, package_folder: Path) -> Path:
    """Copies a finished checkpoint into the package.

    Args:
        checkpoint: Folder that `assemble` wrote.
        package_folder: Folder `checkpoints` of the package.

    Returns:
        The installed folder.

    Raises:
        FileNotFoundError: There is no finished checkpoint.
    """
    # An assembled folder is complete, so that one of its files tells whether it is there.
    if not (checkpoint / "model.safetensors").is_file():
        raise FileNotFoundError(f"There is no finished checkpoint in {checkpoint}: assemble it first.")
    target = package_folder / EMBEDDED_NAME
    with atomic_folder(target, replace=True) as folder:
        shutil.copytree(checkpoint, folder, dirs_exist_ok=True)
    return target


def folder_size(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _clean_config(path: Path) -> None:
    """Declares float32 in a saved configuration and its sub-configurations, and removes references to code."""

    def declare(node: Any) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                if key == "dtype":
                    node[key] = "float32"
                else:
                    declare(value)

    config = json.loads(path.read_text(encoding="utf-8"))
    declare(config)
    config["dtype"] = "float32"
    # `auto_map` names the code files that `assemble` deletes.
    config.pop("auto_map", None)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of the stage; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes.tiny.assemble",
        description="Makes OUT/ttt-tiny from the trained parts, or installs it into the package.",
    )
    parser.add_argument("--out", type=Path, default=Path("build/tiny"), help="output root (default: %(default)s)")
    parser.add_argument("--install", action="store_true", help="copy the assembled checkpoint into the package")
    parser.add_argument("overrides", nargs="*", metavar="generation.KEY=VALUE", help="decoding defaults to change")
    options = parser.parse_args(arguments)
    try:
        if options.install:
            folder = install(options.out / EMBEDDED_NAME, Path(__file__).parents[2] / "src" / "ttt_hf" / "checkpoints")
        else:
            folder = assemble(options.out, load_settings(overrides=options.overrides).generation)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{folder}: {folder_size(folder) / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
