"""Variants of recordings in samples: drawn anew in each epoch, cut and packed together with their samples."""

from collections import Counter

import numpy as np
import pytest

from ttt_hf.data import NumberedDataset, SampleBuilder, TtTDataCollator, fit_sample, pack_samples
from ttt_hf.data.variants import draw_variants, fit_variants, growth


CODES = [3, 1, 4, 1]
VARIANTS = [[5, 9], [2, 6, 5, 3, 5, 8]]


def make_row(*user_items, reply_variants=None):
    """A conversation of as many turns as there are items of the user's; every reply is spoken."""
    reply = {"type": "audio", "codes": [7, 7, 7], "variants": reply_variants}
    messages = []
    for item in user_items:
        messages += [
            {"role": "user", "content": [item]},
            {"role": "assistant", "content": [{"type": "text", "text": "Yes."}, reply]},
        ]
    return {"messages": messages, "task": "chat"}


def heard(codes, variants=None):
    return {"type": "audio", "codes": codes, "variants": variants}


@pytest.fixture(scope="module")
def builder(embedded, embedded_config):
    return SampleBuilder(embedded, embedded_config)


@pytest.fixture
def sample(builder):
    return builder(make_row(heard(CODES, VARIANTS)))


def test_a_drawn_sample_is_that_of_the_variant(builder, sample):
    expected = [builder(make_row(heard(codes))) for codes in (CODES, *VARIANTS)]
    found = Counter()
    for seed in range(60):
        drawn = draw_variants(sample, np.random.default_rng(seed))
        assert "variants" not in drawn
        found[[entry["input_ids"] for entry in expected].index(drawn["input_ids"])] += 1
        assert drawn["labels"] in [entry["labels"] for entry in expected]
        assert len(drawn["labels"]) == len(drawn["input_ids"])
    assert min(found[choice] for choice in range(3)) > 10


def test_recordings_of_a_dialogue_are_drawn_independently(builder):
    plain = heard([11, 12])
    sample = builder(make_row(heard(CODES, VARIANTS), plain, heard(CODES, VARIANTS)))
    expected = {
        tuple(builder(make_row(heard(first), plain, heard(last)))["input_ids"])
        for first in (CODES, *VARIANTS)
        for last in (CODES, *VARIANTS)
    }
    drawn = [draw_variants(sample, np.random.default_rng(seed))["input_ids"] for seed in range(100)]
    assert {tuple(ids) for ids in drawn} == expected


def test_what_is_learned_has_no_variants(builder):
    assert "variants" not in builder(make_row(heard(CODES), reply_variants=VARIANTS))
    assert "variants" not in builder({"content": [heard(CODES, VARIANTS)], "task": None})


def test_variants_out_of_range_are_refused(builder):
    with pytest.raises(ValueError, match="Audio codes must lie in"):
        builder(make_row(heard(CODES, [[1], [10**6]])))


def test_growth_is_that_of_the_longest_variants(builder, sample):
    assert growth(sample["variants"]) == 2
    assert growth([]) == 0
    assert growth(builder(make_row(heard(CODES, [[1], [2, 3]])))["variants"]) == 0


def test_each_epoch_draws_anew_and_the_same_again(embedded, embedded_config, sample):
    collator = TtTDataCollator(embedded_config, embedded.tokenizer.pad_token_id, seed=3)
    data = NumberedDataset([sample])

    def epochs():
        return [collator([data[draw]])["input_ids"][0, : len(sample["input_ids"]) - 8].tolist() for draw in range(12)]

    assert epochs() == epochs()
    assert len({tuple(ids) for ids in epochs()}) == 3


def test_a_sample_keeps_the_variants_that_fit(embedded_config, sample):
    length = len(sample["input_ids"])
    (kept,) = fit_sample(sample, embedded_config, length + 2).samples
    assert kept == sample
    (kept,) = fit_sample(sample, embedded_config, length + 1).samples
    assert [len(ids) for ids in kept["variants"][0]["input_ids"]] == [2]


def test_a_cut_sample_keeps_the_variants_before_the_cut(builder, embedded_config):
    whole = builder(make_row(heard(CODES, VARIANTS), heard(CODES, VARIANTS)))
    fitted = fit_sample(whole, embedded_config, len(whole["input_ids"]) - 1)
    assert fitted.outcome == "cut"
    (kept,) = fitted.samples
    first, second = whole["variants"]
    assert second["start"] < len(kept["input_ids"])
    assert [entry["start"] for entry in kept["variants"]] == [first["start"], second["start"]]
    end = second["start"] - 1
    assert fit_variants(whole["variants"], end, spare=100) == [first]
    assert fit_variants(whole["variants"], end, spare=0) == [{**first, "input_ids": first["input_ids"][:1]}]


def test_packed_samples_are_drawn_as_they_would_be_alone(builder):
    rows = [make_row(heard([number, *CODES], VARIANTS)) for number in range(3)]
    rows.insert(1, make_row(heard(CODES)))
    samples = [{"variants": [], **builder(row)} for row in rows]
    columns = {name: [sample[name] for sample in samples] for name in samples[0]}
    packed = pack_samples(columns, row_length=1000)
    (row,) = [dict(zip(packed, values)) for values in zip(*packed.values())]
    choices = set()
    for seed in range(40):
        drawn = draw_variants(row, np.random.default_rng(seed))
        assert sum(drawn["sample_lengths"]) == len(drawn["input_ids"]) == len(drawn["labels"])
        ends = np.cumsum(drawn["sample_lengths"])
        parts = [drawn["input_ids"][end - length : end] for end, length in zip(ends, drawn["sample_lengths"])]
        singles = [
            [builder(make_row(heard(codes)))["input_ids"] for codes in (item["codes"], *(item["variants"] or []))]
            for item in (row["messages"][0]["content"][0] for row in rows)
        ]
        places = sorted(
            (number, choice)
            for part in parts
            for number, options in enumerate(singles)
            for choice, ids in enumerate(options)
            if ids == part
        )
        assert len(places) >= 4
        choices.add(tuple(places))
    assert len(choices) > 5
