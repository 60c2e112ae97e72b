"""`ttt-hf eval` with a judge behind HTTP: asked once for each reply, and what it said survives its end."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import soundfile


class JudgeServer:
    """Calls a reply correct that is quoted in its own prompt; forgets the key after so many answers."""

    def __init__(self) -> None:
        self.questions: list[str] = []
        self.breaks_after: int | None = None
        judge = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                broken = judge.breaks_after is not None and len(judge.questions) >= judge.breaks_after
                if not broken:
                    judge.questions.append(body["messages"][0]["content"])
                answer = {
                    "choices": [{"message": {"content": "Correct"}}],
                    "usage": {"prompt_tokens": 30, "completion_tokens": 1},
                }
                content = json.dumps(answer).encode()
                self.send_response(401 if broken else 200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()


@pytest.fixture
def judge() -> Iterator[JudgeServer]:
    made = JudgeServer()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def evaluate(run: Callable[..., object], checkpoint: Path, tmp_path: Path) -> Callable[..., object]:
    """Asks the model, which always says "Hi.", twelve written questions that a judge has to look at."""
    rows = [{"question": f"Question {number}?", "text": "Hi."} for number in range(12)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "greetings.yaml").write_text(
        "version: 1\nsource: {path: ./data.jsonl, columns: {question: question, references: text}}\nprompt: text\n"
        "output: text\nscorer: openaudiobench_judge\njudge: {prompt: openaudiobench_verdict}\n"
    )

    def call(*words: str) -> object:
        out, task = tmp_path / "out", tmp_path / "greetings.yaml"
        return run("eval", "run", task, "--model", checkpoint, "--out", out, "--json", *words)

    return call


def test_a_run_with_a_judge_gives_its_score_and_cost(evaluate: Callable[..., object], judge: JudgeServer) -> None:
    # 30 tokens read at 10 the million and one written at 100, for each of twelve replies.
    result = evaluate("--judge-url", judge.url, "--judge-model", "some-judge", "--judge-price", "10", "100")
    assert result.code == 0, result.err
    (results,) = json.loads(result.out)
    assert results["headline"] == "score" and results["metrics"]["score"]["value"] == 1.0
    assert results["judge"]["model"] == "some-judge" and len(results["judge"]["prompt_sha256"]) == 64
    assert results["judge_cost"] == {"judgements": 12, "prompt_tokens": 360, "completion_tokens": 12, "price": 0.0048}
    assert len(judge.questions) == 12 and all("Hi." in question for question in judge.questions)
    # Scoring again, and running again, asks nobody.
    again = evaluate("--judge-url", judge.url, "--judge-model", "some-judge", "--judge-price", "10", "100")
    assert json.loads(again.out) == [results] and len(judge.questions) == 12


def test_a_judge_that_ends_halfway_is_asked_for_the_rest_later(
    evaluate: Callable[..., object], run: Callable[..., object], judge: JudgeServer, tmp_path: Path
) -> None:
    judge.breaks_after = 5
    result = evaluate("--judge-url", judge.url, "--judge-model", "some-judge")
    assert result.code == 1 and "OPENAI_API_KEY" in result.err.splitlines()[-1]
    out = tmp_path / "out"
    kept = (out / "greetings" / "judgements.jsonl").read_text().splitlines()
    assert 1 <= len(kept) <= 5
    judge.breaks_after = None
    assert run("eval", "judge", out, "--judge-url", judge.url, "--judge-model", "some-judge").code == 0
    rows = (out / "greetings" / "judgements.jsonl").read_text().splitlines()
    assert rows[: len(kept)] == kept and len(rows) == 12
    (results,) = json.loads(run("eval", "score", out, "--json").out)
    assert results["n_scored"] == 12 and results["headline"] == "score"


def test_a_judge_where_none_is_needed_is_said(run: Callable[..., object], checkpoint: Path, tmp_path: Path) -> None:
    run("eval", "run", "tiny_qa", "--limit", 2, "--model", checkpoint, "--out", tmp_path / "out")
    result = run("eval", "judge", tmp_path / "out", "--judge-url", "http://127.0.0.1:9", "--judge-model", "some-judge")
    assert result.code == 1 and "needs a judge" in result.err


def test_a_scorer_of_a_judge_needs_no_more_than_its_name(
    run: Callable[..., object], checkpoint: Path, judge: JudgeServer, tmp_path: Path
) -> None:
    soundfile.write(tmp_path / "asked.wav", np.zeros(8000), 16000)
    (tmp_path / "mine.jsonl").write_text('{"audio": "asked.wav", "question": "Question?", "text": "Hi."}\n')
    words = (f"path={tmp_path / 'mine.jsonl'}", "columns.question=question", "prompt=chat")
    asked = ("--judge-url", judge.url, "--judge-model", "some-judge")
    out = ("--model", checkpoint, "--out", tmp_path / "mine", "--json")
    result = run("eval", "run", "local", "scorer=openaudiobench_judge", *words, *asked, *out)
    assert result.code == 0, result.err
    (results,) = json.loads(result.out)
    assert results["judge"]["prompt"] == "openaudiobench_verdict"
