"""Keys, passwords and signed addresses stay out of everything that a run writes."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from scripted import ScriptedModel, make_task

from ttt_hf.evaluation import TaskFolder, answer_task
from ttt_hf.evaluation.concepts import Response
from ttt_hf.evaluation.endpoint import Endpoint
from ttt_hf.evaluation.models import load_model
from ttt_hf.evaluation.redaction import without_secrets


@pytest.mark.parametrize(
    ("value", "clean"),
    [
        ("http://host:1/v1?api_key=sk-1#name", "http://host:1/v1?(hidden)#name"),
        ("http://host/v1?(hidden)", "http://host/v1?(hidden)"),
        ("see 'https://me:p@ss@host/a?sig=x' and ftp://u@host/b", "see 'https://host/a?(hidden)' and ftp://host/b"),
        ("What is it? http://host/a", "What is it? http://host/a"),
        ({"api_key": "x", "hub_token": "x", "Authorization": "x", "db_password": "x"}, None),
        (
            {"eos_token": "<|im_end|>", "max_tokens": 8, "special_tokens": "strip", "token": None, "monkey": "Kong"},
            {"eos_token": "<|im_end|>", "max_tokens": 8, "special_tokens": "strip", "token": None, "monkey": "Kong"},
        ),
        (["the key of-this-test in a text", 1, True], ["the key (MY_SERVICE_KEY) in a text", 1, True]),
    ],
)
def test_secrets_are_hidden_and_nothing_else(value: object, clean: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SERVICE_KEY", "of-this-test")
    monkeypatch.setenv("OTHER_KEY", "1")
    hidden = dict.fromkeys(value, "(hidden)") if isinstance(value, dict) else None
    assert without_secrets(value) == (hidden if clean is None else clean)


def test_a_long_text_takes_no_time() -> None:
    started = time.perf_counter()
    without_secrets(["x" * 1_000_000, "a:" * 200_000, "http://" + "u" * 500_000])
    assert time.perf_counter() - started < 5


def test_the_query_of_an_address_is_sent_and_never_recorded(tmp_path: Path) -> None:
    model = load_model("openai:https://host/v1?api_key=sk-of-this-test&version=2#name")
    assert model.description["url"] == "https://host/v1"
    assert model.endpoint._address("chat/completions") == (
        "https://host/v1/chat/completions?api_key=sk-of-this-test&version=2"
    )
    model.respond = ScriptedModel().respond  # type: ignore[method-assign]
    task = make_task(tmp_path)
    answer_task(task, model, TaskFolder(tmp_path / "run"), overrides={"path": "https://me:secret-pass@host/data"})
    written = "".join(path.read_text() for path in (tmp_path / "run").rglob("*.json*"))
    assert "https://host/v1" in written and "sk-of" not in written and "secret-pass" not in written


@pytest.mark.parametrize(
    "name",
    [
        "openai:https://host/v1?api_key=sk-of-this-test",
        "openai:host/v1?api_key=sk-of-this-test#name",
        "openai:https://[::1/v1?api_key=sk-of-this-test#name",
        "openai:https://me:sk-of-this-test@host/v1#name",
        "openai:https://host/v 1?api_key=sk-of-this-test#name",
    ],
)
def test_messages_about_an_address_do_not_repeat_its_secrets(name: str) -> None:
    with pytest.raises(ValueError) as error:
        load_model(name)
    assert "sk-of-this-test" not in str(error.value)


def test_a_key_among_the_fields_of_a_request_is_refused() -> None:
    with pytest.raises(ValueError, match=r"api_key would be recorded.*set the variable OPENAI_API_KEY"):
        load_model("openai:https://host/v1#name", api_key="sk-of-this-test")


def test_an_endpoint_that_repeats_the_query_is_not_quoted() -> None:
    endpoint = Endpoint("http://host/v1?key=of%2Dthis-test&v=2")
    assert set(endpoint._secrets) >= {"of%2Dthis-test", "of-this-test"} and "2" not in endpoint._secrets


def test_errors_of_samples_are_recorded_without_secrets(tmp_path: Path) -> None:
    said = "https://me:secret-pass@host/a.wav?sig=signature cannot be fetched."
    model = ScriptedModel({"s1": Response("", finish_reason="error", error=said)})
    folder = TaskFolder(tmp_path / "run")
    answer_task(make_task(tmp_path), model, folder)
    assert [row["error"] for row in folder.replies() if row["error"]] == [
        "https://host/a.wav?(hidden) cannot be fetched."
    ]
