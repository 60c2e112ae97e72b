"""Whether a reply contains an answer: on tokens, because a substring rule finds "Oman" in "woman"."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence


def dpr_tokens(text: str) -> list[str]:
    """Tokens of the rule `dpr_contains`: runs of letters, numbers and marks; any other visible character alone.

    Args:
        text: Any text.

    Returns:
        The tokens in Unicode's decomposed form (NFD), in lower case.

    Source: the tokenizer by which Dense Passage Retrieval (Karpukhin et al., 2020) finds answers in passages.
    """
    tokens: list[str] = []
    in_word = False
    for character in unicodedata.normalize("NFD", text):
        kind = unicodedata.category(character)[0]
        if kind in "LNM":
            if in_word:
                tokens[-1] += character
            else:
                tokens.append(character)
        elif kind not in "ZC":
            tokens.append(character)
        in_word = kind in "LNM"
    return [token.lower() for token in tokens]


def contains_answer(reply: str, answers: Iterable[str]) -> bool:
    """The rule `dpr_contains`: the tokens of one of the answers occur in the reply, side by side and in order.

    Args:
        reply: What was said.
        answers: Accepted answers; one without a token is never found.

    Returns:
        Whether any of them is in the reply.
    """
    tokens = dpr_tokens(reply)
    return any(next(_places(tokens, dpr_tokens(answer)), None) is not None for answer in answers)


def chosen(reply: str, choices: Iterable[str]) -> str | None:
    """The rule of closed choices: the one choice that a reply names, on tokens.

    A choice within a longer one is not named by it: "dog barking" names "dog barking" and not "dog".

    Args:
        reply: What was said.
        choices: What there was to choose from.

    Returns:
        The choice; none if the reply names none, or several different ones.
    """
    tokens: list[str | None] = list(dpr_tokens(reply))
    named = []
    for choice in sorted(choices, key=lambda choice: -len(dpr_tokens(choice))):
        wanted = dpr_tokens(choice)
        places = list(_places(tokens, wanted))
        if places:
            named.append(choice)
        for place in places:
            tokens[place : place + len(wanted)] = [None] * len(wanted)
    return named[0] if len(named) == 1 else None


def _places(tokens: Sequence[str | None], wanted: Sequence[str]) -> Iterator[int]:
    """Where a run of tokens begins."""
    if wanted:
        yield from (
            place
            for place in range(len(tokens) - len(wanted) + 1)
            if list(tokens[place : place + len(wanted)]) == list(wanted)
        )
