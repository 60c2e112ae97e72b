"""Puts the trained parts together: one folder with model, codec, tokenizer and chat template for `from_pretrained`.

    python -m recipes.tiny.assemble --out build/tiny             # makes build/tiny/ttt-tiny
    python -m recipes.tiny.assemble --out build/tiny --install   # copies it into the package

Weights are stored in 16 bits while the configurations say float32: the folder is half as large and a loaded model
computes in full precision. The codec's weights were rounded to bfloat16 in training, so that their bfloat16 is exact;
the model's go into float16, which rounds weights of ordinary size eight times finer.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from ttt_hf.codecs import load_codec
from ttt_hf.modeling import TtTForConditionalGeneration
from ttt_hf.processing import TtTProcessor

from .settings import GenerationSettings, load_settings


NAME = "ttt-tiny"
SIZE_LIMIT = 24_000_000
# Keys of text sampling, which generate() warns about while sampling is off.
SAMPLING_KEYS = ("temperature", "top_k", "top_p")


def assemble(out: Path, settings: GenerationSettings, size_limit: int = SIZE_LIMIT) -> Path:
    """Writes OUT/ttt-tiny from OUT/model/final, OUT/codec and OUT/tokenizer.

    Args:
        out: The recipe's output root.
        settings: Decoding defaults that go into `generation_config.json`.
        size_limit: Bytes that the folder may take.

    Returns:
        The finished folder.

    Raises:
        FileNotFoundError: A part has not been trained yet.
        ValueError: The folder is larger than the limit, or what was written does not load and answer.
    """
    for part in ("model/final", "codec", "tokenizer"):
        if not (out / part).is_dir():
            raise FileNotFoundError(f"There is no {out / part}: run the earlier stages of the recipe first.")
    model = TtTForConditionalGeneration.from_pretrained(out / "model" / "final", dtype=torch.float32)
    codec = load_codec(out / "codec", dtype=torch.float32)
    tokenizer = TtTProcessor.from_pretrained(out / "tokenizer").tokenizer
    model.generation_config = generation_config(settings, tokenizer.eos_token_id, tokenizer.pad_token_id)

    partial = out / f"{NAME}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    model.to(torch.float16).save_pretrained(partial)
    TtTProcessor(tokenizer, codec.to(torch.bfloat16)).save_pretrained(partial)
    for config in (partial / "config.json", partial / "codec" / "config.json"):
        _clean_config(config)
    # Code travels with a model that is saved for others; this one lives beside its code.
    for path in partial.glob("*.py"):
        path.unlink()
    # Weights are written for the owner's eyes only.
    for path in partial.rglob("*.safetensors"):
        path.chmod(0o644)
    size = folder_size(partial)
    if size > size_limit:
        raise ValueError(
            f"The checkpoint takes {size / 1e6:.1f} MB and may take {size_limit / 1e6:.1f} MB: "
            "make the model or the codec smaller in tiny.yaml."
        )
    check_checkpoint(partial)
    replace_folder(partial, out / NAME)
    return out / NAME


def generation_config(settings: GenerationSettings, eos_token_id: int, pad_token_id: int) -> GenerationConfig:
    """The decoding defaults as transformers stores them.

    A configuration made from a model's own carries a private mark by which transformers drops its keys when it is
    loaded again, so this one is made afresh.

    Args:
        settings: The decoding keys.
        eos_token_id: Ends a reply.
        pad_token_id: Fills rows of a batch that ended earlier.

    Returns:
        Keys that are set to nothing are left out.
    """
    keys = {
        key: value
        for key, value in asdict(settings).items()
        if value is not None and (settings.do_sample or key not in SAMPLING_KEYS)
    }
    return GenerationConfig(**keys, eos_token_id=eos_token_id, pad_token_id=pad_token_id)


def check_checkpoint(folder: Path) -> None:
    """Loads a checkpoint as a user does and lets it answer once.

    Args:
        folder: The checkpoint.

    Raises:
        ValueError: The weights do not load as float32, a generation key got lost, or the reply holds neither text nor
            audio.
    """
    model = TtTForConditionalGeneration.from_pretrained(folder).eval()
    processor = TtTProcessor.from_pretrained(folder)
    for name, part in (("model", model), ("codec", processor.codec)):
        kinds = {parameter.dtype for parameter in part.parameters()}
        if kinds != {torch.float32}:
            raise ValueError(f"The {name} of {folder} loads as {kinds}, not as float32: check its config.json.")
    stored = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
    lost = [key for key in stored if key.startswith("audio_") and not hasattr(model.generation_config, key)]
    if lost:
        raise ValueError(f"The generation keys {', '.join(lost)} of {folder} do not survive loading.")
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
    """Copies a finished checkpoint to where the package looks for its embedded one.

    Args:
        checkpoint: Folder that `assemble` wrote.
        package_folder: The package's `checkpoints` folder.

    Returns:
        The installed folder.

    Raises:
        FileNotFoundError: There is no finished checkpoint.
    """
    if not (checkpoint / "model.safetensors").is_file():
        raise FileNotFoundError(f"There is no finished checkpoint in {checkpoint}: assemble it first.")
    target = package_folder / NAME
    package_folder.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{NAME}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(checkpoint, partial)
    replace_folder(partial, target)
    return target


def replace_folder(partial: Path, folder: Path) -> None:
    """Puts a complete folder in another one's place; the old one is removed only when the new one stands.

    Args:
        partial: The complete new folder, on the same file system.
        folder: Its final name.
    """
    old = folder.with_name(f"{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def folder_size(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _clean_config(path: Path) -> None:
    """Makes a saved configuration, sub-configurations included, load its weights as float32, and name no code."""

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
            folder = install(options.out / NAME, Path(__file__).parents[2] / "src" / "ttt_hf" / "checkpoints")
        else:
            folder = assemble(options.out, load_settings(overrides=options.overrides).generation)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{folder}: {folder_size(folder) / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
