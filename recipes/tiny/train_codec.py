"""Trains the tiny codec: first encoder, quantizer and mel decoder on all voices, then the vocoder on the reply voice.

The stage `codec` ends by freezing the encoder: its weights are rounded to bfloat16 precision and do not change again,
so that codes made from then on stay valid while the stage `vocoder` improves the decoded speech.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ttt_hf.atomic_files import atomic_update, atomic_write
from ttt_hf.codecs import TtTTinyCodec, TtTTinyCodecConfig, load_codec
from ttt_hf.data.augmentation import change_speed, degrade

from .codec_clips import Utterance, read_wave, training_utterances
from .codec_objective import (
    CHARACTERS,
    CodecTrainer,
    CodecTraining,
    LetterReader,
    VocoderLosses,
    make_listener,
    voice_index,
)
from .parallel import (
    average_gradients,
    is_first_process,
    loader_workers,
    training_device,
)
from .voices import REPLY_VOICE


# File in `codec/`: the encoder is final, and codes made with it stay valid.
FROZEN_MARKER = "ENCODER_FROZEN"
SAVE_SECONDS = 120.0


# -- data ----------------------------------------------------------------------------------------------------


class CodecBatches(Dataset):
    """Batches of complete clips of similar length; batch `step` depends on the seed and the step alone.

    Args:
        utterances: The clips.
        codec: Normalizes their level.
        settings: Batch size, seed and share of the reply voice.
    """

    def __init__(self, utterances: list[Utterance], codec: TtTTinyCodec, settings: CodecTraining):
        self.codec = codec
        self.settings = settings
        by_voice: dict[str, list[Utterance]] = defaultdict(list)
        for utterance in utterances:
            by_voice[utterance.voice].append(utterance)
        self.by_voice = {voice: sorted(clips, key=lambda clip: clip.seconds) for voice, clips in by_voice.items()}
        if REPLY_VOICE not in self.by_voice:
            raise ValueError(f"The data holds no clip of the reply voice {REPLY_VOICE!r}.")

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        # Sorted, because the order of a set of names differs between processes.
        others = sorted(self.by_voice.keys() - {REPLY_VOICE}) or [REPLY_VOICE]
        # 1. A length. Batches that are computed at the same time share it, so that no process waits for another. The
        # second number of a seed tells random series apart.
        rng = np.random.default_rng([self.settings.seed, 0, step // self.settings.processes])
        anchor_clips = self.by_voice[REPLY_VOICE if rng.random() < 0.5 else others[rng.integers(len(others))]]
        anchor = anchor_clips[rng.integers(len(anchor_clips))].seconds
        rng = np.random.default_rng([self.settings.seed, 1, step])
        # As many clips as make `batch_seconds`, so that every step costs about the same.
        clean, noisy, texts, voices = [], [], [], []
        for _ in range(max(2, round(self.settings.batch_seconds / (anchor + 0.5)))):
            # 2. A clip of about this length.
            is_reply = rng.random() < self.settings.reply_share
            voice = REPLY_VOICE if is_reply else others[rng.integers(len(others))]
            clip = _clip_of_length(self.by_voice[voice], anchor, rng)
            # 3. Augmentation: the reply voice must stay as it is; question voices may sound like anyone, anywhere.
            # Speed changes the target, too; `degrade` only the input, so that codes do not depend on noise and room.
            waveform = read_wave(clip.path)
            if voice != REPLY_VOICE and rng.random() < 0.5:
                waveform = change_speed(waveform, rng)
            degraded = waveform
            if voice != REPLY_VOICE and rng.random() < 0.5:
                degraded = degrade(waveform, self.codec.config.sampling_rate, rng)
            # 4. A random start, so that codes do not depend on the offset of speech in their grid.
            lead = int(rng.integers(0, 3 * self.codec.config.samples_per_code))
            clean.append(F.pad(self.codec.normalise(torch.from_numpy(waveform)), (lead, 0)))
            noisy.append(F.pad(self.codec.normalise(torch.from_numpy(degraded)), (lead, 0)))
            # One-based, because 0 is the blank of CTC.
            texts.append(torch.tensor([CHARACTERS.index(c) + 1 for c in clip.text.lower() if c in CHARACTERS]))
            voices.append(voice_index(voice))
        # 5. Tensors: waveforms of shape `(batch, samples)`, and all letters in one row, as CTC takes them.
        batch = {
            "clean": _stack(clean, self.codec),
            "noisy": _stack(noisy, self.codec),
            "voices": torch.tensor(voices),
        }
        batch["lengths"] = torch.tensor([len(row) for row in clean])
        batch["text_lengths"] = torch.tensor([len(text) for text in texts])
        batch["texts"] = torch.cat(texts)
        return batch


def _clip_of_length(clips: list[Utterance], seconds: float, rng: np.random.Generator) -> Utterance:
    """Draws one of the clips, sorted by length, that are about so long."""
    # Neighbours in the sorted list are about as long: one up to a twelfth of the list away, so that batches vary.
    spread = len(clips) // 12 + 1
    index = bisect_left(clips, seconds, key=lambda clip: clip.seconds) + rng.integers(-spread, spread + 1)
    return clips[int(np.clip(index, 0, len(clips) - 1))]


def _stack(rows: list[Tensor], codec: TtTTinyCodec) -> Tensor:
    # A random start leaves a part of a code at the end; the encoder needs all of its frames.
    stacked = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return F.pad(stacked, (0, -stacked.shape[1] % codec.config.samples_per_code))


class ReplyBatches(Dataset):
    """Batches of complete clips of the reply voice, of similar length; batch `step` depends on the seed and the step.

    Args:
        utterances: Clips of the reply voice.
        codec: Normalizes their level.
        settings: Batch size and seed.
    """

    def __init__(self, utterances: list[Utterance], codec: TtTTinyCodec, settings: CodecTraining):
        self.clips = sorted(utterances, key=lambda clip: clip.seconds)
        self.codec = codec
        self.settings = settings

    def __getitem__(self, step: int) -> Tensor:
        # As in `CodecBatches`, batches that are computed at the same time have similar lengths.
        rng = np.random.default_rng([self.settings.seed, 2, step // self.settings.processes])
        anchor = int(rng.integers(len(self.clips)))
        rng = np.random.default_rng([self.settings.seed, 3, step])
        # The clips are sorted by length, so that those near the anchor need little padding.
        count = max(2, round(self.settings.vocoder_batch_seconds / self.clips[anchor].seconds))
        indices = anchor + rng.integers(-4 * count, 4 * count + 1, count)
        waveforms = []
        for index in indices.clip(0, len(self.clips) - 1):
            waveform = self.codec.normalise(torch.from_numpy(read_wave(self.clips[index].path)))
            # Half of the clips start with a code, as replies do, the others at any offset.
            lead = int(rng.integers(0, self.codec.config.samples_per_code)) if rng.random() < 0.5 else 0
            waveforms.append(F.pad(waveform, (lead, 0)))
        return _stack(waveforms, self.codec)


# -- stages --------------------------------------------------------------------------------------------------


def train(
    name: str,
    state_file: Path,
    modules: nn.Module,
    parameters: list[nn.Parameter],
    batches: Dataset,
    loss_function: Callable[[Any], tuple[Tensor, dict[str, Tensor]]],
    steps: int,
    learning_rate: float,
    workers: int = 1,
    on_save: Callable[[], None] | None = None,
) -> None:
    """Optimizes with AdamW; continues from `state_file` if it exists.

    Each step

    1. sets the learning rate: 200 steps of linear warmup, times a cosine that falls to zero at the last step;
    2. computes the loss of the next batch;
    3. updates the weights with clipped gradients;
    4. logs running averages of the parts of the loss;
    5. saves the state if two minutes have passed.

    With several processes (`torch.distributed`) each takes other batches, and gradients are averaged.

    Args:
        name: Shown with the progress.
        state_file: Weights, optimizer state and step; also saved at the end.
        modules: Module whose weights are saved.
        parameters: The optimized parameters.
        batches: Maps a step to its batch.
        loss_function: Returns the loss of a batch, and its parts for the log.
        steps: Total number of steps, including those of earlier runs.
        learning_rate: Peak of the schedule.
        workers: Data loader processes.
        on_save: Called after each saved state.
    """
    device = parameters[0].device
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    rank, processes = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    done = _load_state(state_file, modules, optimizer)

    def save() -> None:
        # One process writes for all: weights and optimizer states are equal, since gradients are averaged.
        if not is_first_process():
            return
        state = {"modules": modules.state_dict(), "optimizer": optimizer.state_dict(), "step": done}
        with atomic_write(state_file) as part:
            torch.save(state, part)
        if on_save is not None:
            on_save()

    # The processes take turns in the numbers of the batches. After an interruption the next number follows: the
    # batches are those of an uninterrupted run.
    loader: Iterable[Any] = DataLoader(
        batches,
        batch_size=None,
        sampler=range(done * processes + rank, steps * processes, processes),
        num_workers=workers,
        prefetch_factor=8 if workers else None,
        worker_init_fn=_one_thread,
    )
    saved = time.monotonic()
    averages: dict[str, float] = {}
    progress = tqdm(loader, desc=name, initial=done, total=steps, mininterval=10.0, disable=not is_first_process())
    for batch in progress:
        # 1. Learning rate.
        warmup = min(1.0, (done + 1) / 200)
        rate = learning_rate * warmup * (0.5 + 0.5 * math.cos(math.pi * done / steps))
        for group in optimizer.param_groups:
            group["lr"] = rate
        # 2. Loss; its parts are for the log alone.
        loss, parts = loss_function(_moved(batch, device))
        # 3. Weights.
        _update(loss, parameters, optimizer)
        done += 1
        # 4. The first value of a part starts its average, which would otherwise begin at zero.
        for key, value in parts.items():
            averages[key] = 0.98 * averages.get(key, value.item()) + 0.02 * value.item()
        progress.set_postfix({key: f"{value:.4f}" for key, value in averages.items()}, refresh=False)
        # 5. Only the first process writes; the others wait for it when gradients are averaged.
        now = time.monotonic()
        if now - saved > SAVE_SECONDS:
            save()
            saved = now
    save()


def _load_state(path: Path, modules: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Restores an interrupted training, if there is one; returns the number of steps done."""
    if not path.exists():
        return 0
    # To the CPU: loading copies each tensor to the device of its parameter.
    state = torch.load(path, map_location="cpu", weights_only=True)
    modules.load_state_dict(state["modules"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])


