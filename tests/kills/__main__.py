"""`python -m tests.kills`, see `tests/kills/__init__.py`."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path


sys.path.append(str(Path(__file__).parents[1]))  # tests/, which is no package
from hub_server import Hub, hub_environment


VERBS = ("encode", "train", "eval", "convert", "push")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.kills", description="Kills ttt-hf at random moments.")
    parser.add_argument("--cases", type=int, default=20, help="number of kills of each verb")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    parser.add_argument("--verb", choices=VERBS, action="append", help="only this verb")
    parser.add_argument("--case", type=int, help="only this case")
    args = parser.parse_args()
    hub = Hub()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        # The Hub's client reads its address when it is imported; and one thread a process.
        os.environ.update(
            hub_environment(hub.url, folder / "home"), OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false"
        )
        from transformers.utils import logging

        from .commands import commands, prepare
        from .runner import run_cases

        logging.disable_progress_bar()
        prepare(folder / "base")
        faults = 0
        for verb in args.verb or VERBS:
            cases = range(args.cases) if args.case is None else [args.case]
            outcomes = list(run_cases(commands(hub)[verb], list(cases), args.seed, folder / "base", hub))
            failed = [outcome for outcome in outcomes if outcome.fault]
            kills = sum(len(outcome.kills) for outcome in outcomes)
            print(f"{verb:<8}{len(outcomes):>4} cases, {kills:>4} kills, {len(failed):>3} faults", flush=True)
            for outcome in failed:
                again = f"python -m tests.kills --seed {args.seed} --verb {verb} --case {outcome.case}"
                print(f"  {again}\n    {', '.join(outcome.kills)}: {outcome.fault}", flush=True)
            faults += len(failed)
    return 1 if faults else 0


sys.exit(main())
