"""Loudspeaker and microphone: what is played and recorded, and every way in which a machine may have none."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fixed_reply import tone
from ttt_hf.cli.sound import Player, check_sound, record


ALSA = Path("/usr/share/alsa/alsa.conf")
PROGRAM = """
import sys, time
import numpy as np
from ttt_hf.cli.sound import Player, record

player = Player(44100)
samples = np.load(sys.argv[1])
for first in range(0, len(samples), 5000):
    player.play(samples[first : first + 5000])
player.finish()
recorded, rate = record(lambda: time.sleep(0.1))
np.save(sys.argv[2], recorded)
"""


class FakeDevice:
    """Stands in for sounddevice where there is no sound card: it takes what is played at once, and speaks for 1 s."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **broken: Exception) -> None:
        self.rate = 0
        self.played = np.zeros(0, dtype=np.float32)
        device = self

        class PortAudioError(Exception):
            pass

        class OutputStream:
            def __init__(self, rate: int, channels: int, dtype: str, callback: Any) -> None:
                if "output" in broken:
                    raise broken["output"]
                device.rate, self.callback = rate, callback

            def start(self) -> None:
                pass

            def _take(self) -> None:
                block = np.empty((256, 1), dtype=np.float32)
                self.callback(block, 256, None, None)
                device.played = np.concatenate([device.played, block[:, 0]])

            def stop(self) -> None:
                pass

            abort = stop

            def close(self) -> None:
                device.played = np.trim_zeros(device.played, "b")

        class InputStream:
            def __init__(self, rate: int, channels: int, dtype: str, callback: Any) -> None:
                self.rate, self.callback = rate, callback

            def __enter__(self) -> None:
                for block in np.split(tone(1.0, self.rate), 100):
                    self.callback(block[:, None], len(block), None, None)

            def __exit__(self, *_: object) -> None:
                pass

        def query_devices(kind: str) -> dict[str, float]:
            if "input" in broken:
                raise broken["input"]
            return {"default_samplerate": 48000.0}

        self.streams: list[OutputStream] = []
        module = types.ModuleType("sounddevice")
        vars(module).update(
            PortAudioError=PortAudioError, OutputStream=OutputStream, InputStream=InputStream,
            query_devices=query_devices,
        )  # fmt: skip
        monkeypatch.setitem(sys.modules, "sounddevice", module)
        # The audio thread of this device: it asks for more whenever somebody waits.
        monkeypatch.setattr("ttt_hf.cli.sound.time.sleep", lambda _: [stream._take() for stream in self.streams])
        make = OutputStream.__init__

        def remember(stream: OutputStream, *arguments: Any, **more: Any) -> None:
            make(stream, *arguments, **more)
            self.streams.append(stream)

        OutputStream.__init__ = remember  # type: ignore[method-assign]


def test_pieces_are_played_in_order_and_clipped(monkeypatch: pytest.MonkeyPatch) -> None:
    device = FakeDevice(monkeypatch)
    player = Player(16000)
    samples = np.linspace(-2, 2, 3001, dtype=np.float32)
    for first in range(0, len(samples), 700):
        player.play(samples[first : first + 700])
    player.finish()
    assert device.rate == 16000
    assert np.array_equal(device.played, samples.clip(-1, 1))


def test_a_player_that_is_stopped_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    device = FakeDevice(monkeypatch)
    player = Player(16000)
    player.play(np.ones(1000, dtype=np.float32))
    player.is_stopped = True
    player.finish()
    assert not device.played.any()


def test_a_recording_has_the_microphones_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeDevice(monkeypatch)
    samples, rate = record(lambda: None)
    assert rate == 48000 and np.array_equal(samples, tone(1.0, 48000))


@pytest.mark.parametrize("error", [ValueError("no device"), "PortAudioError"])
def test_a_machine_without_devices_is_said(monkeypatch: pytest.MonkeyPatch, error: Exception | str) -> None:
    FakeDevice(monkeypatch)
    raised = sys.modules["sounddevice"].PortAudioError("no device") if isinstance(error, str) else error
    FakeDevice(monkeypatch, output=raised, input=raised)
    sys.modules["sounddevice"].PortAudioError = type(raised)  # type: ignore[attr-defined]
    with pytest.raises(OSError, match=r"The loudspeaker cannot be used \(no device\): connect one"):
        Player(16000)
    with pytest.raises(OSError, match="The microphone cannot be used"):
        record(lambda: None)


def test_a_missing_package_and_a_missing_library_are_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'ttt-hf\[sound\]'"):
        check_sound()
    monkeypatch.delitem(sys.modules, "sounddevice")
    (tmp_path / "sounddevice.py").write_text("raise OSError('PortAudio library not found')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(OSError, match="apt-get install libportaudio2"):
        check_sound()


@pytest.mark.slow  # a process of its own: ALSA reads its configuration when it is loaded
@pytest.mark.skipif(not ALSA.is_file(), reason="needs ALSA")
def test_portaudio_plays_and_records(tmp_path: Path) -> None:
    """The real library, on a sound card made of files: ALSA writes what is played, and reads what is recorded."""
    try:
        import sounddevice  # noqa: F401
    except (ImportError, OSError):
        pytest.skip("needs sounddevice and PortAudio")
    spoken, played = tone(20.0, 44100), tone(1.0, 44100)
    (tmp_path / "in.raw").write_bytes(spoken.tobytes())
    np.save(tmp_path / "played.npy", played)
    (tmp_path / "asound.conf").write_text(
        f"<{ALSA}>\npcm.nothing {{ type null }}\n"
        "pcm.files { type file slave.pcm nothing format raw "
        f'file "{tmp_path}/out.raw" infile "{tmp_path}/in.raw" }}\n'
        "pcm.!default { type plug slave.pcm files }\n"
    )
    subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "played.npy"), str(tmp_path / "recorded.npy")],
        env={**os.environ, "ALSA_CONFIG_PATH": str(tmp_path / "asound.conf")}, check=True, timeout=120,
    )  # fmt: skip
    heard = np.frombuffer((tmp_path / "out.raw").read_bytes(), dtype=np.float32)
    start = int(np.flatnonzero(heard)[0]) - int(np.flatnonzero(played)[0])
    assert np.array_equal(heard[start : start + len(played)], played)
    recorded = np.load(tmp_path / "recorded.npy")
    length = min(len(recorded), len(spoken))
    assert length > 1000 and np.array_equal(recorded[:length], spoken[:length])
