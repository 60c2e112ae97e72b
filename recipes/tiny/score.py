"""Measures the embedded checkpoint on the held-out splits of the recipe's data.

    python -m recipes.tiny.score --model embedded --data build/tiny/data --out build/tiny/scores.json

What is measured, by split of `items.jsonl`:

- `wording`, `sums`, `voice` (spoken questions): word error rate of the transcript (task `asr`); share of right answers
  (task `chat`), where right means equal to the expected sentence after Whisper's English normalisation;
- `wording`: word error rate of Whisper on the spoken answer against the model's own written one;
- `sentences`: word error rate of Whisper on the sentence read aloud (task `tts`) against the sentence;
- `written`: share of right answers to the questions of `wording`, asked in writing (task `text`);
- yardsticks on the same sentences: Whisper on the recordings of the reply voice, and on these through the codec.

Nothing is dropped: an empty or silent reply is a wrong answer and deletes every word, and such replies are counted.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shlex
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import yaml
from tqdm import tqdm

from ttt_hf import TtTForConditionalGeneration, TtTProcessor, __version__, embedded_checkpoint
from ttt_hf.evaluation import (
    WhisperTranscriber,
    WordErrors,
    bootstrap_interval,
    is_same_answer,
    normalize_english,
    word_errors,
)

from .cases import Case, draw_cases
from .replies import CaseReply, Respondent, Speed
from .settings import ScoreSettings, load_settings


SPLITS = ("wording", "sums", "voice", "sentences", "written")
SCORED_PACKAGES = ("torch", "transformers", "faster-whisper", "jiwer", "whisper-normalizer")


@dataclass
class Scorer:
    """Listens to replies and adds up what they are worth.

    Args:
        respondent: The checkpoint.
        transcriber: Listens to spoken replies.
        settings: Sizes, seed, resamples.
    """

    respondent: Respondent
    transcriber: WhisperTranscriber
    settings: ScoreSettings

    def listen(self, replies: Sequence[CaseReply]) -> None:
        """Fills in the transcripts of spoken replies; silence gives an empty one."""
        transcripts = self._transcripts([(reply.audio, reply.sampling_rate) for reply in replies], "listen")
        for reply, transcript in zip(replies, transcripts, strict=True):
            reply.transcript = transcript

    def yardsticks(self, cases: Sequence[Case]) -> dict[str, Any]:
        """Whisper's word error rate on the reply voice's own recordings, and on those through the codec.

        Args:
            cases: Cases with recordings of their answers; each recording counts once, and the first
                `settings.yardsticks` of them are heard.

        Returns:
            `original` and `codec`, rates with counts.
        """
        recordings = {case.recording: case.answer for case in cases if case.recording is not None}
        chosen = list(recordings.items())[: self.settings.yardsticks]
        original = [soundfile.read(path, dtype="float32") for path, _ in chosen]
        codec = [self.respondent.through_codec(waveform, rate) for waveform, rate in original]
        yardsticks = {}
        for name, speech in (("original", original), ("codec", codec)):
            transcripts = self._transcripts(speech, f"yardstick {name}")
            pairs = zip(chosen, transcripts, strict=True)
            yardsticks[name] = self.rate([word_errors(text, transcript) for (_, text), transcript in pairs])
        return yardsticks

    def _transcripts(self, speech: Sequence[tuple[np.ndarray, int]], label: str) -> list[str]:
        return list(tqdm(self.transcriber.transcribe_all(speech), desc=label, total=len(speech), unit="clip"))

    def rate(self, counts: Sequence[WordErrors]) -> dict[str, Any]:
        """A corpus word error rate with its counts and 95 % interval, in percent."""
        total = sum(counts, WordErrors())
        interval = self._interval([(entry.errors, entry.reference_words) for entry in counts])
        numbers = {"substitutions": total.substitutions, "deletions": total.deletions, "insertions": total.insertions}
        return {
            "metric": "wer",
            "value": _percent(total.rate),
            "interval_95": interval,
            "n": len(counts),
            "words": total.reference_words,
            **numbers,
        }

    def share(self, right: Sequence[bool]) -> dict[str, Any]:
        """A share of right answers with its count and 95 % interval, in percent."""
        return {
            "metric": "correct",
            "value": _percent(sum(right) / len(right)) if right else None,
            "interval_95": self._interval([(float(entry), 1.0) for entry in right]),
            "n": len(right),
            "right": sum(right),
        }

    def _interval(self, pairs: Sequence[tuple[float, float]]) -> list[float | None]:
        low, high = bootstrap_interval(pairs, resamples=self.settings.bootstrap_resamples, seed=self.settings.seed)
        return [_percent(low), _percent(high)]


def score_words(
    scorer: Scorer, replies: Sequence[CaseReply], pair: Callable[[CaseReply], tuple[str, str]]
) -> dict[str, Any]:
    """Word error rate of replies, in all and by family and voice.

    Args:
        scorer: Knows seed and resamples.
        replies: The replies.
        pair: Gives the (reference, hypothesis) of a reply.

    Returns:
        The entry of the report.
    """
    counts = [word_errors(*pair(reply)) for reply in replies]
    return {**scorer.rate(counts), **_breakdown(replies, counts, lambda some: _percent(sum(some, WordErrors()).rate))}


def score_answers(scorer: Scorer, replies: Sequence[CaseReply]) -> dict[str, Any]:
    """Share of right written answers, in all and by family and voice.

    Args:
        scorer: Knows seed and resamples.
        replies: The replies.

    Returns:
        The entry of the report, with counts of empty, silent and unfinished replies.
    """
    right = [is_same_answer(reply.text, reply.case.answer) for reply in replies]
    return {
        **scorer.share(right),
        **failures(replies),
        **_breakdown(replies, right, lambda some: _percent(sum(some) / len(some))),
    }


def failures(replies: Sequence[CaseReply]) -> dict[str, int]:
    """Counts replies that are not whole; they stay in every denominator."""
    spoken = [reply for reply in replies if reply.task in ("chat", "tts")]
    return {
        "empty": sum(not reply.text.strip() for reply in replies),
        "silent": sum(len(reply.audio) == 0 for reply in spoken),
        "unfinished": sum(not reply.finished for reply in replies),
    }


def score_checkpoint(
    scorer: Scorer, data: Path, splits: Sequence[str], limit: int | None
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Measures everything.

    Args:
        scorer: The checkpoint and how to measure.
        data: Folder with `items.jsonl` and `utterances.jsonl`.
        splits: Which of `SPLITS`.
        limit: Cases of each split, at most; the setting's sizes by default.

    Returns:
        Results by split, and speed; one row for every single prediction.
    """
    results: dict[str, Any] = {}
    replies: list[CaseReply] = []
    for split in splits:
        size = getattr(scorer.settings, split)
        cases = draw_cases(data, split, min(size, limit) if limit else size, scorer.settings.seed)
        print(f"{split}: {len(cases)} cases", flush=True)
        if split == "sentences":
            results[split] = _score_sentences(scorer, cases, replies)
        elif split == "written":
            results[split] = _score_written(scorer, cases, replies)
        else:
            results[split], speed = _score_questions(scorer, cases, replies)
            if split == "wording":
                answered = [reply for reply in replies if reply.case.split == split and reply.task == "chat"]
                results[split] |= _score_speech(scorer, cases, answered)
                _, single = scorer.respondent.answer(cases[: scorer.settings.single_replies], "chat", batch_size=1)
                results["speed"] = {
                    "batched": {"batch_size": scorer.settings.batch_size, **speed.report()},
                    "single": {"batch_size": 1, **single.report()},
                }
    return results, [_prediction_row(reply) for reply in replies]


