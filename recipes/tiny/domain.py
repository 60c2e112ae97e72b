"""The closed domain of the embedded checkpoint: facts, wordings, sentences, and their disjoint splits.

`train`; `wording`: held-out wordings of known facts; `sums`: held-out pairs of numbers, in either order; `sentences`:
held-out sentences to read aloud; `voice`: held-out wordings, asked by a voice that is not in the training data.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from functools import lru_cache

from .domain_facts import MAX_OPERAND, Fact, all_facts
from .domain_sentences import read_aloud_sentences
from .domain_wordings import fill, split_wordings


# Share of sums, of differences and of sentences.
HELD_OUT_SHARE = 0.05
NUM_SENTENCES = 2400
# A model trained on few sentences learns them by heart and fails on others with the same words.
NUM_MORE_SENTENCES = 20000


@dataclass(frozen=True)
class Domain:
    """The domain with its splits, a pure function of the seed (`build_domain`).

    Args:
        facts: Id -> fact.
        held_out_sums: Ids of the held-out arithmetic facts.
        train_wordings: Kind of fact -> training wordings; a wording is `kind: template`.
        held_out_wordings: Kind of fact -> held-out wordings.
        train_sentences: Training sentences to read aloud.
        held_out_sentences: Held-out sentences to read aloud.
    """

    facts: dict[str, Fact]
    held_out_sums: frozenset[str]
    train_wordings: dict[str, list[str]]
    held_out_wordings: dict[str, list[str]]
    train_sentences: list[str]
    held_out_sentences: list[str]

    def train_facts(self) -> list[Fact]:
        """All facts but the held-out ones."""
        return [fact for fact in self.facts.values() if fact.id not in self.held_out_sums]

    def question(self, fact: Fact, wording: str) -> str:
        """Asks for a fact in a wording of its kind."""
        return fill(wording, fact.slots)

    def random_question(self, fact_id: str, rng: random.Random) -> tuple[str, str]:
        """Asks for a fact in a random training wording, for questions in writing.

        Args:
            fact_id: Id of a training fact (`fact` in `items.jsonl`).
            rng: Random number generator.

        Returns:
            The question and its wording.

        Raises:
            ValueError: The fact is unknown or held out.
        """
        if fact_id not in self.facts or fact_id in self.held_out_sums:
            raise ValueError(f"{fact_id!r} is no training fact of the domain: take the ids of split 'train'.")
        fact = self.facts[fact_id]
        wording = rng.choice(self.train_wordings[fact.kind])
        return fill(wording, fact.slots), wording


def words(text: str) -> list[str]:
    """Splits a text into lower-case words, and hyphenated numbers at the hyphen."""
    return re.findall(r"[a-z]+", text.lower())


def _held_out_sums(facts: dict[str, Fact], rng: random.Random) -> frozenset[str]:
    held_out: set[str] = set()
    # Doubles (a plus a) stay in training, because "two times a" and "half of" are the same facts.
    pairs = [(a, b) for b in range(MAX_OPERAND + 1) for a in range(b)]
    # The share is that of all unordered pairs, doubles included. Both orders are held out, since one gives the other.
    for a, b in rng.sample(pairs, round(HELD_OUT_SHARE * (len(pairs) + MAX_OPERAND + 1))):
        held_out |= {f"plus-{a}-{b}", f"plus-{b}-{a}"}
    differences = [fact.id for fact in facts.values() if fact.kind == "minus"]
    held_out.update(rng.sample(differences, round(HELD_OUT_SHARE * len(differences))))
    return frozenset(held_out)


@lru_cache(maxsize=4)
def build_domain(seed: int = 0) -> Domain:
    """Builds the domain and its splits.

    Args:
        seed: Seed of the splits and of the sentences.

    Returns:
        The domain, the same on every machine.
    """
    facts = all_facts()
    # Each part has its own random series, so that a change to one leaves the splits of the others as they are.
    rng = random.Random(seed)
    held_out_sums = _held_out_sums(facts, rng)
    train_wordings, held_out_wordings = split_wordings(seed)
    # Answers are read aloud in training, too: a held-out sentence must not be one of them.
    answers = frozenset(fact.answer for fact in facts.values())
    sentences = read_aloud_sentences(NUM_SENTENCES, seed, excluded=answers)
    cut = round(HELD_OUT_SHARE * len(sentences))
    # A separate random series, so that its length does not change the held-out sentences.
    more = read_aloud_sentences(NUM_MORE_SENTENCES, seed + 1, excluded=answers.union(sentences))
    train_sentences = sentences[cut:] + more
    return Domain(facts, held_out_sums, train_wordings, held_out_wordings, train_sentences, sentences[:cut])
