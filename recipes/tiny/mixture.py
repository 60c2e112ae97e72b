"""What the embedded checkpoint's language model is trained on: examples drawn from the items, and their samples."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

from ttt_hf.data import SampleBuilder, training_length
from ttt_hf.data.samples import IGNORE
from ttt_hf.modeling import TtTConfig

from .domain import Domain


class Example(NamedTuple):
    """What one training sample is made of.

    Args:
        row: One question and its reply, a canonical row.
        transcript: Words of the user's audio; "" when the user writes.
        given: How the reply begins, where that is not to be learned.
    """

    row: dict[str, Any]
    transcript: str = ""
    given: str = ""


class TinyMixture:
    """Draws training examples from the items: all tasks, all voices, all variants of the audio.

    Args:
        items: Items of the split "train".
        codes: Variants of each utterance's codes, the clean one first. Items whose audio is not among them (a
            synthesis that is still running) are left out.
        domain: Words written questions anew.
        seed: Seed of the draws.
    """

    # Task and how the user asks, with its share of the samples. Written questions are short: they teach the answers at
    # a fraction of what a spoken question costs. There are more sums than all other facts, so they have a share apart.
    SHARES: ClassVar[dict[str, float]] = {
        "asr": 0.18,
        "chat_spoken": 0.32,
        "chat_sums": 0.06,
        "chat_written": 0.04,
        "tts": 0.32,
        "text_written": 0.03,
        "text_sums": 0.05,
    }
    # Of the answers to spoken questions this share ends where the speech begins. How to say a text is learned by
    # reading aloud as well, at half the price, so that more questions fit into the same time.
    UNSPOKEN = 0.5
    # Recordings as they are among those with noise, echo and another speed.
    CLEAN = 0.25
    # A difference is drawn as often as so many sums: there are half as many, and they are harder to learn.
    DIFFERENCE_WEIGHT = 4

    def __init__(
        self, items: list[dict[str, Any]], codes: dict[str, list[list[int]]], domain: Domain, seed: int
    ) -> None:
        self.codes = codes
        self.domain = domain
        self.seed = seed
        heard = [item for item in items if any(name in codes for name in item["question_audio"])]
        answered = [item for item in items if item["answer_audio"] in codes]
        facts = list({item["fact"]: item for item in items if item["fact"]}.values())
        sums = [item for item in facts if item["family"] == "arithmetic"]
        sums += [item for item in sums if item["fact"].startswith("minus-")] * (self.DIFFERENCE_WEIGHT - 1)
        self.pools = {
            "asr": heard,
            "chat_spoken": [item for item in heard if item["answer_audio"] in codes],
            "chat_written": list({item["fact"]: item for item in answered if item["fact"]}.values()),
            "tts": list({item["answer"]: item for item in answered}.values()),
            "text_written": [item for item in facts if item["family"] != "arithmetic"],
            "text_sums": sums,
        }
        self.pools["chat_sums"] = sums if self.pools["chat_spoken"] else []

    def draw(self, count: int, shard: int = 0) -> Iterator[Example]:
        """
        Args:
            count: Number of examples.
            shard: Number of the series of draws; each is another one.

        Yields:
            One after the other.
        """
        rng = random.Random(f"{self.seed}/{shard}")
        kinds = [kind for kind in self.SHARES if self.pools[kind]]
        for kind in rng.choices(kinds, weights=[self.SHARES[kind] for kind in kinds], k=count):
            yield self._example(kind, rng.choice(self.pools[kind]), rng)

    def _example(self, kind: str, item: dict[str, Any], rng: random.Random) -> Example:
        task = kind.partition("_")[0]
        if kind == "tts":
            return Example(_row(task, _written(item["answer"]), item["answer"], self._answer(item)))
        if kind in ("chat_written", "text_written", "text_sums"):
            question, _ = self.domain.random_question(item["fact"], rng)
            codes = self._answer(item) if task == "chat" else []
            return Example(_row(task, _written(question), item["answer"], codes))
        if kind == "chat_sums":
            # Whatever was asked: what a reply says behind "is" follows from what it says before. So sums that nobody
            # asks aloud in training can be answered aloud.
            asked = rng.choice(self.pools["chat_spoken"])
            user = [{"type": "audio", "codes": self._question(asked, rng)}]
            operands, verb, _ = item["answer"].partition(" is")
            return Example(_row(task, user, item["answer"]), asked["question"], given=operands + verb)
        user = [{"type": "audio", "codes": self._question(item, rng)}]
        if task == "asr":
            return Example(_row(task, user, item["question"]), item["question"])
        return Example(_row(task, user, item["answer"], self._answer(item)), item["question"])

    def _question(self, item: dict[str, Any], rng: random.Random) -> list[int]:
        recordings = [name for name in item["question_audio"] if name in self.codes]
        clean, *variants = self.codes[rng.choice(recordings)]
        return rng.choice(variants) if variants and rng.random() > self.CLEAN else clean

    def _answer(self, item: dict[str, Any]) -> list[int]:
        return self.codes[item["answer_audio"]][0]


def build_samples(
    examples: TinyMixture, builder: SampleBuilder, counts: Sequence[tuple[int, int]], noise_copies: int
) -> Iterator[dict[str, Any]]:
    """Builds training samples.

    Args:
        examples: What they are drawn from.
        builder: Writes them.
        counts: (shard, number of samples in it) of each shard.
        noise_copies: Noised copies of each span, which count in `length`.

    Yields:
        `input_ids`, `labels`, `length` and `transcript_ids`, the words of the user's audio.
    """
    tokenizer = builder.processor.tokenizer
    for shard, count in counts:
        rng = random.Random(f"{examples.seed}/{shard}/speech")
        for row, transcript, given in examples.draw(count, shard):
            sample: dict[str, Any] = builder(row)
            if given:
                sample["labels"] = _middle(sample["labels"], len(tokenizer(given)["input_ids"]))
            elif row["task"] == "chat" and transcript and rng.random() < examples.UNSPOKEN:
                sample = _up_to_speech(sample, builder.config)
            sample["length"] = training_length(sample["labels"], builder.config, noise_copies)
            sample["transcript_ids"] = tokenizer(transcript, add_special_tokens=False)["input_ids"]
            yield sample


def _row(task: str, user: list[dict[str, Any]], text: str, codes: Sequence[int] = ()) -> dict[str, Any]:
    """One question and its reply as a canonical row."""
    reply: list[dict[str, Any]] = [{"type": "text", "text": text}]
    if codes:
        reply.append({"type": "audio", "codes": codes})
    return {"messages": [{"role": "user", "content": user}, {"role": "assistant", "content": reply}], "task": task}


def _up_to_speech(sample: dict[str, Any], config: TtTConfig) -> dict[str, Any]:
    """Cuts a spoken reply behind the token that opens its first span."""
    begins = config.begin_audio_token_ids or []
    end = next((place for place, label in enumerate(sample["labels"], 1) if label in begins), len(sample["labels"]))
    return {"input_ids": sample["input_ids"][:end], "labels": sample["labels"][:end]}


def _middle(labels: list[int], count: int) -> list[int]:
    """Leaves the first `count` learned positions out, and the last: whether speech follows is not learned here."""
    learned = [place for place, label in enumerate(labels) if label != IGNORE]
    kept = set(learned[count:-1])
    return [label if place in kept else IGNORE for place, label in enumerate(labels)]


def _written(text: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": text}]