def _score_questions(scorer: Scorer, cases: Sequence[Case], replies: list[CaseReply]) -> tuple[dict[str, Any], Speed]:
    """Spoken questions: what was heard, and what was answered in writing. Adds to the replies."""
    heard, _ = scorer.respondent.answer(cases, "asr")
    answered, speed = scorer.respondent.answer(cases, "chat")
    replies += [*heard, *answered]
    transcripts = score_words(scorer, heard, lambda reply: (reply.case.question or "", reply.text))
    return {"asr": {**transcripts, **failures(heard)}, "chat": score_answers(scorer, answered)}, speed


def _score_speech(scorer: Scorer, cases: Sequence[Case], answered: Sequence[CaseReply]) -> dict[str, Any]:
    """Spoken answers against their own text."""
    scorer.listen(answered)

    def pair(reply: CaseReply) -> tuple[str, str]:
        # A reply without words has nothing to compare with: what it should have said is deleted.
        written = reply.text if normalize_english(reply.text) else reply.case.answer
        return written, reply.transcript or ""

    speech = {**score_words(scorer, answered, pair), **failures(answered)}
    return {"speech": speech, "yardsticks": scorer.yardsticks(cases)}


def _score_sentences(scorer: Scorer, cases: Sequence[Case], replies: list[CaseReply]) -> dict[str, Any]:
    """Sentences read aloud, against the sentence. Adds to the replies."""
    read, _ = scorer.respondent.answer(cases, "tts")
    replies += read
    scorer.listen(read)
    speech = score_words(scorer, read, lambda reply: (reply.case.answer, reply.transcript or ""))
    entry = {**speech, **failures(read), "text": score_answers(scorer, read)}
    return {"tts": entry, "yardsticks": scorer.yardsticks(cases)}


