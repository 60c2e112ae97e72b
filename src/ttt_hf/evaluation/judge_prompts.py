"""Prompts of a judge and parsers of its answers: prompts are files with a hash, parsers are strict.

| prompt | for | parser |
|---|---|---|
| `openaudiobench_verdict` | LLaMA Questions | `verdict` |
| `openaudiobench_json` | TriviaQA, WebQuestions | `json_verdict` |
| `openaudiobench_grade` | AlpacaEval, 1 to 10 | `grade_10` |
| `voicebench` | AlpacaEval, 1 to 5 | `grade_5` |
| `clair_a` | captions | `json_score` |

The prompts are in our own words: they name the published rules, whose wording is not copied. An answer in any other
form than the requested one is an error: no judgement is guessed from it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from .concepts import Record
from .scoring.normalizers import strip_special_tokens


PROMPTS_FOLDER = Path(__file__).parent / "prompts"
PLACEHOLDERS = {"question", "references", "reply"}

# Reasoning models write their thoughts before the answer.
_THOUGHT = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)
# Chat models often put JSON into a Markdown code block.
_FENCE = re.compile(r"\A```(?:json)?\s*\n(.*)\n```\Z", re.DOTALL)
_VERDICTS = {"correct": 1.0, "incorrect": 0.0}


def parse_verdict(answer: str) -> float:
    """Parses `correct` (1) or `incorrect` (0).

    Args:
        answer: The judge's answer; a leading `<think>` part, quotes, asterisks and a full stop are allowed.
    """
    # No search for the word within a sentence: "incorrect" contains "correct", and "not correct" is the opposite.
    word = _THOUGHT.sub("", answer).strip().strip("*\"'`.").lower()
    if word not in _VERDICTS:
        raise ValueError("is neither correct nor incorrect")
    return _VERDICTS[word]


def parse_json_verdict(answer: str) -> float:
    """Parses a JSON object whose `judgement` is `correct` (1) or `incorrect` (0).

    Args:
        answer: The judge's answer; a code fence around the object is allowed.
    """
    verdict = _parse_object(answer).get("judgement")
    if not isinstance(verdict, str) or verdict.strip().lower() not in _VERDICTS:
        raise ValueError('has no "judgement" that is correct or incorrect')
    return _VERDICTS[verdict.strip().lower()]


def parse_json_score(answer: str) -> float:
    """Parses a JSON object whose `score` is a number from 0 to 100.

    Args:
        answer: The judge's answer; a code fence around the object is allowed.
    """
    score = _parse_object(answer).get("score")
    # `bool` is a subclass of `int`.
    if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 100:
        raise ValueError('has no "score" from 0 to 100')
    return float(score)


def parse_grade(answer: str, highest: int) -> float:
    """Parses one number from 1 to `highest`.

    Args:
        answer: The judge's answer; a leading `<think>` part, asterisks and a full stop are allowed.
        highest: The highest grade.
    """
    text = _THOUGHT.sub("", answer).strip().strip("*")
    # ASCII, because both `\d` and `float` accept digits of other scripts.
    match = re.fullmatch(r"(\d{1,3}(?:\.\d+)?)\.?", text, re.ASCII)
    if not match or not 1 <= float(match[1]) <= highest:
        raise ValueError(f"is not a number from 1 to {highest}")
    return float(match[1])


Parser = Callable[[str], float]
PARSERS: dict[str, Parser] = {
    "verdict": parse_verdict,
    "json_verdict": parse_json_verdict,
    "grade_5": lambda answer: parse_grade(answer, 5),
    "grade_10": lambda answer: parse_grade(answer, 10),
    "json_score": parse_json_score,
}

# Prompt -> parser, answers per reply, temperature; as in the published rules.
_PROMPTS: dict[str, tuple[str, int, float]] = {
    "openaudiobench_verdict": ("verdict", 1, 0.0),
    "openaudiobench_json": ("json_verdict", 1, 0.0),
    "openaudiobench_grade": ("grade_10", 1, 0.0),
    "voicebench": ("grade_5", 3, 0.5),
    "clair_a": ("json_score", 1, 0.0),
}


@dataclass(frozen=True)
class JudgePrompt:
    """A prompt of a judge.

    Args:
        name: Name in results.
        text: Template with `$question`, `$references` (one per line) and `$reply`.
        parser: Name in `PARSERS`.
        samples: Answers per reply.
        temperature: Sampling temperature of the judge.
    """

    name: str
    text: str
    parser: str
    samples: int = 1
    temperature: float = 0.0

    @property
    def sha256(self) -> str:
        """Hash of the template, 64 hexadecimal digits."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def fill(self, record: Record, reply: str) -> str:
        """Fills the template for one reply.

        Args:
            record: The sample.
            reply: Its text or transcript.
        """
        # Values are inserted in one pass: a `$question` within a reply is text, and no placeholder.
        return Template(self.text).substitute(
            question=record.question,
            references="\n".join(record.references) or "(none)",
            reply=strip_special_tokens(reply).strip(),
        )

    def parse(self, answer: str) -> float:
        """Parses an answer of the judge; a `ValueError` says what is wrong with it."""
        return PARSERS[self.parser](answer)


def load_prompt(name: str, parser: str | None = None) -> JudgePrompt:
    """Loads a prompt of this package, or one from a file.

    Args:
        name: Name in the table at the top of this module, or path of a `.txt` file.
        parser: Name of the parser; required for a file, and fixed for the prompts of this package.
    """
    if name in _PROMPTS:
        parser_name, samples, temperature = _PROMPTS[name]
        # Another parser would read answers that the prompt does not ask for.
        if parser not in (None, parser_name):
            raise ValueError(f"The judge's prompt {name!r} is read by {parser_name!r}, not by {parser!r}.")
        text = (PROMPTS_FOLDER / f"{name}.txt").read_text(encoding="utf-8")
        return JudgePrompt(name, text, parser_name, samples, temperature)
    path = Path(name)
    if path.suffix != ".txt":
        raise ValueError(
            f"There is no judge's prompt {name!r}: choose one of {', '.join(_PROMPTS)}, or name a .txt file."
        )
    if not path.is_file():
        raise FileNotFoundError(f"The judge's prompt {path} is not there: name a .txt file, or {', '.join(_PROMPTS)}.")
    if parser not in PARSERS:
        raise ValueError(f"The judge's prompt {path} needs parser={'|'.join(PARSERS)}: how its answers are read.")
    text = path.read_text(encoding="utf-8")
    _check_placeholders(path, text)
    return JudgePrompt(path.stem, text, parser)


def _check_placeholders(path: Path, text: str) -> None:
    # `$$` is an escaped dollar sign. A lone `$` matches without a name, and None is no placeholder.
    found = {match["named"] or match["braced"] for match in Template.pattern.finditer(text) if not match["escaped"]}
    if "reply" not in found or not found <= PLACEHOLDERS:
        raise ValueError(
            f"The judge's prompt {path} needs $reply, and may have $question and $references; write any other $ as $$."
        )


def _parse_object(answer: str) -> dict[str, Any]:
    text = _THOUGHT.sub("", answer).strip()
    # Only a fence around the complete answer: text beside the object is not what was asked for.
    if fenced := _FENCE.match(text):
        text = fenced[1]
    try:
        parsed = json.loads(text)
    except ValueError:
        parsed = None
    if not isinstance(parsed, dict):
        raise ValueError("is not a JSON object")
    return parsed
