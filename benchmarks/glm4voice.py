"""Speed of the GLM-4-Voice codec, as real-time factors: seconds of computation per second of speech.

    python benchmarks/glm4voice.py                               # full size, random weights, CPU
    python benchmarks/glm4voice.py --size small --seconds 4 --json
    python benchmarks/glm4voice.py --codec path/to/codec --device cuda --dtype bfloat16 --compile

Weights do not change the speed, so they are random by default. The stream is decoded in blocks of 25, 50, 100, 150
and then 200 codes, as in the original's demonstration; the latency of the first audio is that of the first 10 codes.
With OMP_NUM_THREADS=1 processor time is measured, otherwise wall-clock time.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ttt_hf.atomic_files import atomic_write_text
from ttt_hf.codecs import Glm4VoiceCodec, Glm4VoiceCodecConfig, load_codec
from ttt_hf.loading import find_named_codec


BLOCKS = (25, 50, 100, 150)
LAST_BLOCK = 200
# A sixteenth of the channels, and fewer layers: to see that it runs.
SMALL = {
    "tokenizer_config": {"d_model": 80, "encoder_layers": 4, "pooling_position": 4, "encoder_attention_heads": 4,
                         "encoder_ffn_dim": 320, "codebook_size": 256},
    "decoder_config": {"codebook_size": 256, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 128,
                       "unet_channels": 16, "unet_mid_blocks": 2, "unet_layers": 1, "unet_heads": 2,
                       "unet_head_size": 8, "vocoder_channels": 32, "pitch_channels": 32},
}  # fmt: skip


def build_codec(codec: str | None, size: str, device: str, dtype: torch.dtype) -> Glm4VoiceCodec:
    """Loads a codec, or builds one with random weights."""
    if codec is not None:
        return load_codec(find_named_codec(codec), dtype=dtype).to(device)
    # Made on the device, so that nothing is copied from the CPU.
    with torch.device(device):
        built = Glm4VoiceCodec(Glm4VoiceCodecConfig(**(SMALL if size == "small" else {}))).eval()
    built.tokenizer.to(dtype)
    built.decoder.flow.to(dtype)  # the vocoder stays in float32
    return built


def split_as_spoken(codes: Tensor) -> list[Tensor]:
    """Splits codes (n,) into the blocks of the original's demonstration."""
    sizes: list[int] = []
    # The last block is as long as what is left.
    while (rest := len(codes) - sum(sizes)) > 0:
        sizes.append(min(rest, BLOCKS[len(sizes)] if len(sizes) < len(BLOCKS) else LAST_BLOCK))
    return list(codes.split(sizes))


def stream(codec: Glm4VoiceCodec, codes: Tensor) -> int:
    """Decodes codes piece by piece; returns the number of samples."""
    decoder = codec.decode_stream()
    return sum(len(decoder.push(block)) for block in split_as_spoken(codes)) + len(decoder.finish())


def is_processor_time(device: str) -> bool:
    """Whether processor time is measured, which does not depend on other load."""
    return device == "cpu" and torch.get_num_threads() == 1


def seconds_of(work: Callable[[], Any], device: str, repeats: int) -> float:
    """Seconds of the fastest run, after one to warm up."""
    clock = time.process_time if is_processor_time(device) else time.perf_counter
    times = []
    for _ in range(repeats + 1):
        start = clock()
        work()
        # A GPU computes while Python goes on.
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(clock() - start)
    return min(times[1:])


def measure(codec: Glm4VoiceCodec, seconds: float, device: str, repeats: int) -> dict[str, float]:
    """Times the parts of a codec on speech of a given length."""
    config = codec.config
    generator = torch.Generator().manual_seed(0)
    waveform = torch.randn(1, int(seconds * config.sampling_rate), generator=generator).to(device)
    # At least the 10 codes whose latency is measured.
    count = max(10, round(seconds * config.frame_rate))
    codes = torch.randint(0, config.codebook_size, (count,), generator=generator).to(device)
    spoken = count / config.frame_rate
    encode = seconds_of(lambda: codec.encode(waveform), device, repeats)
    decode = seconds_of(lambda: codec.decode(codes[None]), device, repeats)
    streaming = seconds_of(lambda: stream(codec, codes), device, repeats)
    first = seconds_of(lambda: codec.decode_stream().push(codes[:10]), device, repeats)
    return {
        "encode_rtf": encode / seconds,
        "decode_rtf": decode / spoken,
        "stream_rtf": streaming / spoken,
        "first_audio_seconds": first,
    }


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codec", metavar="DIR", help="folder of a converted codec (default: random weights)")
    parser.add_argument(
        "--size", choices=("full", "small"), default="full", help="size of the random codec (default: full)"
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="seconds of speech (default: 10)")
    parser.add_argument("--repeats", type=int, default=1, help="timed runs, of which the fastest counts (default: 1)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--compile", action="store_true", help="compile with torch.compile")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the result to a JSON file, too")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(argv)
    codec = build_codec(args.codec, args.size, args.device, getattr(torch, args.dtype))
    if args.compile:
        # Dynamic shapes, because blocks of a stream have different lengths.
        for module in (codec.tokenizer, codec.decoder.flow.estimator, codec.decoder.vocoder):
            module.compile(dynamic=True)
    result = {
        **{name: round(value, 4) for name, value in measure(codec, args.seconds, args.device, args.repeats).items()},
        "seconds": args.seconds,
        "parameters": sum(parameter.numel() for parameter in codec.parameters()),
        "device": torch.cuda.get_device_name() if args.device == "cuda" else platform.processor() or "cpu",
        "dtype": args.dtype,
        "compiled": args.compile,
        "threads": torch.get_num_threads(),
        "clock": "processor" if is_processor_time(args.device) else "wall",
        "torch": torch.__version__,
    }
    text = json.dumps(result)
    if args.out:
        atomic_write_text(args.out, text + "\n")
    if args.json:
        print(text)
        return
    for name, value in result.items():
        print(f"{name.replace('_', ' '):<20}{value}")


if __name__ == "__main__":
    main()
