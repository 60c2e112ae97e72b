"""The two losses of TtT as pure functions of logits at target positions: autoregressive for text, masked diffusion for
audio. Their plain sum bounds the joint negative log-likelihood ("TtT", arXiv 2509.20072), so there are no weights
between them; noise enters as data, through the input ids and the weights.
"""

import torch
from torch.nn import functional


def text_target_mask(
    labels: torch.Tensor, audio_token_start_id: int, order_ids: torch.Tensor, start_ids: torch.Tensor, no_order: int
) -> torch.Tensor:
    """Finds the positions from which a text token is predicted.

    Args:
        labels: the clean id at each position, -100 where there is no target; `torch.long` of shape `(batch, length)`.
        audio_token_start_id: the first audio id; audio is never predicted autoregressively.
        order_ids: place of each position among the clean tokens, shape `(batch, length)`.
        start_ids: order of the first token of the position's document, shape `(batch, length)`.
        no_order: the order of padding and noised copies, which neither predict text nor are predicted.

    Returns:
        Boolean tensor of shape `(batch, length - 1)`: position i predicts `labels[:, i + 1]`.
    """
    target = labels[:, 1:]
    is_text = (target != -100) & (target < audio_token_start_id)
    is_clean = (order_ids[:, :-1] != no_order) & (order_ids[:, 1:] != no_order)
    return is_text & is_clean & (start_ids[:, :-1] == start_ids[:, 1:])


def sample_ids(order_ids: torch.Tensor, start_ids: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Numbers the samples of a batch in whose rows several may be packed.

    Args:
        order_ids: place of each position among the clean tokens, `torch.long` of shape `(batch, length)`.
        start_ids: order of the first token of the position's document, of the same shape.

    Returns:
        The number of the sample that each position belongs to, `torch.long` of shape `(batch, length)`, and the number
        of samples.
    """
    is_first = order_ids == start_ids
    return (is_first.flatten().cumsum(0) - 1).view_as(order_ids), int(is_first.sum())


def text_loss(logits: torch.Tensor, targets: torch.Tensor, samples: torch.Tensor, num_samples: int) -> torch.Tensor:
    """Autoregressive loss: cross-entropy averaged over the targets of each sample, then over the samples.

    Args:
        logits: shape `(targets, vocabulary)`, each row predicting the target of the same index.
        targets: token ids, `torch.long` of shape `(targets,)`.
        samples: sample in the batch that each target belongs to, `torch.long` of shape `(targets,)`.
        num_samples: number of samples. A sample without targets contributes 0 and still counts.

    Returns:
        The loss, a `float32` scalar.
    """
    losses = functional.cross_entropy(logits.float(), targets, reduction="none")
    counts = torch.bincount(samples, minlength=num_samples)
    return (losses / counts[samples]).sum() / num_samples


def audio_loss(logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor, num_samples: int) -> torch.Tensor:
    """Masked diffusion loss: weighted cross-entropy of the masked tokens, summed, divided by the number of samples.

    Args:
        logits: shape `(targets, vocabulary)`, each row taken at the masked position itself (not shifted).
        targets: the clean ids, `torch.long` of shape `(targets,)`.
        weights: weight of each target, float of shape `(targets,)`; the paper's is 1 / (masking probability * number
            of maskable audio tokens of the sample).
        num_samples: number of samples.

    Returns:
        The loss, a `float32` scalar.
    """
    losses = functional.cross_entropy(logits.float(), targets, reduction="none")
    return (losses * weights.float()).sum() / num_samples
