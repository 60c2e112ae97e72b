"""Decisions of a denoising step: schedule, proposals, scores, selection."""

import json
from pathlib import Path

import pytest
import torch

from ttt_hf.modeling.samplers_ttt import (
    REMASKING_STRATEGIES,
    choose_token,
    proposal_confidences,
    propose_tokens,
    remasking_scores,
    select_positions,
    transfer_schedule,
)


LOGITS = torch.tensor([[4.0, 1.0, 0.0, -1.0], [2.0, 1.99, -9.0, -9.0], [0.3, 0.2, 0.1, 0.0]])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_transfer_schedule_is_the_official_one(golden_dir: Path) -> None:
    cases = json.loads((golden_dir / "helpers.json").read_text(encoding="utf-8"))["num_transfer_tokens"]
    assert len(cases) > 5
    for case in cases:
        assert transfer_schedule(case["masked"], case["steps"]) == case["schedule"]


def test_choose_token_takes_the_best_or_draws_by_probability() -> None:
    scores = torch.tensor([[0.0, 2.0, -torch.inf, 1.0]])
    assert choose_token(scores, False, generator()) == 1
    source = generator()
    drawn = torch.tensor([choose_token(scores, True, source) for _ in range(2000)])
    frequencies = torch.bincount(drawn, minlength=4) / len(drawn)
    torch.testing.assert_close(frequencies, scores[0].softmax(-1), atol=0.03, rtol=0)
    assert frequencies[2] == 0


def test_proposals_without_temperature_are_the_most_likely_tokens() -> None:
    choices, probabilities = propose_tokens(LOGITS, 0.0, generator())
    assert choices.tolist() == [0, 0, 0]
    torch.testing.assert_close(probabilities, LOGITS.softmax(-1))
    torch.testing.assert_close(proposal_confidences(probabilities, choices), LOGITS.softmax(-1)[:, 0])


def test_proposals_with_temperature_follow_the_tempered_distribution_and_the_generator() -> None:
    many = LOGITS[2].expand(4000, -1)
    choices, probabilities = propose_tokens(many, 0.1, generator())
    frequencies = torch.bincount(choices, minlength=4) / len(choices)
    torch.testing.assert_close(frequencies, (LOGITS[2] / 0.1).softmax(-1), atol=0.03, rtol=0)
    # Confidence is a matter of the model, not of the temperature.
    torch.testing.assert_close(probabilities, many.softmax(-1))
    assert torch.equal(choices, propose_tokens(many, 0.1, generator())[0])
    assert not torch.equal(choices, propose_tokens(many, 0.1, generator(1))[0])


def test_scores_rank_certain_positions_first() -> None:
    choices, probabilities = propose_tokens(LOGITS, 0.0, generator())
    ranks = {
        name: remasking_scores(probabilities, choices, name, generator()).argsort(descending=True).tolist()
        for name in REMASKING_STRATEGIES
    }
    assert ranks["low_confidence"] == [0, 1, 2]
    # Position 1 wavers between two tokens: little margin, yet little entropy.
    assert ranks["margin"] == [0, 2, 1]
    assert ranks["entropy"] == [0, 1, 2]
    margins = remasking_scores(probabilities, choices, "margin", generator())
    torch.testing.assert_close(margins, probabilities[:, 0] - probabilities[:, 1])
    entropies = torch.distributions.Categorical(probs=probabilities).entropy()
    torch.testing.assert_close(remasking_scores(probabilities, choices, "entropy", generator()), -entropies)


def test_low_confidence_scores_the_proposal_and_not_the_best_token() -> None:
    probabilities = LOGITS.softmax(-1)
    choices = torch.tensor([3, 1, 2])
    scores = remasking_scores(probabilities, choices, "low_confidence", generator())
    torch.testing.assert_close(scores, probabilities[torch.arange(3), choices])


def test_random_scores_depend_on_the_generator_alone() -> None:
    choices, probabilities = propose_tokens(LOGITS, 0.0, generator())
    scores = [remasking_scores(probabilities, choices, "random", generator(seed)) for seed in (0, 0, 1)]
    assert torch.equal(scores[0], scores[1])
    assert not torch.equal(scores[0], scores[2])


def test_scores_of_certain_and_impossible_tokens_are_finite() -> None:
    probabilities = torch.tensor([[1.0, 0.0]])
    for name in REMASKING_STRATEGIES:
        assert remasking_scores(probabilities, torch.tensor([0]), name, generator()).isfinite().all()
    assert remasking_scores(torch.ones(2, 1), torch.tensor([0, 0]), "margin", generator()).tolist() == [1.0, 1.0]


def test_unknown_remasking_is_an_error() -> None:
    with pytest.raises(ValueError, match="Unknown remasking 'best'"):
        remasking_scores(LOGITS.softmax(-1), torch.zeros(3, dtype=torch.long), "best", generator())


def test_selection_takes_the_best_masked_positions_ties_from_the_left() -> None:
    scores = [0.9, 0.5, 0.5, 0.8, 0.1]
    assert select_positions(scores, scores, [1, 2, 3, 4], 2) == [3, 1]
    assert select_positions(scores, scores, [1, 2, 3, 4], 0) == []
    assert select_positions(scores, scores, [4], 3) == [4]


def test_threshold_adds_confident_positions_to_the_scheduled_ones() -> None:
    scores = [5.0, 4.0, 3.0, 2.0]
    confidences = [0.2, 0.3, 0.7, 0.9]
    assert select_positions(scores, confidences, [0, 1, 2, 3], 1, threshold=0.6) == [0, 2, 3]
    assert select_positions(scores, confidences, [0, 1, 2, 3], 1, threshold=0.95) == [0]
    assert select_positions(scores, confidences, [0, 1, 2, 3], 3, threshold=0.8) == [0, 1, 2, 3]
