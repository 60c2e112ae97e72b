"""Decisions of a denoising step: schedule, proposals, scores, selection."""

import json
import random
from pathlib import Path

import pytest
import torch
from reference_sampler import denoise

from ttt_hf.modeling.samplers_ttt import (
    REMASKING_STRATEGIES,
    choose_tokens,
    position_entropies,
    propose_tokens,
    remasking_scores,
    select_positions,
    transfer_schedule,
)


LOGITS = torch.tensor([[[4.0, 1.0, 0.0, -1.0], [2.0, 1.99, -9.0, -9.0], [0.3, 0.2, 0.1, 0.0]]])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_transfer_schedule_is_the_official_one(golden_dir: Path) -> None:
    cases = json.loads((golden_dir / "helpers.json").read_text(encoding="utf-8"))["num_transfer_tokens"]
    assert len(cases) > 5
    for case in cases:
        assert transfer_schedule(case["masked"], case["steps"]) == case["schedule"]


def test_tokens_are_the_best_or_drawn_by_probability() -> None:
    scores = torch.tensor([[0.0, 2.0, -torch.inf, 1.0]])
    assert choose_tokens(scores, False, [generator()]).tolist() == [1]
    source = generator()
    drawn = choose_tokens(scores.expand(2000, -1), True, [source] * 2000)
    frequencies = torch.bincount(drawn, minlength=4) / len(drawn)
    torch.testing.assert_close(frequencies, scores[0].softmax(-1), atol=0.03, rtol=0)
    assert frequencies[2] == 0


def test_proposals_without_temperature_are_the_most_likely_tokens() -> None:
    choices, confidences = propose_tokens(LOGITS, 0.0, [generator()], [3])
    assert choices.tolist() == [[0, 0, 0]]
    torch.testing.assert_close(confidences, LOGITS.softmax(-1)[..., 0])


def test_proposals_with_temperature_follow_the_tempered_distribution_and_the_generator() -> None:
    many = LOGITS[:, 2:].expand(1, 4000, -1)
    choices, confidences = propose_tokens(many, 0.1, [generator()], [4000])
    frequencies = torch.bincount(choices[0], minlength=4) / 4000
    torch.testing.assert_close(frequencies, (LOGITS[0, 2] / 0.1).softmax(-1), atol=0.03, rtol=0)
    # Confidence is a matter of the model, not of the temperature.
    torch.testing.assert_close(confidences, many.softmax(-1).gather(-1, choices[..., None])[..., 0])
    assert torch.equal(choices, propose_tokens(many, 0.1, [generator()], [4000])[0])
    assert not torch.equal(choices, propose_tokens(many, 0.1, [generator(1)], [4000])[0])


def test_draws_of_a_row_depend_neither_on_other_rows_nor_on_padding() -> None:
    logits = torch.randn(2, 5, 40, generator=generator())
    streams = [generator(1), generator(2)]
    together = [propose_tokens(logits, 1.0, streams, [3, 5])[0] for _ in range(2)]
    own = generator(1)
    alone = [propose_tokens(logits[:1, :3], 1.0, [own], [3])[0] for _ in range(2)]
    assert [choices[0, :3].tolist() for choices in together] == [choices[0].tolist() for choices in alone]
    scores = remasking_scores(logits, logits[..., 0], "random", [generator(3), generator(4)], [3, 5])
    assert torch.equal(scores[:1, :3], remasking_scores(logits, logits[:1, :3, 0], "random", [generator(3)], [3]))


def test_scores_rank_certain_positions_first() -> None:
    _, confidences = propose_tokens(LOGITS, 0.0, [generator()], [3])
    scores = {
        name: remasking_scores(LOGITS, confidences, name, [generator()], [3])[0] for name in REMASKING_STRATEGIES
    }
    assert scores["low_confidence"].argsort(descending=True).tolist() == [0, 1, 2]
    # Position 1 wavers between two tokens: little margin, yet little entropy.
    assert scores["margin"].argsort(descending=True).tolist() == [0, 2, 1]
    assert scores["entropy"].argsort(descending=True).tolist() == [0, 1, 2]
    probabilities = LOGITS[0].softmax(-1)
    torch.testing.assert_close(scores["margin"], probabilities[:, 0] - probabilities[:, 1])
    entropies = torch.distributions.Categorical(probs=probabilities).entropy()
    torch.testing.assert_close(scores["entropy"], -entropies)


def test_random_scores_depend_on_the_generator_alone() -> None:
    scores = [remasking_scores(LOGITS, LOGITS[..., 0], "random", [generator(seed)], [3])[0] for seed in (0, 0, 1)]
    assert torch.equal(scores[0], scores[1])
    assert not torch.equal(scores[0], scores[2])