def _score_written(scorer: Scorer, cases: Sequence[Case], replies: list[CaseReply]) -> dict[str, Any]:
    """Questions and answers in writing. Adds to the replies."""
    answered, _ = scorer.respondent.answer(cases, "text")
    replies += answered
    return {"text": score_answers(scorer, answered)}


def measure(
    name: str,
    data: Path,
    out: Path,
    settings: ScoreSettings,
    splits: Sequence[str] = SPLITS,
    limit: int | None = None,
    workers: int = 1,
    device: str = "cpu",
    generation: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Measures a checkpoint and writes `out` (scores) and, beside it, every single prediction as JSONL.

    Args:
        name: Folder of a checkpoint, or `"embedded"`.
        data: Folder with `items.jsonl` and `utterances.jsonl`.
        out: JSON file to write.
        settings: Size of the measurement and seed.
        splits: Which of `SPLITS`.
        limit: Cases of each split, at most; the setting's sizes by default.
        workers: CPU threads, of the model and of Whisper.
        device: Device of the model and the codec.
        generation: Keyword arguments of `generate` that differ from the checkpoint's own.

    Returns:
        What `out` holds.
    """
    started = time.perf_counter()
    torch.set_num_threads(workers)
    folder = embedded_checkpoint() if name == "embedded" else name
    model = TtTForConditionalGeneration.from_pretrained(folder).to(device).eval()
    processor = TtTProcessor.from_pretrained(folder)
    processor.codec.to(device)
    respondent = Respondent(model, processor, settings.batch_size, settings.seed, generation or {})
    transcriber = WhisperTranscriber(workers=workers)
    scorer = Scorer(respondent, transcriber, settings)
    results, predictions = score_checkpoint(scorer, data, splits, limit)
    report = {
        "model": str(name),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "codec_parameters": sum(parameter.numel() for parameter in processor.codec.parameters()),
        "command": shlex.join(["python", "-m", *_module_and_arguments()]),
        "date": time.strftime("%Y-%m-%d"),
        "seconds": round(time.perf_counter() - started, 1),
        "settings": asdict(settings),
        "limit": limit,
        "generation": {**model.generation_config.to_diff_dict(), **respondent.generation},
        "transcriber": transcriber.description,
        "normalizer": "Whisper EnglishTextNormalizer",
        "versions": {
            "python": platform.python_version(),
            "ttt-hf": __version__,
            **{name: version(name) for name in SCORED_PACKAGES},
        },
        "device": device,
        "threads": workers,
        "results": results,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    rows = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in predictions)
    _write_atomically(out.with_suffix(".predictions.jsonl"), rows)
    _write_atomically(out, json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    for split, entries in results.items():
        for entry, numbers in entries.items():
            if "value" in numbers:
                print(f"{split:>9} {entry:<6} {numbers['metric']:<7} {numbers['value']} % n={numbers['n']}")
    print(f"Wrote {out} after {report['seconds']} s.")
    return report


def _module_and_arguments() -> list[str]:
    """What was typed behind `python -m`: this module or the whole recipe, and its arguments."""
    module = "recipes.tiny" if Path(sys.argv[0]).name == "__main__.py" else "recipes.tiny.score"
    return [module, *sys.argv[1:]]


def _breakdown(replies: Sequence[CaseReply], values: Sequence[Any], total: Callable[[list], Any]) -> dict[str, Any]:
    """`total` of the values by family and by voice, with counts."""
    report: dict[str, Any] = {}
    for name in ("family", "voice"):
        groups: dict[str, list] = defaultdict(list)
        for reply, value in zip(replies, values, strict=True):
            groups[getattr(reply.case, name) or "none"].append(value)
        report[f"by_{name}"] = {
            group: {"value": total(some), "n": len(some)} for group, some in sorted(groups.items())
        }
    return report


def _prediction_row(reply: CaseReply) -> dict[str, Any]:
    case = reply.case
    return {
        "id": case.id,
        "split": case.split,
        "task": reply.task,
        "family": case.family,
        "voice": case.voice,
        "question": case.question,
        "answer": case.answer,
        "text": reply.text,
        "transcript": reply.transcript,
        "audio_seconds": round(reply.seconds, 3),
        "finished": reply.finished,
        "forward_passes": reply.forward_passes,
    }


def _percent(share: float) -> float | None:
    return None if math.isnan(share) else round(100 * share, 2)


def _write_atomically(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def _parse_generation(pairs: Sequence[str]) -> dict[str, Any]:
    generation = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not (key and equals):
            raise ValueError(f"{pair!r} is not a generation key: write key=value, such as audio_steps_per_block=8.")
        generation[key] = yaml.safe_load(value)
    return generation


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of the measurement; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes.tiny.score",
        description="Measures a checkpoint on the held-out splits of the recipe's data.",
        epilog="example: python -m recipes.tiny.score --model embedded --data build/tiny/data --limit 8",
    )
    parser.add_argument("--model", default="embedded", help="folder of a checkpoint; the embedded one by default")
    parser.add_argument("--data", type=Path, required=True, help="folder with items.jsonl and utterances.jsonl")
    parser.add_argument("--out", type=Path, default=Path("scores.json"), help="file to write (default: %(default)s)")
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=list(SPLITS), help="what to measure")
    parser.add_argument("--limit", type=int, help="cases of each split, at most")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="CPU threads (default: all cores)")
    parser.add_argument("--device", default="cpu", help="device of the model (default: %(default)s)")
    parser.add_argument(
        "--generate",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a generation key that differs from the checkpoint's own; may be repeated",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="score.KEY=VALUE",
        help="a setting that differs from tiny.yaml; may be repeated",
    )
    options = parser.parse_args(arguments)

    try:
        measure(
            options.model,
            options.data,
            options.out,
            load_settings(overrides=options.set).score,
            splits=options.splits,
            limit=options.limit,
            workers=options.workers,
            device=options.device,
            generation=_parse_generation(options.generate),
        )
    except (OSError, ValueError, ModuleNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
