"""The judge against a real server of this test: what it answers well, slowly, badly or not at all."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from ttt_hf.evaluation.concepts import DatasetSource, Judgement, Record, Task
from ttt_hf.evaluation.llm_judge import Judge, load_judge


KEY = "sk-test-1234"
Answer = tuple[int, dict[str, str], bytes]


def say(content: Any, status: int = 200, **headers: str) -> Answer:
    """A chat completion that says `content`."""
    body = {
        "choices": [{"message": {"role": "assistant", "content": content}}],
        "usage": {"prompt_tokens": 30, "completion_tokens": 2},
    }
    return status, headers, json.dumps(body).encode()


def refuse(status: int, text: str = '{"error": "no"}', **headers: str) -> Answer:
    """An answer that is no completion."""
    return status, headers, text.encode()


class Server:
    """An OpenAI-compatible server. `answer(request number, body)` decides what it says."""

    def __init__(self) -> None:
        self.answer: Callable[[int, dict[str, Any]], Answer] = lambda number, body: say("correct")
        self.requests: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.at_once = self.most_at_once = 0
        lock, server = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    number = len(server.requests)
                    server.requests.append((self.path, dict(self.headers), body))
                    server.at_once += 1
                    server.most_at_once = max(server.most_at_once, server.at_once)
                status, headers, content = server.answer(number, body)
                with lock:
                    server.at_once -= 1
                try:
                    self.send_response(status)
                    for name, value in {"Content-Length": str(len(content)), **headers}.items():
                        self.send_header(name.replace("_", "-"), value)
                    self.end_headers()
                    self.wfile.write(content)
                except OSError:
                    pass  # nobody waits any more

            def log_message(self, *args: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


def make_judge(server: Server, prompt: str = "openaudiobench_verdict", **settings: Any) -> Judge:
    return Judge(server.url, "judge-7b", prompt, **{"pause": 0.01, "tries": 3, **settings})


def record(id_: str = "a", text: str = "It is Paris.", **fields: Any) -> Record:
    return Record(id_, "What is the capital of France?", ("Paris",), text, **fields)


def only(judge: Judge, *records: Record) -> Judgement:
    ((_, (judgement,)),) = judge.ask(records or [record()])
    return judgement


def test_it_asks_what_the_prompt_says_and_reads_the_answer(server: Server) -> None:
    judgement = only(make_judge(server))
    assert judgement == Judgement(1.0, "correct", None, 30, 2, "text")
    path, headers, body = server.requests[0]
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert (body["model"], body["temperature"]) == ("judge-7b", 0.0)
    question = body["messages"][0]["content"]
    assert all(words in question for words in ("What is the capital of France?", "Paris", "It is Paris."))
    assert "$" not in question


def test_the_address_may_be_the_whole_one_and_no_key_is_needed(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    judge = Judge(f"{server.url}/chat/completions/", "m", "openaudiobench_verdict")
    assert only(judge).score == 1.0
    path, headers, _ = server.requests[0]
    assert path == "/v1/chat/completions" and "Authorization" not in headers


def test_several_samples_and_both_text_and_transcript(server: Server) -> None:
    server.answer = lambda number, body: say("4" if "say PARIS" in body["messages"][0]["content"] else "2")
    judge = make_judge(server, "voicebench")
    ((id_, judgements),) = judge.ask([record("x", "I say PARIS", transcript="I say parish")])
    assert id_ == "x"
    assert [(one.about, one.score) for one in judgements] == [("text", 4.0)] * 3 + [("transcript", 2.0)] * 3
    assert {body["temperature"] for _, _, body in server.requests} == {0.5}


@pytest.mark.parametrize(
    "reply",
    [record(text=""), record(text=" <|endoftext|> ?!"), record(text="Paris", finish_reason="error")],
    ids=["empty", "no words", "failed"],
)
def test_nothing_is_asked_about_an_empty_or_failed_reply(server: Server, reply: Record) -> None:
    assert list(make_judge(server).ask([reply])) == [("a", ())]
    assert server.requests == []


def test_many_at_once_and_all_are_answered(server: Server) -> None:
    def slowly(number: int, body: dict[str, Any]) -> Answer:
        time.sleep(0.03)
        return say("correct" if "even" in body["messages"][0]["content"] else "incorrect")

    server.answer = slowly
    records = [record(str(number), "odd" if number % 2 else "even") for number in range(24)]
    judged = dict(make_judge(server, concurrency=4).ask(records))
    assert {id_: one[0].score for id_, one in judged.items()} == {str(n): 1.0 - n % 2 for n in range(24)}
    assert 1 < server.most_at_once <= 4


def test_an_answer_that_cannot_be_read_is_asked_for_again(server: Server) -> None:
    server.answer = lambda number, body: say("I think it is correct." if number < 2 else "Incorrect.")
    judgement = only(make_judge(server))
    assert (judgement.score, judgement.error) == (0.0, None)
    assert (judgement.prompt_tokens, judgement.completion_tokens) == (90, 6), "what was not read has cost, too"


@pytest.mark.parametrize("content", ["I think it is correct.", "", None, ["correct"]])
def test_an_answer_that_is_never_readable_is_an_error_and_no_score(server: Server, content: Any) -> None:
    server.answer = lambda number, body: say(content)
    judgement = only(make_judge(server))
    assert judgement.score is None
    assert "neither correct nor incorrect" in str(judgement.error)
    assert len(server.requests) == 3


@pytest.mark.parametrize("garbage", ["<html>busy</html>", "[]", "{}", '{"choices": []}'])
def test_garbage_is_an_error_and_no_score(server: Server, garbage: str) -> None:
    server.answer = lambda number, body: refuse(200, garbage)
    judgement = only(make_judge(server))
    assert judgement.score is None and judgement.error


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_what_passes_is_tried_again(server: Server, status: int) -> None:
    server.answer = lambda number, body: refuse(status) if number < 2 else say("correct")
    assert only(make_judge(server)).score == 1.0
    assert len(server.requests) == 3


def test_retry_after_is_waited_for(server: Server) -> None:
    times: list[float] = []

    def busy(number: int, body: dict[str, Any]) -> Answer:
        times.append(time.monotonic())
        return say("correct") if number else refuse(429, Retry_After="0.3")

    server.answer = busy
    assert only(make_judge(server)).score == 1.0
    assert times[1] - times[0] >= 0.3


def test_a_server_that_asks_to_come_back_tomorrow_is_not_waited_for(server: Server) -> None:
    server.answer = lambda number, body: refuse(429, Retry_After="86400")
    judgement = only(make_judge(server))
    assert judgement.score is None and "asks to wait 86400 s" in str(judgement.error)
    assert len(server.requests) == 1


def test_a_request_that_always_fails_is_reported_and_the_others_go_on(server: Server) -> None:
    def one_fails(number: int, body: dict[str, Any]) -> Answer:
        return refuse(500, "out of memory") if "bad" in body["messages"][0]["content"] else say("correct")

    server.answer = one_fails
    judged = dict(make_judge(server).ask([record("1", "good"), record("2", "bad apple"), record("3", "good")]))
    assert [judged[id_][0].score for id_ in "123"] == [1.0, None, 1.0]
    assert "500: out of memory, after 3 of 3 tries" in str(judged["2"][0].error)


def test_a_refused_request_is_not_sent_again(server: Server) -> None:
    server.answer = lambda number, body: refuse(400, "context too long")
    judgement = only(make_judge(server))
    assert judgement.score is None and "400: context too long" in str(judgement.error)
    assert len(server.requests) == 1


def test_a_slow_judge_is_given_up_on_and_the_sample_reported(server: Server) -> None:
    def sleepy(number: int, body: dict[str, Any]) -> Answer:
        time.sleep(0.5)
        return say("correct")

    server.answer = sleepy
    judgement = only(make_judge(server, timeout=0.05, tries=2))
    assert judgement.score is None and "no answer within 0.05 s, after 2 of 2 tries" in str(judgement.error)


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_ends_it_in_a_sentence_without_the_key(server: Server, status: int) -> None:
    server.answer = lambda number, body: refuse(status, f"bad key {KEY}")
    with pytest.raises(PermissionError, match=f"refuses the key \\({status}\\).*OPENAI_API_KEY") as caught:
        list(make_judge(server).ask([record()]))
    assert KEY not in str(caught.value)
    assert len(server.requests) == 1


def test_a_missing_key_is_named(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    server.answer = lambda number, body: refuse(401)
    with pytest.raises(PermissionError, match="OPENAI_API_KEY, which is not set"):
        list(make_judge(server).ask([record()]))


def test_the_key_is_in_no_error_and_no_description(server: Server) -> None:
    server.answer = lambda number, body: refuse(400, f"you sent {KEY}")
    judge = make_judge(server)
    assert "you sent (key)" in str(only(judge).error)
    assert KEY not in json.dumps(judge.description)


def test_an_unknown_model_ends_it_in_a_sentence(server: Server) -> None:
    server.answer = lambda number, body: refuse(404, "no model judge-7b")
    with pytest.raises(ValueError, match=r"404: no model judge-7b.*check the address and the name of the model"):
        list(make_judge(server).ask([record()]))


def test_the_key_is_not_carried_to_another_address(server: Server) -> None:
    other = Server()
    server.answer = lambda number, body: refuse(302, "", Location=f"{other.url}/chat/completions")
    with pytest.raises(ValueError, match="302"):
        list(make_judge(server).ask([record()]))
    assert other.requests == []
    other.http.shutdown()
    other.http.server_close()


def test_a_judge_that_is_not_there_ends_it_in_a_sentence() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    judge = Judge(f"http://127.0.0.1:{port}/v1", "m", "openaudiobench_verdict", pause=0.01, tries=2)
    with pytest.raises(ConnectionError, match=f"127.0.0.1:{port}/v1 cannot be reached .*: start the server"):
        list(judge.ask([record()]))


def test_a_judge_that_fails_everything_ends_it_and_what_was_judged_is_kept(server: Server) -> None:
    server.answer = lambda number, body: say("correct") if number < 5 else refuse(500, "out of memory")
    judged: list[tuple[str, tuple[Judgement, ...]]] = []
    answers = make_judge(server, concurrency=1, tries=1).ask(record(str(number)) for number in range(100))
    with pytest.raises(ConnectionError, match=r"failed 10 replies in a row.*out of memory"):
        judged.extend(answers)
    assert [one[0].score for _, one in judged[:5]] == [1.0] * 5
    assert len(server.requests) < 20


def test_who_stops_listening_stops_the_asking(server: Server) -> None:
    answers = make_judge(server, concurrency=2).ask(record(str(number)) for number in range(100))
    next(answers)
    answers.close()
    time.sleep(0.1)
    assert len(server.requests) <= 5


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"url": "localhost:8000"}, "no address of a server"),
        ({"url": "http://me:secret@localhost/v1"}, "holds no key"),
        ({"samples": 0}, "samples is 0"),
        ({"temperature": -1}, "temperature is -1"),
        ({"concurrency": 0}, "concurrency is 0"),
        ({"tries": 0}, "sent once at least, not 0 times"),
        ({"prompt": "nice"}, "no judge's prompt 'nice'"),
    ],
)
def test_bad_settings_are_told_before_anything_is_asked(settings: dict[str, Any], sentence: str) -> None:
    arguments = {"url": "http://localhost:1/v1", "model": "m", "prompt": "voicebench", **settings}
    with pytest.raises(ValueError, match=sentence) as caught:
        Judge(**arguments)
    assert "secret" not in str(caught.value)


def test_a_broken_key_is_told_without_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-one\nsk-two")
    with pytest.raises(ValueError, match="MY_KEY") as caught:
        Judge("http://localhost:1/v1", "m", "voicebench", key_variable="MY_KEY")
    assert "sk-" not in str(caught.value)


def test_a_task_chooses_prompt_samples_and_temperature(server: Server) -> None:
    def task(**judge: Any) -> Task:
        return Task("t", 1, DatasetSource("x", {}), "chat", "text", "voicebench_judge", judge=judge)

    description = load_judge(task(prompt="voicebench", samples=2, temperature=0.7), server.url, "m").description
    assert (description["prompt"], description["samples"], description["temperature"]) == ("voicebench", 2, 0.7)
    assert len(description["prompt_sha256"]) == 64
    with pytest.raises(ValueError, match="no setting 'promt'"):
        load_judge(task(prompt="voicebench", promt=1), server.url, "m")
    assert load_judge(task(), server.url, "m").prompt.name == "voicebench"
    with pytest.raises(ValueError, match="task t needs no judge: its scorer is 'wer'"):
        load_judge(Task("t", 1, DatasetSource("x", {}), "asr", "text", "wer"), server.url, "m")
