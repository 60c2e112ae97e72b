"""The training mixture of the language model: examples drawn from the items, and the samples built from them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

from ttt_hf.data import SampleBuilder, training_length
from ttt_hf.data.samples import IGNORE
from ttt_hf.modeling import TtTConfig

from .domain import Domain


class Example(NamedTuple):
    """Content of one training sample, before it is tokenized.

    Args:
        row: One question and its reply, a canonical row.
        transcript: Transcript of the user's audio; empty for written questions.
        given: Beginning of the reply that gets no loss.
    """

    row: dict[str, Any]
    transcript: str = ""
    given: str = ""


class TinyMixture:
    """Draws training examples from the items: all tasks, all voices, all variants of the audio.

    Args:
        items: Items of the split `train`.
        codes: Codes of each utterance's variants, the clean one first. Items without codes are left out: the synthesis
            may still be running.
        domain: Composes written questions.
        seed: Seed of the draws.
    """

    # Shares of tasks and kinds of questions. Written questions are short: they teach the answers at a fraction of the
    # cost of spoken ones. There are more sums than all other facts, so that they have their own share.
    SHARES: ClassVar[dict[str, float]] = {
        "asr": 0.18,
        "chat_spoken": 0.32,
        "chat_sums": 0.06,
        "chat_written": 0.04,
        "tts": 0.32,
        "text_written": 0.03,
        "text_sums": 0.05,
    }
    # Share of the answers to spoken questions that end where their speech begins. Reading aloud teaches speech as
    # well, at half the cost, so that more questions fit into the same time.
    UNSPOKEN = 0.5
    # Share of clean recordings; the others have noise, reverberation and another speed.
    CLEAN = 0.25
    # Weight of a difference relative to a sum: there are half as many differences, and they are harder to learn.
    DIFFERENCE_WEIGHT = 4

    def __init__(
        self, items: list[dict[str, Any]], codes: dict[str, list[list[int]]], domain: Domain, seed: int
    ) -> None:
        self.codes = codes
        self.domain = domain
        self.seed = seed
        spoken = [item for item in items if any(name in codes for name in item["question_audio"])]
        answered = [item for item in items if item["answer_audio"] in codes]
        # One item per fact, however many recordings ask for it: written questions are composed anew.
        facts = list({item["fact"]: item for item in items if item["fact"]}.values())
        sums = [item for item in facts if item["family"] == "arithmetic"]
        sums += [item for item in sums if item["fact"].startswith("minus-")] * (self.DIFFERENCE_WEIGHT - 1)
        # A pool for each key of `SHARES`. All sentences and answers are read aloud (`tts`), each text counting once.
        self.pools = {
            "asr": spoken,
            "chat_spoken": [item for item in spoken if item["answer_audio"] in codes],
            "chat_written": list({item["fact"]: item for item in answered if item["fact"]}.values()),
            "tts": list({item["answer"]: item for item in answered}.values()),
            "text_written": [item for item in facts if item["family"] != "arithmetic"],
            "text_sums": sums,
        }
        # These need a spoken question to stand before the sum, see `_example`.
        self.pools["chat_sums"] = sums if self.pools["chat_spoken"] else []

    def draw(self, count: int, shard: int = 0) -> Iterator[Example]:
        """Draws examples.

        Args:
            count: Number of examples.
            shard: Number of the random series.

        Yields:
            The examples.
        """
        # Kinds without items, as in small data, are left out; the shares of the others keep their proportions.
        rng = random.Random(f"{self.seed}/{shard}")
        kinds = [kind for kind in self.SHARES if self.pools[kind]]
        for kind in rng.choices(kinds, weights=[self.SHARES[kind] for kind in kinds], k=count):
            yield self._example(kind, rng.choice(self.pools[kind]), rng)

    def _example(self, kind: str, item: dict[str, Any], rng: random.Random) -> Example:
        task = kind.partition("_")[0]
        if kind == "tts":
            return Example(_row(task, _written(item["answer"]), item["answer"], self._answer(item)))
        if kind in ("chat_written", "text_written", "text_sums"):
            # A new wording in each draw, not the recorded one: text costs nothing to make.
            question, _ = self.domain.random_question(item["fact"], rng)
            codes = self._answer(item) if task == "chat" else []
            return Example(_row(task, _written(question), item["answer"], codes))
        if kind == "chat_sums":
            # The question is of another sum, and the beginning of the reply is given: the result follows from it. So
            # the model learns to finish spoken answers to sums that no recording of the training data asks.
            asked = rng.choice(self.pools["chat_spoken"])
            user = [{"type": "audio", "codes": self._question(asked, rng)}]
            operands, verb, _ = item["answer"].partition(" is")
            return Example(_row(task, user, item["answer"]), asked["question"], given=operands + verb)
        user = [{"type": "audio", "codes": self._question(item, rng)}]
        if task == "asr":
            return Example(_row(task, user, item["question"]), item["question"])
        return Example(_row(task, user, item["answer"], self._answer(item)), item["question"])

    def _question(self, item: dict[str, Any], rng: random.Random) -> list[int]:
        # A random recording of the question, and one of its variants unless the clean one is drawn.
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
        examples: Source of the examples.
        builder: Tokenizes them.
        counts: Number and size of each shard.
        noise_copies: Noised copies of each span, which count in `length`.

    Yields:
        `input_ids`, `labels`, `length` and `transcript_ids` (transcript of the user's audio).
    """
    tokenizer = builder.processor.tokenizer
    for shard, count in counts:
        # A random series of its own: the drawn examples do not depend on `UNSPOKEN`.
        rng = random.Random(f"{examples.seed}/{shard}/speech")
        for row, transcript, given in examples.draw(count, shard):
            sample: dict[str, Any] = builder(row)
            if given:
                sample["labels"] = _middle(sample["labels"], len(tokenizer(given)["input_ids"]))
            elif row["task"] == "chat" and transcript and rng.random() < examples.UNSPOKEN:
                sample = _up_to_speech(sample, builder.config)
            # After all cuts, since batches are grouped by this length.
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
    """Cuts a spoken reply after the token that opens its first span."""
    # The opening token itself is learned: speech has to follow the text.
    begins = config.begin_audio_token_ids or []
    end = next((index for index, label in enumerate(sample["labels"], 1) if label in begins), len(sample["labels"]))
    return {"input_ids": sample["input_ids"][:end], "labels": sample["labels"][:end]}


def _middle(labels: list[int], count: int) -> list[int]:
    """Ignores the first `count` labels, and the last one, which decides whether speech follows."""
    # Everything before the reply is ignored already.
    learned = [index for index, label in enumerate(labels) if label != IGNORE]
    kept = set(learned[count:-1])
    return [label if index in kept else IGNORE for index, label in enumerate(labels)]


def _written(text: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": text}]
