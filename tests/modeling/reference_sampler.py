"""A denoising step of one row, written to be read: the reference of the sampler for all rows."""

from collections.abc import Sequence

import torch


def denoise(
    logits: torch.Tensor,
    canvas: Sequence[int],
    mask: int,
    count: int,
    remasking: str,
    bound: float | None,
    threshold: float | None,
) -> list[int]:
    """Commits the most confident greedy proposals.

    Args:
        logits: Float of shape `(positions, candidates)`; a candidate's index is its id.
        canvas: Ids of the block, `mask` where nothing is committed.
        mask: Id of masked positions.
        count: Number of positions that the schedule commits.
        remasking: How positions are ranked, `"random"` excepted.
        bound: Positions are committed as long as the sum of their entropies, without the largest, stays within it.
        threshold: Positions whose proposal is more probable are committed as well.

    Returns:
        The new canvas.
    """
    probabilities = logits.softmax(dim=-1)
    confidences, proposals = probabilities.max(dim=-1)
    entropies = torch.special.entr(probabilities).sum(dim=-1)
    if remasking == "entropy":
        scores = entropies.neg()
    elif remasking == "margin":
        best = probabilities.topk(2, dim=-1).values
        scores = best[:, 0] - best[:, 1]
    else:
        scores = confidences
    masked = [position for position, token in enumerate(canvas) if token == mask]
    # `sorted` is stable, so equal scores keep their order from left to right.
    ranked = sorted(masked, key=lambda position: -float(scores[position]))
    selected = ranked[:count]
    for number in range(count + 1, len(ranked) + 1):
        first = [float(entropies[position]) for position in ranked[:number]]
        if bound is not None and sum(first) - max(first) <= bound:
            selected = ranked[:number]
    if threshold is not None:
        selected = selected + [position for position in masked if float(confidences[position]) > threshold]
    filled = list(canvas)
    for position in selected:
        filled[position] = int(proposals[position])
    return filled
