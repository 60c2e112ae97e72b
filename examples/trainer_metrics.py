"""Word and character error rate in `compute_metrics` of a stock `Seq2SeqTrainer`.

python examples/trainer_metrics.py --steps 100

Trains a small T5 from scratch to answer eight questions, and evaluates it by generation along the way. The same
`compute_metrics` serves any model whose replies are text, such as Whisper fine-tuned for speech recognition.
"""

from __future__ import annotations

import argparse
import tempfile

import evaluate
import numpy as np
from transformers import (
    ByT5Tokenizer,
    DataCollatorForSeq2Seq,
    EvalPrediction,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    T5Config,
    T5ForConditionalGeneration,
    set_seed,
)

from ttt_hf.evaluation import load_metric


ANSWERS = {
    "grass": "Grass is green.",
    "snow": "Snow is white.",
    "ravens": "Ravens are black.",
    "lemons": "Lemons are yellow.",
    "blood": "Blood is red.",
    "elephants": "Elephants are grey.",
    "carrots": "Carrots are orange.",
    "the sky": "The sky is blue.",
}


def main(steps: int) -> dict[str, float]:
    set_seed(0)
    tokenizer = ByT5Tokenizer()
    model = T5ForConditionalGeneration(
        T5Config(
            vocab_size=len(tokenizer),
            d_model=96,
            d_kv=24,
            d_ff=192,
            num_heads=4,
            num_layers=2,
            dropout_rate=0.0,
            decoder_start_token_id=tokenizer.pad_token_id,
        )
    )
    samples = [
        {**tokenizer(question), "labels": tokenizer(answer)["input_ids"]} for question, answer in ANSWERS.items()
    ]

    # Each metric takes the options of its scorer when it is loaded; combined, they share predictions and references.
    metrics = evaluate.combine([load_metric("wer"), load_metric("cer", normalizer="verbatim")])

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        # -100 is no token: the trainer pads labels with it.
        predicted, labels = (
            tokenizer.batch_decode(np.where(ids < 0, tokenizer.pad_token_id, ids), skip_special_tokens=True)
            for ids in (prediction.predictions, prediction.label_ids)
        )
        scores = metrics.compute(predictions=predicted, references=labels)
        return {name: scores[name] for name in ("wer", "wer_low", "wer_high", "cer")}

    with tempfile.TemporaryDirectory() as folder:
        trainer = Seq2SeqTrainer(
            model=model,
            args=Seq2SeqTrainingArguments(
                folder,
                max_steps=steps,
                per_device_train_batch_size=len(samples),
                per_device_eval_batch_size=len(samples),
                learning_rate=3e-3,
                eval_strategy="steps",
                eval_steps=steps // 2,
                logging_steps=steps // 2,
                predict_with_generate=True,
                generation_max_length=24,
                save_strategy="no",
                report_to="none",
                use_cpu=True,
                disable_tqdm=True,
            ),
            train_dataset=samples,
            eval_dataset=samples,
            data_collator=DataCollatorForSeq2Seq(tokenizer, model),
            compute_metrics=compute_metrics,
        )
        trainer.train()
    return trainer.evaluate()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100, help="training steps")
    scores = main(parser.parse_args().steps)
    low, high = scores["eval_wer_low"], scores["eval_wer_high"]
    print(f"word error rate {scores['eval_wer']:.1%} ({low:.1%} to {high:.1%}), characters {scores['eval_cer']:.1%}")
