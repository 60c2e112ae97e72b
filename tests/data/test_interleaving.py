"""The interleaved reply format."""

import pytest

from ttt_hf.data import interleave
from ttt_hf.data.interleaving import interleave_texts, split_by_time


BEGIN, BEGIN_LAST, END, END_LAST, FIRST_CODE = 501, 502, 633, 634, 512


def test_short_text_is_followed_by_one_last_span(config):
    assert interleave([1, 2, 3], [0, 5, 119], config) == [1, 2, 3, BEGIN_LAST, 512, 517, 631, END_LAST]


def test_long_text_alternates_with_spans_and_the_rest_of_the_audio_comes_last(config):
    reply = interleave([1, 2, 3, 4, 5], list(range(7)), config, text_per_span=2, audio_per_span=3)
    audio = [FIRST_CODE + code for code in range(7)]
    assert reply == ([1, 2, BEGIN, *audio[:3], END, 3, 4, BEGIN, *audio[3:6], END, 5, BEGIN_LAST, audio[6], END_LAST])


def test_default_ratio_is_13_to_26(config):
    reply = interleave(list(range(14)), [0] * 30, config)
    assert reply.index(BEGIN) == 13
    assert reply.index(END) - reply.index(BEGIN) - 1 == 26
    assert reply.index(END_LAST) - reply.index(BEGIN_LAST) - 1 == 4


def test_text_that_outlasts_its_audio_goes_on_without_spans(config):
    reply = interleave(list(range(6)), [0, 1], config, text_per_span=2, audio_per_span=2)
    assert reply == [0, 1, BEGIN, 512, 513, END, 2, 3, 4, 5]


def test_reply_without_audio_is_its_text(config):
    assert interleave(list(range(40)), [], config) == list(range(40))


@pytest.mark.parametrize("codes", [[-1], [120]])
def test_codes_of_another_codebook_are_refused(config, codes):
    with pytest.raises(ValueError, match="own codec"):
        interleave([1], codes, config)


def test_ratio_must_be_positive(config):
    with pytest.raises(ValueError, match="positive"):
        interleave([1], [0], config, audio_per_span=0)


def test_pieces_of_text_stand_before_their_spans(config):
    audio = [FIRST_CODE + code for code in range(5)]
    reply = interleave_texts([[1], [], [2, 3]], list(range(5)), config, audio_per_span=2)
    assert reply == [1, BEGIN, *audio[:2], END, BEGIN, *audio[2:4], END, 2, 3, BEGIN_LAST, audio[4], END_LAST]
    assert interleave_texts([[1], [2], [3]], [0], config, audio_per_span=2) == [1, BEGIN, 512, END, 2, 3]


WORDS = [{"text": "one,", "start": 0.5}, {"text": "two", "start": 1.0}, {"text": "three", "start": 3.2}]


@pytest.mark.parametrize(
    ("seconds", "spans", "pieces"),
    [
        (1.0, 10, ["one,", " two", "", " three."]),
        (2.0, 10, ["one, two", " three."]),
        (0.5, 10, ["", "one,", " two", "", "", "", " three."]),
        (1.0, 2, ["one,", " two", " three."]),
        (9.0, 1, ["one, two three."]),
    ],
)
def test_text_is_cut_by_the_time_stamps_of_its_words(seconds, spans, pieces):
    assert split_by_time("one, two three.", WORDS, seconds, spans) == pieces


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([{"text": "four", "start": 0.0}], "'four', which the text does not hold"),
        ([{"text": "two", "start": 0.0}, {"text": "one", "start": 1.0}], "'one', which the text does not hold"),
        ([{"text": "one", "start": 2.0}, {"text": "two", "start": 1.0}], "times in order"),
        ([{"text": "one", "start": None}], "times in order"),
        ([{"text": "one", "start": float("nan")}], "times in order"),
    ],
)
def test_time_stamps_that_do_not_fit_are_named(words, message):
    with pytest.raises(ValueError, match=message):
        split_by_time("one, two three.", words, 1.0, 10)
