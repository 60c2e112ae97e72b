"""Pipelines of transformers on the embedded checkpoint: speech and text from one, a sentence from the others."""

from pathlib import Path
from typing import Any

import pytest
from transformers import Pipeline, pipeline

from ttt_hf import Reply, embedded_checkpoint


ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def any_to_any() -> Pipeline:
    try:
        return pipeline("any-to-any", model=embedded_checkpoint())
    except ImportError as error:
        if "librosa" not in str(error):
            raise
        pytest.skip("this version of transformers wants librosa for the pipeline any-to-any")


QUESTION = [{"role": "user", "content": [{"type": "audio", "path": str(ROOT / "examples" / "question.wav")}]}]


def expected_reply(any_to_any: Pipeline, conversation: list[dict[str, Any]], task: str) -> Reply:
    processor, model = any_to_any.processor, any_to_any.model
    inputs = processor.apply_chat_template(conversation, task=task, add_generation_prompt=True)
    return processor.decode_reply(model.generate(**inputs, return_dict_in_generate=True))


def test_speech_and_text(any_to_any: Pipeline) -> None:
    answer = any_to_any(text=QUESTION, generation_mode="audio")[0]["generated_audio"]
    expected = expected_reply(any_to_any, QUESTION, "chat")
    assert answer["text"] == expected.text != ""
    assert answer["sampling_rate"] == expected.sampling_rate == 16000
    assert len(answer["audio"]) == len(expected.audio) > 8000
    written = any_to_any(text=QUESTION, return_full_text=False)[0]["generated_text"]
    assert written.strip() == answer["text"]
    # What comes out goes in.
    following = [{"role": "user", "content": [{"type": "audio", "audio": answer}]}]
    assert any_to_any(text=following, return_full_text=False)[0]["generated_text"]


def test_several_conversations(any_to_any: Pipeline) -> None:
    answers = any_to_any(text=[QUESTION, QUESTION], generation_mode="audio")
    assert [len(answer[0]["generated_audio"]["audio"]) > 8000 for answer in answers] == [True, True]


def test_tasks(any_to_any: Pipeline) -> None:
    transcript = any_to_any(text=QUESTION, task="asr", return_full_text=False)[0]["generated_text"]
    assert transcript.strip() == expected_reply(any_to_any, QUESTION, "asr").text
    sentence = [{"role": "user", "content": "The carrot is a vegetable."}]
    spoken = any_to_any(text=sentence, task="tts", generation_mode="audio")[0]["generated_audio"]
    assert len(spoken["audio"]) == len(expected_reply(any_to_any, sentence, "tts").audio) > 8000


@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("automatic-speech-recognition", r'task="asr"'),
        ("text-to-speech", r'task="tts", generation_mode="audio"'),
        ("text-to-audio", r'task="tts", generation_mode="audio"'),
    ],
)
def test_other_pipelines_say_what_to_use(task: str, options: str) -> None:
    with pytest.raises(LookupError, match=rf'use pipeline\("any-to-any", model=\.\.\.\).*{options}\)\.$') as raised:
        pipeline(task, model=embedded_checkpoint())
    assert "\n" not in str(raised.value)
