"""Training in several processes: they form a group, the first one writes, errors come through."""

import json
import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from recipes.tiny.parallel import (
    average_gradients,
    is_first_process,
    multiplies_bfloat16,
    run_in_processes,
)


def note(folder: Path) -> None:
    """What a process knows about itself, and the sum of all ranks plus one."""
    total = torch.tensor(1.0 + int(os.environ.get("RANK", "0")))
    if dist.is_initialized():
        dist.all_reduce(total)
    weight = torch.nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([1.0, 2.0 + 2 * int(os.environ.get("RANK", "0"))])
    # Not every process reaches every weight.
    other = torch.nn.Parameter(torch.zeros(1))
    if os.environ.get("RANK") == "1":
        other.grad = torch.tensor([4.0])
    average_gradients([other, weight])
    reached = other.grad.tolist() if other.grad is not None else None
    facts = {"gradient": weight.grad.tolist(), "reached": reached}
    facts |= {"total": float(total), "first": is_first_process(), "threads": torch.get_num_threads()}
    (folder / f"{os.environ.get('RANK', 'alone')}.json").write_text(json.dumps(facts))


def fail() -> None:
    raise ValueError("this process stops")


def read(folder: Path) -> dict[str, dict]:
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.iterdir())}


def test_processes_work_as_a_group(tmp_path: Path) -> None:
    run_in_processes(note, (tmp_path,), 2)
    facts = read(tmp_path)
    assert [fact["first"] for fact in facts.values()] == [True, False]
    assert {fact["total"] for fact in facts.values()} == {3.0}
    assert all(fact["gradient"] == [1.0, 3.0] for fact in facts.values())
    assert all(fact["reached"] == [2.0] for fact in facts.values())
    assert not dist.is_initialized()
    assert "RANK" not in os.environ


def test_one_process_is_this_one(tmp_path: Path) -> None:
    run_in_processes(note, (tmp_path,), 1)
    fact = read(tmp_path)["alone"]
    assert fact == {
        "gradient": [1.0, 2.0],
        "reached": None,
        "total": 1.0,
        "first": True,
        "threads": torch.get_num_threads(),
    }


def test_errors_come_through() -> None:
    with pytest.raises(RuntimeError, match=r"^ValueError: this process stops$"):
        run_in_processes(fail, (), 2)


@pytest.mark.skipif(not Path("/proc/cpuinfo").is_file(), reason="only Linux lists what its processors can do")
@pytest.mark.skipif(not hasattr(torch.cpu, "get_capabilities"), reason="this PyTorch does not tell")
def test_bfloat16_is_for_machines_with_units_for_it() -> None:
    flags = Path("/proc/cpuinfo").read_text().split()
    assert multiplies_bfloat16() == (torch.cuda.is_available() or "amx_bf16" in flags)
