"""The two losses of TtT, autoregressive for text and masked diffusion for audio, as pure functions.

Their plain sum bounds the joint negative log-likelihood (TtT, arXiv 2509.20072), so there are no weights between them.
Noise enters as data, through the input ids and the loss weights.
"""

from collections.abc import Callable

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint


# Logits are computed in one part per this many ids of the vocabulary, so that their memory does not grow with it.
VOCABULARY_PART = 16384


def text_target_mask(
    labels: torch.Tensor, audio_token_start_id: int, order_ids: torch.Tensor, start_ids: torch.Tensor, no_order: int
) -> torch.Tensor:
    """Finds the positions from which a text token is predicted.

    Args:
        labels: Clean id at each position, -100 where there is no target; `torch.long` of shape `(batch, length)`.
        audio_token_start_id: First audio id; audio is never predicted autoregressively.
        order_ids: Index of each position among the clean tokens, shape `(batch, length)`.
        start_ids: Order of the first token of the position's document, shape `(batch, length)`.
        no_order: Order of padding and noised copies, which neither predict text nor are predicted as text.

    Returns:
        Boolean tensor of shape `(batch, length - 1)`: position i predicts `labels[:, i + 1]`.
    """
    target = labels[:, 1:]
    is_text = (target != -100) & (target < audio_token_start_id)
    is_clean = (order_ids[:, :-1] != no_order) & (order_ids[:, 1:] != no_order)
    # In a packed row the last token of a document does not predict the first of the next one.
    return is_text & is_clean & (start_ids[:, :-1] == start_ids[:, 1:])


def sample_ids(order_ids: torch.Tensor, start_ids: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Numbers the samples of a batch whose rows may hold several packed samples.

    Args:
        order_ids: Index of each position among the clean tokens, `torch.long` of shape `(batch, length)`.
        start_ids: Order of the first token of the position's document, of the same shape.

    Returns:
        Index of the sample that each position belongs to, `torch.long` of shape `(batch, length)`, and the number of
        samples.
    """
    is_first = order_ids == start_ids
    # The count of first tokens so far; noised copies follow the clean tokens of their own sample.
    return (is_first.flatten().cumsum(0) - 1).view_as(order_ids), int(is_first.sum())


def token_losses(
    hidden_states: torch.Tensor,
    targets: torch.Tensor,
    head: Callable[[torch.Tensor], torch.Tensor],
    vocab_size: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy of each target, without the logits of all targets in memory at once.

    With a large vocabulary the targets are split into parts, whose logits are recomputed in the backward pass.

    Args:
        hidden_states: Shape `(targets, hidden)`, each row predicting the target of the same index.
        targets: Token ids, `torch.long` of shape `(targets,)`.
        head: The output layer, from hidden states to logits.
        vocab_size: Number of ids.

    Returns:
        The cross-entropies, `torch.float32`, and whether the target is the most likely id, `torch.bool`, both of shape
        `(targets,)`.
    """

    def losses_of(states: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        # (targets of this part, vocabulary)
        logits = head(states)
        losses = functional.cross_entropy(logits.float(), targets, reduction="none")
        return losses, logits.detach().argmax(dim=-1) == targets

    # The number of parts depends on the vocabulary only, not on the targets: all processes of a sharded training must
    # call the head equally often, since each call may gather its weights from all of them.
    count = -(-vocab_size // VOCABULARY_PART)
    if count == 1:
        return losses_of(hidden_states, targets)
    parts = zip(hidden_states.tensor_split(count), targets.tensor_split(count))
    losses, correct = zip(*(checkpoint(losses_of, *part, use_reentrant=False) for part in parts))
    return torch.cat(losses), torch.cat(correct)


def text_loss(losses: torch.Tensor, samples: torch.Tensor, num_samples: int) -> torch.Tensor:
    """Autoregressive loss: cross-entropy averaged over the targets of each sample, then over the samples.

    Args:
        losses: Cross-entropy of each text target, shape `(targets,)`.
        samples: Index of the sample that each target belongs to, `torch.long` of shape `(targets,)`.
        num_samples: Number of samples. A sample without targets contributes 0 and still counts.

    Returns:
        The loss, a `torch.float32` scalar.
    """
    # As in the official code (`modeling_qwen_TtT.py`): long samples do not weigh more than short ones.
    counts = torch.bincount(samples, minlength=num_samples)
    return (losses / counts[samples]).sum() / num_samples


def audio_loss(losses: torch.Tensor, weights: torch.Tensor, num_samples: int) -> torch.Tensor:
    """Masked diffusion loss: weighted cross-entropy of the masked tokens, summed, divided by the number of samples.

    Args:
        losses: Cross-entropy of each masked position, predicted there itself (not shifted), shape `(targets,)`.
        weights: Weight of each target, float of shape `(targets,)`; the paper's is 1 / (masking probability * number
            of maskable audio tokens of the sample).
        num_samples: Number of samples.

    Returns:
        The loss, a `torch.float32` scalar.
    """
    # Not divided by the number of masked positions: the weights average over them.
    return (losses * weights.float()).sum() / num_samples
