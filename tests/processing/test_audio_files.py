"""Decoding: every format sounds the same, channels are mixed so that they are heard, and no header is believed."""

import io
import resource
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from recordings import ENCODED, RATE, WRITTEN, main_frequency, recording, tone

from ttt_hf.processing.audio import audio_seconds, read_audio
from ttt_hf.processing.audio_files import MAX_CHANNELS


@pytest.mark.parametrize("kind", [*WRITTEN, *ENCODED])
def test_formats(kind: str) -> None:
    if kind in ENCODED:
        pytest.importorskip("av")
    content = recording(kind)
    waveform, rate = read_audio(content)
    assert main_frequency(waveform, rate) == pytest.approx(440, abs=2)
    assert len(waveform) / rate == pytest.approx(1, abs=0.1)
    assert audio_seconds(content) == pytest.approx(1, abs=0.1)


def test_package_for_phones_and_browsers_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("av")
    content = recording("webm")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(
        ValueError, match=r"is WebM or Matroska, which needs the package av: pip install 'ttt-hf\[audio"
    ):
        read_audio(content)


@pytest.mark.parametrize("size", [0, 0x7FFFF000, 0xFFFFFFFF])
@pytest.mark.parametrize("kind", ["wav", "wav gsm"])
def test_wav_written_to_a_pipe(kind: str, size: int) -> None:
    content = bytearray(recording(kind))
    place = content.index(b"data") + 4
    content[place : place + 4] = content[4:8] = struct.pack("<I", size)
    expected = read_audio(recording(kind))[0]
    np.testing.assert_array_equal(read_audio(bytes(content))[0], expected)
    assert audio_seconds(bytes(content)) == pytest.approx(1, abs=0.05)


def flac_claiming(samples: int, channels: int | None = None) -> bytes:
    """FLAC whose header promises another number of samples: the last 36 bits before the checksum."""
    content = bytearray(recording("flac"))
    fields = int.from_bytes(content[18:26], "big") >> 36 << 36 | samples
    if channels is not None:
        fields = fields & ~(7 << 41) | (channels - 1) << 41
    content[18:26] = fields.to_bytes(8, "big")
    return bytes(content)


def test_flac_written_to_a_pipe() -> None:
    np.testing.assert_array_equal(read_audio(flac_claiming(0))[0], read_audio(recording("flac"))[0])
    assert audio_seconds(flac_claiming(0)) == pytest.approx(1)


def test_promised_samples_take_no_memory() -> None:
    content = flac_claiming(RATE * 3500, channels=8)[:60]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=r"cut short|not audio"):
        read_audio(content)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000, "KiB"
    with pytest.raises(ValueError, match="134218 s long"):
        read_audio(flac_claiming(1 << 31))


@pytest.mark.parametrize("kind", ["array", "wav", "flac"])
def test_channels_in_antiphase_are_heard(kind: str) -> None:
    # A constant, and a hum that both channels share, must not pass for the sound.
    shared = 0.1 + 0.005 * tone(frequency=50)
    channels = np.stack([tone() + shared, -0.95 * tone() + shared])
    if kind == "array":
        waveform = read_audio(channels, RATE)[0]
    else:
        file = io.BytesIO()
        soundfile.write(file, channels.T, RATE, format=kind, subtype="PCM_24")
        waveform = read_audio(file.getvalue())[0]
    np.testing.assert_allclose(waveform, channels[0], atol=1e-4)


def test_one_of_many_channels_is_heard() -> None:
    channels = np.zeros((32, RATE), np.float32)
    channels[5] = tone()
    np.testing.assert_array_equal(read_audio(channels, RATE)[0], tone())


def test_too_many_channels() -> None:
    file = io.BytesIO()
    soundfile.write(file, np.ones((RATE, MAX_CHANNELS + 1), np.float32), RATE, format="WAV")
    with pytest.raises(ValueError, match="has 65 channels, more than 64"):
        read_audio(file.getvalue())


def test_playlists_are_not_followed(tmp_path: Path) -> None:
    # Demuxers of ffmpeg that open what their content names.
    secret = tmp_path / "secret.wav"
    secret.write_bytes(recording("wav"))
    for content in (f"#EXTM3U\n#EXTINF:1,\n{secret}\n", f"ffconcat version 1.0\nfile '{secret}'\n"):
        with pytest.raises(ValueError, match="is not audio"):
            read_audio(content.encode())


def test_decoding_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    content = recording("aiff")
    for length in range(12, 60):
        with pytest.raises(ValueError):
            read_audio(content[:length])
    assert capfd.readouterr() == ("", "")
