"""Normalisers by name: what each does to numbers, scripts, punctuation and special tokens."""

from __future__ import annotations

import importlib.util
import sys

import pytest

from ttt_hf.evaluation.scoring import normalizers
from ttt_hf.evaluation.scoring.normalizers import (
    NORMALIZERS,
    get_normalizer,
    has_special_tokens,
    normalizer_versions,
    read_cardinals,
    read_digits,
    split_mixed,
    strip_special_tokens,
)


needs_opencc = pytest.mark.skipif(importlib.util.find_spec("opencc") is None, reason="OpenCC is not installed")


@pytest.mark.parametrize(
    ("number", "spoken"),
    [
        ("0", "零"),
        ("7", "七"),
        ("10", "十"),
        ("12", "十二"),
        ("20", "二十"),
        ("101", "一百零一"),
        ("110", "一百一十"),
        ("1010", "一千零一十"),
        ("10086", "一万零八十六"),
        ("12,000", "一万二千"),
        ("110000", "十一万"),
        ("1000000", "一百万"),
        ("20000300", "二千万零三百"),
        ("100000001", "一亿零一"),
        ("3.14", "三点一四"),
        ("0.5%", "百分之零点五"),
        ("007", "零零七"),
        ("1234567890123", "一二三四五六七八九零一二三"),
        ("1999年", "一九九九年"),
        ("20年", "二十年"),
        ("第3次打10086", "第三次打一万零八十六"),
    ],
)
def test_amounts_in_chinese(number: str, spoken: str) -> None:
    assert read_cardinals(number) == spoken


def test_digits_in_chinese() -> None:
    assert read_digits("打10086") == "打一零零八六"
    assert read_digits("1,200.5") == "一二零零点五"


def test_mixed_text_is_split_by_character_and_by_word() -> None:
    assert split_mixed("我用python3写了2个bug") == ["我", "用", "python3", "写", "了", "2", "个", "bug"]
    assert split_mixed("ありがとう sensei") == [*"ありがとう", "sensei"]
    assert split_mixed(" ") == []


def test_special_tokens_separate_words() -> None:
    assert strip_special_tokens("good<|0.42|>morning</s>").split() == ["good", "morning"]
    assert strip_special_tokens("<|im_start|>a<PAD>b<unk>").split() == ["a", "b"]
    assert strip_special_tokens("1 < 2 | 3 > 2 <b>") == "1 < 2 | 3 > 2 <b>"
    assert has_special_tokens("a<|en|>") and not has_special_tokens("a < b | c > d")


def test_chinese_without_conversion() -> None:
    normalize = get_normalizer("chinese")
    assert normalize("  你好，ＷＯＲＬＤ！ Don’t  漢語。") == "你好 world dont 漢語"
    assert normalize("……？！") == ""


@needs_opencc
def test_traditional_and_simplified_are_the_same_to_the_simplified_ones() -> None:
    normalize = get_normalizer("chinese_simplified")
    assert normalize("漢語臺灣頭髮") == normalize("汉语台湾头发") == "汉语台湾头发"


def test_verbatim_and_whisper_for_other_languages() -> None:
    assert get_normalizer("verbatim")(" Guten\n Morgen! ") == "Guten Morgen!"
    assert get_normalizer("whisper_basic")("Guten Morgen!") == "guten morgen"


# What Whisper's rules make of a text, and what the variant without their faults does where that differs.
ENGLISH = [
    ("Let's go, y'all!", "let us go you all", None),
    ("I can't, won't and shouldn't; I've gotta go.", "i can not will not and should not i have got to go", None),
    ("She'd been there, he's gone, it's got cold", "she had been there he has gone it has got cold", None),
    ("Mr. Ames met Dr. Lee on St. Anne's day", "mister ames met doctor lee on saint anne is day", None),
    ("um, I mean, uh, mm, yes", "i mean yes", None),
    ("[door] I (softly) agree <unk>", "i agree", None),
    ("one hundred and twenty three", "123", None),
    ("It cost twenty dollars and five cents.", "it cost $20.05", None),
    ("two and a half", "2.5", None),
    ("three point one four", "3.14", None),
    ("double oh seven", "007", None),
    ("forty two percent of 1,250 people", "42% of 1250 people", None),
    ("in nineteen eighty four", "in 1984", None),
    ("the twenty first of the sixties", "the 21st of the 60s", None),
    ("thirty euros, minus five degrees", "€30 -5 degrees", None),
    ("The colour of the grey theatre", "the color of the gray theater", None),
    ("naïve café, Œuvre, Straße", "naive cafe oeuvre strasse", None),
    ("He had cause, I dunno, it's kinda sorta odd", "he had cause i dunno it is kinda sorta odd", None),
    ("I think so...", "i think so .", "i think so"),
    ("Well… maybe.... yes", None, "well maybe yes"),
    ("I don’t, she can’t, it’s", "i don t she can t it s", "i do not she can not it is"),
    ("‘Yes’, said the dogs’ owner", "yes said the dogs owner", None),
    ("2.5...", "2.5 .", "2.5"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "whisper", "corrected"), ENGLISH)
def test_english(text: str, whisper: str | None, corrected: str | None) -> None:
    pytest.importorskip("whisper_normalizer")
    if whisper is not None:
        assert get_normalizer("whisper_english")(text) == whisper
    assert get_normalizer("english")(text) == (corrected or whisper)


def test_half_a_character_is_no_error_of_opencc() -> None:
    pytest.importorskip("opencc")
    assert get_normalizer("chinese_simplified")("漢\ud83d語") == "汉 语"


def test_an_unknown_name_is_told_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="no normaliser 'whisper': choose one of verbatim, whisper_english"):
        get_normalizer("whisper")


@pytest.mark.parametrize(
    ("package", "name"), [("opencc", "chinese_simplified"), ("whisper_normalizer", "whisper_english")]
)
def test_a_missing_package_is_told_in_a_sentence(package: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [module for module in sys.modules if module.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    # What another test has loaded is remembered.
    for loader in (normalizers._simplifier, normalizers._whisper_english):
        loader.cache_clear()
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'ttt-hf\[eval\]'") as caught:
        get_normalizer(name)
    assert (caught.value.name or "").split(".")[0] == package, "recipes name the package"


@pytest.mark.parametrize("name", NORMALIZERS)
def test_normalised_text_is_words_with_single_spaces(name: str) -> None:
    try:
        normalize = get_normalizer(name)
    except ModuleNotFoundError as error:
        pytest.skip(str(error))
    normalised = normalize(" Well,  it's 50% – 你好！\tＡ１ ")
    assert normalised and normalised == " ".join(normalised.split())
    assert normalize(" ") == ""


def test_versions_name_every_package() -> None:
    versions = normalizer_versions()
    assert set(versions) == {"unicode", "jiwer", "transformers", "whisper-normalizer", "opencc"}
    assert versions["unicode"]
