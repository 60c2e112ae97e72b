"""Answers several recordings in one batch and writes the spoken replies.

python examples/batch_inference.py examples/question.wav other.flac --out replies
"""

from __future__ import annotations

import argparse
from pathlib import Path

import soundfile

from ttt_hf import TtTForConditionalGeneration, TtTProcessor, embedded_checkpoint


def main(recordings: list[Path], out: Path, model_id: str) -> None:
    model = TtTForConditionalGeneration.from_pretrained(model_id)
    processor = TtTProcessor.from_pretrained(model_id)
    conversations = [
        [{"role": "user", "content": [{"type": "audio", "path": str(recording)}]}] for recording in recordings
    ]
    # Rows are left-padded. A row's output does not depend on the rows beside it, so batching only saves time.
    inputs = processor.apply_chat_template(
        conversations, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    output = model.generate(**inputs, return_dict_in_generate=True)

    out.mkdir(parents=True, exist_ok=True)
    for row, recording in enumerate(recordings):
        reply = processor.decode_reply(output, row=row)
        print(f"{recording}: {reply.text}")
        if len(reply.audio):  # a reply may be text only
            soundfile.write(out / f"{row:03d}-{recording.stem}.wav", reply.audio, reply.sampling_rate)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", type=Path, nargs="+", help="WAV, FLAC, OGG or MP3 files")
    parser.add_argument("--out", type=Path, default=Path("replies"), help="folder of the spoken replies")
    parser.add_argument("--model", default=embedded_checkpoint(), help="folder or Hub id")
    arguments = parser.parse_args()
    main(arguments.recordings, arguments.out, arguments.model)
