"""Answers within replies, on tokens."""

from __future__ import annotations

import pytest

from ttt_hf.evaluation.scoring.answers import chosen, contains_answer, dpr_tokens


def test_tokens_are_decomposed_lower_case_and_punctuation_stands_alone() -> None:
    assert dpr_tokens("It's 3.5°C!") == ["it", "'", "s", "3", ".", "5", "°", "c", "!"]
    assert dpr_tokens("Caf\u00e9") == dpr_tokens("CAFE\u0301") == ["cafe\u0301"]
    assert dpr_tokens("a\u200b b\n") == ["a", "b"]


@pytest.mark.parametrize(
    ("reply", "answers", "right"),
    [
        ("The capital is Muscat, in Oman.", ["Oman"], True),
        ("A woman said so.", ["Oman"], False),
        ("It is new york city", ["New York"], True),
        ("New streets of York", ["New York"], False),
        ("York, New", ["New York"], False),
        ("It is 12.", ["1"], False),
        ("Paris", ["London", "Paris"], True),
        ("anything", [""], False),
        ("anything", ["  "], False),
        ("anything", [], False),
        ("", ["Paris"], False),
        ("Washington DC", ["Washington, D.C."], False),
    ],
)
def test_dpr_contains(reply: str, answers: list[str], right: bool) -> None:
    assert contains_answer(reply, answers) is right


@pytest.mark.parametrize(
    ("reply", "choice"),
    [
        ("I hear a dog.", "dog"),
        ("Dog, a dog!", "dog"),
        ("A dog barking", "dog barking"),
        ("A dog barking at another dog", None),
        ("A dog or a cat", None),
        ("A hotdog", None),
        ("", None),
    ],
)
def test_the_one_choice_that_is_named(reply: str, choice: str | None) -> None:
    assert chosen(reply, ["dog", "cat", "dog barking"]) == choice
