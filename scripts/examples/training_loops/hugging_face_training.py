"""LearnedOptimizer in Hugging Face's Trainer: a small GPT-2 learns the characters of the Psalms.

    python -m scripts.examples.training_loops.hugging_face_training

The Trainer's own schedule lets the rate fall to 0: ``lr_scheduler_type="constant"`` leaves annealing to the rule, which
is given the number of steps that the Trainer is given.
"""

import tempfile

import torch
from torch.utils.data import Subset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from l2l_opt import LearnedOptimizer
from l2l_opt.tasks.text.corpus import shipped_text

LENGTH = 32
SMALL = {"n_positions": LENGTH, "n_embd": 32, "n_layer": 2, "n_head": 4, "bos_token_id": None, "eos_token_id": None}


def main(steps: int = 200) -> None:
    torch.manual_seed(0)
    text = shipped_text("psalms")
    examples = [{"input_ids": part, "labels": part} for part in text.places.long().unfold(0, LENGTH, LENGTH)]
    border = len(examples) * 9 // 10
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, max_steps=steps, lr_scheduler_type="constant", per_device_train_batch_size=32, report_to="none"
        )
        trainer = Trainer(
            GPT2LMHeadModel(GPT2Config(vocab_size=len(text.alphabet), **SMALL)),
            arguments,
            train_dataset=Subset(examples, range(border)),
            eval_dataset=Subset(examples, range(border, len(examples))),
            # (torch.optim.AdamW, {"lr": 1e-3}) could stand here.
            optimizer_cls_and_kwargs=(LearnedOptimizer, {"num_steps": arguments.max_steps}),
        )
        training_loss = trainer.train().training_loss
        print(f"mean training loss {training_loss:.3f}; test loss {trainer.evaluate()['eval_loss']:.3f}")


if __name__ == "__main__":
    main()
