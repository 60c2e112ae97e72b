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
    pytest.importorskip("whisper_normalizer")
    assert get_normalizer("whisper_basic")("Guten Morgen!") == "guten morgen"


def test_an_unknown_name_is_told_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="no normaliser 'whisper': choose one of verbatim, whisper_english"):
        get_normalizer("whisper")


@pytest.mark.parametrize(
    ("package", "name"), [("opencc", "chinese_simplified"), ("whisper_normalizer", "whisper_basic")]
)
def test_a_missing_package_is_told_in_a_sentence(package: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [module for module in sys.modules if module.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    # What another test has loaded is remembered.
    for loader in (normalizers._simplifier, normalizers._whisper):
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
    assert set(versions) == {"unicode", "jiwer", "whisper-normalizer", "opencc"}
    assert versions["unicode"]
