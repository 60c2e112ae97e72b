"""The processes of one run, as `torchrun` and `accelerate launch` start them: who does what, and when all are done."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar


Item = TypeVar("Item")

# One process may be hours behind another, which waits for it.
PATIENCE = timedelta(days=7)


@dataclass(frozen=True)
class Processes:
    """This process among those of the run.

    Args:
        rank: Its number, from 0.
        count: How many there are.
    """

    rank: int = 0
    count: int = 1

    @classmethod
    def of_this_run(cls) -> Processes:
        """What the launcher says; without one, a single process. Each process gets a GPU of its own where there are
        any.

        Returns:
            Joined, so that `wait` works.
        """
        count = int(os.environ.get("WORLD_SIZE", "1"))
        if count == 1:
            return cls()
        import torch
        import torch.distributed as dist

        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        if not dist.is_initialized():
            # They meet, and compute nothing together: gloo is there on every machine.
            dist.init_process_group("gloo", timeout=PATIENCE)
        return cls(dist.get_rank(), count)

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes what all share."""
        return self.rank == 0

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """This process's part: every `count`-th, so that long and short ones are spread evenly."""
        return items[self.rank :: self.count]

    def wait(self) -> None:
        """Returns when all processes have come here."""
        if self.count > 1:
            import torch.distributed as dist

            dist.barrier()

    def leave(self) -> None:
        """Ends the group; nothing may wait after it."""
        if self.count > 1:
            import torch.distributed as dist

            dist.destroy_process_group()
