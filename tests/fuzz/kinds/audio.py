"""Audio files in all formats, damaged; and names that are no files."""

from __future__ import annotations

from pathlib import Path

import av
import soundfile

from ..mutations import Damage
from .material import RATE, tone, write_checkpoint


IMPORTS = ("soundfile", "soxr", "ttt_hf.loading", "ttt_hf.processing", "transformers.models.qwen2.modeling_qwen2")
FORMATS = {
    "pcm.wav": ("WAV", "PCM_16"), "float.wav": ("WAV", "DOUBLE"), "law.wav": ("WAV", "ALAW"), "gsm.wav": ("WAV",
    "GSM610"),
    "a.rf64": ("RF64", "PCM_24"), "a.flac": ("FLAC", "PCM_16"), "a.ogg": ("OGG", "VORBIS"), "opus.ogg": ("OGG",
    "OPUS"),
    "a.mp3": ("MP3", "MPEG_LAYER_III"), "a.aiff": ("AIFF", "PCM_16"), "a.au": ("AU", "ULAW"), "a.caf": ("CAF",
    "PCM_16"),
    "a.w64": ("W64", "FLOAT"), "a.mat": ("MAT5", "DOUBLE"), "a.voc": ("VOC", "PCM_16"),
}  # fmt: skip
# Of browsers and phones.
CONTAINERS = {"opus.webm": ("webm", "libopus"), "aac.m4a": ("ipod", "aac"), "raw.aac": ("adts", "aac")}


def prepare(base: Path) -> None:
    write_checkpoint(base / "checkpoint")
    (base / "audio").mkdir()
    for name, (container, encoding) in FORMATS.items():
        rate = 48_000 if encoding == "OPUS" else 8000 if encoding == "GSM610" else RATE
        soundfile.write(base / "audio" / name, tone(0.4, rate), rate, encoding, format=container)
    for name, (container, encoding) in CONTAINERS.items():
        with av.open(base / "audio" / name, "w", container) as file:
            stream = file.add_stream(encoding, 48_000)
            frame = av.AudioFrame.from_ndarray(tone(0.4, 48_000)[None], "fltp", "mono")
            frame.sample_rate = 48_000
            for part in av.AudioResampler(stream.format, stream.layout, 48_000, stream.frame_size).resample(frame):
                file.mux(stream.encode(part))
            file.mux(stream.encode(None))


def make(damage: Damage, base: Path, folder: Path) -> list[str]:
    source = damage.choice(sorted((base / "audio").iterdir()))
    question = folder / source.name
    question.write_bytes(source.read_bytes())
    if damage.random() < 0.7:
        question.write_bytes(damage.bytes(source.read_bytes()))
    else:
        damage.file(question)
    name = damage.word() if damage.chance(0.1) else str(question)
    return ["talk", f"--model={base / 'checkpoint'}", "--task=asr", "--max-new-tokens=3", "--", name]
