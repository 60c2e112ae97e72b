"""The tokenizer: order of the vocabulary, splitting, determinism, and how long a large one takes to load."""

import time
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from ttt_hf.modeling import TtTConfig
from ttt_hf.processing import audio_token_ids, train_tokenizer
from ttt_hf.processing.tokenization import code_token, encode_text


@pytest.fixture(scope="module")
def tokenizer(corpus: list[str]) -> PreTrainedTokenizerFast:
    return train_tokenizer(corpus, 300, 75)


def test_vocabulary_order(tokenizer: PreTrainedTokenizerFast) -> None:
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|begin_of_audio|>", "<|begin_of_quad|>"]
    names += ["<|end_of_audio|>", "<|audio|>", *map(code_token, range(75))]
    names += ["<|mask_token|>", "<|end_of_audio_new|>", "<|end_of_audio_span_last|>"]
    first = len(tokenizer) - len(names)
    assert 256 <= first <= 300
    assert tokenizer.convert_ids_to_tokens(list(range(first, len(tokenizer)))) == names
    assert tokenizer("".join(names)).input_ids == list(range(first, len(tokenizer)))
    assert tokenizer.decode(list(range(first, len(tokenizer))), skip_special_tokens=True) == ""
    assert (tokenizer.eos_token, tokenizer.pad_token, tokenizer.padding_side) == (
        "<|im_end|>",
        "<|endoftext|>",
        "left",
    )


def test_audio_token_ids_make_a_config(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = audio_token_ids(tokenizer)
    assert ids.audio_vocab_size == 75
    assert tokenizer.convert_ids_to_tokens(ids.audio_code_offset + 74) == "<|audio_74|>"
    assert tokenizer.convert_ids_to_tokens(ids.begin_audio_token_ids) == ["<|begin_of_audio|>", "<|begin_of_quad|>"]
    assert tokenizer.convert_ids_to_tokens(ids.end_audio_token_ids) == [
        "<|end_of_audio_new|>",
        "<|end_of_audio_span_last|>",
    ]
    assert tokenizer.convert_ids_to_tokens(ids.end_user_audio_token_id) == "<|end_of_audio|>"
    config = TtTConfig(text_config={"model_type": "qwen2", "vocab_size": len(tokenizer)}, **ids.config_fields())
    assert config.mask_token_id == ids.mask_token_id


def test_words_hyphens_and_digits_are_apart() -> None:
    tokenizer = train_tokenizer(["four twenty-four plus four 24 24"] * 10, 400, 5)
    pieces = tokenizer.convert_ids_to_tokens(tokenizer("four plus twenty-four 24").input_ids)
    assert pieces == ["four", "Ġplus", "Ġtwenty", "-", "four", "Ġ", "2", "4"]


@pytest.mark.parametrize("text", ["", "  two  spaces ", "naïve café", "你好，世界 🙂", "line\n\nline\ttab"])
def test_any_text_survives(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_deterministic(corpus: list[str], tokenizer: PreTrainedTokenizerFast) -> None:
    again = train_tokenizer(iter(corpus), 300, 75)
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


def test_round_trip(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = "What is four?<|audio_3|><|im_end|>"
    assert loaded(text).input_ids == tokenizer(text).input_ids
    assert audio_token_ids(loaded) == audio_token_ids(tokenizer)
    assert loaded.chat_template == tokenizer.chat_template
    assert (loaded.eos_token, loaded.pad_token, loaded.padding_side) == ("<|im_end|>", "<|endoftext|>", "left")


def test_thousands_of_codes_load_quickly(tmp_path: Path) -> None:
    train_tokenizer(["hello"], 256, 4375).save_pretrained(tmp_path)
    start = time.process_time()
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert time.process_time() - start < 5, "some hundred milliseconds on an idle core"
    assert audio_token_ids(loaded).audio_vocab_size == 4375


@pytest.mark.parametrize(("vocab_size", "codes", "message"), [(255, 5, "at least 256"), (300, 0, "at least 1")])
def test_bad_sizes(vocab_size: int, codes: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train_tokenizer(["hello"], vocab_size, codes)


def test_text_tokenizer_has_no_audio_ids() -> None:
    text_only = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
    with pytest.raises(ValueError, match=r"no token <\|audio\|>"):
        audio_token_ids(text_only)


def test_wrong_order_is_refused() -> None:
    tokenizer = train_tokenizer(["hello"], 256, 2)
    swapped = (
        tokenizer.backend_tokenizer.to_str().replace("<|audio_0|>", "<|x|>").replace("<|audio_1|>", "<|audio_0|>")
    )
    swapped = swapped.replace("<|x|>", "<|audio_1|>")
    broken = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(swapped))
    with pytest.raises(ValueError, match="must follow"):
        audio_token_ids(broken)


def test_a_token_after_those_of_audio_is_refused() -> None:
    tokenizer = train_tokenizer(["hello"], 256, 2)
    ids = audio_token_ids(tokenizer)
    assert encode_text(tokenizer, ids, "hello") == tokenizer("hello").input_ids
    tokenizer.add_tokens(["zyzzyva"])
    # Where the tokenizer is loaded, and where one that was loaded before it was changed is used.
    with pytest.raises(ValueError, match="'zyzzyva' was added to the tokenizer after the audio tokens"):
        audio_token_ids(tokenizer)
    assert encode_text(tokenizer, ids, "hello") == tokenizer("hello").input_ids
    with pytest.raises(ValueError, match="'zyzzyva' was added to the tokenizer after the audio tokens"):
        encode_text(tokenizer, ids, "hello zyzzyva")
