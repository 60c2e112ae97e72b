"""Text normalisers by name. An error rate depends on its normaliser, so every result names the one it was made with.

| name | what it does |
|---|---|
| `verbatim` | collapses white space, and nothing else |
| `whisper_english` | Whisper's `EnglishTextNormalizer`: lower case, no punctuation, contractions, numbers as digits |
| `english` | `whisper_english` without its faults: `so...` ends in no full stop, and `don’t` is `don't` |
| `whisper_basic` | Whisper's `BasicTextNormalizer`, for languages without one of their own |
| `chinese` | NFKC, lower case, no punctuation; keeps digits and traditional characters |
| `chinese_simplified` | `chinese` in simplified characters (OpenCC `t2s`) |
| `chinese_digits` | `chinese_simplified`, numbers spelled digit by digit: 10086 is 一零零八六 |
| `chinese_telephone` | `chinese_simplified`, numbers spelled like telephone numbers: 10086 is 幺零零八六 |
| `chinese_cardinal` | `chinese_simplified`, numbers spelled as cardinals: 10086 is 一万零八十六 |

The rules of Whisper come from transformers, its list of British and American spellings from the package
whisper-normalizer, whose own rules are others (`cause` becomes `because`). `normalizer_versions` records the packages
that they depend on.
"""

from __future__ import annotations

import functools
import json
import re
import unicodedata
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files

from ...overrides import shorten
from ..redaction import encodable


Normalizer = Callable[[str], str]

# Packages that normalised texts and alignments depend on.
SCORING_PACKAGES = ("jiwer", "transformers", "whisper-normalizer", "opencc")

# `<|0.00|>`, `<|en|>`, `<|im_end|>`, and the special tokens of sentence-piece and CTC vocabularies.
_SPECIAL_TOKEN = re.compile(r"<\|[^<>|]*\|>|</?s>|<(?:pad|unk|bos|eos|blank|mask)>", re.IGNORECASE)

_DIGITS = "零一二三四五六七八九"
_TELEPHONE_DIGITS = "零幺二三四五六七八九"
_UNITS = ("", "十", "百", "千")
_GROUPS = ("", "万", "亿")
# Longer runs of digits are spelled digit by digit, as speakers do.
_LONGEST_CARDINAL = 12

# Apostrophes that keyboards and typesetters write, within a word. As quotes they are no part of one.
_APOSTROPHE = re.compile(r"(?<=\w)[\u2018\u2019\u02bc\uff07](?=\w)")
_ELLIPSIS = re.compile(r"\.{2,}|\u2026")
# Symbols that belong to numbers, by themselves.
_LONE_SYMBOL = re.compile(r"(?<!\S)[.%$¢€£]+(?!\S)")

# 1,234,567 or 1234567, an optional decimal part, and a suffix that changes the reading.
_NUMBER = re.compile(r"(\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.(\d+))?(%|(?=年))?", re.ASCII)


def get_normalizer(name: str) -> Normalizer:
    """Looks up a normaliser of the table at the top of this module.

    Returns:
        Function from any text to words separated by single spaces.
    """
    if not isinstance(name, str) or name not in NORMALIZERS:
        raise ValueError(f"There is no normaliser {shorten(repr(name))}: choose one of {', '.join(NORMALIZERS)}.")
    return NORMALIZERS[name]()


def counts_spaces(name: str) -> bool:
    """Whether a space between words is a character of the text: not in Chinese, which is written without."""
    return not name.startswith("chinese")


def strip_special_tokens(text: str) -> str:
    """Replaces each special or timestamp token by a space: `"<|0.00|>Good<|0.42|>morning"` is two words."""
    return _SPECIAL_TOKEN.sub(" ", text)


def has_special_tokens(text: str) -> bool:
    """Whether special or timestamp tokens were left in a text."""
    return _SPECIAL_TOKEN.search(text) is not None


def is_cjk(character: str) -> bool:
    """Whether a character belongs to a script without spaces between words: Han, Hiragana or Katakana."""
    code = ord(character)
    return (
        # Kana; extension A, unified and compatibility ideographs, extensions B to H; two marks.
        0x3040 <= code <= 0x30FF
        or 0x3400 <= code <= 0x4DBF
        or 0x4E00 <= code <= 0x9FFF
        or 0xF900 <= code <= 0xFAFF
        or 0x20000 <= code <= 0x323AF
        or character in "々〇"
    )


def split_mixed(text: str) -> list[str]:
    """Splits normalised text into CJK characters and words of other scripts.

    `"我用 python 写"` becomes `["我", "用", "python", "写"]`.
    """
    return "".join(f" {character} " if is_cjk(character) else character for character in text).split()


def read_digits(text: str, digits: str = _DIGITS) -> str:
    """Spells ASCII numbers digit by digit in Chinese; a decimal point is 点.

    Args:
        text: Text with ASCII digits.
        digits: Names of 0 to 9, length 10.
    """

    def read(match: re.Match[str]) -> str:
        integer, decimals, suffix = match.groups()
        # Everything but the digits stays: the point, and a percent sign, which counts as punctuation later.
        spoken = integer.replace(",", "") + (f"点{decimals}" if decimals else "") + (suffix or "")
        return "".join(digits[int(character)] if character.isdecimal() else character for character in spoken)

    return _NUMBER.sub(read, text)


