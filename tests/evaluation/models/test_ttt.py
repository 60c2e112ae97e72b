"""TtT under evaluation: batches equal single questions, a bad sample harms no other, what decides is recorded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from model_samples import make_task, silent, spoken, written
from tiny_whisper import save_tiny_whisper

from ttt_hf import TtTForConditionalGeneration, embedded_checkpoint
from ttt_hf.evaluation.concepts import Response, Sample, Task
from ttt_hf.evaluation.models import load_model
from ttt_hf.evaluation.models.failing import answer_in_halves, failed_response
from ttt_hf.evaluation.models.ttt import TtTModel
from ttt_hf.modeling import session_ttt
from ttt_hf.modeling.step_ttt import start_step


# Enough for a reply with speech, in a few steps.
QUICK = {"audio_steps_per_block": 2, "max_new_tokens": 60}


@pytest.fixture(scope="module")
def model() -> TtTModel:
    return load_model("ttt-tiny", **QUICK)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The embedded checkpoint in another folder, to be changed."""
    return Path(shutil.copytree(embedded_checkpoint(), tmp_path / "mine"))


def content(reply: Response) -> tuple:
    audio = None if reply.audio is None else reply.audio.tobytes()
    return reply.text, audio, reply.codes, reply.finish_reason, reply.tokens, reply.forward_passes, reply.error


@pytest.mark.parametrize(("prompt", "output"), [("asr", "text"), ("chat", "speech")])
def test_a_batch_gives_the_replies_of_single_questions(model: TtTModel, prompt: str, output: str) -> None:
    samples = [spoken("whole"), spoken("half", 1.0), written("sum", "What is two plus three?"), spoken("most", 1.6)]
    task = make_task(prompt, output)
    batch = model.respond(samples, task)
    assert [content(reply) for reply in batch] == [content(model.respond([one], task)[0]) for one in samples]
    assert len({reply.text for reply in batch}) > 1
    assert all(reply.text and reply.tokens and reply.forward_passes and reply.seconds > 0 for reply in batch)


def test_samples_with_equal_questions_are_sampled_apart() -> None:
    hot = load_model("ttt-tiny", **QUICK, audio_temperature=1.0)
    samples = [written(name, "What is two plus three?") for name in ("first", "second")]
    task = make_task("chat", "speech")
    first, second = hot.respond(samples, task)
    assert first.codes != second.codes
    assert [content(reply) for reply in hot.respond(samples[::-1], task)] == [content(second), content(first)]


def test_speech_is_decoded_where_the_task_wants_it(model: TtTModel) -> None:
    question = [written("sum", "What is two plus three?")]
    speech = model.respond(question, make_task("chat", "speech"))[0]
    text = model.respond(question, make_task("chat", "text"))[0]
    assert speech.sampling_rate == 16000
    assert speech.audio is not None and speech.audio.dtype == np.float32
    assert len(speech.audio) == len(speech.codes) * 1280
    assert speech.text == text.text != ""
    assert (text.audio, text.codes, text.tokens) == (None, (), speech.tokens)


