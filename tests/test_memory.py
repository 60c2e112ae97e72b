"""Which errors tell of too little memory."""

import pytest
import torch

from ttt_hf.memory import is_out_of_memory


def test_errors_of_gpus_processors_and_python() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(MemoryError())
    # What torch raises on a CPU, for real.
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("shapes cannot be multiplied"))
