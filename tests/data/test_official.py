"""Official strings: the same ids as the official code's, and nothing else that looks like them."""

import pytest

from ttt_hf.data import SampleBuilder, canonical_row
from ttt_hf.data.official_format import is_official, parse_official


USER = "<|begin_of_audio|><|audio_3|><|audio_4374|><|end_of_audio|>"
MIDDLE = "<|begin_of_audio|><|audio_0|><|audio_17|><|end_of_audio_new|>"
LAST = "<|begin_of_quad|><|audio_5|><|audio_5|><|audio_6|><|end_of_audio_span_last|>"


@pytest.fixture(scope="module")
def builder(embedded, embedded_config) -> SampleBuilder:
    return SampleBuilder(embedded, embedded_config)


def test_spans_and_text_come_in_order():
    assert parse_official(f"Hello{MIDDLE} you {LAST}") == [
        {"type": "text", "text": "Hello"},
        {"type": "audio", "codes": [0, 17], "span": "middle"},
        {"type": "text", "text": " you "},
        {"type": "audio", "codes": [5, 5, 6], "span": "last"},
    ]
    assert parse_official(USER) == [{"type": "audio", "codes": [3, 4374], "span": "user"}]


@pytest.mark.parametrize(
    "text",
    [
        f"What is two plus three?{LAST}",
        f"one two three{MIDDLE} four five{MIDDLE} six.{LAST}",
        f"{MIDDLE} questions are not just ended {MIDDLE} {MIDDLE}\n\n{LAST} In Spanish, the word order",
        f"{MIDDLE}{MIDDLE}{LAST}",
        f"你好，世界 {USER} café\n",
        "Ozone is an invisible gas.",
    ],
)
def test_pre_training_text_gives_the_ids_of_the_string(embedded, builder, text):
    sample = builder(canonical_row({"text": text}))
    assert sample["input_ids"] == embedded.tokenizer(text)["input_ids"]
    assert sample["labels"] == sample["input_ids"]


def test_conversation_gives_the_ids_of_the_string(embedded, builder):
    contents = [
        ("system", "You are a helpful audio model. The user will provide a text."),
        ("user", f"Please generate a caption for the given audio.{USER}"),
        ("assistant", f"people talking{MIDDLE} and laughing{LAST}"),
        ("user", USER),
        ("assistant", "Yes."),
    ]
    messages = [{"role": role, "content": content, "text_content": None} for role, content in contents]
    sample = builder(canonical_row({"messages": messages}))
    string = "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in contents)
    expected = embedded.tokenizer(string)["input_ids"]
    assert sample["input_ids"] == expected[: len(sample["input_ids"])]
    assert embedded.tokenizer.decode(expected[len(sample["input_ids"]) :]) == "\n"
    learned = [label for label in sample["labels"] if label != -100]
    assert embedded.tokenizer.decode(learned) == contents[2][1] + "<|im_end|>" + "Yes.<|im_end|>"


@pytest.mark.parametrize(
    "text",
    ["<|im_end|>", "the token <|audio_5|> is a code", "<|begin_of_audio|> opens audio", "<|end_of_audio_new|>"],
)
def test_names_of_special_tokens_stay_text(embedded, builder, text):
    assert not is_official(text)
    special = set(embedded.tokenizer.added_tokens_decoder)
    for row in ({"text": text}, {"content": [{"type": "text", "text": text}]}):
        assert special.isdisjoint(builder(canonical_row(row))["input_ids"])
    plain, named = (
        builder(canonical_row({"question": question, "answer": question}))["input_ids"] for question in ("Hi", text)
    )
    assert len(special.intersection(named)) == len(special.intersection(plain))
    assert sum(token in special for token in named) == sum(token in special for token in plain)


def test_typed_text_stays_text_even_where_it_writes_a_span_out(embedded, builder):
    sample = builder(canonical_row({"content": [{"type": "text", "text": MIDDLE}]}))
    assert set(embedded.tokenizer.added_tokens_decoder).isdisjoint(sample["input_ids"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{MIDDLE} <|audio_5|>", r"<\|audio_5\|> stands outside"),
        (f"{MIDDLE} then <|begin_of_quad|><|audio_5|>", r"<\|begin_of_quad\|> stands outside"),
        (f"{LAST}<|end_of_audio_new|>", r"<\|end_of_audio_new\|> stands outside"),
        ("<|begin_of_quad|><|audio_5|><|end_of_audio_new|>", "opened by .*quad.* closed by .*new"),
        ("<|begin_of_audio|><|audio_5|> a <|audio_6|><|end_of_audio_new|>", "stands outside"),
    ],
)
def test_malformed_spans_are_named(text, message):
    with pytest.raises(ValueError, match=message):
        parse_official(text)


def test_code_beyond_the_codebook_is_named(builder):
    row = canonical_row({"text": "a <|begin_of_audio|><|audio_1|><|audio_99999|><|end_of_audio_new|>"})
    with pytest.raises(ValueError, match="99999"):
        builder(row)
