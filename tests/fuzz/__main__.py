"""`python -m tests.fuzz`, see `tests/fuzz/__init__.py`."""

from __future__ import annotations

import os


# Read at import: no network, and one thread a process.
os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")

import argparse
import collections
import sys
import tempfile
from pathlib import Path

import torch
from transformers.utils import logging

from .runner import KINDS, SECONDS, Outcome, run_cases


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Runs ttt-hf on damaged input.")
    parser.add_argument("--cases", type=int, default=700, help="number of cases of all kinds together")
    parser.add_argument("--seed", type=int, default=0, help="seed of all cases")
    parser.add_argument("--kind", choices=KINDS, action="append", help="only this kind")
    parser.add_argument("--case", type=int, help="only this case, and show what it prints")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="number of processes")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="how long a case may compute")
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    kinds = args.kind or list(KINDS)
    faults = 0
    with tempfile.TemporaryDirectory() as folder:
        for number, kind in enumerate(kinds):
            count = args.cases // len(kinds) + (number < args.cases % len(kinds))
            cases = range(count) if args.case is None else [args.case]
            outcomes: list[Outcome] = []
            for outcome in run_cases(kind, cases, args.seed, Path(folder), args.workers, args.seconds):
                outcomes.append(outcome)
                if args.case is not None:
                    print(outcome.command, outcome.stderr, sep="\n")
                if outcome.fault:
                    again = f"python -m tests.fuzz --seed {args.seed} --kind {kind} --case {outcome.case}"
                    lines = outcome.stderr.strip().splitlines() or [""]
                    print(f"  {again}\n    {outcome.fault}: {lines[-1][:300]}", flush=True)
            failed = [outcome for outcome in outcomes if outcome.fault]
            codes = collections.Counter(outcome.exit_code for outcome in outcomes)
            print(
                f"{kind:<12}{len(outcomes):>6} cases, {len(failed):>4} faults, exit codes "
                f"{', '.join(f'{code}: {times}' for code, times in sorted(codes.items()))}; slowest "
                f"{max(outcome.seconds for outcome in outcomes):.1f} s",
                flush=True,
            )
            faults += len(failed)
    return 1 if faults else 0


sys.exit(main())
