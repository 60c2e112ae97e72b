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
    """Calls a function in several processes that share a `torch.distributed` process group; returns when all are done.

    Args:
        function: A function of a module, so that a new process can import it.
        arguments: Its arguments, the same in each process.
        count: Number of processes; with one, or where there is a GPU, the function is simply called.

    Raises:
        RuntimeError: The function raised in one of the processes; the traceback there is the cause.
    """
    if count == 1 or torch.cuda.is_available():
        function(*arguments)
        return
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    threads = max(1, torch.get_num_threads() // count)
    try:
        spawn(_work, (function, arguments, count, port, threads), nprocs=count)
    except ProcessRaisedException as error:
        # The last line of the traceback says what was wrong.
        raise RuntimeError(str(error).strip().splitlines()[-1]) from error


def training_device() -> torch.device:
    """The GPU where there is one, with matrix products in TensorFloat-32; else the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    torch.set_float32_matmul_precision("high")
    return torch.device("cuda")


def multiplies_bfloat16() -> bool:
    """Whether the machine has units for matrix products in bfloat16: GPUs, and CPUs with AMX, where they are about ten
    times as fast as float32. Other CPUs only emulate them.
    """
    if torch.cuda.is_available():
        return True
    # PyTorch before `get_capabilities` does not tell.
    return hasattr(torch.cpu, "get_capabilities") and bool(torch.cpu.get_capabilities().get("amx_bf16"))


def loader_workers() -> int:
    """Processes that make batches: on a CPU one beside each that trains, for a GPU all cores but one."""
    return max(1, (os.cpu_count() or 1) - 1) if torch.cuda.is_available() else 1


def is_first_process() -> bool:
    """Whether this process is the one that writes files."""
    return not dist.is_initialized() or dist.get_rank() == 0


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Gives the parameters of every process the mean of all processes' gradients; does nothing in a single process.

    Args:
        parameters: The same ones, in the same order, in each process.
    """
    if not dist.is_initialized():
        return
    gradients = []
    for parameter in parameters:
        if parameter.grad is None:  # a batch without clips of some kind does not reach every weight
            parameter.grad = torch.zeros_like(parameter)
        gradients.append(parameter.grad)
    # One message: many small ones would cost more than the arithmetic.
    together = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(together)
    parts = (together / dist.get_world_size()).split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


def any_process(condition: bool) -> bool:
    """Whether the condition holds in some process, so that all of them stop together."""
    if not dist.is_initialized():
        return condition
    flag = torch.tensor(float(condition))
    dist.all_reduce(flag)
    return bool(flag)


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