def read_cardinals(text: str) -> str:
    """Spells ASCII numbers as cardinals in Chinese: 10086 is 一万零八十六, 3.5 is 三点五, 50% is 百分之五十.

    Years (2024年) and numbers with a leading zero or more than twelve digits are spelled digit by digit.
    """

    def read(match: re.Match[str]) -> str:
        integer, decimals, suffix = match.groups()
        integer = integer.replace(",", "")
        # The lookahead for 年 matches with an empty suffix, which tells a year from no suffix (None).
        is_year = suffix == "" and len(integer) == 4
        if is_year or len(integer) > _LONGEST_CARDINAL or (len(integer) > 1 and integer.startswith("0")):
            spoken = "".join(_DIGITS[int(digit)] for digit in integer)
        else:
            spoken = _read_cardinal(int(integer))
        # Decimals are always spelled digit by digit.
        if decimals:
            spoken += "点" + "".join(_DIGITS[int(digit)] for digit in decimals)
        return f"百分之{spoken}" if suffix == "%" else spoken

    return _NUMBER.sub(read, text)


def normalizer_versions() -> dict[str, str | None]:
    """Versions of the packages that normalise and align, none where not installed, and of Unicode.

    Results record them, since another release of a normaliser can change scores.
    """
    versions: dict[str, str | None] = {"unicode": unicodedata.unidata_version}
    for package in SCORING_PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return versions


def _read_cardinal(number: int) -> str:
    spoken, skipped = "", False
    # Chinese groups digits by four. A gap of any number of zeros between digits that are spoken is one 零.
    for power in reversed(range(len(_GROUPS))):
        group = number // 10_000**power % 10_000
        if not group:
            skipped = True
            continue
        # A group below 1000 begins with zeros itself.
        if spoken and (skipped or group < 1000):
            spoken += "零"
        spoken, skipped = spoken + _read_group(group) + _GROUPS[power], False
    if not spoken:
        return "零"
    # 10 is 十, not 一十, but only at the beginning: 110 is 一百一十.
    return spoken[1:] if spoken.startswith("一十") else spoken


def _read_group(group: int) -> str:
    """Spells 1 to 9999."""
    spoken, skipped = "", False
    for power in reversed(range(len(_UNITS))):
        digit = group // 10**power % 10
        if not digit:
            skipped = True
            continue
        # Zeros at the end are not spoken, so 零 waits for the next digit.
        if spoken and skipped:
            spoken += "零"
        spoken, skipped = spoken + _DIGITS[digit] + _UNITS[power], False
    return spoken


def _join(text: str) -> str:
    return " ".join(text.split())


def _drop_punctuation(text: str) -> str:
    # An apostrophe within a word joins it ("don't" is one word, whichever apostrophe was typed).
    text = re.sub(r"(?<=\w)['’](?=\w)", "", text)
    # Punctuation, symbols, separators and control characters end a word.
    return "".join(" " if unicodedata.category(character)[0] in "PSZC" else character for character in text)


def _chinese(simplify: Normalizer | None = None, read_numbers: Normalizer | None = None) -> Normalizer:
    def normalize(text: str) -> str:
        # 1. Full-width letters and digits become ASCII, which the numbers below are found by.
        text = unicodedata.normalize("NFKC", text).lower()
        # 2. Simplified characters, in which numbers are spelled below.
        if simplify:
            text = simplify(text)
        # 3. Numbers before punctuation, since they may hold commas, a point or a percent sign.
        if read_numbers:
            text = read_numbers(text)
        return _join(_drop_punctuation(text))

    return normalize


@functools.cache
def _simplifier() -> Normalizer:
    try:
        from opencc import OpenCC
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "Simplified characters need OpenCC: pip install 'ttt-hf[eval]', or choose the normaliser 'chinese'.",
            name=error.name,
        ) from error
    converter = OpenCC("t2s")
    # OpenCC takes UTF-8, which has no halves of surrogate pairs.
    return lambda text: converter.convert(encodable(text))


@functools.cache
def _whisper_english() -> Normalizer:
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    try:
        spellings = files("whisper_normalizer") / "normalizers" / "english.json"
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "Whisper's English normaliser needs whisper-normalizer: pip install 'ttt-hf[eval]'.", name=error.name
        ) from error
    normalize = EnglishTextNormalizer(json.loads(spellings.read_text(encoding="utf-8")))
    # Whisper's normalisers may leave spaces at both ends, which an alignment of characters would count.
    return lambda text: _join(normalize(text))


@functools.cache
def _whisper_basic() -> Normalizer:
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer

    normalize = BasicTextNormalizer()
    return lambda text: _join(normalize(text))


@functools.cache
def _english() -> Normalizer:
    normalize = _whisper_english()

    def corrected(text: str) -> str:
        text = _APOSTROPHE.sub("'", text)
        # Whisper removes full stops in pairs, and what is left of three is a word.
        text = normalize(_ELLIPSIS.sub(" ", text))
        return _join(_LONE_SYMBOL.sub(" ", text))

    return corrected


# Factories, so that a package is imported only by the normaliser that needs it.
NORMALIZERS: dict[str, Callable[[], Normalizer]] = {
    "verbatim": lambda: _join,
    "whisper_english": _whisper_english,
    "english": _english,
    "whisper_basic": _whisper_basic,
    "chinese": lambda: _chinese(),
    "chinese_simplified": lambda: _chinese(_simplifier()),
    "chinese_digits": lambda: _chinese(_simplifier(), read_digits),
    "chinese_telephone": lambda: _chinese(_simplifier(), lambda text: read_digits(text, _TELEPHONE_DIGITS)),
    "chinese_cardinal": lambda: _chinese(_simplifier(), read_cardinals),
}
