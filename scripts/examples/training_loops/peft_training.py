"""LearnedOptimizer on peft's adapters: a small GPT-2 of one book learns another by LoRA.

    python -m scripts.examples.training_loops.peft_training

The rule is given the parameters that are trained, the adapters alone. Each training is a new optimizer with a
``num_steps`` of its own, and without a scheduler: the rule anneals by itself.
"""

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from l2l_opt import LearnedOptimizer
from l2l_opt.tasks.text.corpus import shipped_text

LENGTH = 32
SMALL = {"n_positions": LENGTH, "n_embd": 32, "n_layer": 2, "n_head": 4, "bos_token_id": None, "eos_token_id": None}


def train(model: nn.Module, book: str, steps: int) -> None:
    text = shipped_text(book).places.long().unfold(0, LENGTH, LENGTH)
    trained = [param for param in model.parameters() if param.requires_grad]
    # torch.optim.AdamW(trained, lr=1e-3) could stand here.
    optimizer = LearnedOptimizer(trained, num_steps=steps)
    losses = []
    for _ in range(steps):
        batch = text[torch.randint(len(text), (32,))]
        loss = model(input_ids=batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    first, last = (sum(part) / len(part) for part in (losses[:10], losses[-10:]))
    print(f"{book}, {sum(map(torch.numel, trained)):,} parameters: training loss {first:.3f} to {last:.3f}")


def main(steps: int = 200) -> None:
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(shipped_text("psalms").alphabet), **SMALL))
    train(model, "northanger_abbey", steps)
    adapters = LoraConfig(r=4, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True)
    train(get_peft_model(model, adapters), "psalms", steps)


if __name__ == "__main__":
    main()
