"""The plan of the recipe's speech: who says what, how much, and what is kept from training."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest

from recipes.tiny import synthesize
from recipes.tiny.domain import Domain, build_domain
from recipes.tiny.synthesize import Plan
from recipes.tiny.voices import HELD_OUT_VOICE, REPLY_VOICE, question_voices


@pytest.fixture(scope="module")
def domain() -> Domain:
    return build_domain()


@pytest.fixture(scope="module")
def plan(domain: Domain) -> Plan:
    return Plan(domain)


def test_amounts(domain: Domain, plan: Plan) -> None:
    questions = [u for u in plan.utterances.values() if u.role == "question"]
    assert 17_000 <= len(questions) <= 19_000
    splits = Counter(item.split for item in plan.items)
    assert splits["wording"] >= 320
    assert splits["voice"] >= 100
    assert splits["sums"] >= 120
    families = {item.family for item in plan.items if item.split == "wording"}
    assert families == {fact.family for fact in domain.facts.values()}


def test_voices_of_the_splits(plan: Plan) -> None:
    seen = {voice.name for voice in question_voices()}
    assert HELD_OUT_VOICE not in seen
    for item in plan.items:
        voices = {plan.utterances[name].voice for name in item.question_audio}
        assert voices <= ({HELD_OUT_VOICE} if item.split == "voice" else seen)
        assert all(plan.utterances[name].text == item.question for name in item.question_audio)
        if item.answer_audio:
            assert plan.utterances[item.answer_audio].text == item.answer
            assert plan.utterances[item.answer_audio].voice == REPLY_VOICE
    assert {u.voice for u in plan.ordered()[:2500] if u.role == "question"} == seen | {HELD_OUT_VOICE}


def test_a_small_plan_keeps_every_split(domain: Domain, plan: Plan) -> None:
    small = Plan(domain, scale=0.005)
    assert {item.split for item in small.items} == {"train", "wording", "sums", "sentences", "voice"}
    assert len(small.utterances) < len(plan.utterances) / 20


def test_more_questions_leave_the_held_out_items_alone(
    domain: Domain, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(synthesize, "MORE_RENDERINGS", dict.fromkeys(synthesize.RENDERINGS, 0))
    fewer = Plan(domain)
    assert len(fewer.items) < len(plan.items) == len({item.id for item in plan.items})
    assert plan.items[: len(fewer.items)] == fewer.items


def test_what_one_question_alone_says_is_heard_in_most_voices(plan: Plan) -> None:
    voices: dict[str, set[str]] = defaultdict(set)
    for item in plan.items:
        if item.split == "train" and item.family == "opposites":
            voices[str(item.fact)] |= {plan.utterances[name].voice for name in item.question_audio}
    assert sum(map(len, voices.values())) / len(voices) > 0.7 * len(question_voices())
