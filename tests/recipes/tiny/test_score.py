"""What is asked, what counts, and a measurement from end to end with a model that knows nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest


pytest.importorskip("jiwer")
pytest.importorskip("whisper_normalizer")

from recipes.tiny import score
from recipes.tiny.cases import Case, draw_cases
from recipes.tiny.replies import CaseReply
from recipes.tiny.settings import TinySettings
from ttt_hf import TtTForConditionalGeneration, TtTProcessor


class Listener:
    """Stands in for Whisper: hears the same words in whatever sounds."""

    def __init__(self, **_: Any) -> None:
        self.description = {"model": "Whisper stand-in", "beam_size": 5}

    def transcribe_all(self, recordings: Iterable[tuple[np.ndarray, int]]) -> Iterator[str]:
        for waveform, _ in recordings:
            yield "the color is 1" if len(waveform) else ""


CASE = Case("item", "wording", "color", "joe", "What is it?", "The color is one.", None, 0.0, None)


def make_reply(text: str, audio: int = 800, **changes: Any) -> CaseReply:
    fields = {"case": CASE, "task": "chat", "finished": True, "forward_passes": 3, "transcript": None, **changes}
    return CaseReply(text=text, audio=np.zeros(audio, dtype=np.float32), sampling_rate=16000, **fields)


@pytest.fixture
def scorer(small_settings: TinySettings) -> score.Scorer:
    return score.Scorer(None, Listener(), small_settings.score)  # type: ignore[arg-type]


def test_every_item_is_drawn_once_before_any_is_drawn_twice(trained_parts: Path) -> None:
    cases = draw_cases(trained_parts / "data", "wording", 100, seed=0)
    items = [case.id.partition("/espeak")[0].partition("/flite")[0] for case in cases]
    assert len(cases) == 8
    assert len(set(items[:4])) == 4
    assert len({case.id for case in cases}) == 8
    assert {case.voice for case in cases} == {"espeak-us", "flite-slt"}


def test_draws_repeat_by_seed_and_are_cut_to_size(trained_parts: Path) -> None:
    data = trained_parts / "data"
    first = draw_cases(data, "wording", 3, seed=0)
    assert first == draw_cases(data, "wording", 3, seed=0) == draw_cases(data, "wording", 8, seed=0)[:3]
    assert any(first != draw_cases(data, "wording", 3, seed=seed) for seed in range(1, 9))


def test_what_is_asked_fits_the_task(trained_parts: Path) -> None:
    data = trained_parts / "data"
    (spoken,) = draw_cases(data, "voice", 5, seed=0)
    assert spoken.content("chat") == spoken.content("asr") == [{"type": "audio", "path": str(spoken.audio)}]
    assert spoken.audio is not None
    assert spoken.audio.is_file()
    written = draw_cases(data, "written", 50, seed=0)
    assert len(written) == 4
    assert all(case.content("text") == [{"type": "text", "text": case.question}] for case in written)
    sentence = draw_cases(data, "sentences", 1, seed=0)[0]
    assert sentence.content("tts") == [{"type": "text", "text": sentence.answer}]


def test_an_empty_split_or_missing_data_is_an_error(trained_parts: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no item of the split 'nonsense'"):
        draw_cases(trained_parts / "data", "nonsense", 5, seed=0)
    with pytest.raises(FileNotFoundError, match="make the data first"):
        draw_cases(tmp_path, "wording", 5, seed=0)


def test_empty_and_wrong_answers_stay_in_the_denominator(scorer: score.Scorer) -> None:
    replies = [make_reply("the color is 1"), make_reply("", audio=0, finished=False), make_reply("The color is two.")]
    entry = score.score_answers(scorer, replies)
    assert (entry["value"], entry["right"], entry["n"]) == (33.33, 1, 3)
    assert (entry["empty"], entry["silent"], entry["unfinished"]) == (1, 1, 1)
    assert entry["by_family"] == {"color": {"value": 33.33, "n": 3}}
    low, high = entry["interval_95"]
    assert 0 <= low < 33.33 < high <= 100


def test_a_silent_reply_deletes_every_word(scorer: score.Scorer) -> None:
    replies = [make_reply("the color is one"), make_reply("the color is one", audio=0)]
    scorer.listen(replies)
    entry = score.score_words(scorer, replies, lambda reply: (reply.text, reply.transcript or ""))
    assert entry["value"] == 50.0
    assert (entry["words"], entry["deletions"], entry["substitutions"]) == (8, 4, 0)


def test_a_reply_without_text_and_sound_deletes_what_it_should_have_said(
    trained_parts: Path, scorer: score.Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Mute:
        """A model that says nothing, with recordings that nobody resynthesises."""

        def answer(self, cases: list[Case], task: str, batch_size: int | None = None) -> Any:
            replies = [make_reply(" ?! ", audio=0, case=case, task=task, finished=False) for case in cases]
            return replies, score.Speed()

        def through_codec(self, waveform: np.ndarray, rate: int) -> tuple[np.ndarray, int]:
            return waveform, rate

    scorer.respondent = Mute()  # type: ignore[assignment]
    # The order of the splits decides nothing.
    results, predictions = score.score_checkpoint(scorer, trained_parts / "data", score.SPLITS[::-1], None)
    assert results["wording"]["asr"]["value"] == 100.0
    assert results["wording"]["chat"]["value"] == 0.0
    assert results["wording"]["speech"]["value"] == 100.0
    assert results["wording"]["speech"]["deletions"] == results["wording"]["speech"]["words"] > 0
    assert results["sentences"]["tts"]["value"] == 100.0
    assert results["wording"]["speech"]["silent"] == results["wording"]["speech"]["n"] == 8
    assert results["speed"]["single"]["generate_seconds_per_audio_second"] is None
    assert len(predictions) == 8 + 8 + 8 + 8 + 1 + 1 + 2 + 4


def test_measuring_a_checkpoint(
    checkpoint: Path,
    trained_parts: Path,
    small_settings: TinySettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(score, "WhisperTranscriber", Listener)
    out = tmp_path / "new" / "scores.json"
    measured = score.measure(
        str(checkpoint), trained_parts / "data", out, small_settings.score, limit=4, generation={"max_new_tokens": 20}
    )
    report = json.loads(out.read_text(encoding="utf-8"))
    assert report == json.loads(json.dumps(measured))
    assert report["generation"]["max_new_tokens"] == 20
    assert report["generation"]["audio_steps_per_block"] == 2
    assert report["versions"]["torch"]
    assert set(report["results"]) == {*score.SPLITS, "speed"}
    assert report["results"]["wording"]["yardsticks"]["original"]["n"] == 4
    assert report["results"]["sentences"]["yardsticks"]["codec"]["n"] == 2
    assert report["results"]["speed"]["batched"]["replies"] == 4
    assert report["results"]["speed"]["single"]["replies"] == 1
    rows = [json.loads(line) for line in (out.parent / "scores.predictions.jsonl").read_text().splitlines()]
    assert (
        len(rows)
        == sum(entry["n"] for split in report["results"].values() for entry in split.values() if "n" in entry) - 4
    )
    chat = {row["id"]: row for row in rows if row["split"] == "wording" and row["task"] == "chat"}
    assert (
        sum(row["forward_passes"] for row in chat.values()) == report["results"]["speed"]["batched"]["forward_passes"]
    )
    # Rows are sorted by length for generation: each has to come back to its own case.
    cases = {
        case.id: case for case in draw_cases(trained_parts / "data", "wording", 4, seed=small_settings.score.seed)
    }
    assert {name: row["answer"] for name, row in chat.items()} == {name: case.answer for name, case in cases.items()}
    assert not list(out.parent.glob("*.part"))


def test_a_reply_does_not_depend_on_its_batch(checkpoint: Path, trained_parts: Path) -> None:
    model = TtTForConditionalGeneration.from_pretrained(checkpoint).eval()
    respondent = score.Respondent(model, TtTProcessor.from_pretrained(checkpoint), batch_size=4, seed=3)
    cases = draw_cases(trained_parts / "data", "wording", 4, seed=0)
    together, _ = respondent.answer(cases, "chat")
    alone, speed = respondent.answer(cases, "chat", batch_size=1)
    assert [reply.text for reply in together] == [reply.text for reply in alone]
    assert [reply.forward_passes for reply in together] == [reply.forward_passes for reply in alone]
    assert [len(reply.audio) for reply in together] == [len(reply.audio) for reply in alone]
    assert speed.replies == 4
    assert all(reply.case is case for reply, case in zip(alone, cases, strict=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "{out}/nowhere", "--data", "{data}"], "nowhere"),
        (["--model", "{out}", "--data", "{out}/nowhere"], ""),
        (["--data", "{data}", "--set", "score.batch=3"], "did you mean batch_size"),
        (["--data", "{data}", "--generate", "audio_steps_per_block"], "write key=value"),
    ],
)
def test_a_wrong_command_is_one_line(
    arguments: list[str], message: str, trained_parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"out": tmp_path, "data": trained_parts / "data"}
    arguments = [argument.format(**places) for argument in arguments]
    assert score.main([*arguments, "--out", str(tmp_path / "scores.json")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "scores.json").exists()
