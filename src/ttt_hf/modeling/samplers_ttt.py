"""What a denoising step does with its logits: which token each masked position proposes, how sure it is, and which
positions are committed. Pure functions of one row's tensors, without a model and without state.
"""

from collections.abc import Sequence

import torch


REMASKING_STRATEGIES = ("low_confidence", "random", "entropy", "margin")


def transfer_schedule(length: int, steps: int) -> list[int]:
    """Says how many positions of a block each denoising step commits (`get_num_transfer_tokens` of LLaDA and TtT).

    Args:
        length: number of masked positions.
        steps: number of denoising steps, at least 1.

    Returns:
        One count a step: as equal as possible, larger ones first, their sum is `length`. Steps beyond `length` get 0.
    """
    share, surplus = divmod(length, steps)
    return [share + 1] * surplus + [share] * (steps - surplus)


def choose_token(scores: torch.Tensor, do_sample: bool, generator: torch.Generator) -> int:
    """Chooses the next text token.

    Args:
        scores: processed logits, float of shape `(1, vocabulary)`.
        do_sample: draw from the softmax of the scores rather than take the most likely token.
        generator: source of randomness, on the device of `scores`; only used with `do_sample`.

    Returns:
        The index of the token in `scores`.
    """
    if not do_sample:
        return int(scores.argmax(dim=-1))
    return int(torch.multinomial(scores.softmax(dim=-1), num_samples=1, generator=generator))


def propose_tokens(
    logits: torch.Tensor, temperature: float, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Proposes a token for every position of a block.

    Args:
        logits: float of shape `(positions, candidates)`.
        temperature: 0 proposes the most likely token, otherwise tokens are drawn from `softmax(logits / temperature)`.
        generator: source of randomness, on the device of `logits`; only used with a temperature above 0.

    Returns:
        The proposed candidates, `torch.long` of shape `(positions,)`, and the probabilities of all candidates without
        temperature, of the shape of `logits`.
    """
    probabilities = logits.softmax(dim=-1)
    if temperature == 0:
        return logits.argmax(dim=-1), probabilities
    tempered = (logits / temperature).softmax(dim=-1)
    return torch.multinomial(tempered, num_samples=1, generator=generator).squeeze(-1), probabilities


def proposal_confidences(probabilities: torch.Tensor, choices: torch.Tensor) -> torch.Tensor:
    """Looks up the probability of each proposed token.

    Args:
        probabilities: shape `(positions, candidates)`.
        choices: proposed candidates, `torch.long` of shape `(positions,)`.

    Returns:
        Float tensor of shape `(positions,)`.
    """
    return probabilities.gather(-1, choices[:, None]).squeeze(-1)


def remasking_scores(
    probabilities: torch.Tensor, choices: torch.Tensor, remasking: str, generator: torch.Generator
) -> torch.Tensor:
    """Ranks the positions of a block: those with high scores are committed first, the others stay masked.

    Args:
        probabilities: shape `(positions, candidates)`.
        choices: proposed candidates, `torch.long` of shape `(positions,)`.
        remasking: `"low_confidence"` ranks by the probability of the proposed token (LLaDA, TtT), `"margin"` by the
            gap between the two most likely ones (Dream), `"entropy"` by low entropy of the distribution, `"random"`
            not at all.
        generator: source of randomness, on the device of `probabilities`; only used by `"random"`.

    Returns:
        Float tensor of shape `(positions,)`.

    Raises:
        ValueError: unknown strategy.
    """
    if remasking == "low_confidence":
        return proposal_confidences(probabilities, choices)
    if remasking == "random":
        return torch.rand(choices.shape, device=choices.device, generator=generator)
    if remasking == "entropy":
        return torch.special.entr(probabilities).sum(dim=-1).neg()
    if remasking == "margin":
        # A single candidate has no runner-up.
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
        scores: rank of every position of the block, high is committed first; ties go to the left.
        confidences: probability of the token proposed at every position.
        masked: the positions that are still masked, in ascending order.
        count: how many the schedule commits at this step, if so many are left.
        threshold: with a number all positions whose confidence exceeds it are committed as well.

    Returns:
        The selected positions, best first.
    """
    ranked = sorted(masked, key=lambda position: -scores[position])
    selected = ranked[:count]
    if threshold is not None:
        selected += [position for position in ranked[count:] if confidences[position] > threshold]
    return selected
