"""The command line on the checkpoint that comes with the package: it hears, answers and reads aloud."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

import ttt_hf


ROOT = Path(__file__).resolve().parents[2]
CHECKPOINT = Path(ttt_hf.__file__).parent / "checkpoints" / "ttt-tiny"
QUESTION = ROOT / "examples" / "question.wav"

# Without the folder the package's own tests fail, see test_package.py; with it, whatever is wrong with it fails here.
pytestmark = pytest.mark.skipif(not CHECKPOINT.exists(), reason="the checkpoint has not been trained yet")


def test_answer(run: Callable, tmp_path: Path) -> None:
    reply = tmp_path / "reply.wav"
    result = run("talk", QUESTION, "--out", reply, "--seed", "0", "--json")
    assert result.code == 0, result.err
    answer = json.loads(result.out)
    assert answer["text"] == "The carrot is a vegetable."
    assert answer["audio_seconds"] > 0.5
    assert soundfile.info(reply).duration == pytest.approx(answer["audio_seconds"], abs=1e-3)
    assert answer["finish_reason"] == "stop"
    assert all(segment["complete"] for segment in answer["segments"] if segment["type"] == "audio")


def test_transcript(run: Callable) -> None:
    result = run("talk", QUESTION, "--task", "asr")
    assert result.code == 0, result.err
    assert result.out.strip() == "Please tell me what a carrot is."


def test_example(run: Callable) -> None:
    assert run("talk", "example", "--task", "asr").out == "Please tell me what a carrot is.\n"
    assert run("talk", "example", "--quiet") == (0, "The carrot is a vegetable.\n", "")


def test_only_speech_is_heard(run: Callable, tmp_path: Path) -> None:
    samples, rate = soundfile.read(QUESTION, dtype="float32")
    paths = {name: tmp_path / f"{name}.wav" for name in ("surrounded", "nobody", "long")}
    soundfile.write(paths["surrounded"], np.pad(samples, 3 * rate), rate)
    soundfile.write(paths["nobody"], np.random.default_rng(0).normal(0, 0.003, 3 * rate), rate)
    soundfile.write(paths["long"], np.tile(samples, 6), rate)
    assert run("talk", paths["surrounded"], "--task", "asr").out == "Please tell me what a carrot is.\n"
    for name, reason in (("nobody", "holds no speech"), ("long", "was trained on at most 8 s: cut it")):
        result = run("talk", paths[name])
        assert (result.code, result.out, result.err.count("\n")) == (1, "", 1)
        assert reason in result.err


@pytest.mark.parametrize("options", [[], ["--stream"]], ids=["at-once", "streamed"])
def test_cut_answer(run: Callable, options: list[str]) -> None:
    result = run("talk", "example", "--max-new-tokens", "5", "--json", *options)
    assert json.loads(result.out)["finish_reason"] == "length"
    assert "was cut at a length limit" in result.err


def test_reading_aloud(run: Callable, tmp_path: Path) -> None:
    text = "We met twenty-five friends in Vienna."
    result = run("talk", "--task", "tts", "--text", text, "--out", tmp_path / "reply.wav", "--json")
    assert result.code == 0, result.err
    answer = json.loads(result.out)
    assert answer["text"] == text
    assert answer["audio_seconds"] > 0.5


def test_written_chat(run: Callable) -> None:
    result = run("talk", "--task", "text", "--text", "What is the capital of France?", "--json")
    assert result.code == 0, result.err
    answer = json.loads(result.out)
    assert "Paris" in answer["text"]
    assert answer["audio_seconds"] == 0


def test_info(run: Callable) -> None:
    facts = json.loads(run("info", "--json").out)
    assert facts["bytes"] <= 24_000_000
    assert facts["codec"]["codes"] == facts["audio_tokens"]["codes"]
    assert facts["card"] is not None
