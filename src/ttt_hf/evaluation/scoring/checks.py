"""What can be wrong with a reply whatever was asked: loops, another language, nothing said. Pure functions of text."""

from __future__ import annotations

import unicodedata
from collections import Counter

from .normalizers import split_mixed, strip_special_tokens


# A loop: a run of up to so many tokens, said at least so many times, which makes at least so many tokens. "No, no, no"
# and "ha ha ha ha" are none.
_LONGEST_RUN = 64
_LEAST_REPEATS = 4
_LEAST_TOKENS = 8
# No word is that long: it is something like "hahaha..." and looked at by character.
_LONGEST_WORD = 40

# Scripts by language, as the first word of Unicode's character names; other languages are not checked.
_LATIN = ("LATIN",)
_SCRIPTS = {
    "zh": ("CJK",),
    "yue": ("CJK",),
    "ja": ("CJK", "HIRAGANA", "KATAKANA"),
    "ko": ("HANGUL",),
    "ru": ("CYRILLIC",),
    "uk": ("CYRILLIC",),
    "ar": ("ARABIC",),
    "hi": ("DEVANAGARI",),
    "th": ("THAI",),
    "el": ("GREEK",),
    "he": ("HEBREW",),
    **dict.fromkeys(("en", "de", "fr", "es", "it", "pt", "nl", "pl", "tr", "vi", "id", "sv", "cs"), _LATIN),
}


def is_repetition_loop(text: str) -> bool:
    """Whether a text got caught in a loop.

    Args:
        text: What was said.

    Returns:
        Whether a run of at most 64 tokens (words, CJK characters) is said four times or more without a break, eight
        tokens in all at least.
    """
    tokens = [
        token
        for word in split_mixed(text.casefold())
        for token in (list(word) if len(word) > _LONGEST_WORD else [_letters(word)])
        if token
    ]
    for period in range(1, min(_LONGEST_RUN, len(tokens) // _LEAST_REPEATS) + 1):
        same = 0
        for earlier, later in zip(tokens, tokens[period:]):
            same = same + 1 if earlier == later else 0
            if same + period >= max(_LEAST_TOKENS, _LEAST_REPEATS * period):
                return True
    return False


def is_other_language(text: str, language: str) -> bool:
    """Whether most letters of a text are not of the script that its language is written in.

    Args:
        text: What was said.
        language: ISO 639-1 code of what should be spoken.

    Returns:
        Never true for a text without letters, and for languages whose script is not known here. Languages of the same
        script are not told apart.
    """
    scripts = _SCRIPTS.get(language.lower().split("-")[0].split("_")[0])
    letters = Counter(
        unicodedata.name(character, "").split(" ")[0].split("-")[0]
        for character in unicodedata.normalize("NFKC", strip_special_tokens(text))
        if character.isalpha()
    )
    if scripts is None or not letters:
        return False
    return sum(letters[script] for script in scripts) * 2 < letters.total()


def is_empty(text: str) -> bool:
    """Whether a text says nothing: no letter and no digit besides special tokens."""
    return not any(character.isalnum() for character in strip_special_tokens(text))


def _letters(word: str) -> str:
    return "".join(character for character in word if character.isalnum())
