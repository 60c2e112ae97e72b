"""A language model as judge, behind any OpenAI-compatible API. Its answers are recorded, so that it is asked once.

An answer that cannot be parsed is requested again and then reported as an error; it is never a score. The same holds
for requests that fail. A judge that cannot be reached or refuses the key ends the stage with one sentence.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

from .concepts import Judgement, Record, Task
from .endpoint import Endpoint, RequestFailed
from .judge_prompts import load_prompt
from .scoring.checks import is_empty
from .scoring.scorers import SCORERS


TASK_KEYS = ("prompt", "parser", "samples", "temperature")

# After so many failed replies in a row, the judge is assumed to fail on all.
_FAILURES_IN_A_ROW = 10
_SHOWN = 80


@dataclass(frozen=True)
class JudgeServer:
    """Where a judge can be reached.

    Args:
        url: Base address of an OpenAI-compatible server, such as `http://localhost:8000/v1`. The key is read from
            `OPENAI_API_KEY`.
        model: Name of the model there.
        price: Price of a million tokens that the judge reads, and of a million that it writes; if given, the results
            say what the judgements cost.
    """

    url: str
    model: str
    price: tuple[float, float] | None = None


class Judge:
    """Judges replies with a language model.

    Args:
        url: Base address of the server, such as `http://localhost:8000/v1`.
        model: Name of the model on the server.
        prompt: Name of a prompt of this package, or path of a `.txt` file, see `judge_prompts.py`.
        parser: Parser of the answers to a prompt of your own.
        samples: Answers per reply; by default that of the prompt's published rule.
        temperature: Sampling temperature; by default that of the prompt's published rule.
        max_tokens: Maximum length of an answer; the server's by default.
        retries: How often an answer that cannot be parsed is requested again.
        concurrency: Replies that are judged at the same time.
        key_variable, timeout, tries, pause: See [`Endpoint`].

    Raises:
        ValueError: If an argument is out of range.
        FileNotFoundError: If there is no such prompt file.
    """

    def __init__(
        self,
        url: str,
        model: str,
        prompt: str,
        *,
        parser: str | None = None,
        samples: int | None = None,
        temperature: float | None = None,
        max_tokens: int | None = None,
        retries: int = 2,
        concurrency: int = 8,
        key_variable: str = "OPENAI_API_KEY",
        timeout: float = 60.0,
        tries: int = 5,
        pause: float = 1.0,
    ) -> None:
        self.prompt = load_prompt(prompt, parser)
        self.model = model
        self.samples = self.prompt.samples if samples is None else samples
        self.temperature = self.prompt.temperature if temperature is None else temperature
        self.max_tokens = max_tokens
        self.retries = retries
        self.concurrency = concurrency
        for name, value in (("samples", self.samples), ("concurrency", concurrency)):
            if value < 1:
                raise ValueError(f"The judge's {name} is {value}: choose 1 or more.")
        if self.temperature < 0:
            raise ValueError(f"The judge's temperature is {self.temperature}: choose 0 or more.")
        self._endpoint = Endpoint(url, key_variable, timeout, tries, pause)

    @property
    def description(self) -> dict[str, Any]:
        """All that the judgements depend on. The address is left out, and the key is never recorded."""
        return {
            "model": self.model,
            "prompt": self.prompt.name,
            "prompt_sha256": self.prompt.sha256,
            "parser": self.prompt.parser,
            "samples": self.samples,
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
        }

    def ask(self, records: Iterable[Record]) -> Iterator[tuple[str, tuple[Judgement, ...]]]:
        """Judges replies, several at a time.

        Args:
            records: The replies; both text and transcript of spoken ones are judged.

        Yields:
            Id of a record and all its judgements, in the order of completion; no judgements for empty and failed
            replies, which need no judge.
        """
        # An earlier call leaves it set, so that its remaining requests end.
        self._endpoint.stopped.clear()
        rest = iter(records)
        pool = ThreadPoolExecutor(self.concurrency)
        running: dict[Future[tuple[Judgement, ...]], str] = {}
        failures = 0
        try:
            while True:
                # No more than are being judged: judgements that were not yielded before an interruption are lost.
                for record in islice(rest, self.concurrency - len(running)):
                    running[pool.submit(self._judge, record)] = record.id
                if not running:
                    return
                # In the order of completion: a slow answer does not hold up those that are ready to be recorded.
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    judgements = future.result()
                    # Recorded by the caller before failures are counted: the answers are kept when this raises.
                    yield running.pop(future), judgements
                    # Empty replies were not sent to the judge, and say nothing about it.
                    if judgements:
                        failures = failures + 1 if all(_has_no_answer(one) for one in judgements) else 0
                    if failures >= _FAILURES_IN_A_ROW:
                        raise ConnectionError(
                            f"The judge failed {failures} replies in a row, most recently: {judgements[-1].error} "
                            "Run the same command again when it works; its answers are kept."
                        )
        finally:
            # Also after an interruption: requests in flight are not waited for, and their retries are cut short.
            self._endpoint.stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)

    def _judge(self, record: Record) -> tuple[Judgement, ...]:
        return tuple(
            self._ask(self.prompt.fill(record, reply), about)
            for about, reply in _replies(record)
            for _ in range(self.samples)
        )

    def _ask(self, question: str, about: Literal["text", "transcript"]) -> Judgement:
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": question}],
            "temperature": self.temperature,
            **({} if self.max_tokens is None else {"max_tokens": self.max_tokens}),
        }
        raw, problem, prompt_tokens, completion_tokens = "", "", 0, 0
        score = None
        for _ in range(1 + self.retries):
            try:
                answer = self._endpoint.post("chat/completions", body)
            # The endpoint has retried it already. No answer: `_has_no_answer` tells it from an unreadable one.
            except RequestFailed as error:
                raw, problem = "", str(error)
                break
            raw, usage = _content(answer), answer.get("usage") or {}
            # Tokens of unreadable answers are paid for, too.
            prompt_tokens += int(usage.get("prompt_tokens") or 0)
            completion_tokens += int(usage.get("completion_tokens") or 0)
            try:
                # The first answer that can be parsed counts.
                score, problem = self.prompt.parse(raw), ""
                break
            except ValueError as error:
                problem = f"The judge's answer {error}: {raw[:_SHOWN]!r}."
        return Judgement(score, raw, problem or None, prompt_tokens, completion_tokens, about)


def load_judge(task: Task, url: str, model: str, **settings: Any) -> Judge:
    """Makes the judge of a task.

    Args:
        task: Its `judge` may have `prompt` (by default that of the scorer), `parser`, `samples` and `temperature`.
        url: Base address of the server.
        model: Name of the model on the server.
        **settings: Further arguments of [`Judge`].
    """
    prompt = task.judge.get("prompt", SCORERS[task.scorer].judge_prompt)
    if prompt is None:
        raise ValueError(f"The task {task.name} needs no judge: its scorer is {task.scorer!r}.")
    for key in task.judge:
        if key not in TASK_KEYS:
            raise ValueError(f"The judge of task {task.name} has no setting {key!r}: it has {', '.join(TASK_KEYS)}.")
    # The scorer's own prompt unless the task names one.
    return Judge(url, model, **{**dict(task.judge), "prompt": prompt, **settings})


def _replies(record: Record) -> Sequence[tuple[Literal["text", "transcript"], str]]:
    """The parts of a record that are judged. Empty ones are not: the scorer gives them the lowest grade."""
    if record.finish_reason == "error":
        return []
    replies: list[tuple[Literal["text", "transcript"], str]] = [("text", record.text)]
    if record.transcript is not None:
        replies.append(("transcript", record.transcript))
    return [(about, reply) for about, reply in replies if not is_empty(reply)]


def _content(answer: dict[str, Any]) -> str:
    """The text of a chat completion; "" if it is malformed, which no parser accepts."""
    try:
        content = answer["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError):
        return ""
    return content if isinstance(content, str) else ""


def _has_no_answer(judgement: Judgement) -> bool:
    return judgement.score is None and not judgement.raw
