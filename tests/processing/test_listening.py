"""What the model hears of a recording: its speech, however it was recorded, and nothing where nobody speaks."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
from recordings import tone

from ttt_hf.codecs import Glm4VoiceCodecConfig, TtTTinyCodec
from ttt_hf.names import EXAMPLE_QUESTION
from ttt_hf.processing import TtTProcessor
from ttt_hf.processing.audio import read_audio, resample
from ttt_hf.processing.listening import NoSpeechError, check_limit, find_speech, hear, load_recording, trims_silence


RATE = 16000
PLAIN = SimpleNamespace(sampling_rate=RATE)
TRIMMING = SimpleNamespace(sampling_rate=RATE, trim_silence=True)


def user(*items: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(items)}]


def audio(seconds: float) -> dict[str, Any]:
    return {"type": "audio", "audio": tone(seconds), "sampling_rate": RATE}


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    """A question with 80 ms of silence on both sides."""
    samples, rate = read_audio(EXAMPLE_QUESTION)
    assert rate == RATE
    return samples


def noise(samples: int, decibels: float, slope: float = 0.0) -> np.ndarray:
    """Noise with this root mean square, white, or falling with frequency."""
    rng = np.random.default_rng(0)
    spectrum = np.fft.rfft(rng.standard_normal(samples)) / np.maximum(np.arange(samples // 2 + 1), 50) ** (slope / 2)
    drawn = np.fft.irfft(spectrum, samples)
    return drawn * 10 ** (decibels / 20) / np.sqrt(np.mean(drawn**2))


def mains(samples: int) -> np.ndarray:
    """Hum at 50 Hz with harmonics, quieter than speech."""
    time = np.arange(samples) / RATE
    return 0.004 * sum(np.sin(2 * np.pi * 50 * k * time) / k for k in range(1, 8))


def with_clicks(samples: np.ndarray) -> np.ndarray:
    clicking = samples.copy()
    for place in (0.3, 0.35, 0.8, 1.2):
        for start in (round(place * RATE), len(samples) - round(place * RATE)):
            clicking[start : start + 32] += 0.8
    return clicking


CONDITIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "silence": lambda x: x,
    "faint noise": lambda x: x + noise(len(x), -60),
    "noise": lambda x: x + noise(len(x), -45),
    "noise of a room": lambda x: x + noise(len(x), -45, slope=1),
    "hum": lambda x: x + mains(len(x)),
    "clicks": with_clicks,
    "a constant": lambda x: x + 0.2,
    "-40 dB": lambda x: 0.01 * x,
    "-40 dB in noise": lambda x: 0.01 * x + noise(len(x), -90),
    "clipped": lambda x: np.clip(4 * x, -1, 1),
}


@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("sides", [(2.0, 2.0), (3.0, 0.0), (0.0, 3.0)], ids=["both sides", "before", "after"])
def test_what_is_around_speech_is_cut(condition: str, sides: tuple[float, float], speech: np.ndarray) -> None:
    before, after = (round(seconds * RATE) for seconds in sides)
    recording = CONDITIONS[condition](np.pad(speech, (before, after))).astype(np.float32)
    found = find_speech(recording - recording.mean(), RATE)
    assert found is not None
    # All of what was said, whose margins are 80 ms, and nearly nothing else.
    assert before - 0.08 * RATE <= found.start + 0.01 * RATE <= before + 0.08 * RATE
    assert before + len(speech) - 0.12 * RATE <= found.stop <= before + len(speech) + 0.08 * RATE


def test_what_has_no_more_silence_than_training_data_stays_as_it_is(speech: np.ndarray) -> None:
    for samples in (speech, speech[1200:-1200], np.pad(speech, 1200)):
        assert find_speech(samples, RATE) == slice(0, len(samples))
        heard = hear(samples, RATE, TRIMMING)
        np.testing.assert_allclose(heard, samples - samples.mean(), atol=1e-7)


@pytest.mark.parametrize("decibels", [None, -50])
def test_pauses_stay(decibels: float | None, speech: np.ndarray) -> None:
    pause = np.zeros(3 * RATE, dtype=np.float32)
    recording = np.concatenate([pause, speech, pause, speech, pause])
    if decibels is not None:
        recording = recording + noise(len(recording), decibels)
    found = find_speech(recording, RATE)
    assert found.stop - found.start == pytest.approx(2 * len(speech) + len(pause), abs=0.1 * RATE)


SILENT = {
    "white noise": noise(3 * RATE, -30),
    "faint noise": noise(3 * RATE, -70),
    "noise of a room": noise(3 * RATE, -50, slope=1),
    "hum": mains(3 * RATE),
    "a tone": tone(3.0),
    "clicks": with_clicks(np.zeros(4 * RATE)),
    "clicks in noise": with_clicks(noise(4 * RATE, -60)),
}


@pytest.mark.parametrize("kind", SILENT)
def test_where_nobody_speaks(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "recording.wav"
    soundfile.write(path, SILENT[kind], RATE, "FLOAT")
    message = r"recording\.wav holds no speech, only silence or steady noise: check the microphone"
    with pytest.raises(NoSpeechError, match=message):
        load_recording(path, None, TRIMMING)
    assert issubclass(NoSpeechError, ValueError)
    # A codec that was not trained on speech alone may know what it is.
    assert len(load_recording(path, None, PLAIN)) == len(SILENT[kind])


def test_a_short_sound_is_no_steady_noise() -> None:
    assert find_speech(tone(0.3), RATE) is not None
    assert find_speech(noise(RATE // 10, -20).astype(np.float32), RATE) is not None


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_any_rate_is_heard_alike(rate: int, speech: np.ndarray) -> None:
    recording = resample(np.pad(speech, 2 * RATE), RATE, rate)
    heard = hear(recording, rate, TRIMMING)
    assert len(heard) == pytest.approx(len(speech), abs=0.15 * RATE)


def test_a_constant_is_not_heard(speech: np.ndarray) -> None:
    clean, shifted = (hear(samples, RATE, TRIMMING) for samples in (speech, speech + np.float32(0.1)))
    np.testing.assert_allclose(clean, shifted, atol=1e-6)


def test_other_codecs_hear_all_of_it(speech: np.ndarray) -> None:
    recording = np.pad(speech, 2 * RATE) + np.float32(0.1)
    assert hear(recording, RATE, PLAIN) is recording
    slow = resample(recording, RATE, 8000)
    np.testing.assert_array_equal(hear(slow, 8000, PLAIN), resample(slow, 8000, RATE))
    assert not trims_silence(PLAIN) and trims_silence(TRIMMING)


def test_what_the_model_says_is_not_cut(speech: np.ndarray) -> None:
    recording = np.pad(speech, 2 * RATE)
    said = load_recording(recording, RATE, TRIMMING, is_heard=False, max_seconds=1.0)
    np.testing.assert_array_equal(said, recording)


def test_only_speech_counts_as_length(speech: np.ndarray) -> None:
    seconds = len(speech) / RATE
    recording = np.pad(speech, 5 * RATE)
    assert len(load_recording(recording, RATE, TRIMMING, max_seconds=seconds + 0.2)) < len(recording) / 3
    with pytest.raises(
        ValueError, match=r"^The audio has \d\.\d s of speech and this model was trained on at most 1 s"
    ):
        load_recording(recording, RATE, TRIMMING, max_seconds=1.0)
    with pytest.raises(ValueError, match=r"^The audio has 1\d\.\d s and this model"):
        load_recording(recording, RATE, PLAIN, max_seconds=10.0)


@pytest.mark.parametrize("value", ["ten", True, 0, -1, float("nan"), float("inf"), [8]])
def test_a_limit_is_a_number_of_seconds(value: object) -> None:
    with pytest.raises(ValueError, match=r"max_audio_seconds in processor_config\.json must be a number of seconds"):
        check_limit(value)
    assert (check_limit(None), check_limit(8)) == (None, 8.0)


def test_long_recordings(speech: np.ndarray) -> None:
    minutes = np.concatenate([np.zeros(200 * RATE, np.float32), speech, np.zeros(100 * RATE, np.float32)])
    found = find_speech(minutes, RATE)
    assert found.start == pytest.approx(200 * RATE, abs=0.08 * RATE)


# -- in a processor --------------------------------------------------------------------------------


@pytest.fixture
def trimming(processor: TtTProcessor, small_codec: TtTTinyCodec) -> TtTProcessor:
    """A processor whose codec hears speech alone."""
    codec = TtTTinyCodec(copy.deepcopy(small_codec.config)).eval()
    codec.load_state_dict(small_codec.state_dict())
    codec.config.trim_silence = True
    return TtTProcessor(processor.tokenizer, codec)


def test_the_user_is_cut_and_the_assistant_is_not(
    trimming: TtTProcessor, processor: TtTProcessor, speech: np.ndarray
) -> None:
    question = np.pad(speech, 2 * RATE)
    item = {"type": "audio", "audio": question, "sampling_rate": RATE}
    dialogue = [{"role": role, "content": [item]} for role in ("user", "assistant")]
    ids = trimming.apply_chat_template(dialogue, return_tensors=None)["input_ids"][0]
    whole = processor.encode_audio([question])[0]
    heard = trimming.encode_audio([trimming.load_recording(question, RATE)])[0]
    assert len(heard) <= len(whole) - 48
    offset = processor.token_ids.audio_code_offset
    assert [token - offset for token in ids if 0 <= token - offset < 75] == [*heard.tolist(), *whole.tolist()]
    # Prompts that are complete have recordings, too.
    complete = trimming("<|audio|>", question, RATE, return_tensors=None)["input_ids"][0]
    assert complete == processor.codes_to_ids(heard).tolist()


def test_a_row_in_which_nobody_speaks_is_named(trimming: TtTProcessor) -> None:
    with pytest.raises(NoSpeechError, match=r"^Row 1 of the batch: The audio holds no speech"):
        trimming.apply_chat_template([[{"role": "user", "content": "Hello."}], user(audio(2.0))])


def test_recordings_longer_than_those_of_the_training_are_refused(processor: TtTProcessor, tmp_path: Path) -> None:
    processor.save_pretrained(tmp_path)
    file = tmp_path / "processor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "max_audio_seconds": 2}))
    limited = TtTProcessor.from_pretrained(tmp_path)
    assert limited.max_audio_seconds == 2
    limited.apply_chat_template(user(audio(2.0)))
    limited.apply_chat_template([*user(audio(1.0)), {"role": "assistant", "content": [audio(3.0)]}])
    with pytest.raises(ValueError, match=r"The audio has 2\.5 s and this model was trained on at most 2 s: cut it"):
        limited.apply_chat_template(user(audio(2.5)))
    limited.save_pretrained(tmp_path / "again")
    assert TtTProcessor.from_pretrained(tmp_path / "again").max_audio_seconds == 2
    file.write_text(json.dumps({"processor_class": "TtTProcessor", "max_audio_seconds": "long"}))
    with pytest.raises(ValueError, match="max_audio_seconds"):
        TtTProcessor.from_pretrained(tmp_path)


def test_every_codec_may_hear_speech_alone(trimming: TtTProcessor, tmp_path: Path) -> None:
    trimming.save_pretrained(tmp_path)
    assert TtTProcessor.from_pretrained(tmp_path).codec.config.trim_silence is True
    Glm4VoiceCodecConfig(trim_silence=True).save_pretrained(tmp_path / "glm")
    assert trims_silence(Glm4VoiceCodecConfig.from_pretrained(tmp_path / "glm"))
    assert not trims_silence(Glm4VoiceCodecConfig())
