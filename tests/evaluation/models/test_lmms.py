"""TtT behind lmms-eval: its requests are answered without it; the class is tested where lmms-eval is installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from model_samples import QUESTION, make_task, spoken

from ttt_hf.evaluation.concepts import Response, Sample, Task
from ttt_hf.evaluation.models import lmms, load_model


GREEDY = {"max_new_tokens": 20, "temperature": 0, "top_p": 1.0, "num_beams": 1, "do_sample": False, "until": ["\n\n"]}


class Recorder:
    """A model that tells how it was asked."""

    description: ClassVar[dict[str, Any]] = {}

    def __init__(self) -> None:
        self.batches: list[tuple[list[Sample], Task]] = []

    def respond_each(
        self, samples: Iterable[tuple[int, Sample]], task: Task, batch_size: int
    ) -> Iterator[tuple[int, Response]]:
        asked = dict(samples)
        self.batches.append((list(asked.values()), task))
        # In another order than they were asked.
        for number, one in reversed(asked.items()):
            text = f"{0 if one.audio is None else len(one.audio)} {one.question}"
            yield number, Response("", finish_reason="error", error="x") if "fail" in text else Response(text)


@dataclass
class Decoder:
    """What `datasets` gives for audio since version 4."""

    samples: np.ndarray
    rate: int

    def get_all_samples(self) -> SimpleNamespace:
        return SimpleNamespace(data=torch.from_numpy(self.samples), sample_rate=self.rate)


def requests(documents: list[Any], context: str = "Say it.", settings: dict | None = None) -> tuple[list, dict]:
    def doc_to_visual(document: Any) -> list[Any]:
        return [] if document is None else [document]

    asked = [
        (context, settings or GREEDY, doc_to_visual, number, "a_task", "test") for number in range(len(documents))
    ]
    return asked, {"a_task": {"test": documents}}


def samples(count: int) -> np.ndarray:
    return np.linspace(-0.5, 0.5, count, dtype=np.float32)


def test_recordings_of_every_kind_are_asked_the_longest_first() -> None:
    documents = [
        {"array": samples(300), "sampling_rate": 16000},
        Decoder(np.stack([samples(100), samples(100)]), 8000),
        {"array": np.stack([samples(200), samples(200)]), "sampling_rate": 16000},
    ]
    model = Recorder()
    answers = lmms.answer_requests(model, *requests(documents), prompt="asr", instruct=False, batch_size=2)
    assert answers == ["300", "100", "200"]
    assert [[len(one.audio) for one in batch] for batch, _ in model.batches] == [[300, 200, 100]]
    assert model.batches[0][0][2].sampling_rate == 8000
    task = model.batches[0][1]
    assert (task.prompt, task.output, task.instruction) == ("asr", "text", "")
    assert task.generation == {"max_new_tokens": 20, "do_sample": False}


def test_an_instruction_is_passed_on_if_wanted_and_written_questions_are_asked() -> None:
    model = Recorder()
    document = {"array": samples(300), "sampling_rate": 16000}
    lmms.answer_requests(model, *requests([document]), prompt="audio", instruct=True, batch_size=1)
    assert model.batches[0][1].instruction == "Say it."
    answers = lmms.answer_requests(model, *requests([None], "Why?\n\nB"), prompt="text", instruct=True, batch_size=1)
    assert answers == ["0 Why?"], "cut at the ending"
    assert model.batches[1][1].instruction == ""


def test_sampling_settings_reach_the_model_and_failures_are_empty() -> None:
    model = Recorder()
    settings = {"temperature": 0.7, "top_p": 0.9, "until": "\n"}
    answers = lmms.answer_requests(model, *requests([None], "fail", settings), "text", instruct=False, batch_size=4)
    assert answers == [""]
    assert model.batches[0][1].generation == {"temperature": 0.7, "top_p": 0.9, "do_sample": True}
    with pytest.raises(ValueError, match="no audio that can be read"):
        lmms.answer_requests(model, *requests(["picture"]), "text", instruct=False, batch_size=4)


def test_the_embedded_model_answers_its_requests() -> None:
    question = spoken("whole")
    model = load_model("ttt-tiny")
    document = {"array": question.audio.astype(np.float64), "sampling_rate": question.sampling_rate}
    answers = lmms.answer_requests(model, *requests([document], QUESTION.name), "asr", instruct=False, batch_size=1)
    assert answers == [model.respond([question], make_task())[0].text] != [""]


def test_without_lmms_eval_the_manifest_says_what_is_missing() -> None:
    if importlib.util.find_spec("lmms_eval"):
        pytest.skip("lmms-eval is installed")
    with pytest.raises(ModuleNotFoundError, match="pip install"):
        lmms.model_manifest()
    with pytest.raises(AttributeError, match="Another"):
        lmms.Another  # noqa: B018


def test_the_registry_of_lmms_eval_finds_the_class() -> None:
    registry = pytest.importorskip("lmms_eval.models.registry_v2", reason="lmms-eval is not installed")
    models = registry.ModelRegistryV2()
    models.register_manifest(lmms.model_manifest())
    model = models.get_model_class("ttt").create_from_arg_string(
        "pretrained=ttt-tiny,prompt=asr,max_new_tokens=30", {"batch_size": 2, "max_batch_size": None, "device": "cpu"}
    )
    question = spoken("whole")
    document = {"array": question.audio, "sampling_rate": question.sampling_rate}
    asked, model.task_dict = requests([document, document])
    answers = model.generate_until([SimpleNamespace(args=arguments) for arguments in asked])
    assert len(answers) == 2 and answers[0] == answers[1] != ""
    with pytest.raises(NotImplementedError, match="generate_until only"):
        model.loglikelihood([])