def test_a_bad_sample_fails_alone(model: TtTModel) -> None:
    good = spoken("good")
    not_numbers = replace(good, id="nan", audio=np.full(16000, np.nan, dtype=np.float32))
    too_long = replace(good, id="long", audio=np.tile(good.audio, 1 + 170 * 16000 // len(good.audio)))
    nothing = Sample("nothing", None, 16000, " ", ())
    task = make_task("asr")
    replies = model.respond([silent("silent"), good, not_numbers, too_long, nothing], task)
    assert [reply.finish_reason for reply in replies] == ["error", "stop", "error", "error", "error"]
    assert content(replies[1]) == content(model.respond([good], task)[0])
    for reply, what in zip([*replies[:1], *replies[2:]], ("silent", "NaN", "at most 8 s", "neither audio")):
        assert what in reply.error and reply.text == "" and reply.tokens == 0


def test_a_reply_that_is_cut_says_so(model: TtTModel) -> None:
    question = [written("sum", "What is two plus three?")]
    cut = model.respond(question, make_task("asr", generation={"max_new_tokens": 3}))[0]
    assert cut.finish_reason == "stop"  # the user's own setting goes before the task's
    cut = load_model("ttt-tiny", max_new_tokens=3).respond(question, make_task("text"))[0]
    assert (cut.finish_reason, cut.tokens, cut.error) == ("length", 3, None)
    assert cut.text


def test_the_task_chooses_the_prompt_and_may_add_an_instruction(model: TtTModel) -> None:
    question = [spoken("whole")]
    heard, answered = (model.respond(question, make_task(prompt))[0].text for prompt in ("asr", "chat"))
    assert heard != answered
    greeting = [written("greeting", "Hello!")]
    plain, instructed = (
        model.respond(greeting, make_task("chat", instruction=instruction))[0].text
        for instruction in (None, "What is two plus three?")
    )
    assert plain != instructed == "Two plus three is five."
    with pytest.raises(ValueError, match="wants the prompt 'sing'"):
        model.respond(question, make_task("sing"))


def fail_with_several_rows(error: Exception, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Makes forwards of more than one row fail; returns the numbers of rows that were tried."""
    sizes = []

    def on_a_small_device(model: object, rows: list, *arguments: object) -> list:
        sizes.append(len(rows))
        if len(rows) > 1:
            raise error
        return start_step(model, rows, *arguments)

    monkeypatch.setattr(session_ttt, "start_step", on_a_small_device)
    return sizes


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_what_does_not_fit_into_memory_is_answered_in_fewer_slots(
    model: TtTModel, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("a carrot", "two plus three", "a dog", "a cat", "ice")
    samples = [written(word, f"What is {word}?") for word in words]
    task = make_task("text")
    expected = [content(reply) for reply in model.respond(samples, task)]
    sizes = fail_with_several_rows(error, monkeypatch)
    replies = dict(model.respond_each(enumerate(samples), task, 3))
    assert [content(replies[number]) for number in range(5)] == expected
    # Three do not fit; of the one slot that is left nobody asks again for more.
    assert sizes[0] == 3 and set(sizes[1:]) == {1}


def test_a_forward_that_fails_is_repeated_row_by_row(model: TtTModel, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = [written(word, f"What is {word}?") for word in ("a carrot", "two plus three", "a dog")]
    task = make_task("text")
    expected = [content(reply) for reply in model.respond(samples, task)]
    bad = model._prompt(samples[1], task)

    def on_one_prompt(model: object, rows: list, *arguments: object) -> list:
        if any(row.ids[: len(bad)] == bad for row in rows):
            raise RuntimeError("cannot")
        return start_step(model, rows, *arguments)

    monkeypatch.setattr(session_ttt, "start_step", on_one_prompt)
    replies = model.respond(samples, task)
    assert [reply.error for reply in replies] == [None, "cannot", None]
    assert [content(replies[index]) for index in (0, 2)] == [expected[0], expected[2]]


def test_a_sample_joins_when_a_reply_has_ended(model: TtTModel) -> None:
    written_ones = [written(word, f"What is {word}?") for word in ("a carrot", "two plus three")]
    samples = [spoken("whole"), written_ones[0], spoken("half", 1.0), written_ones[1], spoken("most", 1.6)]
    task, taken, ended = make_task("chat", "speech"), [], []

    def questions() -> Iterator[tuple[int, Sample]]:
        for number, sample in enumerate(samples):
            taken.append((number, len(ended)))
            yield number, sample

    replies = {}
    for number, reply in model.respond_each(questions(), task, 2):
        ended.append(number)
        replies[number] = reply
    # Two at once, and one for each that has ended: nobody waits for a whole batch.
    assert [number for number, _ in taken] == list(range(5))
    assert all(number - has_ended < 2 for number, has_ended in taken)
    assert any(has_ended % 2 for _, has_ended in taken)
    assert [content(replies[number]) for number in range(5)] == [
        content(model.respond([one], task)[0]) for one in samples
    ]


def test_halving_finds_the_one_that_fails_and_keeps_the_order() -> None:
    sizes = []

    def answer(batch: list[int]) -> list[Response]:
        sizes.append(len(batch))
        if 5 in batch:
            raise torch.OutOfMemoryError("out of\nmemory")
        return [Response(text=str(number)) for number in batch]

    replies = answer_in_halves(list(range(8)), answer)
    assert [reply.text for reply in replies] == ["0", "1", "2", "3", "4", "", "6", "7"]
    assert replies[5] == failed_response("out of memory") and replies[5].finish_reason == "error"
    assert max(sizes) == 8 and answer_in_halves([], answer) == []


def test_a_broken_device_ends_the_run() -> None:
    def answer(batch: list[int]) -> list[Response]:
        raise torch.AcceleratorError("an illegal memory access was encountered")

    with pytest.raises(torch.AcceleratorError):
        answer_in_halves([1, 2], answer)


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"num_beams": 4}, "num_beams=4 is not supported"),
        ({"audio_steps_per_block": 0}, "audio_steps_per_block must be"),
        ({"temprature": 1.0}, "temprature"),
        ({"dtype": "int3"}, "dtype must be"),
    ],
)
def test_a_wrong_setting_is_found_before_any_sample(settings: dict, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        load_model("ttt-tiny", **settings)


def test_the_description_says_what_decides_the_replies(model: TtTModel, copy: Path) -> None:
    description = json.loads(json.dumps(model.description))
    assert description["name"] == "ttt-tiny"
    assert description["generation"]["audio_steps_per_block"] == 2 and description["generation"]["seed"] == 0
    assert {"ttt-hf", "torch", "transformers"} <= set(description["versions"])
    assert str(copy.parent) not in json.dumps(load_model(str(copy)).description)

    same, other = load_model(str(copy), **QUICK).description, load_model(str(copy)).description
    assert same == {**description, "name": "mine"}
    assert other["generation"]["audio_steps_per_block"] == 16
    (copy / "README.md").write_text("Another card.")
    assert load_model(str(copy), **QUICK).description == same
    config = json.loads((copy / "codec" / "config.json").read_text())
    (copy / "codec" / "config.json").write_text(json.dumps({**config, "comment": "changed"}))
    assert load_model(str(copy), **QUICK).description["revision"] != same["revision"]


def save_adapter(folder: Path, base: str, scale: float) -> None:
    from peft import LoraConfig, get_peft_model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        plain = TtTForConditionalGeneration.from_pretrained(embedded_checkpoint())
        adapted = get_peft_model(plain, LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=scale)
    adapted.peft_config["default"].base_model_name_or_path = base
    adapted.save_pretrained(folder)


def test_an_adapter_is_answered_for_with_its_base(model: TtTModel, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    question, task = [spoken("whole")], make_task("asr")
    plain = model.respond(question, task)[0]
    for scale in (0.0, 5.0):
        save_adapter(tmp_path / f"adapter-{scale}", embedded_checkpoint(), scale)
        adapted = load_model(str(tmp_path / f"adapter-{scale}"), **QUICK)
        assert (content(adapted.respond(question, task)[0]) == content(plain)) == (scale == 0.0)
        assert adapted.description["name"] == f"adapter-{scale}"
        assert adapted.description["base"]["revision"] == model.description["revision"]


def test_an_adapter_without_its_base_is_named(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    save_adapter(tmp_path / "adapter", str(tmp_path / "gone"), 0.0)
    with pytest.raises(ValueError, match=r"cannot be used: There is no folder .*gone"):
        load_model(str(tmp_path / "adapter"))


def break_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


@pytest.mark.parametrize(
    ("change", "error", "what"),
    [
        (lambda folder: (folder / "config.json").unlink(), OSError, "it has no config.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), OSError, "model.safetensors"),
        (break_weights, ValueError, "damaged"),
    ],
)
def test_an_incomplete_checkpoint_is_refused_in_one_line(
    copy: Path, change: Callable[[Path], None], error: type, what: str
) -> None:
    change(copy)
    with pytest.raises(error, match=what) as caught:
        load_model(str(copy))
    assert "\n" not in str(caught.value)


def test_another_kind_of_model_is_pointed_to_its_name(tmp_path: Path) -> None:
    save_tiny_whisper(tmp_path / "whisper")
    with pytest.raises(ValueError, match=r"holds a whisper model, not a TtT model.*hf-asr:"):
        load_model(str(tmp_path / "whisper"))
    with pytest.raises(FileNotFoundError, match=r"There is no folder .*nowhere"):
        load_model(str(tmp_path / "nowhere"))


def test_without_a_codec_there_is_text_only(copy: Path) -> None:
    shutil.move(copy / "codec", copy.parent / "codec")
    question = [written("sum", "What is two plus three?")]
    mute = load_model(str(copy), **QUICK)
    assert mute.respond(question, make_task("chat"))[0].finish_reason == "stop"
    assert "no codec" in mute.respond([spoken("whole")], make_task("asr"))[0].error
    with pytest.raises(ValueError, match="wants speech, and the model has no codec"):
        mute.respond(question, make_task("chat", "speech"))

    speaking = load_model(str(copy), codec=str(copy.parent / "codec"), **QUICK)
    assert speaking.respond(question, make_task("chat", "speech"))[0].audio is not None
    assert speaking.description["codec"]["name"] == "codec"
    assert speaking.description["codec"]["revision"].startswith("sha256:")


def test_a_checkpoint_without_a_limit_gets_one_that_is_recorded(copy: Path) -> None:
    path = copy / "generation_config.json"
    settings = json.loads(path.read_text())
    del settings["max_new_tokens"]
    path.write_text(json.dumps(settings))
    free = load_model(str(copy), audio_steps_per_block=2)
    assert free.description["generation"]["max_new_tokens"] == 2048
    reply = free.respond([written("sum", "What is two plus three?")], make_task("chat", "speech"))[0]
    assert reply.finish_reason == "stop" and reply.tokens > 20


def test_tasks_are_frozen(model: TtTModel) -> None:
    task: Task = make_task("asr", generation={"max_new_tokens": 5})
    model.respond([written("sum", "What is two plus three?")], task)
    assert task.generation == {"max_new_tokens": 5}
