"""Loops, other languages and empty replies."""

from __future__ import annotations

import pytest

from ttt_hf.evaluation.scoring.checks import is_empty, is_other_language, is_repetition_loop


@pytest.mark.parametrize(
    ("text", "loops"),
    [
        ("the cat sat. " * 4, True),
        ("Well, " + "I think so, " * 5 + "and that is all.", True),
        ("no " * 8, True),
        ("我不知道" * 5, True),
        ("ha" * 40, True),
        ("I think that, I THINK that. I think; that I think that", True),
        ("no no no no", False),
        ("ha ha ha ha ha", False),
        ("it went on. " * 3, False),
        ("one two three four five six seven eight nine ten", False),
        ("row row row your boat gently down the stream", False),
        ("", False),
    ],
)
def test_loops(text: str, loops: bool) -> None:
    assert is_repetition_loop(text) is loops


def test_a_long_reply_is_checked_quickly_and_is_no_loop() -> None:
    assert not is_repetition_loop(" ".join(f"word{number}" for number in range(5000)))


@pytest.mark.parametrize(
    ("text", "language", "other"),
    [
        ("你好，我很好", "en", True),
        ("The capital is 北京.", "en", False),
        ("The capital is Beijing.", "zh", True),
        ("首都是北京 OK", "zh-CN", False),
        ("ありがとう", "ja", False),
        ("спасибо", "en", True),
        ("12345!", "en", False),
        ("", "zh", False),
        ("<|endoftext|>", "zh", False),
        ("whatever", "tlh", False),
    ],
)
def test_languages_of_another_script(text: str, language: str, other: bool) -> None:
    assert is_other_language(text, language) is other


@pytest.mark.parametrize("text", ["", " \n", "...?!", "<|0.00|><|endoftext|>"])
def test_what_says_nothing(text: str) -> None:
    assert is_empty(text)
    assert not is_empty(f"{text} a")
    assert not is_empty(f"{text} 7")
