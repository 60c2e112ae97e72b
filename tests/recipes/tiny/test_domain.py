"""The closed domain: size, splits without overlap, vocabulary, determinism."""

from __future__ import annotations

import random
from collections import Counter, defaultdict

import pytest

from recipes.tiny.domain import Domain, build_domain, words
from recipes.tiny.domain_facts import MAX_OPERAND, all_facts, number_words
from recipes.tiny.synthesize import Plan


@pytest.fixture(scope="module")
def domain() -> Domain:
    return build_domain()


@pytest.fixture(scope="module")
def plan(domain: Domain) -> Plan:
    return Plan(domain)


def test_number_words() -> None:
    assert [number_words(n) for n in (0, 13, 20, 34, 99, 100)] == [
        "zero", "thirteen", "twenty", "thirty-four", "ninety-nine", "one hundred"]  # fmt: skip
    with pytest.raises(ValueError, match="0 to 100"):
        number_words(101)


def test_size(domain: Domain) -> None:
    assert len({fact.family for fact in domain.facts.values()}) >= 6
    others = [fact for fact in domain.facts.values() if fact.family != "arithmetic"]
    assert len(others) >= 600
    wordings = [w for kind in domain.train_wordings for w in domain.train_wordings[kind]]
    assert 300 <= len(wordings) == len(set(wordings)) <= 1500
    sentences = domain.train_sentences + domain.held_out_sentences
    assert len(set(sentences)) == len(sentences) >= 1500
    assert len(domain.held_out_sentences) >= 100


def test_arithmetic_is_right(domain: Domain) -> None:
    values = {number_words(n): n for n in range(101)}
    sums = [fact for fact in domain.facts.values() if fact.family == "arithmetic"]
    assert len(sums) == (MAX_OPERAND + 1) ** 2 + (MAX_OPERAND + 1) * (MAX_OPERAND + 2) // 2
    for fact in sums:
        a, b = values[fact.slots["a"]], values[fact.slots["b"]]
        left, right = fact.answer.removesuffix(".").lower().split(" is ")
        assert left == f"{fact.slots['a']} {fact.kind} {fact.slots['b']}"
        assert values[right] == (a + b if fact.kind == "plus" else a - b)


def test_every_answer_is_a_sentence(domain: Domain) -> None:
    texts = {fact.answer for fact in domain.facts.values()} | set(domain.train_sentences + domain.held_out_sentences)
    for text in texts:
        assert text[0].isupper(), text
        assert text[-1] in ".?", text
        assert 4 <= len(text.split()) <= 12, text
        assert not any(character.isdigit() for character in text), text


def test_vocabulary_is_closed(domain: Domain, plan: Plan) -> None:
    spoken = Counter(word for utterance in plan.utterances.values() for word in words(utterance.text))
    assert len(spoken) <= 700
    known = {w for text in domain.train_sentences for w in words(text)}
    assert {w for text in domain.held_out_sentences for w in words(text)} <= known
    contexts = Counter(w for text in domain.train_sentences for w in set(words(text)))
    assert all(contexts[word] >= 8 for n in range(2, 100) for word in words(number_words(n)))


def test_questions_are_not_ambiguous(domain: Domain) -> None:
    answers = defaultdict(set)
    # Sums are many and alike: every 40th is enough.
    others = [fact for fact in domain.facts.values() if fact.family != "arithmetic"]
    sums = [fact for fact in domain.facts.values() if fact.family == "arithmetic"]
    for fact in others + sums[::40]:
        for wording in domain.train_wordings[fact.kind] + domain.held_out_wordings[fact.kind]:
            answers[domain.question(fact, wording)].add(fact.answer)
    assert not [question for question, found in answers.items() if len(found) > 1]


def test_held_out_sums_are_strict(domain: Domain, plan: Plan) -> None:
    for kind, total in (("plus", 1326), ("minus", 1326)):
        held = [name for name in domain.held_out_sums if name.startswith(kind)]
        pairs = {frozenset(name.split("-")[1:]) if kind == "plus" else name for name in held}
        assert len(pairs) == pytest.approx(0.05 * total, abs=1)
    for name in domain.held_out_sums:
        kind, a, b = name.split("-")
        assert kind == "minus" or f"plus-{b}-{a}" in domain.held_out_sums
    held_answers = {domain.facts[name].answer for name in domain.held_out_sums}
    assert not held_answers & {item.answer for item in plan.items if item.split != "sums"}
    assert not held_answers & set(domain.train_sentences)
    assert not domain.held_out_sums & {item.fact for item in plan.items if item.split != "sums"}


def test_wordings_do_not_overlap(domain: Domain, plan: Plan) -> None:
    assert set(domain.train_wordings) == {fact.kind for fact in domain.facts.values()}
    for kind, held in domain.held_out_wordings.items():
        assert held
        assert not set(held) & set(domain.train_wordings[kind])
    tested = [item for item in plan.items if item.split in ("wording", "voice")]
    for item in tested:
        fact = domain.facts[item.fact]
        assert item.question not in {domain.question(fact, w) for w in domain.train_wordings[fact.kind]}
    train_ids = {item.fact for item in plan.items if item.split == "train" and item.question_audio}
    assert {item.fact for item in tested} <= train_ids


def test_sentences_do_not_overlap(domain: Domain, plan: Plan) -> None:
    held = {item.answer for item in plan.items if item.split == "sentences"}
    assert len(held) >= 100
    assert not held & {item.answer for item in plan.items if item.split != "sentences"}


def test_deterministic(domain: Domain, plan: Plan) -> None:
    build_domain.cache_clear()
    again = build_domain()
    assert again == domain
    assert Plan(again).items == plan.items
    assert build_domain(seed=1).held_out_sums != domain.held_out_sums
    assert list(all_facts()) == list(domain.facts)


def test_random_question(domain: Domain) -> None:
    rng = random.Random(0)
    fact = next(fact for fact in domain.train_facts() if fact.kind == "plus")
    made = [domain.random_question(fact.id, rng) for _ in range(50)]
    assert len({question for question, _ in made}) > 10
    assert all(wording in domain.train_wordings["plus"] for _, wording in made)
    with pytest.raises(ValueError, match="no training fact"):
        domain.random_question(next(iter(domain.held_out_sums)), rng)
