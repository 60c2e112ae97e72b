"""The processes of one run, as `torchrun` and `accelerate launch` start them: sharding and barriers."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from .atomic_files import lock_folder


Item = TypeVar("Item")

# One process may be hours ahead of the others and wait for them.
BARRIER_TIMEOUT = timedelta(days=7)


def launched_processes() -> int:
    """Number of processes that a launcher has started; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@dataclass(frozen=True)
class Processes:
    """This process among those of the run. As a context manager, leaves a process group that it joined.

    Args:
        rank: Its number, from 0.
        count: Number of processes.
        owns_group: Whether the process group was initialised here, and not by the caller's script.
    """

    rank: int = 0
    count: int = 1
    owns_group: bool = False

    @classmethod
    def of_this_run(cls) -> Processes:
        """Joins the processes that the launcher has started, and gives each of them a GPU of its own if there is one.

        Returns:
            A single process where there is no launcher.
        """
        count = launched_processes()
        if count == 1:
            return cls()
        import torch
        import torch.distributed as dist

        # More processes than GPUs share them in turn.
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        # A training script that evaluates under a launcher has a group already, which stays open afterwards.
        owns_group = not dist.is_initialized()
        if owns_group:
            # The processes only wait for each other and exchange no tensors: gloo works on every machine.
            dist.init_process_group("gloo", timeout=BARRIER_TIMEOUT)
        return cls(dist.get_rank(), count, owns_group)

    @property
    def is_first(self) -> bool:
        """Whether this process writes what all of them share."""
        return self.rank == 0

    def shard(self, items: Sequence[Item]) -> Sequence[Item]:
        """Returns this process's part: every `count`-th item, so that long and short ones are spread evenly."""
        return items[self.rank :: self.count]

    def progress(self, items: Iterable[Item], name: str, unit: str, total: int | None = None) -> Iterator[Item]:
        """Yields items and shows a progress bar on stderr, in the first process only.

        Args:
            items: What a stage works through.
            name: Label of the bar.
            unit: Name of an item.
            total: Number of items, if `items` has no length.
        """
        from tqdm import tqdm

        # Every process yields its items; a bar of each would overwrite the others'.
        total = len(items) if isinstance(items, Sequence) else total
        # Not given otherwise, so that the variable TQDM_DISABLE (`ttt-hf --quiet`) counts.
        hidden = {"disable": True} if not self.is_first or total == 0 else {}
        yield from tqdm(items, desc=name, unit=unit, total=total, **hidden)

    def wait(self) -> None:
        """Waits until all processes have reached this point."""
        if self.count > 1:
            import torch.distributed as dist

            dist.barrier()

    @contextmanager
    def lock(self, folder: Path, wait: bool = False) -> Iterator[None]:
        """Keeps other runs from writing to a folder, and clears away what a killed one has left.

        The first process holds the lock for all; the others must not write before they have waited for it.

        Args:
            folder: The folder; made if missing.
            wait: Whether to wait for another run that has locked it.

        Raises:
            BlockingIOError: If another run has locked it, and it is not waited for.
        """
        if not self.is_first:
            yield
            return
        with lock_folder(folder, wait):
            # Half-written files, see `atomic_files`; nobody else is writing any.
            for path in folder.rglob(".*.part"):
                path.unlink(missing_ok=True)
            yield

    def __enter__(self) -> Processes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.owns_group:
            import torch.distributed as dist

            dist.destroy_process_group()
