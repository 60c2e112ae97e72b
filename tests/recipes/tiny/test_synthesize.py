"""The plan of the recipe's speech: who says what, and what is kept from training."""

from __future__ import annotations

from collections import defaultdict

import pytest

from ttt_hf.recipes.tiny import synthesize
from ttt_hf.recipes.tiny.domain import build_domain
from ttt_hf.recipes.tiny.synthesize import Plan
from ttt_hf.recipes.tiny.voices import HELD_OUT_VOICE, REPLY_VOICE, question_voices


@pytest.fixture(scope="module")
def plan() -> Plan:
    return Plan(build_domain())


def test_the_same_plan_every_time(plan: Plan) -> None:
    again = Plan(build_domain())
    assert again.items == plan.items
    assert again.utterances == plan.utterances


def test_every_item_has_a_name_and_its_recordings(plan: Plan) -> None:
    assert len({item.id for item in plan.items}) == len(plan.items)
    for item in plan.items:
        assert all(plan.utterances[name].text == item.question for name in item.question_audio)
        assert item.answer_audio is None or plan.utterances[item.answer_audio].text == item.answer
        assert item.answer_audio is None or plan.utterances[item.answer_audio].voice == REPLY_VOICE


def test_no_held_out_question_sentence_or_voice_is_trained_on(plan: Plan) -> None:
    train = [item for item in plan.items if item.split == "train"]
    held_out = [item for item in plan.items if item.split != "train"]
    assert not {item.question for item in train if item.question} & {item.question for item in held_out}
    assert not {item.answer for item in train if item.family == "read_aloud"} & {
        item.answer for item in held_out if item.family == "read_aloud"
    }
    assert not {item.fact for item in train} & {item.fact for item in held_out if item.split == "sums"}
    assert HELD_OUT_VOICE not in {plan.utterances[name].voice for item in train for name in item.question_audio}


def test_more_questions_leave_the_held_out_items_alone(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthesize, "MORE_RENDERINGS", dict.fromkeys(synthesize.RENDERINGS, 0))
    fewer = Plan(build_domain())
    assert len(fewer.items) < len(plan.items)
    assert plan.items[: len(fewer.items)] == fewer.items


def test_what_one_question_alone_says_is_heard_in_most_voices(plan: Plan) -> None:
    voices: dict[str, set[str]] = defaultdict(set)
    for item in plan.items:
        if item.split == "train" and item.family == "opposites":
            voices[str(item.fact)] |= {plan.utterances[name].voice for name in item.question_audio}
    assert sum(map(len, voices.values())) / len(voices) > 0.7 * len(question_voices())
