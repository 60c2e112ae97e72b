"""`ttt-hf eval`: score a model on benchmarks, and show, compare and share the results."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..names import EMBEDDED_NAME
from .errors import UsageError
from .quiet import note


if TYPE_CHECKING:
    from ..evaluation.concepts import Task


EXAMPLES = """examples:
  ttt-hf eval run tiny --out scores
  ttt-hf eval run librispeech_clean fleurs_en --model your-name/your-model --out scores
  ttt-hf eval run local path=recordings scorer=wer --model adapter --out mine
  ttt-hf eval run audioqa --out judged --judge-url http://localhost:8000/v1 --judge-model Qwen/Qwen3-32B
  ttt-hf eval judge judged --judge-url http://localhost:8000/v1 --judge-model Qwen/Qwen3-32B
  ttt-hf eval score scores/tiny_spoken_qa scorer=dpr_contains
  ttt-hf eval compare before after
  ttt-hf eval push scores --repo your-name/your-model
"""
KEYS = """KEY=VALUE is a key of the task file (path, columns.references, scorer, language, expected, ...), or else a
setting of the model, such as a generation key (audio_steps_per_block=8). After an interruption, the same command
continues the run.
"""
AddAction = Callable[..., argparse.ArgumentParser]

# Arguments of `evaluate` that have options of their own, or cannot be given here.
OPTIONS = ("model", "tasks", "out", "processor", "limit", "batch_size", "transcriber")


def add_parser(verbs: Any) -> None:
    """Adds the verb to the command line."""
    parser = verbs.add_parser(
        "eval",
        help="score a model on benchmarks",
        description="Scores models. Each stage continues where it was interrupted, and can be run on its own.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    def add(
        name: str, run: Callable[[argparse.Namespace], None], help: str, epilog: str = ""
    ) -> argparse.ArgumentParser:
        action: argparse.ArgumentParser = actions.add_parser(
            name,
            help=help,
            description=f"{help[0].upper()}{help[1:]}.",
            epilog=epilog or next(f"example:{line[1:]}" for line in _examples(name)),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        action.set_defaults(run=run)
        return action

    _add_run(add)
    _add_stages(add)
    _add_results(add)


def _add_run(add: AddAction) -> None:
    action = add("run", run, "run a model on tasks and score it: all stages", EXAMPLES + KEYS)
    action.add_argument(
        "tasks", nargs="+", metavar="TASK", help="tasks, presets (see `eval tasks`) or YAML files; and KEY=VALUE"
    )
    action.add_argument(
        "--model",
        default=EMBEDDED_NAME,
        help="folder or Hub id of a TtT model or adapter, hf-asr:ID, faster-whisper:FOLDER, openai:URL#MODEL "
        "(default: the embedded checkpoint)",
    )
    action.add_argument("--model-revision", metavar="REVISION", help="commit, branch or tag of the model on the Hub")
    action.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder of the run, with one folder per task"
    )
    action.add_argument(
        "--limit", type=int, metavar="N", help="only the first N samples of each task; no headline number"
    )
    action.add_argument("--batch-size", type=int, default=8, metavar="N", help="samples per batch (default: 8)")
    _add_transcriber(action)
    _add_judge(action, is_required=False)
    _add_json(action)


def _add_stages(add: AddAction) -> None:
    action = add("transcribe", transcribe, "transcribe the spoken replies of a run")
    _add_folder(action)
    _add_transcriber(action)

    action = add("judge", judge, "have the replies of a run judged by a language model")
    _add_folder(action)
    _add_judge(action, is_required=True)

    action = add("score", score, "score the records of a run; needs no model, no transcriber and no judge")
    _add_folder(action)
    action.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="another scorer, or scorer_options.NAME")
    _add_json(action)


def _add_results(add: AddAction) -> None:
    action = add("compare", compare, "compare two runs, sample by sample")
    action.add_argument("first", type=Path, metavar="A", help="folder of a run")
    action.add_argument("second", type=Path, metavar="B", help="folder of another run of the same tasks")
    action.add_argument(
        "--samples", type=int, default=10, metavar="N", help="number of changed samples to show (default: 10)"
    )
    _add_json(action)

    action = add("show", show, "print the results of a run")
    _add_folder(action)
    _add_json(action)

    action = add("report", report, "write report.md and report.html")
    _add_folder(action)
    action.add_argument("--card", type=Path, metavar="README.md", help="also write the scores into this model card")

    action = add("tasks", tasks, "list tasks and presets")
    _add_json(action)

    action = add("push", push, "upload the results of a run to a model's repository on the Hub")
    _add_folder(action)
    action.add_argument("--repo", required=True, metavar="ID", help="the model's repository")
    action.add_argument("--public", action="store_true", help="create the repository as a public one, if it is new")
    action.add_argument(
        "--unverified", action="store_true", help="also if the repository does not hold the model that was scored"
    )
    _add_json(action)


def run(args: argparse.Namespace) -> None:
    """Runs all stages of `args.tasks`."""
    from ..evaluation.tasks import find_tasks, is_task_key

    # 1. Sort the words: names of tasks, keys of tasks, and settings of the model.
    changes = _split_overrides([word for word in args.tasks if "=" in word])
    overrides = {key: value for key, value in changes.items() if is_task_key(key)}
    settings = {key: value for key, value in changes.items() if key not in overrides}
    for key in settings:
        # evaluate() would take it for its own argument, as settings are passed by keyword.
        if key in OPTIONS:
            raise UsageError(f"{key} is no key of a task or a model: `ttt-hf eval run --help` lists the options.")
    names = [word for word in args.tasks if "=" not in word]
    # 2. Check them before a model is loaded, so that a typing error is reported at once.
    if (args.judge_url is None) != (args.judge_model is None):
        raise UsageError("A judge needs both --judge-url and --judge-model.")
    try:
        tasks = find_tasks(names, overrides)
    except (FileNotFoundError, ValueError) as error:
        raise UsageError(str(error)) from error
    if args.judge_url is None:
        # Not an error: the replies can be judged later.
        _note_tasks_for_a_judge(tasks.values(), args.out)

    # 3. Run all stages.
    from ..evaluation.harness import evaluate
    from .quiet import silence, silence_transformers

    with silence():
        silence_transformers()
        results = evaluate(
            args.model,
            names,
            out=args.out,
            revision=args.model_revision,
            overrides=overrides,
            limit=args.limit,
            batch_size=args.batch_size,
            transcriber=args.transcriber,
            judge=_judge_server(args),
            **settings,
        )
    # Empty in all processes but the first, which reports.
    if results:
        note(f"{args.out / 'report.html'} shows plots and examples")
        _print_results(args, list(results.values()))


def transcribe(args: argparse.Namespace) -> None:
    """Transcribes the spoken replies in `args.folder`."""
    from ..evaluation.folder import task_folders
    from ..evaluation.harness import transcribe_folders
    from .quiet import silence

    with silence():
        transcribe_folders(task_folders(args.folder), args.transcriber)


def judge(args: argparse.Namespace) -> None:
    """Has the replies in `args.folder` judged."""
    from ..evaluation.folder import task_folders
    from ..evaluation.harness import judge_folders

    if not judge_folders(task_folders(args.folder), _judge_server(args)):
        raise ValueError(f"No task in {args.folder} needs a judge: score it with `ttt-hf eval score {args.folder}`.")


def score(args: argparse.Namespace) -> None:
    """Scores the replies in `args.folder`."""
    from ..evaluation.folder import task_folders
    from ..evaluation.harness import score_folders

    _print_results(args, score_folders(task_folders(args.folder), _split_overrides(args.overrides)))


def compare(args: argparse.Namespace) -> None:
    """Compares `args.first` with `args.second`."""
    from ..evaluation.compare import compare_runs, comparison_text

    comparisons = compare_runs(args.first, args.second)
    if args.json:
        print(json.dumps(comparisons, ensure_ascii=False))
    else:
        print("\n\n".join(comparison_text(comparison, args.samples) for comparison in comparisons))


def show(args: argparse.Namespace) -> None:
    """Prints the results in `args.folder`."""
    from ..evaluation.folder import task_folders
    from ..evaluation.report import read_results

    results = read_results(args.folder)
    for task in task_folders(args.folder):
        # Not an error: the tasks that are scored are shown.
        if not task.results.is_file():
            note(f"{task.path} is not scored yet, see `ttt-hf eval score {task.path}`")
    _print_results(args, results)


def report(args: argparse.Namespace) -> None:
    """Writes the reports of `args.folder`."""
    from ..evaluation.report import read_results, update_model_card, write_html, write_markdown

    written = [write_markdown(args.folder), write_html(args.folder)]
    if args.card is not None:
        update_model_card(args.card, read_results(args.folder))
        written.append(args.card)
    print("\n".join(map(str, written)))


def tasks(args: argparse.Namespace) -> None:
    """Prints all tasks and presets."""
    from ..evaluation.tasks import load_task, preset, preset_names, task_names

    known = [load_task(name) for name in task_names()]
    if args.json:
        listed = [
            {
                "name": task.name,
                "version": task.version,
                "output": task.output,
                "language": task.language,
                "scorer": task.scorer,
                "samples": task.source.expected,
                "description": task.description,
            }
            for task in known
        ]
        presets = {name: preset(name) for name in preset_names()}
        print(json.dumps({"tasks": listed, "presets": presets}, ensure_ascii=False))
        return
    width = max(len(task.name) for task in known)
    for task in known:
        print(f"{task.name:<{width}}  {task.description}")
    print("\npresets:")
    for name in preset_names():
        print(f"{name:<{width}}  {', '.join(preset(name))}")


def push(args: argparse.Namespace) -> None:
    """Uploads the results of `args.folder`."""
    from ..evaluation.push import push_results

    pushed = push_results(args.folder, args.repo, private=not args.public, verify=not args.unverified)
    print(json.dumps(pushed) if args.json else pushed["url"])


def _judge_server(args: argparse.Namespace) -> Any:
    from ..evaluation.llm_judge import JudgeServer

    if args.judge_url is None:
        return None
    # argparse gives a list of two prices, or None.
    return JudgeServer(args.judge_url, args.judge_model, args.judge_price and tuple(args.judge_price))


def _note_tasks_for_a_judge(tasks: Iterable[Task], out: Path) -> None:
    from ..evaluation.scoring.scorers import SCORERS

    for task in tasks:
        # A task file may name a scorer that does not exist: it is refused later.
        scorer = SCORERS.get(str(task.scorer))
        if scorer is not None and scorer.needs_judge:
            note(f"{task.name} needs a judge (--judge-url): its replies are kept for `ttt-hf eval judge {out}`")


def _print_results(args: argparse.Namespace, results: Any) -> None:
    from ..evaluation.report import terminal_table

    print(json.dumps(results, ensure_ascii=False) if args.json else terminal_table(results))


def _split_overrides(words: list[str]) -> dict[str, Any]:
    from ..overrides import split_override

    try:
        return dict(split_override(word, "KEY=VALUE, such as scorer=wer") for word in words)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _examples(name: str) -> list[str]:
    # Examples of all actions are in one text, which `ttt-hf eval --help` prints.
    found = [line for line in EXAMPLES.splitlines() if f" eval {name} " in line]
    return found or [f"  ttt-hf eval {name}{'' if name == 'tasks' else ' scores'}"]


def _add_folder(parser: Any) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder of a run, or of one task in it")


def _add_transcriber(parser: Any) -> None:
    parser.add_argument(
        "--transcriber",
        metavar="NAME",
        help="transcriber of spoken replies: faster-whisper[:FOLDER], hf-asr:ID or funasr:ID "
        "(default: faster-whisper with the bundled tiny.en)",
    )


def _add_judge(parser: Any, is_required: bool) -> None:
    parser.add_argument(
        "--judge-url",
        metavar="URL",
        required=is_required,
        help="OpenAI-compatible API of the judge; key in OPENAI_API_KEY",
    )
    parser.add_argument("--judge-model", metavar="NAME", required=is_required, help="name of the judge model")
    parser.add_argument(
        "--judge-price",
        type=float,
        nargs=2,
        metavar=("READ", "WRITTEN"),
        help="price of a million tokens that the judge reads and writes; the results then contain the cost",
    )


def _add_json(parser: Any) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
