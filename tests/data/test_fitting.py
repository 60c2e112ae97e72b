"""Samples that are too long: never cut inside a span."""

from collections import Counter

import pytest

from ttt_hf.data import fit_sample, fit_samples, interleave


BEGIN, BEGIN_LAST, END, END_LAST, EOS, FIRST_CODE = 501, 502, 633, 634, 500, 512
PROMPT = [10, 11, BEGIN, 520, 521, 503, 12]


@pytest.fixture
def dialogue(config):
    """Two turns; each prompt has 7 tokens, each reply 4 text, span of 3 + 2, 1 text, last span of 5 + 2, end: 18."""
    ids, labels = [], []
    for _ in range(2):
        reply = [*interleave([1, 2, 3, 4, 5], list(range(8)), config, text_per_span=4, audio_per_span=3), EOS]
        ids += PROMPT + reply
        labels += [-100] * len(PROMPT) + reply
    return {"input_ids": ids, "labels": labels, "length": len(ids)}


def pre_training(config, texts=3, text_length=10, codes=4):
    ids = []
    for number in range(texts):
        ids += [number] * text_length + interleave([], range(codes), config)
    return {"input_ids": ids, "labels": list(ids), "length": len(ids)}


def assert_whole_spans(sample):
    depth = 0
    for token in sample["input_ids"]:
        if token in (BEGIN, BEGIN_LAST):
            assert depth == 0
            depth = 1
        elif token in (END, END_LAST, 503):
            assert depth == 1
            depth = 0
        elif token >= FIRST_CODE:
            assert depth == 1
    assert depth == 0


def test_short_samples_stay(config, dialogue):
    fitted = fit_sample(dialogue, config, len(dialogue["input_ids"]))
    assert (fitted.samples, fitted.outcome, fitted.lost) == ([dialogue], "kept", 0)


# Places in the first reply: before the span (11), behind it (16), before the last span (17), behind it (24), behind
# the end of the turn (25); in the second one the same, 25 later.
@pytest.mark.parametrize(
    ("max_length", "length"),
    [(11, 11), (15, 11), (16, 16), (17, 17), (23, 17), (24, 24), (25, 25), (35, 25), (36, 36), (40, 36), (49, 49)],
)
def test_conversations_end_at_the_last_place_that_fits(config, dialogue, max_length, length):
    fitted = fit_sample(dialogue, config, max_length)
    (sample,) = fitted.samples
    assert fitted.outcome == "cut"
    assert sample["length"] == len(sample["input_ids"]) == len(sample["labels"]) == length
    assert sample["input_ids"] == dialogue["input_ids"][:length]
    assert sample["labels"] == dialogue["labels"][:length]
    assert fitted.lost == 50 - length
    assert_whole_spans(sample)


def test_conversations_without_such_a_place_are_dropped(config, dialogue):
    fitted = fit_sample(dialogue, config, 10)
    assert (fitted.samples, fitted.outcome, fitted.lost) == ([], "dropped", 50)


@pytest.mark.parametrize("max_length", [10, 11, 16, 17, 25, 32, 47])
def test_pre_training_is_split_without_loss(config, max_length):
    sample = pre_training(config)
    fitted = fit_sample(sample, config, max_length)
    assert fitted.outcome == "split"
    assert fitted.lost == 0
    assert [token for piece in fitted.samples for token in piece["input_ids"]] == sample["input_ids"]
    for piece in fitted.samples:
        assert piece["length"] == len(piece["input_ids"]) <= max_length
        assert piece["labels"] == piece["input_ids"]
        assert_whole_spans(piece)


def test_pieces_are_as_long_as_they_can_be(config):
    lengths = [piece["length"] for piece in fit_sample(pre_training(config), config, 32).samples]
    assert lengths == [32, 16]


def test_long_text_is_split_between_tokens(config):
    ids = list(range(25))
    fitted = fit_sample({"input_ids": ids, "labels": ids}, config, 10)
    assert [piece["input_ids"] for piece in fitted.samples] == [ids[:10], ids[10:20], ids[20:]]


def test_a_span_that_is_longer_than_a_sample_is_left_out(config):
    sample = pre_training(config, texts=2, text_length=5, codes=30)
    fitted = fit_sample(sample, config, 20)
    assert [piece["input_ids"] for piece in fitted.samples] == [[0] * 5, [1] * 5]
    assert fitted.lost == 64


def test_counts_say_what_was_done(config, dialogue):
    counts = Counter()
    short = {"input_ids": [1, 2], "labels": [-100, 2]}
    hopeless = {"input_ids": [1] * 60, "labels": [-100] * 59 + [1]}
    samples = list(fit_samples([short, dialogue, hopeless, pre_training(config)], config, 40, counts))
    assert len(samples) == 4
    assert counts == {"kept": 1, "cut": 1, "dropped": 1, "split": 1, "lost_tokens": 14 + 60}


def test_length_must_be_positive(config, dialogue):
    with pytest.raises(ValueError, match="at least one token"):
        fit_sample(dialogue, config, 0)
