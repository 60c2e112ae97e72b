"""Trains the language model: audio codes, tokenizer, training samples, training.

python -m recipes.tiny --out build/tiny --stages model
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset, load_from_disk
from tqdm.auto import tqdm
from transformers import Qwen2Config, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint, set_seed

from ttt_hf.atomic_files import atomic_folder, atomic_write_text
from ttt_hf.codecs import TtTTinyCodec, load_codec
from ttt_hf.data import SampleBuilder, TtTDataCollator
from ttt_hf.data.augmentation import vary
from ttt_hf.evaluation import WhisperTranscriber
from ttt_hf.modeling import TtTConfig, TtTForConditionalGeneration
from ttt_hf.processing import SYSTEM_PROMPTS, TtTProcessor, audio_token_ids, load_audio, train_tokenizer
from ttt_hf.training.trainer import TtTTrainer

from .domain import build_domain
from .mixture import TinyMixture, build_samples
from .parallel import is_first_process, loader_workers, multiplies_bfloat16, training_device
from .placement import answers_of_domain, place_answers, whisper_base
from .settings import ModelSettings, TinySettings
from .tables import read_rows


logger = logging.getLogger(__name__)

ENCODING_BATCH = 32
ANSWERS_PER_SAVE = 100
# Each shard has its own random series, so that samples do not depend on the number of processes.
SHARDS = 64


# -- data -------------------------------------------------------------------------------------------------------------


def prepare(out: Path, settings: TinySettings) -> None:
    """Writes the inputs of training.

    1. OUT/codes.json: codes of the training utterances and of their variants.
    2. OUT/placed.json: the most intelligible codes of each answer, see `placement.py`.
    3. OUT/tokenizer: a processor without codec.
    4. OUT/samples: the training mixture, tokenized.

    Args:
        out: The recipe's output root, with `data/` and `codec/`.
        settings: The recipe.
    """
    # 1. Only utterances without codes are encoded, so that the data may grow between runs.
    items = read_rows(out / "data" / "items.jsonl")
    codec = load_codec(out / "codec")
    codes_file = out / "codes.json"
    codes = json.loads(codes_file.read_text()) if codes_file.exists() else {}
    codes |= encode_utterances(out / "data", items, codec, settings.lm, codes.keys())
    atomic_write_text(codes_file, json.dumps(codes))
    # 2. These replace the plain codes in memory alone: codes.json does not depend on `answer_offsets`.
    if settings.lm.answer_offsets > 1:
        codes |= {name: [placed] for name, placed in _placed_answers(out, items, codec, settings.lm).items()}
    # 3. Held-out questions must not shape the vocabulary.
    train_items = [item for item in items if item["split"] == "train"]
    if not (out / "tokenizer").exists():
        texts = [item[key] for item in train_items for key in ("question", "answer") if item[key]]
        # The fixed parts of prompts should take few tokens, because they are computed with each sample.
        texts += ["system\nuser\nassistant\n", *SYSTEM_PROMPTS.values()] * 50
        tokenizer = train_tokenizer(texts, settings.lm.text_vocab_size, codec.config.codebook_size)
        with atomic_folder(out / "tokenizer") as folder:
            TtTProcessor(tokenizer, None).save_pretrained(folder)
    # 4. The first shards get one sample more, so that the sizes sum up to `samples`.
    processor = TtTProcessor.from_pretrained(out / "tokenizer")
    config = model_config(processor, codec, settings.lm)
    builder = SampleBuilder(processor, config, settings.lm.text_per_span, settings.lm.audio_per_span)
    examples = TinyMixture(train_items, codes, build_domain(), settings.lm.seed)
    sizes = [settings.lm.samples // SHARDS + (shard < settings.lm.samples % SHARDS) for shard in range(SHARDS)]
    # `datasets` divides the list `counts` among its processes. Its cache is a second copy of the samples: not kept.
    with tempfile.TemporaryDirectory(dir=out) as cache:
        samples = Dataset.from_generator(
            build_samples,
            gen_kwargs={
                "examples": examples,
                "builder": builder,
                "counts": list(enumerate(sizes)),
                "noise_copies": settings.lm.noise_copies,
            },
            cache_dir=cache,
            num_proc=min(SHARDS, os.cpu_count() or 1),
        )
        with atomic_folder(out / "samples", replace=True) as folder:
            samples.save_to_disk(str(folder))


def _placed_answers(
    out: Path, items: list[dict[str, Any]], codec: TtTTinyCodec, settings: ModelSettings
) -> dict[str, list[int]]:
    """Chooses the codes of the answers, see `placement.py`; saves them to OUT/placed.json and continues from there."""
    file = out / "placed.json"
    placed: dict[str, list[int]] = json.loads(file.read_text()) if file.exists() else {}
    missing = set(answers_of_domain(items)) - placed.keys()
    utterances = [row for row in read_rows(out / "data" / "utterances.jsonl") if row["id"] in missing]
    if not utterances:
        return placed
    recognizer = WhisperTranscriber(whisper_base(out / "whisper-base"))
    for name, codes in place_answers(utterances, out / "data", codec, recognizer, settings.answer_offsets):
        placed[name] = codes
        # An interrupted run loses only the answers since the last save.
        if len(placed) % ANSWERS_PER_SAVE == 0:
            atomic_write_text(file, json.dumps(placed))
    atomic_write_text(file, json.dumps(placed))
    return placed


def encode_utterances(
    data: Path,
    items: list[dict[str, Any]],
    codec: TtTTinyCodec,
    settings: ModelSettings,
    known: Collection[str] = (),
) -> dict[str, list[list[int]]]:
    """Encodes the training utterances: all of them clean, questions also with noise, reverberation and other speeds.

    Args:
        data: Folder of `utterances.jsonl` and the audio.
        items: Rows of `items.jsonl`; only those of the split `train` are encoded.
        codec: The trained codec.
        settings: `augmented_copies` and `seed`.
        known: Ids of utterances that are encoded already.

    Returns:
        Id of each other utterance -> codes of its variants, the clean one first.
    """
    train = [item for item in items if item["split"] == "train"]
    questions = {name for item in train for name in item["question_audio"]}
    wanted = questions | {item["answer_audio"] for item in train if item["answer_audio"]}
    wanted -= set(known)
    utterances = [row for row in read_rows(data / "utterances.jsonl") if row["id"] in wanted]
    utterances.sort(key=lambda row: row["seconds"])
    rng = np.random.default_rng(settings.seed)
    rate = codec.config.sampling_rate
    codes: dict[str, list[list[int]]] = {row["id"]: [] for row in utterances}
    for start in tqdm(range(0, len(utterances), ENCODING_BATCH), desc="encoding", unit="batch"):
        batch = utterances[start : start + ENCODING_BATCH]
        clips = [load_audio(data / row["audio"], None, rate) for row in batch]
        # The first pass encodes all clips as they are. The others encode variants of questions: answers are what the
        # model has to say, always clean.
        for copy in range(1 + settings.augmented_copies):
            chosen = [
                (row["id"], vary(clip, rate, codec.config.samples_per_code, rng) if copy else clip)
                for row, clip in zip(batch, clips)
                if not copy or row["id"] in questions
            ]
            for (name, _), encoded in zip(chosen, _encode(codec, [clip for _, clip in chosen])):
                codes[name].append(encoded)
    return codes


def _encode(codec: TtTTinyCodec, clips: list[np.ndarray]) -> Iterator[list[int]]:
    if not clips:
        return
    # Zero-padded waveforms, shape `(batch, samples)`; rows of codes end with -1.
    lengths = torch.tensor([len(clip) for clip in clips])
    padded = np.stack([np.pad(clip, (0, int(lengths.max()) - len(clip))) for clip in clips])
    with torch.no_grad():
        for row in codec.encode(torch.from_numpy(padded), lengths):
            yield row[row >= 0].tolist()


# -- model ------------------------------------------------------------------------------------------------------------


def model_config(processor: TtTProcessor, codec: TtTTinyCodec, settings: ModelSettings) -> TtTConfig:
    """Builds the configuration of the model: a small Qwen2 over the tokenizer's text and the codec's codes."""
    tokenizer = processor.tokenizer
    backbone = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden_size,
        intermediate_size=settings.intermediate_size,
        num_hidden_layers=settings.num_layers,
        num_attention_heads=settings.num_heads,
        num_key_value_heads=settings.num_kv_heads,
        max_position_embeddings=2048,
        rope_theta=10_000.0,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    ids = audio_token_ids(tokenizer)
    return TtTConfig(
        text_config=backbone,
        audio_token_start_id=ids.audio_token_start_id,
        audio_vocab_size=codec.config.codebook_size,
        mask_token_id=ids.mask_token_id,
        begin_audio_token_ids=ids.begin_audio_token_ids,
        end_audio_token_ids=ids.end_audio_token_ids,
        audio_attention=settings.audio_attention,
        audio_block_length=settings.audio_block_length,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


@torch.no_grad()
def place_codes_by_geometry(model: TtTForConditionalGeneration, codebook: torch.Tensor, seed: int) -> None:
    """Initializes the embeddings of audio codes from their quantizer digits.

    Each digit has a random direction, close for close digits, so that codes with common digits start close together.

    Args:
        model: Changed in place.
        codebook: The quantizer's vectors, shape `(audio_vocab_size, dimensions)`.
        seed: Seed of the random directions.
    """
    weight = model.get_input_embeddings().weight
    generator = torch.Generator().manual_seed(seed)
    # Features of a code: its digits as numbers, which are close for close digits, and one-hot; and a smaller part of
    # its own, so that no two codes are alike. Shape `(codes, dimensions + levels + codes)`.
    parts = torch.cat([codebook, code_digits(codebook), 0.5 * torch.eye(len(codebook))], dim=1)
    # A random projection to `(codes, hidden_size)`, then the scale of all other embeddings.
    rows = parts @ torch.randn(parts.shape[1], weight.shape[1], generator=generator)
    start = model.config.audio_code_offset
    weight[start : start + len(codebook)] = rows / rows.std() * model.config.get_text_config().initializer_range


def code_digits(codebook: torch.Tensor) -> torch.Tensor:
    """Computes the quantizer digits of each code, one-hot.

    Args:
        codebook: The quantizer's vectors, shape `(audio_vocab_size, dimensions)`.

    Returns:
        Ones and zeros, shape `(audio_vocab_size, sum of the numbers of levels)`.
    """
    columns = [torch.unique(column, return_inverse=True)[1] for column in codebook.T]
    return torch.cat([F.one_hot(column).float() for column in columns], dim=1)


def share_code_gradients(model: TtTForConditionalGeneration, codebook: torch.Tensor, share: float) -> None:
    """Adds to the gradient of each code a share of the gradients of all codes with a common quantizer digit.

    There are thousands of codes, and most are rare in a few hours of speech, while each of their digits is frequent.
    The gradients of the codes with a digit are summed, and `share` times the sum is added to the gradient of each of
    them. The architecture does not change: there is one embedding per code.

    Args:
        model: Gets a hook on its embeddings, to which the output layer is tied.
        codebook: The quantizer's vectors, shape `(audio_vocab_size, dimensions)`.
        share: Weight of the sums.
    """
    digits = code_digits(codebook)
    start = model.config.audio_code_offset

    def add_shared(gradient: torch.Tensor) -> torch.Tensor:
        # A hook must not change its argument. `codes` is a view: adding to it changes `total`.
        members = digits.to(gradient)
        total = gradient.clone()
        codes = total[start : start + len(members)]
        # `members.T @ codes` sums over the codes with a digit, `(levels, hidden_size)`; each code gets the sums of its
        # digits.
        codes += share * (members @ (members.T @ codes))
        return total

    model.get_input_embeddings().weight.register_hook(add_shared)


@torch.no_grad()
def spread_unseen_tokens(model: TtTForConditionalGeneration, seen: Collection[int], seed: int) -> None:
    """Adds noise to the embeddings of text tokens that are not in the training samples.

    Training pushes all of them away from the same hidden states until they are one vector. An adapter, which leaves
    embeddings unchanged, could then never learn a word that contains one of them. The noise has the standard deviation
    of the trained embeddings.

    Args:
        model: Changed in place.
        seen: Ids that occur in the samples.
        seed: Seed of the noise.
    """
    weight = model.get_input_embeddings().weight
    is_seen = torch.zeros(model.config.audio_token_start_id, dtype=torch.bool)
    is_seen[[token for token in seen if token < len(is_seen)]] = True
    text = weight[: len(is_seen)]
    # Noise is drawn for all tokens, so that the noise of one does not depend on which others are unseen.
    noise = torch.randn(text.shape, generator=torch.Generator().manual_seed(seed)) * text[is_seen].std()
    # `text` is a view of the embeddings.
    text[~is_seen] += noise[~is_seen].to(text)


# -- training ---------------------------------------------------------------------------------------------------------


@dataclass
class TinyCollator:
    """`TtTDataCollator` plus the transcripts of the user's audio, for the auxiliary recognition loss."""

    collator: TtTDataCollator

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = self.collator(features)
        transcripts = [feature["transcript_ids"] for feature in features]
        # At least one column, even if no row of the batch has a transcript.
        width = max(1, max(map(len, transcripts)))
        batch["transcript_ids"] = torch.tensor([ids + [-100] * (width - len(ids)) for ids in transcripts])
        return batch


