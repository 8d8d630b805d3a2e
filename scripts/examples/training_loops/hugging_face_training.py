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


def main(steps: int = 200) -> None:
    torch.manual_seed(0)
    text = shipped_text("psalms")
    stretches = text.places.long().unfold(0, LENGTH, LENGTH)
    examples = [{"input_ids": stretch, "labels": stretch} for stretch in stretches]
    border = len(examples) * 9 // 10
    config = GPT2Config(
        vocab_size=len(text.alphabet),
        n_positions=LENGTH,
        n_embd=32,
        n_layer=2,
        n_head=4,
        bos_token_id=None,
        eos_token_id=None,
    )
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            max_steps=steps,
            per_device_train_batch_size=32,
            lr_scheduler_type="constant",
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            logging_steps=steps // 10,
        )
        trainer = Trainer(
            GPT2LMHeadModel(config),
            arguments,
            train_dataset=Subset(examples, range(border)),
            eval_dataset=Subset(examples, range(border, len(examples))),
            # (torch.optim.AdamW, {"lr": 1e-3}) could stand here.
            optimizer_cls_and_kwargs=(LearnedOptimizer, {"num_steps": arguments.max_steps}),
        )
        trainer.train()
        first, *_, last = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        test_loss = trainer.evaluate()["eval_loss"]
    print(f"training loss {float(first):.3f} to {float(last):.3f}; test loss {test_loss:.3f}")


if __name__ == "__main__":
    main()
