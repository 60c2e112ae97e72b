"""The closed domain of the embedded checkpoint: its facts, its wordings, its sentences, and how they are split.

Splits (nothing of one is in another): `train`; `wording` = held-out wordings of known facts; `sums` = held-out pairs
of numbers, in no order and no form in training; `sentences` = held-out sentences to read aloud; `voice` = held-out
wordings asked by a voice that training never hears.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from functools import lru_cache

from .domain_facts import MAX_OPERAND, Fact, all_facts
from .domain_sentences import read_aloud_sentences
from .domain_wordings import fill, split_wordings


HELD_OUT_SHARE = 0.05
NUM_SENTENCES = 2400
# Few sentences are learned by heart, and the model stumbles over others made of the same words.
NUM_MORE_SENTENCES = 20000


@dataclass(frozen=True)
class Domain:
    """The domain with its splits, a pure function of the seed (`build_domain`).

    Args:
        facts: Every fact by id.
        held_out_sums: Ids of the arithmetic facts that training never meets.
        train_wordings: Wordings of training by kind; a wording is `kind: template`.
        held_out_wordings: Wordings that training never meets, by kind.
        train_sentences: Sentences to read aloud.
        held_out_sentences: Sentences to read aloud that training never meets.
    """

    facts: dict[str, Fact]
    held_out_sums: frozenset[str]
    train_wordings: dict[str, list[str]]
    held_out_wordings: dict[str, list[str]]
    train_sentences: list[str]
    held_out_sentences: list[str]

    def train_facts(self) -> list[Fact]:
        """Every fact that training may use."""
        return [fact for fact in self.facts.values() if fact.id not in self.held_out_sums]

    def question(self, fact: Fact, wording: str) -> str:
        """The question of `fact` in a wording of its kind."""
        return fill(wording, fact.slots)

    def random_question(self, fact_id: str, rng: random.Random) -> tuple[str, str]:
        """Words a fact anew, for text-only training.

        Args:
            fact_id: Id of a training fact (the `fact` of a row of `items.jsonl`).
            rng: Source of the choice.

        Returns:
            The question and its wording, one of the training wordings.

        Raises:
            ValueError: The fact is unknown or held out.
        """
        if fact_id not in self.facts or fact_id in self.held_out_sums:
            raise ValueError(f"{fact_id!r} is no training fact of the domain: take the ids of split 'train'.")
        fact = self.facts[fact_id]
        wording = rng.choice(self.train_wordings[fact.kind])
        return fill(wording, fact.slots), wording


def words(text: str) -> list[str]:
    """The words of a text in lower case, hyphenated numbers taken apart."""
    return re.findall(r"[a-z]+", text.lower())


def _held_out_sums(facts: dict[str, Fact], rng: random.Random) -> frozenset[str]:
    held_out: set[str] = set()
    # Doubles (a plus a) stay in training, as "two times a" and "half of" say the same thing.
    pairs = [(a, b) for b in range(MAX_OPERAND + 1) for a in range(b)]
    for a, b in rng.sample(pairs, round(HELD_OUT_SHARE * (len(pairs) + MAX_OPERAND + 1))):
        held_out |= {f"plus-{a}-{b}", f"plus-{b}-{a}"}
    differences = [fact.id for fact in facts.values() if fact.kind == "minus"]
    held_out.update(rng.sample(differences, round(HELD_OUT_SHARE * len(differences))))
    return frozenset(held_out)


@lru_cache(maxsize=4)
def build_domain(seed: int = 0) -> Domain:
    """Builds the domain and its splits.

    Args:
        seed: Chooses what is held out and how the sentences are composed.

    Returns:
        The domain; the same for the same seed on every machine.
    """
    facts = all_facts()
    rng = random.Random(seed)
    held_out_sums = _held_out_sums(facts, rng)
    train_wordings, held_out_wordings = split_wordings(seed)
    answers = frozenset(fact.answer for fact in facts.values())
    sentences = read_aloud_sentences(NUM_SENTENCES, seed, excluded=answers)
    cut = round(HELD_OUT_SHARE * len(sentences))
    # A series of its own, so that its length does not change what is held out.
    more = read_aloud_sentences(NUM_MORE_SENTENCES, seed + 1, excluded=answers.union(sentences))
    train_sentences = sentences[cut:] + more
    return Domain(facts, held_out_sums, train_wordings, held_out_wordings, train_sentences, sentences[:cut])
