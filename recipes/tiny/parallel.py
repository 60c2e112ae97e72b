"""Training in several processes on one machine: on CPU two processes of one thread beat one process of two threads."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.multiprocessing import ProcessRaisedException, spawn


def run_in_processes(function: Callable[..., object], arguments: tuple[Any, ...], count: int) -> None:
    """Runs a function in several processes of one `torch.distributed` process group.

    Args:
        function: A module-level function, so that a new process can import it.
        arguments: Its arguments, the same in each process.
        count: Number of processes; with one, or on a GPU, the function is called in this process.

    Raises:
        RuntimeError: The function raised in one of the processes; its traceback is the cause.
    """
    if count == 1 or torch.cuda.is_available():
        function(*arguments)
        return
    # Port 0 lets the system choose a free port, at which the first process then listens.
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    # Together as many threads as this process has: more would slow one another down.
    threads = max(1, torch.get_num_threads() // count)
    try:
        spawn(_work, (function, arguments, count, port, threads), nprocs=count)
    except ProcessRaisedException as error:
        # The last line of the traceback is the error itself.
        raise RuntimeError(str(error).strip().splitlines()[-1]) from error


def training_device() -> torch.device:
    """The GPU if there is one, with matrix products in TensorFloat-32, else the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    torch.set_float32_matmul_precision("high")
    return torch.device("cuda")


def multiplies_bfloat16() -> bool:
    """Whether the machine has units for matrix products in bfloat16.

    GPUs have them, and CPUs with AMX, where they are about ten times as fast as float32. Other CPUs emulate them.
    """
    if torch.cuda.is_available():
        return True
    # Older versions of PyTorch lack `get_capabilities`.
    return hasattr(torch.cpu, "get_capabilities") and bool(torch.cpu.get_capabilities().get("amx_bf16"))


def loader_workers() -> int:
    """Number of data loader processes: one on a CPU, all cores but one for a GPU."""
    return max(1, (os.cpu_count() or 1) - 1) if torch.cuda.is_available() else 1


def is_first_process() -> bool:
    """Whether this process is the one that writes files."""
    return not dist.is_initialized() or dist.get_rank() == 0


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Averages gradients over all processes.

    Args:
        parameters: The parameters, in the same order in each process.
    """
    if not dist.is_initialized():
        return
    gradients = []
    for parameter in parameters:
        if parameter.grad is None:  # a batch may lack the kind of clip that reaches this weight
            parameter.grad = torch.zeros_like(parameter)
        gradients.append(parameter.grad)
    # One message, because many small ones would cost more than the arithmetic.
    together = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(together)
    parts = (together / dist.get_world_size()).split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


def _work(
    rank: int, function: Callable[..., object], arguments: tuple[Any, ...], count: int, port: int, threads: int
) -> None:
    # The variables that `torchrun` sets and transformers' Trainer reads.
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(count), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    torch.set_num_threads(threads)
    dist.init_process_group("gloo", rank=rank, world_size=count)
    try:
        function(*arguments)
    finally:
        dist.destroy_process_group()
