"""The sampler of a denoising step: proposals, their confidence, and which positions are committed.

Pure functions of one row's tensors. The default is low-confidence remasking (Nie et al., "Large Language Diffusion
Models" (LLaDA), arXiv 2502.09992), as in the official code of TtT.
"""

import math
from collections.abc import Sequence

import torch


NOT_FINITE = (
    "The model's logits are not finite numbers: its weights are damaged, or overflow in their data type (load it in "
    "bfloat16 or float32), or a logits processor or a tiny temperature leaves no token to choose."
)

REMASKING_STRATEGIES = ("low_confidence", "random", "entropy", "margin")


def transfer_schedule(length: int, steps: int) -> list[int]:
    """Number of positions that each denoising step commits (`get_num_transfer_tokens` in LLaDA and TtT).

    Args:
        length: Number of masked positions.
        steps: Number of denoising steps, at least 1.

    Returns:
        One count per step: as equal as possible, larger ones first, with `length` as their sum. With more steps than
        positions the last ones get 0.
    """
    share, surplus = divmod(length, steps)
    return [share + 1] * surplus + [share] * (steps - surplus)


def choose_token(scores: torch.Tensor, do_sample: bool, generator: torch.Generator) -> int:
    """Chooses the next text token.

    Args:
        scores: Processed logits, float of shape `(1, vocabulary)`.
        do_sample: Whether to sample from the softmax of the scores, rather than take the most likely token.
        generator: Random generator on the device of `scores`, used only with `do_sample`.

    Returns:
        Id of the token.

    Raises:
        ValueError: If a score is NaN or infinite, or all are minus infinity.
    """
    best, token = scores.max(dim=-1)
    if do_sample:
        # NaN is replaced for the draw only, which would stop with it before the check, on a GPU for good.
        probabilities = scores.softmax(dim=-1).nan_to_num(nan=1.0)
        token = torch.multinomial(probabilities, num_samples=1, generator=generator).squeeze(-1)
    # The largest score is NaN if any score is. One transfer from the device for both; float32 holds every id exactly.
    best_score, token_id = torch.stack([best.float(), token.float()]).flatten().tolist()
    if not math.isfinite(best_score):
        raise ValueError(NOT_FINITE)
    return int(token_id)


def propose_tokens(
    logits: torch.Tensor, temperature: float, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Proposes a token for every position of a block.

    Args:
        logits: Float of shape `(positions, candidates)`.
        temperature: 0 proposes the most likely token, otherwise tokens are drawn from `softmax(logits / temperature)`.
        generator: Random generator on the device of `logits`, used only with a temperature above 0.

    Returns:
        The proposed candidates, `torch.long` of shape `(positions,)`, and the probabilities of all candidates at
        temperature 1, of the shape of `logits`.
    """
    probabilities = logits.softmax(dim=-1)
    if temperature == 0:
        return logits.argmax(dim=-1), probabilities
    # Only the draw is tempered: confidences compare positions, and must not depend on the temperature.
    # Below the maximum, so that a tiny temperature cannot overflow. NaN is replaced for the draw only; it remains in
    # the probabilities, where the caller finds it.
    tempered = ((logits - logits.amax(dim=-1, keepdim=True)) / temperature).softmax(dim=-1).nan_to_num(nan=1.0)
    return torch.multinomial(tempered, num_samples=1, generator=generator).squeeze(-1), probabilities


def proposal_confidences(probabilities: torch.Tensor, choices: torch.Tensor) -> torch.Tensor:
    """Looks up the probability of each proposed token.

    Args:
        probabilities: Shape `(positions, candidates)`.
        choices: Proposed candidates, `torch.long` of shape `(positions,)`.

    Returns:
        Float tensor of shape `(positions,)`.
    """
    return probabilities.gather(-1, choices[:, None]).squeeze(-1)


def remasking_scores(
    probabilities: torch.Tensor, choices: torch.Tensor, remasking: str, generator: torch.Generator
) -> torch.Tensor:
    """Scores the positions of a block: those with high scores are committed first, the others stay masked.

    Args:
        probabilities: Shape `(positions, candidates)`.
        choices: Proposed candidates, `torch.long` of shape `(positions,)`.
        remasking: `"low_confidence"` scores by the probability of the proposed token (LLaDA, TtT), `"margin"` by the
            gap between the two most likely candidates and `"entropy"` by negative entropy (both as in Dream 7B),
            `"random"` uniformly at random.
        generator: Random generator on the device of `probabilities`, used only by `"random"`.

    Returns:
        Float tensor of shape `(positions,)`.

    Raises:
        ValueError: If `remasking` is none of these.
    """
    if remasking == "low_confidence":
        return proposal_confidences(probabilities, choices)
    if remasking == "random":
        return torch.rand(choices.shape, device=choices.device, generator=generator)
    if remasking == "entropy":
        # `entr` is -p log p, and 0 at p = 0, where the product would be NaN.
        return torch.special.entr(probabilities).sum(dim=-1).neg()
    if remasking == "margin":
        # With a single candidate there is no second one to subtract.
        best = probabilities.topk(min(2, probabilities.shape[-1]), dim=-1).values
        return best[:, 0] if best.shape[-1] == 1 else best[:, 0] - best[:, 1]
    raise ValueError(f"Unknown remasking '{remasking}': choose one of {', '.join(REMASKING_STRATEGIES)}.")


def select_positions(
    scores: Sequence[float],
    confidences: Sequence[float],
    masked: Sequence[int],
    count: int,
    threshold: float | None = None,
) -> list[int]:
    """Selects the positions to commit at this step.

    Args:
        scores: Score of every position of the block; high ones are committed first, equal ones from left to right.
        confidences: Probability of the token proposed at every position.
        masked: Positions that are still masked, in ascending order.
        count: Number of positions that the schedule commits at this step.
        threshold: Positions whose confidence exceeds it are committed as well, if given.

    Returns:
        The selected positions, best first.
    """
    # `sorted` is stable, so equal scores keep their order from left to right.
    ranked = sorted(masked, key=lambda position: -scores[position])
    selected = ranked[:count]
    # The threshold is a probability, so it is compared with confidences, whatever the scores are.
    if threshold is not None:
        selected += [position for position in ranked[count:] if confidences[position] > threshold]
    return selected