class TinyTrainer(TtTTrainer):
    """Adds a CTC loss (Graves et al., 2006) that transcribes the user's audio.

    It is computed on the states of one layer with the model's own output head, the mask token being the blank. The
    lower layers learn to recognize speech much earlier than from the loss of the replies alone.

    Args:
        ctc_weight: Weight of the loss.
        ctc_layer: Layer whose states are used.
    """

    def __init__(self, *args: Any, ctc_weight: float, ctc_layer: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.ctc_weight = ctc_weight
        self.ctc_layer = ctc_layer

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        # The model does not know this argument: taken out before its `forward`. Shape `(rows, width)`.
        transcripts = inputs.pop("transcript_ids")
        spoken = (transcripts >= 0).any(dim=1)
        plain = self.accelerator.unwrap_model(model)
        # Evaluation reports the loss of the model alone.
        if not (model.training and self.ctc_weight and spoken.any()):
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        inputs["output_hidden_states"] = True
        # Codes of a reply have labels, codes of the user have none. Mask of shape `(rows, length)`.
        user_audio = (inputs["input_ids"] > plain.config.audio_token_start_id) & (inputs["labels"] < 0)
        user_audio &= inputs["position_ids"] == inputs["order_ids"]  # the clean sequence, not the noised copies
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        ctc = self._recognition_loss(
            plain, outputs.hidden_states[self.ctc_layer][spoken], user_audio[spoken], transcripts[spoken]
        )
        self._means[True].add("ctc_loss", ctc.detach(), 1)
        # Weighted as the model's own loss, by the samples of the batch relative to those of the step.
        loss = loss + self.ctc_weight * ctc * self._share_of_step(outputs, num_items_in_batch)
        return (loss, outputs) if return_outputs else loss

    def _recognition_loss(
        self, model: Any, hidden: torch.Tensor, user_audio: torch.Tensor, transcripts: torch.Tensor
    ) -> torch.Tensor:
        """Computes the CTC loss.

        Args:
            model: The model, for its output head.
            hidden: States of one layer, shape `(rows, length, hidden_size)`.
            user_audio: Mask of the user's codes, shape `(rows, length)`.
            transcripts: Token ids of the transcripts, padded with -100, shape `(rows, width)`.

        Returns:
            Mean loss per transcript token.
        """
        # 1. Gather the states of each row's codes at its beginning: (longest, rows, hidden_size), time first as CTC
        # takes it. The stable sort moves the codes to the front and keeps their order.
        lengths = user_audio.sum(dim=1)
        positions = user_audio.int().argsort(dim=1, descending=True, stable=True)[:, : int(lengths.max())]
        frames = hidden.take_along_dim(positions[..., None], dim=1).transpose(0, 1)
        # 2. Classify them, (longest, rows, start + 1): text tokens, and as last class the blank, with the output row
        # of the mask token.
        weight = model.get_output_embeddings().weight
        start, mask_id = model.config.audio_token_start_id, model.config.mask_token_id
        weight = torch.cat([weight[:start], weight[mask_id : mask_id + 1]])
        log_probs = F.log_softmax(F.linear(model.model.norm(frames), weight), dim=-1)
        # 3. Align. Padding must be valid ids, but is beyond `words`. A transcript with more tokens than codes cannot
        # be aligned: its infinite loss counts as zero.
        words = (transcripts >= 0).sum(dim=1)
        return F.ctc_loss(log_probs, transcripts.clamp(min=0), lengths, words, blank=start, zero_infinity=True)


def train(out: Path, settings: TinySettings) -> None:
    """Trains the language model on OUT/samples into OUT/model; continues from the last checkpoint there.

    1. Builds the model; similar audio codes get similar embeddings and share gradients.
    2. Sets the arguments of the Trainer.
    3. Trains.
    4. Writes the model to OUT/model/final, with the embeddings of unseen tokens spread.

    Args:
        out: The recipe's output root.
        settings: The recipe.
    """
    lm = settings.lm
    set_seed(lm.seed)
    processor = TtTProcessor.from_pretrained(out / "tokenizer")
    codec = load_codec(out / "codec")
    # 1. The model.
    config = model_config(processor, codec, lm)
    model = TtTForConditionalGeneration(config)
    place_codes_by_geometry(model, codec.codebook, lm.seed)
    share_code_gradients(model, codec.codebook, lm.code_gradient_share)
    logger.info("training %.2f M parameters", model.num_parameters() / 1e6)
    collator = TtTDataCollator(
        config, processor.tokenizer.pad_token_id, lm.objective, noise_copies=lm.noise_copies, seed=lm.seed
    )
    # 2. A GPU computes in one forward what processes and accumulation split on a CPU.
    on_gpu = training_device().type == "cuda"
    together = lm.processes * lm.gradient_accumulation if on_gpu else 1
    arguments = TrainingArguments(
        output_dir=str(out / "model"),
        max_steps=lm.steps,
        per_device_train_batch_size=lm.batch_size * together,
        gradient_accumulation_steps=1 if on_gpu else lm.gradient_accumulation,
        bf16=multiplies_bfloat16(),
        dataloader_num_workers=loader_workers() if on_gpu else 0,
        remove_unused_columns=False,
        optim="adamw_torch_fused",
        learning_rate=lm.learning_rate,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": 0.05},
        warmup_steps=lm.warmup_steps,
        weight_decay=lm.weight_decay,
        adam_beta2=lm.adam_beta2,
        max_grad_norm=lm.max_grad_norm,
        logging_steps=lm.logging_steps,
        save_steps=lm.save_steps,
        save_total_limit=2,
        report_to="none",
        seed=lm.seed,
        use_cpu=not on_gpu,
        ddp_find_unused_parameters=False,
    )
    samples = load_from_disk(str(out / "samples"))
    trainer = TinyTrainer(
        model=model,
        args=arguments,
        train_dataset=samples,
        data_collator=TinyCollator(collator),
        processing_class=processor.tokenizer,
        ctc_weight=lm.ctc_weight,
        ctc_layer=lm.ctc_layer,
    )
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(out / "model")) if (out / "model").is_dir() else None)
    # 4. In one process. Tokens are read in Arrow chunks: as Python lists, all samples would be many times as large.
    if not is_first_process():
        return
    chunks = [chunk for name in ("input_ids", "transcript_ids") for chunk in samples.data.column(name).chunks]
    seen = {int(token) for chunk in chunks for token in np.unique(chunk.flatten().to_numpy())}
    spread_unseen_tokens(model, seen, lm.seed)
    with atomic_folder(out / "model" / "final", replace=True) as folder:
        model.save_pretrained(folder)
    trainer.state.save_to_json(str(out / "model" / "trainer_state.json"))
