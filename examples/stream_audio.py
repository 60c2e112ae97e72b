"""Streams a spoken reply into an audio player while it is generated: 16-bit PCM on stdout, the text on stderr.

python examples/stream_audio.py examples/question.wav | aplay --format S16_LE --rate 16000
python examples/stream_audio.py examples/question.wav | ffplay -nodisp -autoexit -f s16le -ar 16000 -
"""

from __future__ import annotations

import argparse
import sys
from typing import BinaryIO

import torch

from ttt_hf import TtTForConditionalGeneration, TtTProcessor, embedded_checkpoint
from ttt_hf.modeling import TtTStreamer


class PcmStreamer(TtTStreamer):
    """Decodes each block of codes as soon as it is denoised and writes its samples."""

    def __init__(self, processor: TtTProcessor, output: BinaryIO) -> None:
        self.processor = processor
        self.output = output
        self.decoder = processor.codec.decode_stream()

    def put_text(self, token_ids: list[int]) -> None:
        print(self.processor.tokenizer.decode(token_ids), end="", file=sys.stderr, flush=True)

    def put_block(self, token_ids: list[int]) -> None:
        codes = torch.tensor(token_ids) - self.processor.token_ids.audio_code_offset
        # The last block of a span holds its end marker, too, whose id lies behind those of the codes.
        self.write(self.decoder.push(codes[(codes >= 0) & (codes < self.processor.token_ids.audio_vocab_size)]))

    def end(self) -> None:
        self.write(self.decoder.finish())  # samples that waited for codes behind them
        print(file=sys.stderr)

    def write(self, samples: torch.Tensor) -> None:
        self.output.write((samples.float().clamp(-1, 1) * 32767).short().cpu().numpy().tobytes())
        self.output.flush()


def main(recording: str, model_id: str) -> None:
    model = TtTForConditionalGeneration.from_pretrained(model_id)
    processor = TtTProcessor.from_pretrained(model_id)
    conversation = [{"role": "user", "content": [{"type": "audio", "path": recording}]}]
    inputs = processor.apply_chat_template(
        conversation, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    model.generate(**inputs, streamer=PcmStreamer(processor, sys.stdout.buffer))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recording", help="WAV, FLAC, OGG or MP3 file")
    parser.add_argument("--model", default=embedded_checkpoint(), help="folder or Hub id")
    arguments = parser.parse_args()
    main(arguments.recording, arguments.model)
