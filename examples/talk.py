"""Ask a checkpoint a spoken question: python examples/talk.py examples/question.wav reply.wav [checkpoint]"""

from __future__ import annotations

import sys

import soundfile

from ttt_hf import TtTForConditionalGeneration, TtTProcessor, embedded_checkpoint


def main(question: str, reply: str, checkpoint: str | None = None) -> None:
    """Prints what the model heard and what it answers, and writes the spoken answer to `reply`."""
    checkpoint = checkpoint or embedded_checkpoint()
    model = TtTForConditionalGeneration.from_pretrained(checkpoint)
    processor = TtTProcessor.from_pretrained(checkpoint)
    conversation = [{"role": "user", "content": [{"type": "audio", "path": question}]}]

    for task in ("asr", "chat"):
        inputs = processor.apply_chat_template(
            conversation,
            task=task,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
        out = model.generate(**inputs, return_dict_in_generate=True)
        answer = processor.decode_reply(out, row=0)
        print(f"{task}: {answer.text}")

    soundfile.write(reply, answer.audio, answer.sampling_rate)


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    main(*sys.argv[1:])