def test_scores_of_certain_and_impossible_tokens_are_finite() -> None:
    logits = torch.tensor([[[0.0, -torch.inf]]])
    for name in REMASKING_STRATEGIES:
        _, confidences = propose_tokens(logits, 0.0, [generator()], [1])
        assert remasking_scores(logits, confidences, name, [generator()], [1]).isfinite().all()
    single = torch.zeros(1, 2, 1)
    assert remasking_scores(single, torch.ones(1, 2), "margin", [generator()], [2]).tolist() == [[1.0, 1.0]]


def test_unknown_remasking_is_an_error() -> None:
    with pytest.raises(ValueError, match="Unknown remasking 'best'"):
        remasking_scores(LOGITS, LOGITS[..., 0], "best", [generator()], [3])


def select(scores: list[float], masked: list[int], count: int, **kwargs: object) -> list[int]:
    is_masked = torch.tensor([[position in masked for position in range(len(scores))]])
    selected = select_positions(torch.tensor([scores]), is_masked, torch.tensor([[count]]), **kwargs)
    return selected[0].nonzero()[:, 0].tolist()


def test_selection_takes_the_best_masked_positions_ties_from_the_left() -> None:
    scores = [0.9, 0.5, 0.5, 0.8, 0.1]
    assert select(scores, [1, 2, 3, 4], 2) == [1, 3]
    assert select(scores, [1, 2, 3, 4], 0) == []
    assert select(scores, [4], 3) == [4]


def test_entropy_bound_adds_the_next_positions_to_the_scheduled_ones() -> None:
    scores, entropies = [5.0, 4.0, 3.0, 2.0], torch.tensor([[0.5, 2.0, 0.25, 1.0]])
    # The largest entropy does not count: 0, 0.5, 0.75 and 1.75 for 1 to 4 positions.
    for bound, selected in ((0.0, [0]), (0.49, [0]), (0.5, [0, 1]), (0.8, [0, 1, 2]), (1.75, [0, 1, 2, 3])):
        assert select(scores, [0, 1, 2, 3], 1, entropies=entropies, bound=bound) == selected
        assert select(scores, [0, 1, 2, 3], 3, entropies=entropies, bound=bound)[:3] == [0, 1, 2]
    # What is committed already has no part in the sum.
    assert select(scores, [2, 3], 1, entropies=entropies, bound=0.25) == [2, 3]
    assert select(scores, [2, 3], 1, entropies=entropies, bound=0.24) == [2]


def test_threshold_adds_confident_positions_to_the_scheduled_ones() -> None:
    scores, confidences = [5.0, 4.0, 3.0, 2.0], torch.tensor([[0.2, 0.3, 0.7, 0.9]])
    assert select(scores, [0, 1, 2, 3], 1, confidences=confidences, threshold=0.6) == [0, 2, 3]
    assert select(scores, [0, 1, 2, 3], 1, confidences=confidences, threshold=0.95) == [0]
    assert select(scores, [0, 1, 2, 3], 3, confidences=confidences, threshold=0.8) == [0, 1, 2, 3]


def test_a_step_of_many_rows_is_the_reference_of_each_in_500_random_configurations() -> None:
    rng, source = random.Random(0), generator()
    for _ in range(500):
        rows, length, size = rng.randint(1, 4), rng.randint(1, 9), rng.randint(2, 12)
        remasking = rng.choice(["low_confidence", "entropy", "margin"])
        bound, threshold = rng.choice([None, 0.0, 0.7, 2.3, 5.1]), rng.choice([None, 0.3, 0.6])
        # Coarse numbers, so that there are ties.
        logits = (4 * torch.randn(rows, length, size, generator=source)).round() / 2
        canvas = torch.randint(0, size, (rows, length), generator=source)
        canvas[torch.rand(rows, length, generator=source) < 0.7] = size
        counts = torch.randint(0, length + 1, (rows, 1), generator=source)
        choices, confidences = propose_tokens(logits, 0.0, [], [length] * rows)
        scores = remasking_scores(logits, confidences, remasking, [], [length] * rows)
        entropies = None if bound is None else position_entropies(logits)
        selected = select_positions(scores, canvas == size, counts, entropies, bound, confidences, threshold)
        expected = [
            denoise(logits[row], canvas[row].tolist(), size, int(counts[row]), remasking, bound, threshold)
            for row in range(rows)
        ]
        assert torch.where(selected, choices, canvas).tolist() == expected
