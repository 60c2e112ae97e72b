"""The output layer where a decoding step needs it: at some positions, and for some ids."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn


class LogitSelection(NamedTuple):
    """Logits that a forward computes.

    Attributes:
        positions: Positions of the flattened `(batch * length,)` hidden states: a slice, or `torch.long` indices.
        columns: Ids, a consecutive piece of the vocabulary.
    """

    positions: slice | torch.Tensor
    columns: slice


def select_logits(
    head: nn.Module, hidden_states: torch.Tensor, selections: Sequence[LogitSelection]
) -> tuple[torch.Tensor, ...]:
    """Computes selected logits.

    Args:
        head: The output layer.
        hidden_states: Last hidden states, shape `(batch, length, hidden)`.
        selections: What to compute.

    Returns:
        For each selection a tensor of shape `(positions, columns)`.
    """
    states = hidden_states.flatten(0, 1)
    # A piece of a plain layer can be computed alone. Adapters, quantised and sharded weights, and hooks, such as those
    # that load weights when they are needed, want their module to be called.
    has_hooks = hasattr(head, "_hf_hook") or head._forward_hooks or head._forward_pre_hooks
    if type(head) is nn.Linear and type(head.weight) is nn.Parameter and not has_hooks:
        weight = head.weight
        return tuple(nn.functional.linear(states[positions], weight[columns]) for positions, columns in selections)
    return tuple(head(states[positions])[:, columns] for positions, columns in selections)


__all__ = ["LogitSelection", "select_logits"]
