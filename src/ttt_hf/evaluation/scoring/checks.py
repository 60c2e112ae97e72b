"""Reply defects that need no reference: repetition loops, another language, no words. Pure functions of text."""

from __future__ import annotations

import unicodedata
from collections import Counter

from .normalizers import split_mixed, strip_special_tokens


# A loop repeats a run of up to _MAX_PERIOD tokens, at least _MIN_REPEATS times and over at least _MIN_TOKENS tokens:
# "No, no, no" and "ha ha ha ha" are none.
_MAX_PERIOD = 64
_MIN_REPEATS = 4
_MIN_TOKENS = 8
# Anything longer is no word but something like "hahaha...", which is checked by character.
_MAX_WORD = 40

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
    """Whether a run of at most 64 tokens (words, CJK characters) is repeated back to back, four times or more.

    The repetitions together must have at least eight tokens.
    """
    tokens = [
        token
        for word in split_mixed(text.casefold())
        # Punctuation is dropped, or a loop could hide behind a changing comma.
        for token in (list(word) if len(word) > _MAX_WORD else [_letters(word)])
        if token
    ]
    # A longer run cannot be repeated often enough within the text.
    for period in range(1, min(_MAX_PERIOD, len(tokens) // _MIN_REPEATS) + 1):
        # A text with this period equals itself shifted by it, so `same` tokens in a row make `same + period` repeated.
        same = 0
        for earlier, later in zip(tokens, tokens[period:]):
            same = same + 1 if earlier == later else 0
            if same + period >= max(_MIN_TOKENS, _MIN_REPEATS * period):
                return True
    return False


def is_other_language(text: str, language: str) -> bool:
    """Whether most letters of a text are of another script than its language is written in.

    False for texts without letters and for languages that `_SCRIPTS` lacks. Languages of one script count as one.

    Args:
        language: ISO 639-1 code of the expected language.
    """
    # Of "zh-CN" or "zh_CN", the first part.
    scripts = _SCRIPTS.get(language.lower().split("-")[0].split("_")[0])
    letters = Counter(
        unicodedata.name(character, "").split(" ")[0].split("-")[0]
        # NFKC turns full-width letters and ligatures into plain ones, whose names begin with their script.
        for character in unicodedata.normalize("NFKC", strip_special_tokens(text))
        if character.isalpha()
    )
    if scripts is None or not letters:
        return False
    # Half of the letters is enough, since short replies may name foreign people and places.
    return sum(letters[script] for script in scripts) * 2 < letters.total()


def is_empty(text: str) -> bool:
    """Whether a text has neither letters nor digits, special tokens aside."""
    return not any(character.isalnum() for character in strip_special_tokens(text))


def _letters(word: str) -> str:
    return "".join(character for character in word if character.isalnum())
