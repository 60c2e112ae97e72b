"""Synthesizes the recipe's speech: questions by many voices, answers and sentences by the reply voice.

    python -m recipes.tiny.synthesize --out build/tiny             # everything; hours
    python -m recipes.tiny.synthesize --out build/tiny --held-out  # what evaluation needs; minutes

An interrupted run continues: existing files are kept, and `data/utterances.jsonl` has a row for each finished file.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from tqdm import tqdm

from ttt_hf.atomic_files import atomic_write

from .domain import Domain, build_domain
from .domain_facts import Fact
from .tables import write_rows
from .voices import HELD_OUT_VOICE, REPLY_VOICE, SAMPLING_RATE, VOICES, Voice, check_engines, question_voices, speak


# Facts that are asked in speech, by kind; of other kinds, all are.
SPOKEN = {"plus": 450, "minus": 250, "next_number": 60, "previous_number": 60, "greater": 90, "double": 35, "half": 35,
          "bigger": 45, "smaller": 45}  # fmt: skip
# Spoken questions per fact, by family.
RENDERINGS = {"arithmetic": 3, "numbers": 3, "capitals": 5, "opposites": 5, "calendar": 6, "colors": 7, "sizes": 5,
              "facts": 7, "kinds": 6, "talk": 16}  # fmt: skip
# Drawn after everything else, so that they do not change the held-out items. A word that occurs in only one question
# needs recordings by many voices; the words of sums are in hundreds of questions.
MORE_RENDERINGS = {"arithmetic": 4, "numbers": 6, "capitals": 12, "opposites": 12, "calendar": 12, "colors": 12,
                   "sizes": 12, "facts": 12, "kinds": 12, "talk": 32}  # fmt: skip
WORDING_TESTS_PER_FAMILY = 36
VOICE_TESTS_PER_FAMILY = 15
SUM_TESTS_PER_KIND = 66
# Of the varied sample that is made first: recordings of the reply voice, and the share of each voice's questions.
FIRST_STAGE = 1200
FIRST_SLICE = 0.15
# Texts that a voice speaks in one job.
CHUNK = 10


@dataclass(frozen=True)
class Utterance:
    """An audio file: a row of `utterances.jsonl` without the duration."""

    id: str
    text: str
    voice: str
    audio: str
    role: str


@dataclass(frozen=True)
class Item:
    """A training or held-out item: a row of `items.jsonl`."""

    id: str
    fact: str | None
    family: str
    split: str
    question: str | None
    wording: str | None
    answer: str
    question_audio: list[str]
    answer_audio: str | None


class Plan:
    """All utterances and the items that use them; a pure function of its arguments.

    Args:
        domain: Facts, wordings and sentences.
        scale: Below 1 makes a small plan with every family, voice and split.
        seed: Seed of the draws.
    """

    def __init__(self, domain: Domain, scale: float = 1.0, seed: int = 0) -> None:
        self.domain = domain
        self.utterances: dict[str, Utterance] = {}
        self.items: list[Item] = []
        self._scale = scale
        self._rng = random.Random(seed)
        self._deck: list[Voice] = []
        self._asked: Counter[str] = Counter()
        # All steps draw from one generator: their order is part of the plan, and a new step belongs at the end.
        spoken = self._spoken_facts()
        self._add_spoken(spoken, RENDERINGS)
        self._add_written()
        self._add_tests(spoken)
        self._add_read_aloud()
        self._add_spoken(spoken, MORE_RENDERINGS)

    def _scaled(self, count: int, least: int = 1) -> int:
        return max(least, round(count * self._scale))

    def _utter(self, text: str, voice: str, role: str) -> str:
        # The name depends on the text alone: questions with the same text share a recording, as do answers.
        digest = hashlib.sha1(text.encode()).hexdigest()[:12]
        name = f"{voice}-{digest}"
        self.utterances.setdefault(name, Utterance(name, text, voice, f"audio/{voice}/{digest}.wav", role))
        return name

    def _next_voice(self) -> str:
        if not self._deck:
            # A shuffled deck of about 100 cards: shares are exact in each deck, not only on average.
            self._deck = [voice for voice in question_voices() for _ in range(round(100 * voice.share))]
            self._rng.shuffle(self._deck)
        return self._deck.pop().name

    def _spoken_facts(self) -> list[Fact]:
        chosen: list[Fact] = []
        # Held-out sums are never asked in training.
        by_kind: dict[str, list[Fact]] = {}
        for fact in self.domain.train_facts():
            by_kind.setdefault(fact.kind, []).append(fact)
        for kind, facts in by_kind.items():
            chosen += self._rng.sample(facts, self._scaled(min(SPOKEN.get(kind, len(facts)), len(facts))))
        return chosen

    def _add_item(self, name: str, fact: Fact, split: str, wording: str, voice: str, with_answer: bool) -> None:
        question = self.domain.question(fact, wording)
        asked = self._utter(question, voice, "question")
        answered = self._utter(fact.answer, REPLY_VOICE, "answer") if with_answer else None
        self.items.append(Item(name, fact.id, fact.family, split, question, wording, fact.answer, [asked], answered))

    def _add_spoken(self, spoken: list[Fact], renderings: dict[str, int]) -> None:
        wordings: dict[str, list[str]] = {}
        for fact in spoken:
            for _ in range(renderings[fact.family]):
                # All wordings of a kind are used once before any is used again.
                left = wordings.get(fact.kind)
                if not left:
                    left = wordings[fact.kind] = list(self.domain.train_wordings[fact.kind])
                    self._rng.shuffle(left)
                # Numbered over both rounds of recordings, so that ids stay unique.
                name = f"{fact.id}/{self._asked[fact.id]}"
                self._asked[fact.id] += 1
                self._add_item(name, fact, "train", left.pop(), self._next_voice(), True)

    def _add_written(self) -> None:
        for fact in self.domain.train_facts():
            # Only a sample of these facts is asked in speech; in writing, the model learns all of them.
            if fact.family in ("arithmetic", "numbers", "sizes"):
                question, wording = self.domain.random_question(fact.id, self._rng)
                self.items.append(
                    Item(f"{fact.id}/text", fact.id, fact.family, "train", question, wording, fact.answer, [], None)
                )

    def _add_tests(self, spoken: list[Fact]) -> None:
        domain, rng = self.domain, self._rng
        families: dict[str, dict[str, list[Fact]]] = {}
        for fact in spoken:
            families.setdefault(fact.family, {}).setdefault(fact.kind, []).append(fact)
        # Facts known from spoken questions: only the wording is new, or wording and voice. Kinds of a family in turn.
        for split, count in (("wording", WORDING_TESTS_PER_FAMILY), ("voice", VOICE_TESTS_PER_FAMILY)):
            for family, kinds in families.items():
                names = list(kinds)
                for index in range(self._scaled(count)):
                    kind = names[index % len(names)]
                    held_out = domain.held_out_wordings[kind]
                    fact, wording = rng.choice(kinds[kind]), held_out[index // len(names) % len(held_out)]
                    voice = HELD_OUT_VOICE if split == "voice" else self._next_voice()
                    self._add_item(f"{split}/{family}/{index}", fact, split, wording, voice, True)
        # Wordings known from training, so that only the sum is new.
        for kind in ("plus", "minus"):
            held = sorted(name for name in domain.held_out_sums if name.startswith(kind))
            for name in rng.sample(held, min(self._scaled(SUM_TESTS_PER_KIND), len(held))):
                wording = rng.choice(domain.train_wordings[kind])
                self._add_item(f"sums/{name}", domain.facts[name], "sums", wording, self._next_voice(), False)

    def _add_read_aloud(self) -> None:
        domain = self.domain
        for split, texts in (("train", domain.train_sentences), ("sentences", domain.held_out_sentences)):
            for index, text in enumerate(texts[: self._scaled(len(texts))]):
                spoken = self._utter(text, REPLY_VOICE, "sentence")
                self.items.append(
                    Item(f"read/{split}/{index}", None, "read_aloud", split, None, None, text, [], spoken)
                )

    def held_out_utterances(self) -> set[str]:
        """Ids of the recordings that the items of all splits but `train` use."""
        items = [item for item in self.items if item.split != "train"]
        return {name for item in items for name in (*item.question_audio, item.answer_audio) if name}

    def ordered(self) -> list[Utterance]:
        """Orders the utterances: first a varied sample, so that training can begin early, then the rest."""
        everything = list(self.utterances.values())
        random.Random(0).shuffle(everything)
        questions = [u for u in everything if u.role == "question"]
        replies = [u for u in everything if u.role != "question"]
        by_voice: dict[str, list[Utterance]] = {}
        for utterance in questions:
            by_voice.setdefault(utterance.voice, []).append(utterance)
        # Questions need every voice early, so that each gives a share; the replies have one voice.
        first, later = replies[: self._scaled(FIRST_STAGE)], replies[self._scaled(FIRST_STAGE) :]
        rest: list[Utterance] = []
        for utterances in by_voice.values():
            cut = max(1, round(FIRST_SLICE * len(utterances)))
            first += utterances[:cut]
            rest += utterances[cut:]
        # Fast voices before Piper, so that most questions are there early; sentences last: no question needs them.
        rest = sorted(rest + later, key=lambda u: (u.role == "sentence", VOICES[u.voice].engine == "piper"))
        # Not voice by voice, so that an early stop leaves a varied sample, too.
        random.Random(1).shuffle(first)
        return first + rest


def _chunks(utterances: list[Utterance]) -> Iterator[list[Utterance]]:
    """Groups utterances of one voice into chunks of up to `CHUNK`."""
    open_chunks: dict[str, list[Utterance]] = {}
    for utterance in utterances:
        chunk = open_chunks.setdefault(utterance.voice, [])
        chunk.append(utterance)
        # Full chunks follow the order of the utterances; what is left over comes last.
        if len(chunk) == CHUNK:
            yield open_chunks.pop(utterance.voice)
    yield from open_chunks.values()


def _make(job: tuple[Path, list[Utterance]]) -> list[dict[str, Any]]:
    data, chunk = job
    rows = []
    for utterance, samples in zip(chunk, speak(VOICES[chunk[0].voice], [u.text for u in chunk]), strict=True):
        path = data / utterance.audio
        path.parent.mkdir(parents=True, exist_ok=True)
        # Atomic, because an existing file counts as finished in the next run.
        with atomic_write(path) as part:
            soundfile.write(part, np.round(samples * 32767).astype(np.int16), SAMPLING_RATE, "PCM_16", format="WAV")
        rows.append(_row(utterance, samples.size))
    return rows


def _row(utterance: Utterance, samples: int) -> dict[str, Any]:
    row = asdict(utterance)
    return {**row, "seconds": round(samples / SAMPLING_RATE, 4)}


def synthesize(out: Path, scale: float = 1.0, workers: int = 2, held_out: bool = False) -> Path:
    """Synthesizes the recipe's audio files and writes the two tables that describe them.

    Args:
        out: Output root; the tables are `out/data/utterances.jsonl` and `out/data/items.jsonl`.
        scale: Below 1 makes a small set with every family, voice and split.
        workers: Processes.
        held_out: Makes only the recordings that evaluation needs, those of all splits but `train`.

    Returns:
        The folder `out/data`.

    Raises:
        ValueError: `scale` is not in (0, 1] or `workers` is below 1.
        RuntimeError: A synthesiser is missing or failed.
    """
    if not 0 < scale <= 1 or workers < 1:
        raise ValueError(f"scale must be in (0, 1] and workers at least 1, not {scale} and {workers}.")
    check_engines()
    data = Path(out) / "data"
    data.mkdir(parents=True, exist_ok=True)
    # 1. The items, whether their recordings exist or not.
    plan = Plan(build_domain(), scale)
    write_rows(data / "items.jsonl", map(asdict, plan.items))
    wanted = plan.held_out_utterances() if held_out else set(plan.utterances)
    # 2. Rows of the existing recordings, whose files tell more surely than an earlier table which ones are finished.
    rows: list[dict[str, Any]] = []
    todo: list[Utterance] = []
    for utterance in plan.ordered():
        path = data / utterance.audio
        if path.exists():
            rows.append(_row(utterance, soundfile.info(path).frames))
        elif utterance.id in wanted:
            todo.append(utterance)
    table = data / "utterances.jsonl"
    write_rows(table, rows)
    # 3. The missing recordings. Spawned, because a forked onnxruntime may hang; one thread per process.
    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("spawn")
    with (
        table.open("a", encoding="utf-8") as stream,
        tqdm(
            total=len(rows) + len(todo), initial=len(rows), desc="synthesize", unit="file", mininterval=2
        ) as progress,
        context.Pool(workers) as pool,
    ):
        for made in pool.imap_unordered(_make, ((data, chunk) for chunk in _chunks(todo))):
            stream.write("".join(json.dumps(row) + "\n" for row in made))
            # Readers see complete chunks, as training may begin before all is made.
            stream.flush()
            progress.update(len(made))
    return data


def main(arguments: list[str] | None = None) -> int:
    """Command line of the module; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes.tiny.synthesize", description="Synthesizes the recipe's speech."
    )
    parser.add_argument("--out", type=Path, default=Path("build/tiny"), help="output root (default: build/tiny)")
    parser.add_argument("--scale", type=float, default=1.0, help="below 1 makes a small set")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--held-out", action="store_true", help="only what evaluation needs; minutes")
    options = parser.parse_args(arguments)
    try:
        synthesize(options.out, options.scale, options.workers, options.held_out)
    except (RuntimeError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
