"""A codec of your own: encodes the strongest of 32 tones in every 80 ms, and its amplitude.

python examples/custom_codec.py tone-codec

Speech does not survive such a codec, but everything around a codec runs with it; see docs/add_a_codec.md.
"""

from __future__ import annotations

import sys

import torch
from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, AutoModelForAudioTokenization, PreTrainedConfig

from ttt_hf.codecs import RowwiseCodec, load_codec


@strict
class ToneCodecConfig(PreTrainedConfig):
    model_type = "tone_codec"
    sampling_rate: int = 16000
    samples_per_code: int = 1280
    tones: int = 32
    levels: int = 8
    frame_rate = property(lambda self: self.sampling_rate / self.samples_per_code)
    codebook_size = property(lambda self: self.tones * self.levels)


class ToneCodec(RowwiseCodec):
    config_class = ToneCodecConfig
    look_behind = look_ahead = 0  # a code's samples depend on no other code

    def __init__(self, config: ToneCodecConfig) -> None:
        super().__init__(config)
        cycles = 4 * torch.arange(1, config.tones + 1)[:, None]  # integers: tones join without a click
        time = torch.arange(config.samples_per_code) / config.samples_per_code
        self.waves = torch.nn.Parameter(torch.sin(2 * torch.pi * cycles * time))
        self.post_init()

    def _encode_row(self, waveform: torch.Tensor) -> torch.Tensor:
        size, levels = self.config.samples_per_code, self.config.levels
        frames = torch.nn.functional.pad(waveform, (0, -len(waveform) % size)).view(-1, size)
        amplitude, tone = (torch.fft.rfft(frames).abs()[:, 4::4][:, : self.config.tones] * 2 / size).max(dim=1)
        return tone * levels + (amplitude * levels).long().clamp(max=levels - 1)

    def _decode_row(self, codes: torch.Tensor) -> torch.Tensor:
        tone, level = codes // self.config.levels, codes % self.config.levels
        return (self.waves[tone] * ((level + 0.5) / self.config.levels)[:, None]).flatten()


# From here on `load_codec`, and with it every command, finds the class by "model_type" in a folder's config.json.
AutoConfig.register(ToneCodecConfig.model_type, ToneCodecConfig)
AutoModelForAudioTokenization.register(ToneCodecConfig, ToneCodec)


def main(folder: str) -> None:
    ToneCodec(ToneCodecConfig()).save_pretrained(folder)
    codec = load_codec(folder)

    waveform = 0.5 * torch.sin(2 * torch.pi * 450 * torch.arange(16000) / 16000)  # one second of 450 Hz
    codes = codec.encode(waveform[None])
    decoded = codec.decode(codes)

    stream = codec.decode_stream()
    pieces = [stream.push(block) for block in codes[0].split(5)] + [stream.finish()]
    difference = (torch.cat(pieces) - decoded[0]).abs().max()
    print(f"{len(codes[0])} codes, {decoded.shape[1]} samples; the stream differs from them by {difference:.1e}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "tone-codec")
