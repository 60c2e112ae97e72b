"""Whether a reply contains an answer, compared by tokens: a substring rule finds "Oman" in "woman"."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence


def dpr_tokens(text: str) -> list[str]:
    """Tokens of the rule `dpr_contains`: runs of letters, numbers and marks; any other visible character by itself.

    Source: `SimpleTokenizer` of Dense Passage Retrieval (Karpukhin et al., 2020), which finds answers in passages.

    Returns:
        The tokens in Unicode's decomposed form (NFD), in lower case.
    """
    tokens: list[str] = []
    in_word = False
    # Decomposed, an accent is a mark (M) of its own, which continues the word.
    # First letters of categories: L letters, N numbers, M marks; Z separators, C control characters.
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
    # Last, as in the original, after the categories have been looked up.
    return [token.lower() for token in tokens]


def contains_answer(reply: str, answers: Iterable[str]) -> bool:
    """The rule `dpr_contains`: whether the tokens of any answer occur in the reply, contiguously and in order.

    An answer without tokens is never found.
    """
    tokens = dpr_tokens(reply)
    # The first occurrence decides: the iterator is not read to its end.
    return any(next(_starts(tokens, dpr_tokens(answer)), None) is not None for answer in answers)


def chosen(reply: str, choices: Iterable[str]) -> str | None:
    """The rule `choice`: the one choice that a reply names, compared by tokens.

    Returns:
        The choice; none if the reply names none, or several different ones.
    """
    tokens: list[str | None] = list(dpr_tokens(reply))
    named = []
    # Longest first, and their tokens are used up: "dog barking" names "dog barking" and not "dog".
    for choice in sorted(choices, key=lambda choice: -len(dpr_tokens(choice))):
        wanted = dpr_tokens(choice)
        starts = list(_starts(tokens, wanted))
        if starts:
            named.append(choice)
        for start in starts:
            # None equals no token, so that later, shorter choices cannot match here.
            tokens[start : start + len(wanted)] = [None] * len(wanted)
    return named[0] if len(named) == 1 else None


def _starts(tokens: Sequence[str | None], wanted: Sequence[str]) -> Iterator[int]:
    """Indices at which a run of tokens begins."""
    # An empty run would begin everywhere.
    if wanted:
        yield from (
            start
            for start in range(len(tokens) - len(wanted) + 1)
            if list(tokens[start : start + len(wanted)]) == list(wanted)
        )
