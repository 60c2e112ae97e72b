"""Fine-tunes a LoRA adapter for speech recognition with transformers' `Trainer` and PEFT.

python examples/finetune_lora.py recordings/metadata.csv --out adapter --steps 4

The table has the columns `file_name` (relative to the table) and `text`. `ttt-hf train lora_asr` does the same with
cached codes, augmentation, packing and a model card.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import Trainer, TrainingArguments

from ttt_hf import TtTForConditionalGeneration, TtTProcessor, embedded_checkpoint
from ttt_hf.data import SampleBuilder, TtTDataCollator, canonical_row, encode_row


def main(table: Path, out: Path, steps: int, model_id: str) -> None:
    model = TtTForConditionalGeneration.from_pretrained(model_id, dtype=torch.float32)
    processor = TtTProcessor.from_pretrained(model_id)

    # One sample per row: the chat prompt with the recording's codes, then the transcript as the assistant's reply.
    build_sample = SampleBuilder(processor, model.config)
    samples = []
    with open(table, encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            row = canonical_row({"audio": line["file_name"], "text": line["text"]}, task="asr", folder=table.parent)
            encoded, _ = encode_row(row, processor.codec)
            samples.append(build_sample(encoded))

    # The adapter recognises speech and says nothing new: the rows of the audio tokens can stay frozen.
    adapter = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    trainer = Trainer(
        model=get_peft_model(model, adapter),
        args=TrainingArguments(
            output_dir=str(out),
            max_steps=steps,
            per_device_train_batch_size=2,
            learning_rate=1e-3,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            remove_unused_columns=False,  # the collator makes the inputs of forward() out of input_ids and labels
        ),
        train_dataset=samples,
        data_collator=TtTDataCollator(model.config, processor.tokenizer.pad_token_id),
    )
    trainer.train()
    trainer.save_model(str(out))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, help="CSV file with the columns file_name and text")
    parser.add_argument("--out", type=Path, default=Path("adapter"), help="folder of the adapter")
    parser.add_argument("--steps", type=int, default=100, help="optimizer steps")
    parser.add_argument("--model", default=embedded_checkpoint(), help="folder or Hub id")
    arguments = parser.parse_args()
    main(arguments.table, arguments.out, arguments.steps, arguments.model)