def _update(loss: Tensor, parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    # Before clipping: with one common norm, all processes make the same update.
    average_gradients(parameters)
    nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()


def _moved(batch: Any, device: torch.device) -> Any:
    if isinstance(batch, dict):
        return {name: tensor.to(device) for name, tensor in batch.items()}
    return batch.to(device)


def _one_thread(_: int) -> None:
    # Several workers with all threads each would slow one another down.
    torch.set_num_threads(1)


def run_codec_stage(out: Path, settings: CodecTraining) -> None:
    """Trains encoder, quantizer and mel decoder, and freezes the encoder when all steps are done.

    Args:
        out: The recipe's output root; reads `data/`, writes `codec/`.
        settings: Steps, rates and weights of the losses.
    """
    folder = out / "codec"
    if (folder / FROZEN_MARKER).exists():
        return
    state_folder = folder / "training_state"
    state_folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(settings.seed)
    codec = TtTTinyCodec(TtTTinyCodecConfig())
    trainer = CodecTrainer(codec, settings).to(training_device())
    batches = CodecBatches(training_utterances(out / "data"), codec, settings)
    # The vocoder has its own stage. The rest includes the modules that only training needs.
    trained = [parameter for name, parameter in trainer.named_parameters() if ".vocoder." not in name]
    train(
        "codec",
        state_folder / "codec.pt",
        trainer,
        trained,
        batches,
        trainer,
        settings.codec_steps,
        settings.codec_learning_rate,
        loader_workers(),
    )
    if is_first_process():
        with torch.no_grad():
            # From now on the codec decodes to this voice alone.
            codec.decoder.voice.copy_(trainer.voices.weight[voice_index(REPLY_VOICE)])
        # Before freezing: the encoder that makes the codes of the training data is then the one that is shipped.
        _round_weights(codec)
        with atomic_update(folder) as part:
            codec.save_pretrained(part)
        # Last, so that the marker stands for a complete codec.
        (folder / FROZEN_MARKER).write_text("The weights of the encoder do not change any more.\n", encoding="utf-8")


def run_vocoder_stage(out: Path, settings: CodecTraining) -> None:
    """Trains the vocoder, then mel decoder and vocoder together, on the reply voice. The encoder stays as it is.

    Every saved state updates the codec in `out/codec`.

    Args:
        out: The recipe's output root; reads `data/` and `codec/`, writes `codec/`.
        settings: Steps, rates and weights of the losses.

    Raises:
        ValueError: The stage codec is not finished, or the folder holds another codec.
    """
    folder = out / "codec"
    if not (folder / FROZEN_MARKER).exists():
        raise ValueError(f"{folder} holds no frozen encoder; run the stage codec first.")
    torch.manual_seed(settings.seed)
    codec = load_codec(folder, dtype=torch.float32)
    if not isinstance(codec, TtTTinyCodec):
        raise ValueError(f"{folder} holds a {type(codec).__name__}, not the tiny codec.")
    # Codes that were made with it must stay valid.
    codec.encoder.requires_grad_(False)
    codec.to(training_device())
    voice = [clip for clip in training_utterances(out / "data") if clip.voice == REPLY_VOICE]
    states = folder / "training_state"
    batches = ReplyBatches(voice, codec, settings)
    losses = VocoderLosses(codec, _trained_listener(codec, states / "codec.pt"), settings.joint_listener_weight)

    def publish() -> None:
        # A copy is rounded, because training continues in full precision. The encoder is rounded already: its codes
        # stay the same.
        published = TtTTinyCodec(codec.config)
        published.load_state_dict(codec.state_dict())
        _round_weights(published)
        with atomic_update(folder) as part:
            published.save_pretrained(part)

    # The second part continues with the weights that the first one leaves in `codec`.
    parts = [
        (
            "vocoder",
            codec.vocoder.parameters(),
            losses.vocoder,
            settings.vocoder_steps,
            settings.vocoder_learning_rate,
        ),
        (
            "joint",
            [*codec.decoder.parameters(), *codec.vocoder.parameters()],
            losses.joint,
            settings.joint_steps,
            settings.joint_learning_rate,
        ),
    ]
    for name, parameters, loss_function, steps, rate in parts:
        train(
            name,
            states / f"{name}.pt",
            codec,
            list(parameters),
            batches,
            loss_function,
            steps,
            rate,
            loader_workers(),
            publish,
        )


def _trained_listener(codec: TtTTinyCodec, state_file: Path) -> LetterReader:
    """Loads the letter reader that the stage `codec` trained on recordings; its weights are fixed."""
    listener = make_listener(codec.config)
    modules = torch.load(state_file, map_location="cpu", weights_only=True)["modules"]
    # The state is that of a `CodecTrainer`, which has the listener as a submodule.
    prefix = "listener."
    listener.load_state_dict(
        {name.removeprefix(prefix): weight for name, weight in modules.items() if name.startswith(prefix)}
    )
    return listener.requires_grad_(False).to(codec.device)


def _round_weights(codec: TtTTinyCodec) -> None:
    """Rounds all weights to bfloat16 precision, so that storing the checkpoint in bfloat16 changes no code."""
    with torch.no_grad():
        for parameter in codec.parameters():
            parameter.copy_(parameter.bfloat16().float())
