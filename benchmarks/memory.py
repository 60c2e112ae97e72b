"""Memory of a TtT of a given size, counted on the meta device: no weight is made, no file is read.

    python benchmarks/memory.py
    python benchmarks/memory.py --length 4096 --json
    python benchmarks/memory.py --page docs/official.md
    python benchmarks/memory.py --load TtT-3B --dtype bfloat16      # measures loading a checkpoint (Linux, on the CPU)

Weights and the key/value cache are counted, activations are not. With 8 and 4 bits the matrices of the layers are
quantised; embeddings, norms and biases stay in bfloat16 (bitsandbytes; 4 bits are NF4 with a float32 scale for each 64
weights).
"""

from __future__ import annotations

import argparse
import json
import re
import threading
from pathlib import Path
from typing import Any

import torch
from common import fill
from torch import nn

from ttt_hf import TtTConfig, TtTForConditionalGeneration
from ttt_hf.loading import load_model_and_processor


BEGIN, END = "<!-- memory:begin -->", "<!-- memory:end -->"
VOCABULARY = 168072
# Published configurations of Qwen2.5: hidden size, MLP size, layers, heads, key/value heads, tied embeddings.
SIZES = {
    "1.5B": (1536, 8960, 28, 12, 2, True),
    "3B": (2048, 11008, 36, 16, 2, True),
    "7B": (3584, 18944, 28, 28, 4, False),
}
# Bytes per weight: half a byte, and a float32 scale for each 64 weights.
BITS_4_BYTES = 0.5 + 4 / 64
GIB = 2**30


def qwen2(name: str) -> dict[str, Any]:
    """The backbone's configuration with the vocabulary of the released TtT-3B."""
    hidden, inner, layers, heads, key_value_heads, tied = SIZES[name]
    return {
        "model_type": "qwen2",
        "vocab_size": VOCABULARY,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": key_value_heads,
        "tie_word_embeddings": tied,
    }


def measure(name: str, length: int) -> dict[str, Any]:
    """Counts the memory of a model.

    Args:
        name: A key of `SIZES`.
        length: Tokens of prompt and reply in the cache, one row.

    Returns:
        `parameters`, bytes of the weights by data type, and bytes of the `cache` in bfloat16.
    """
    config = TtTConfig(text_config=qwen2(name))
    with torch.device("meta"):
        model = TtTForConditionalGeneration(config)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    # Only these are quantized; the output layer stays in bfloat16, like the embeddings.
    matrices = sum(
        module.weight.numel()
        for module in model.modules()
        if isinstance(module, nn.Linear) and module is not model.lm_head
    )
    text = config.get_text_config()
    # Keys and values of a token in one layer: 2 x key/value heads x size of a head. Two bytes each in bfloat16.
    key_values = 2 * text.num_key_value_heads * text.hidden_size // text.num_attention_heads
    return {
        "parameters": parameters,
        "float32": 4 * parameters,
        "bfloat16": 2 * parameters,
        "8 bits": 2 * (parameters - matrices) + matrices,
        "4 bits": 2 * (parameters - matrices) + BITS_4_BYTES * matrices,
        "cache": 2 * length * text.num_hidden_layers * key_values,
    }


def table(report: dict[str, dict[str, Any]], length: int, command: str) -> str:
    """The counts as Markdown, in GiB."""
    lines = [
        f"| backbone | parameters | float32 | bfloat16 | 8 bits | 4 bits | cache of {length:,} tokens |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, counts in report.items():
        memory = [f"{counts[key] / GIB:.2f}" for key in ("float32", "bfloat16", "8 bits", "4 bits", "cache")]
        lines.append(f"| Qwen2.5 {name} | {counts['parameters'] / 1e9:.2f} B | {' | '.join(memory)} |")
    lines += ["", f"GiB, counted on the meta device by `{command}`."]
    return "\n".join(lines)


def own_memory() -> int:
    """Bytes of this process, without mapped files."""
    # Files that are read through a memory map are the system's cache, not memory of this process.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(re.search(r"RssAnon:\s+(\d+)", status)[1])


def measure_loading(folder: str, dtype: str) -> dict[str, int]:
    """Loads a checkpoint on the CPU and samples the memory of this process meanwhile.

    Args:
        folder: Folder or Hub id.
        dtype: Data type of the weights.

    Returns:
        Bytes of the `weights`, and by how many bytes the process grew: at its `peak`, and `after` loading.
    """
    before, peak, is_loaded = own_memory(), 0, threading.Event()

    # A thread samples every 2 ms, because the system's own peak includes what came before loading.
    def watch() -> None:
        nonlocal peak
        while not is_loaded.wait(0.002):
            peak = max(peak, own_memory() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        model, _ = load_model_and_processor(folder, device="cpu", dtype=dtype)
    finally:
        is_loaded.set()
        watcher.join()
    after = own_memory() - before
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    # The thread may miss the end.
    return {"weights": weights, "peak": max(peak, after), "after": after}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=2048, help="tokens in the cache (default: 2048)")
    parser.add_argument("--json", action="store_true", help="print one JSON object, in bytes")
    parser.add_argument("--load", metavar="FOLDER", help="load this checkpoint and measure, instead of counting")
    parser.add_argument(
        "--dtype", default="bfloat16", choices=("bfloat16", "float32"), help="data type of its weights"
    )
    parser.add_argument("--page", type=Path, help="page whose table is updated")
    args = parser.parse_args()
    if args.load:
        loading = measure_loading(args.load, args.dtype)
        text = ", ".join(f"{what} {size / 2**20:.0f} MiB" for what, size in loading.items())
        print(json.dumps(loading) if args.json else f"{args.dtype}: {text}")
        return
    report = {name: measure(name, args.length) for name in SIZES}
    option = f" --length {args.length}" if args.length != parser.get_default("length") else ""
    text = table(report, args.length, f"python benchmarks/memory.py{option}")
    print(json.dumps(report, indent=2) if args.json else text)
    if args.page:
        fill(args.page, text, (BEGIN, END))


if __name__ == "__main__":
    main()
