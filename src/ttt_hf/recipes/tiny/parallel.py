"""Training in several processes on one machine: on CPU two processes of one thread beat one process of two threads."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing


def run_in_processes(function: Callable[..., object], arguments: tuple[Any, ...], count: int) -> None:
    """Calls a function in several processes that share a `torch.distributed` process group; returns when all are done.

    Args:
        function: A function of a module, so that a new process can import it.
        arguments: Its arguments, the same in each process.
        count: Number of processes; with one, or where there is a GPU, the function is simply called.

    Raises:
        torch.multiprocessing.ProcessRaisedException: The function raised in one of the processes.
    """
    if count == 1 or torch.cuda.is_available():
        function(*arguments)
        return
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    threads = max(1, torch.get_num_threads() // count)
    torch.multiprocessing.spawn(_work, (function, arguments, count, port, threads), nprocs=count)


def is_first_process() -> bool:
    """Whether this process is the one that writes files."""
    return not dist.is_initialized() or dist.get_rank() == 0


def _work(
    rank: int, function: Callable[..., object], arguments: tuple[Any, ...], count: int, port: int, threads: int
) -> None:
    # What transformers' Trainer looks for as well.
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(count), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    torch.set_num_threads(threads)
    dist.init_process_group("gloo", rank=rank, world_size=count)
    try:
        function(*arguments)
    finally:
        dist.destroy_process_group()
