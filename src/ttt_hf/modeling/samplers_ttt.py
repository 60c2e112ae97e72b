"""The sampler: text tokens, and denoising steps, of all rows of a forward at once.

A denoising step proposes a token for every position of a row's block, ranks the positions that are still masked, and
commits the best; the others stay masked (remasking). Everything is a tensor on the device of the logits, so that a
step costs no transfer. The default ranking is low-confidence remasking (Nie et al., "Large Language Diffusion Models"
(LLaDA), arXiv 2502.09992), as in the official code of TtT.
"""

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


def choose_tokens(scores: torch.Tensor, do_sample: bool, generators: Sequence[torch.Generator]) -> torch.Tensor:
    """Chooses the next text token of every row.

    Args:
        scores: Processed logits, float of shape `(rows, vocabulary)`.
        do_sample: Whether to sample from the softmax of the scores, rather than take the most likely token.
        generators: Random generator of every row, on the device of `scores`, used only with `do_sample`.

    Returns:
        Ids, `torch.long` of shape `(rows,)`; -1 if a score is NaN or infinite, or all are minus infinity.
    """
    best, tokens = scores.max(dim=-1)
    if do_sample:
        tokens = _draw(scores.softmax(dim=-1)[:, None], generators, [1] * len(scores))[:, 0]
    # The largest score is NaN if any score is.
    return tokens.where(best.isfinite(), -1)


def propose_tokens(
    logits: torch.Tensor, temperature: float, generators: Sequence[torch.Generator], lengths: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Proposes a token for every position, and says how likely the model finds it.

    Args:
        logits: Float of shape `(rows, positions, candidates)`.
        temperature: 0 proposes the most likely token, otherwise tokens are drawn from `softmax(logits / temperature)`.
        generators: Random generator of every row, used only with a temperature above 0.
        lengths: Positions of every row; those after them are padding, for which nothing is drawn.

    Returns:
        The proposed candidates, `torch.long`, and their probabilities at temperature 1, both of shape
        `(rows, positions)`: only the draw is tempered, as confidences must not depend on the temperature. A
        probability is NaN where logits are not finite.
    """
    total = logits.logsumexp(dim=-1)
    if temperature == 0:
        best, choices = logits.max(dim=-1)
        return choices, (best - total).exp()
    # Below the maximum, so that a tiny temperature cannot overflow.
    tempered = ((logits - logits.amax(dim=-1, keepdim=True)) / temperature).softmax(dim=-1)
    choices = _draw(tempered, generators, lengths)
    return choices, (logits.gather(-1, choices[..., None]).squeeze(-1) - total).exp()


def remasking_scores(
    logits: torch.Tensor,
    confidences: torch.Tensor,
    remasking: str,
    generators: Sequence[torch.Generator],
    lengths: Sequence[int],
) -> torch.Tensor:
    """Scores positions: those with high scores are committed first, the others stay masked.

    Args:
        logits: Float of shape `(rows, positions, candidates)`.
        confidences: Probability of the token proposed at every position, shape `(rows, positions)`.
        remasking: `"low_confidence"` scores by the probability of the proposed token (LLaDA, TtT), `"margin"` by the
            gap between the two most likely candidates and `"entropy"` by negative entropy (both as in Dream 7B),
            `"random"` uniformly at random.
        generators: Random generator of every row, used only by `"random"`.
        lengths: Positions of every row; those after them are padding.

    Returns:
        Float tensor of shape `(rows, positions)`.

    Raises:
        ValueError: If `remasking` is none of these.
    """
    if remasking == "low_confidence":
        return confidences
    if remasking == "random":
        scores = torch.zeros_like(confidences)
        for own, generator, length in zip(scores, generators, lengths):
            own[:length].uniform_(generator=generator)
        return scores
    if remasking == "entropy":
        return position_entropies(logits).neg()
    if remasking == "margin":
        # With a single candidate there is no second one to subtract.
        best = logits.softmax(dim=-1).topk(min(2, logits.shape[-1]), dim=-1).values
        return best[..., 0] if best.shape[-1] == 1 else best[..., 0] - best[..., 1]
    raise ValueError(f"Unknown remasking '{remasking}': choose one of {', '.join(REMASKING_STRATEGIES)}.")


def position_entropies(logits: torch.Tensor) -> torch.Tensor:
    """Entropies in nats of distributions with logits `(rows, positions, candidates)`, shape `(rows, positions)`."""
    # `entr` is -p log p, and 0 at p = 0, where the product would be NaN.
    return torch.special.entr(logits.softmax(dim=-1)).sum(dim=-1)


def select_positions(
    scores: torch.Tensor,
    is_masked: torch.Tensor,
    counts: torch.Tensor,
    entropies: torch.Tensor | None = None,
    bound: float | None = None,
    confidences: torch.Tensor | None = None,
    threshold: float | None = None,
) -> torch.Tensor:
    """Selects the positions to commit at this step.

    Args:
        scores: Score of every position, shape `(rows, positions)`; high ones are committed first, equal ones from left
            to right.
        is_masked: Whether a position is still masked, of the same shape.
        counts: Number of positions that the schedule commits in every row, `torch.long` of shape `(rows, 1)`.
        entropies: Entropy of every position in nats, if there is a bound; shape `(rows, positions)`.
        bound: As many of the first positions are committed as the sum of their entropies, without the largest of them,
            stays within it. The sum bounds how much their tokens can depend on each other (Ben-Hamu et al.,
            "Accelerated Sampling from Masked Diffusion Models via Entropy Bounded Unmasking", arXiv 2505.24857).
        confidences: Probability of the token proposed at every position, if there is a threshold; of the same shape.
        threshold: Positions whose confidence exceeds it are committed as well (Wu et al., "Fast-dLLM", arXiv
            2505.22618).

    Returns:
        Whether to commit each position, `torch.bool` of the same shape.
    """
    ranked = scores.masked_fill(~is_masked, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    # Positions in the order of their rank become the rank of each position.
    ranks = torch.empty_like(ranked)
    ranks.scatter_(-1, ranked, torch.arange(ranked.shape[-1], device=ranked.device).expand_as(ranked))
    if entropies is not None and bound is not None:
        ordered = entropies.gather(-1, ranked)
        # It never falls from a rank to the next, so that those within the bound are the first ones.
        others = ordered.cumsum(dim=-1) - ordered.cummax(dim=-1).values
        counts = counts.maximum((others <= bound).sum(dim=-1, keepdim=True))
    selected = ranks < counts
    # The threshold is a probability, so it is compared with confidences, whatever the scores are.
    if confidences is not None and threshold is not None:
        selected |= confidences > threshold
    return selected & is_masked


def _draw(probabilities: torch.Tensor, generators: Sequence[torch.Generator], lengths: Sequence[int]) -> torch.Tensor:
    """Draws from distributions of shape `(rows, positions, candidates)`, each row with its own generator.

    One uniform number a position, looked up in the cumulative distribution: noise for every candidate would take as
    long as the rest of the sampler.
    """
    cumulative = probabilities.cumsum(dim=-1)
    shares = torch.zeros_like(cumulative[..., :1])
    # A row draws as many numbers as it would alone, so that its stream does not depend on the padding.
    for own, generator, length in zip(shares, generators, lengths):
        own[:length].uniform_(generator=generator)
    # Strictly below the sum, which rounding could reach, so that a candidate of probability 0 is never found.
    total = cumulative[..., -1:]
    points = torch.minimum(shares * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, points, right=True).squeeze(-1).clamp(max=probabilities.shape[-1] - 1)
