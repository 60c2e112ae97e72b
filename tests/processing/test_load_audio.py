"""Reading audio: every kind of source gives the same waveform, every unusable one gives a sentence."""

import http.server
import io
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from ttt_hf.processing.audio import MAX_SECONDS, load_audio, read_audio


RATE = 16000


def tone(seconds: float = 1.0, rate: int = RATE, frequency: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


@pytest.fixture
def wav(tmp_path: Path) -> Path:
    path = tmp_path / "tone.wav"
    soundfile.write(path, tone(), RATE)
    return path


@pytest.fixture
def server(wav: Path) -> Iterator[str]:
    """A web server of the folder of `wav` on this machine; its address."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(wav.parent))

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_path_bytes_and_array_are_the_same_sound(wav: Path) -> None:
    expected = tone()
    for source in (wav, str(wav), wav.read_bytes(), bytearray(wav.read_bytes())):
        loaded = load_audio(source, None, RATE)
        assert loaded.dtype == np.float32
        np.testing.assert_allclose(loaded, expected, atol=1e-4)
    for source in (expected, expected.astype(np.float64), torch.tensor(expected)):
        np.testing.assert_allclose(load_audio(source, RATE, RATE), expected, atol=1e-7)
    np.testing.assert_allclose(load_audio(torch.tensor(expected).bfloat16(), RATE, RATE), expected, atol=4e-3)


def test_url(server: str) -> None:
    np.testing.assert_allclose(load_audio(f"{server}/tone.wav", None, RATE), tone(), atol=1e-4)
    with pytest.raises(OSError, match=r"missing\.wav cannot be fetched: File not found"):
        load_audio(f"{server}/missing.wav", None, RATE)


@pytest.mark.parametrize("format", ["WAV", "FLAC", "OGG", "MP3"])
def test_formats(format: str) -> None:
    file = io.BytesIO()
    soundfile.write(file, tone(), RATE, format=format)
    loaded = load_audio(file.getvalue(), None, RATE)
    spectrum = np.abs(np.fft.rfft(loaded[:RATE]))
    assert abs(int(spectrum.argmax()) - 440) <= 1


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000, 96000])
def test_other_rates_are_resampled(rate: int) -> None:
    loaded = load_audio(tone(rate=rate), rate, RATE)
    assert abs(len(loaded) - RATE) <= 1
    inner = slice(1000, 15000)
    np.testing.assert_allclose(loaded[inner], tone()[inner], atol=2e-3)


@pytest.mark.parametrize("shape", ["channels first", "channels last"])
def test_channels_are_averaged(shape: str) -> None:
    stereo = np.stack([tone(), 0.5 * tone()])
    loaded = load_audio(stereo if shape == "channels first" else stereo.T, RATE, RATE)
    np.testing.assert_allclose(loaded, 0.75 * tone(), atol=1e-6)


def test_stereo_file(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "stereo.wav", np.stack([tone(), -0.5 * tone()], axis=1), RATE)
    np.testing.assert_allclose(load_audio(tmp_path / "stereo.wav", None, RATE), 0.25 * tone(), atol=1e-4)


@pytest.mark.parametrize("kind", ["uint8", "int8", "int16", "int32"])
def test_integers_are_scaled_by_their_range(kind: str) -> None:
    limits = np.iinfo(kind)
    middle = 128 if kind == "uint8" else 0
    integers = np.round(tone() * (limits.max - middle) + middle).astype(kind)
    np.testing.assert_allclose(load_audio(integers, RATE, RATE), tone(), atol=2 / (limits.max - middle))


def test_read_audio_keeps_the_rate() -> None:
    waveform, rate = read_audio(tone(rate=8000), 8000)
    assert (len(waveform), rate) == (8000, 8000)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="There is no audio file"):
        load_audio(tmp_path / "nothing.wav", None, RATE)


def test_folder(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match="is a folder"):
        load_audio(tmp_path, None, RATE)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"not audio at all, but long enough to be looked at", "is not audio"),
        (b"RIFF", "is not audio"),
    ],
)
def test_unreadable_content(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.wav"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_audio(path, None, RATE)
    with pytest.raises(ValueError, match=message):
        load_audio(content, None, RATE)


def test_raw_samples_are_not_guessed(tmp_path: Path) -> None:
    (tmp_path / "samples.raw").write_bytes(bytes(32000))
    with pytest.raises(ValueError, match="is not audio"):
        load_audio(tmp_path / "samples.raw", None, RATE)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros(0, np.float32), "no samples"),
        (np.zeros((2, 0), np.float32), "no samples"),
        (np.ones(1, np.float32), "too short: 1 sample,"),
        (tone(0.09), "too short: 1440 samples"),
        (np.zeros(RATE, np.float32), "silent"),
        (1e-5 * tone(), "silent"),
        (np.full(RATE, np.nan, np.float32), "NaN"),
        (np.where(np.arange(RATE) == 77, np.inf, tone()), "infinite"),
        (tone() * 20000, "divide by 32768"),
        (tone().astype(np.int64), "no agreed range"),
        (tone() > 0, "no agreed range"),
        (tone().astype(np.complex64), "no agreed range"),
        (tone().reshape(1, 1, -1), "shape"),
        (np.tile(tone(), (100, 1)), "one axis must be channels"),
        (np.full((), 0.5, np.float32), "shape"),
    ],
)
def test_unusable_samples(samples: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_audio(samples, RATE, RATE)


def test_empty_recording(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "no-samples.wav", np.zeros(0, np.float32), RATE)
    with pytest.raises(ValueError, match="no samples"):
        load_audio(tmp_path / "no-samples.wav", None, RATE)


def test_nan_in_a_file(tmp_path: Path) -> None:
    samples = tone()
    samples[5] = np.nan
    soundfile.write(tmp_path / "nan.wav", samples, RATE, subtype="FLOAT")
    with pytest.raises(ValueError, match=r"nan\.wav holds samples that are NaN"):
        load_audio(tmp_path / "nan.wav", None, RATE)


def test_too_long() -> None:
    samples = np.ones(int(MAX_SECONDS * 1000) + 1, np.float32)
    with pytest.raises(ValueError, match="cut it into pieces"):
        load_audio(samples, 1000, RATE)


def test_too_long_file_is_refused_by_its_header(tmp_path: Path) -> None:
    path = tmp_path / "hours.wav"
    soundfile.write(path, np.zeros(int(MAX_SECONDS * 1000) + 1000, np.int16), 1000, subtype="PCM_U8")
    with pytest.raises(ValueError, match=r"hours\.wav is 3601 s long"):
        load_audio(path, None, RATE)


@pytest.mark.parametrize("rate", [None, 0, -16000, 16000.5, float("nan"), "16k", True, 10**7])
def test_bad_rates(rate: object) -> None:
    with pytest.raises(ValueError, match=r"rate"):
        load_audio(tone(), rate, RATE)


@pytest.mark.parametrize("source", [None, 5, ["a.wav"], {"path": 5}, {}, object(), (1, 2, "a")])
def test_wrong_types(source: object) -> None:
    with pytest.raises(TypeError, match="Audio must be"):
        load_audio(source, RATE, RATE)
