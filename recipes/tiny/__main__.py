"""The recipe of the embedded checkpoint as one command: data -> codec -> model -> checkpoint -> scores -> card.

    python -m recipes.tiny --out build/tiny
    python -m recipes.tiny --out build/tiny --stages score,card score.batch_size=8

Finished stages are skipped, and an interrupted stage continues where it stopped.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ttt_hf.atomic_files import atomic_write_text
from ttt_hf.names import EMBEDDED_NAME

from . import assemble, card, score, train_codec, train_model
from .parallel import run_in_processes
from .settings import TinySettings, fingerprint, load_settings
from .synthesize import synthesize


logger = logging.getLogger("recipes.tiny")


@dataclass(frozen=True)
class Stage:
    """One step of the recipe.

    Args:
        name: Name on the command line.
        run: Does the work below the output root; continues an interrupted run.
        sections: Sections of the settings that its results depend on.
        needs: Stages whose results it reads.
        quick: The stage takes minutes, so it is run again if its settings or inputs changed. The long stages raise an
            error instead: a changed number must not discard hours of training.
    """

    name: str
    run: Callable[[Path, TinySettings], object]
    sections: tuple[str, ...]
    needs: tuple[str, ...] = ()
    quick: bool = False


def _train_model(out: Path, settings: TinySettings) -> None:
    train_model.prepare(out, settings)
    run_in_processes(train_model.train, (out, settings), settings.lm.processes)


def _train_codec(out: Path, settings: TinySettings) -> None:
    run_in_processes(train_codec.run_codec_stage, (out, settings.codec), settings.codec.processes)


def _train_vocoder(out: Path, settings: TinySettings) -> None:
    run_in_processes(train_codec.run_vocoder_stage, (out, settings.codec), settings.codec.processes)


def _score(out: Path, settings: TinySettings) -> None:
    score.score(str(out / EMBEDDED_NAME), out, settings.score.batch_size)


STAGES = (
    Stage("data", lambda out, settings: synthesize(out, settings.data.scale, settings.data.workers), ("data",)),
    Stage("codec", _train_codec, ("codec",), ("data",)),
    Stage("vocoder", _train_vocoder, ("codec",), ("codec",)),
    # The codes of an answer are chosen by how they sound when decoded, so the vocoder is trained before the model.
    Stage("model", _train_model, ("lm",), ("data", "vocoder")),
    Stage(
        "assemble",
        lambda out, settings: assemble.assemble(out, settings.generation),
        ("generation",),
        ("vocoder", "model"),
        quick=True,
    ),
    Stage("score", _score, ("score",), ("assemble",), quick=True),
    Stage("card", lambda out, settings: card.write_card(out, settings), (), ("score",), quick=True),
)


def run_stage(stage: Stage, out: Path, settings: TinySettings) -> bool:
    """Runs a stage unless it is finished.

    `OUT/stages/NAME.json` records the settings and inputs of the stage when it starts, and the time when it ends.

    Args:
        stage: The stage.
        out: The recipe's output root.
        settings: The recipe.

    Returns:
        Whether there was something to do.

    Raises:
        ValueError: A long stage was started with other settings or other inputs.
    """
    path = out / "stages" / f"{stage.name}.json"
    # A run of a stage is identified by its settings and by the time when each of its inputs was finished, so that a
    # stage that ran again makes all later ones out of date.
    wanted = {
        "fingerprint": fingerprint(settings, stage.sections),
        "inputs": {name: _read_marker(out / "stages" / f"{name}.json").get("finished") for name in stage.needs},
    }
    marker = _read_marker(path)
    same = all(marker.get(key) == value for key, value in wanted.items())
    if same and marker.get("finished"):
        logger.info("%s: finished before, skipped", stage.name)
        return False
    # An unfinished long stage counts, too: its checkpoints were made with the old settings.
    if marker and not same and not stage.quick:
        raise ValueError(
            f"The stage {stage.name} in {out} was started with other settings or other inputs: use the same settings, "
            f"another --out, or remove {path} and the stage's results."
        )
    logger.info("%s: %s", stage.name, "continues" if same else "starts")
    started = time.monotonic()
    # Before the work, so that the next run knows what an interrupted stage was started with.
    _write_marker(path, {**wanted, "finished": None})
    stage.run(out, settings)
    seconds = round(time.monotonic() - started, 1)
    _write_marker(path, {**wanted, "finished": time.strftime("%Y-%m-%d %H:%M:%S"), "seconds": seconds})
    logger.info("%s: done in %s", stage.name, _clock(seconds))
    return True


def _read_marker(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _write_marker(path: Path, marker: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(path, json.dumps(marker, indent=2) + "\n")


def _log_to(path: Path) -> None:
    """Logs messages to the terminal and appends them to a file, which also gets the tracebacks of errors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shown, written = logging.StreamHandler(), logging.FileHandler(path)
    shown.setLevel(logging.INFO)
    for handler in (shown, written):
        handler.setFormatter(logging.Formatter("[%(asctime)s] %(message)s", "%Y-%m-%d %H:%M:%S"))
    # Only these two packages: other libraries would fill the log. Replaced, so that a second call does not log twice.
    for name in ("recipes", "ttt_hf"):
        package_logger = logging.getLogger(name)
        package_logger.setLevel(logging.DEBUG)
        package_logger.handlers = [shown, written]


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 3600}:{int(seconds) // 60 % 60:02}:{int(seconds) % 60:02}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of the recipe; returns the exit code."""
    names = [stage.name for stage in STAGES]
    parser = argparse.ArgumentParser(
        prog="python -m recipes.tiny",
        description="Makes the embedded checkpoint from scratch: speech, codec, model, scores, card.",
        epilog="example: python -m recipes.tiny --out build/tiny lm.steps=2000",
    )
    parser.add_argument("--out", type=Path, default=Path("build/tiny"), help="output root (default: %(default)s)")
    parser.add_argument("--recipe", type=Path, help="YAML file to use instead of tiny.yaml")
    parser.add_argument(
        "--stages",
        type=lambda text: text.split(","),
        default=names,
        metavar="A,B,...",
        help=f"which of {','.join(names)} (default: all)",
    )
    parser.add_argument("overrides", nargs="*", metavar="SECTION.KEY=VALUE", help="settings to change")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.stages if name not in names]
    if unknown:
        parser.error(f"there is no stage {unknown[0]!r}: choose from {', '.join(names)}")
    started = time.monotonic()
    _log_to(options.out / "recipe.log")
    try:
        settings = load_settings(options.recipe, options.overrides)
        # In the order of the recipe, whatever the order on the command line.
        for stage in STAGES:
            if stage.name in options.stages:
                run_stage(stage, options.out, settings)
    except (OSError, ValueError, RuntimeError, ModuleNotFoundError) as error:
        # The terminal shows one sentence; the traceback goes to the file, whose level is DEBUG.
        logger.debug("stopped", exc_info=True)
        print(f"error: {error} (details: {options.out / 'recipe.log'})", file=sys.stderr)
        return 1
    logger.info("finished in %s: %s", _clock(time.monotonic() - started), options.out / EMBEDDED_NAME)
    return 0


if __name__ == "__main__":
    sys.exit(main())
