"""LearnedOptimizer in other people's training loops, beside AdamW at 1e-3 there; needs the extra [frameworks].

    python -m scripts.experiments.optimizer.measure_frameworks

Each client trains one small network for 80 steps as its own tutorial does, where the optimizer's class is all that
differs; then it trains for 40, saves, and goes on in fresh objects. Writes results/optimizer/frameworks.json and, from
it, the tables of results/optimizer/README.md.
"""

import json
import logging
import math
import os
import re
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, TensorDataset

from l2l_opt import LearnedOptimizer
from l2l_opt.tasks.images.datasets import load_digits
from scripts.experiments import records

FOLDER = records.RESULTS / "optimizer"
PAGE = FOLDER / "README.md"
EPOCHS, BATCHES, BATCH_SIZE = 4, 20, 64
STEPS = EPOCHS * BATCHES
OURS = re.compile(r"lr multiplies|.* in a group has no effect|num_steps is the planned|.* diverged at its step")
"""Warnings of LearnedOptimizer."""


@dataclass(frozen=True)
class Job:
    """A training run, or a half of one, for a client to make.

    Attributes:
        folder: where the client saves, and what it resumes from.
        optimizer: a class of optimizers.
        options: of the optimizer, by keyword.
        peak: rate at the top of schedules that have one.
        seed: of the initial weights and of what the client draws.
        start: epochs of an earlier run, whose end lies in the folder.
        stop: epochs after which to stop, of ``EPOCHS`` that are planned.
    """

    folder: Path
    optimizer: type[torch.optim.Optimizer] = LearnedOptimizer
    options: dict[str, Any] = field(default_factory=dict)
    peak: float = 1.0
    seed: int = 0
    start: int = 0
    stop: int = EPOCHS

    def network(self) -> nn.Module:
        """A fresh network; other weights where a saved one takes their place."""
        return network(self.seed + 100 * (self.start > 0))

    def make(self, params: Any) -> torch.optim.Optimizer:
        return self.optimizer(params, **self.options)

    @property
    def file(self) -> Path:
        return self.folder / "checkpoint.pt"


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def dataset() -> TensorDataset:
    data = load_digits()
    count = BATCHES * BATCH_SIZE
    return TensorDataset(data.train_images[:count].flatten(1), data.train_labels[:count])


def loader() -> DataLoader[Any]:
    return DataLoader(dataset(), batch_size=BATCH_SIZE)


def training_loss(model: nn.Module) -> float:
    """Of all examples, after training."""
    inputs, labels = dataset().tensors
    with torch.no_grad():
        return nn.functional.cross_entropy(model.eval()(inputs), labels).item()


def plain_loop(job: Job, schedule: Callable[[Any], lr_scheduler.LRScheduler] | None = None) -> nn.Module:
    """A loop of one's own in PyTorch, with perhaps a scheduler, stepped after every batch."""
    model = job.network()
    optimizer = job.make(model.parameters())
    parts: list[Any] = [model, optimizer] + ([schedule(optimizer)] if schedule else [])
    if job.start:
        for part, state in zip(parts, torch.load(job.file), strict=True):
            part.load_state_dict(state)
    for _ in range(job.start, job.stop):
        for inputs, labels in loader():
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
            if schedule:
                parts[2].step()
    torch.save([part.state_dict() for part in parts], job.file)
    return model


def hugging_face_trainer(job: Job, schedule: str) -> nn.Module:
    from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = job.network()

        def forward(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
            logits = self.network(inputs)
            return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}

    class Stop(TrainerCallback):
        def on_epoch_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
            control.should_training_stop = round(state.epoch) >= job.stop

    model = Classifier()
    arguments = TrainingArguments(
        output_dir=str(job.folder),
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=BATCH_SIZE,
        lr_scheduler_type=schedule,
        save_strategy="epoch",
        seed=job.seed,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        logging_strategy="no",
    )
    trainer = Trainer(
        model,
        arguments,
        train_dataset=[{"inputs": inputs, "labels": label} for inputs, label in dataset()],
        optimizer_cls_and_kwargs=(job.optimizer, job.options),
        callbacks=[Stop()],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=bool(job.start))
    return model.network


def lightning_trainer(job: Job) -> nn.Module:
    import lightning

    class Classifier(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = job.network()

        def training_step(self, batch: list[Tensor]) -> Tensor:
            inputs, labels = batch
            return nn.functional.cross_entropy(self.network(inputs), labels)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return job.make(self.parameters())

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    model = Classifier()
    trainer = lightning.Trainer(
        max_epochs=job.stop,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=job.folder,
    )
    trainer.fit(model, loader(), ckpt_path=job.file if job.start else None, weights_only=True)
    trainer.save_checkpoint(job.file)
    return model.network


def accelerate_loop(job: Job) -> nn.Module:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    model = job.network()
    model, optimizer, batches = accelerator.prepare(model, job.make(model.parameters()), loader())
    if job.start:
        accelerator.load_state(str(job.folder))
    for _ in range(job.start, job.stop):
        for inputs, labels in batches:
            optimizer.zero_grad()
            accelerator.backward(nn.functional.cross_entropy(model(inputs), labels))
            optimizer.step()
    accelerator.save_state(str(job.folder))
    return accelerator.unwrap_model(model)


def skorch_classifier(job: Job) -> nn.Module:
    from skorch import NeuralNetClassifier

    classifier = NeuralNetClassifier(
        job.network(),
        criterion=nn.CrossEntropyLoss,
        optimizer=job.optimizer,
        **{key if key == "lr" else f"optimizer__{key}": value for key, value in job.options.items()},
        batch_size=BATCH_SIZE,
        max_epochs=job.stop - job.start,
        train_split=None,
        verbose=0,
    ).initialize()
    saved = {"f_params": job.folder / "params.pt", "f_optimizer": job.file}
    if job.start:
        classifier.load_params(**saved)
    classifier.partial_fit(*dataset().tensors)
    classifier.save_params(**saved)
    return classifier.module_


def ignite_engine(job: Job) -> nn.Module:
    from ignite.engine import Events, create_supervised_trainer
    from ignite.handlers import Checkpoint, DiskSaver

    model = job.network()
    optimizer = job.make(model.parameters())
    trainer = create_supervised_trainer(model, optimizer, nn.CrossEntropyLoss())
    parts = {"model": model, "optimizer": optimizer, "trainer": trainer}
    saver = DiskSaver(str(job.folder), require_empty=False)
    checkpoint = Checkpoint(parts, saver, filename_pattern="checkpoint.pt", n_saved=None)
    trainer.add_event_handler(Events.EPOCH_COMPLETED(once=job.stop), checkpoint)
    if job.start:
        Checkpoint.load_objects(parts, job.file)
    trainer.run(loader(), max_epochs=job.stop)
    return model


def fastai_learner(job: Job, one_cycle: bool = False) -> nn.Module:
    from fastai.callback import schedule  # noqa: F401 - gives learners fit_one_cycle
    from fastai.callback.core import Callback, CancelFitException
    from fastai.data.core import DataLoaders
    from fastai.data.load import DataLoader as Loader
    from fastai.learner import Learner
    from fastai.optimizer import OptimWrapper

    class Stop(Callback):
        def after_epoch(self) -> None:
            if self.epoch + 1 == job.stop:
                raise CancelFitException

    learner = Learner(
        DataLoaders(Loader(dataset(), bs=BATCH_SIZE), Loader(dataset(), bs=BATCHES * BATCH_SIZE)),
        job.network(),
        nn.CrossEntropyLoss(),
        opt_func=partial(OptimWrapper, opt=job.optimizer),
        path=job.folder,
        model_dir=".",
        cbs=[Stop()],
    )
    if job.start:
        learner.create_opt()
        learner.load("checkpoint")
    with learner.no_bar(), learner.no_logging():
        if one_cycle:
            learner.fit_one_cycle(EPOCHS, job.peak, start_epoch=job.start)
        else:
            learner.fit(EPOCHS, **job.options, start_epoch=job.start)
    learner.save("checkpoint")
    return learner.model


def timm_factory(job: Job, schedule: str | None) -> nn.Module:
    from timm.optim import OptimInfo, create_optimizer_v2, list_optimizers
    from timm.optim._optim_factory import default_registry
    from timm.scheduler import create_scheduler_v2

    if "learnedoptimizer" not in list_optimizers():
        default_registry.register(OptimInfo("learnedoptimizer", LearnedOptimizer, has_eps=False, has_betas=False))
    model = job.network()
    optimizer = create_optimizer_v2(model, opt=job.optimizer.__name__.lower(), **job.options)
    scheduler, _ = create_scheduler_v2(optimizer, sched=schedule, num_epochs=EPOCHS) if schedule else (None, 0)
    if job.start:
        states = torch.load(job.file)
        model.load_state_dict(states["model"])
        optimizer.load_state_dict(states["optimizer"])
    for epoch in range(job.start, job.stop):
        if scheduler is not None:
            scheduler.step(epoch)
        for inputs, labels in loader():
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, job.file)
    return model


def opacus_engine(job: Job) -> nn.Module:
    from opacus import PrivacyEngine

    engine, noise, model = PrivacyEngine(), torch.Generator().manual_seed(job.seed), job.network()
    model, optimizer, batches = engine.make_private(
        module=model,
        optimizer=job.make(model.parameters()),
        data_loader=loader(),
        noise_multiplier=0.5,
        max_grad_norm=1.0,
        poisson_sampling=False,
        noise_generator=noise,
    )
    if job.start:
        noise.set_state(engine.load_checkpoint(path=job.file, module=model, optimizer=optimizer)["noise"])
    for _ in range(job.start, job.stop):
        for inputs, labels in batches:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
    more = {"noise": noise.get_state()}
    engine.save_checkpoint(path=job.file, module=model, optimizer=optimizer, checkpoint_dict=more)
    return model


def peft_adapters(job: Job) -> nn.Module:
    from peft import LoraConfig, PeftModel, get_peft_model

    base = network(job.seed)
    if job.start:
        model = PeftModel.from_pretrained(base, str(job.folder), is_trainable=True)
    else:
        model = get_peft_model(base, LoraConfig(r=8, target_modules=["0"], modules_to_save=["2"]))
    optimizer = job.make(param for param in model.parameters() if param.requires_grad)
    if job.start:
        optimizer.load_state_dict(torch.load(job.file))
    for _ in range(job.start, job.stop):
        for inputs, labels in loader():
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
    model.save_pretrained(str(job.folder))
    torch.save(optimizer.state_dict(), job.file)
    return model


def keras_loop(job: Job) -> nn.Module:
    os.environ["KERAS_BACKEND"] = "torch"
    import keras

    keras.utils.set_random_seed(job.seed + 100 * (job.start > 0))
    layers = [keras.layers.Dense(32, activation="relu"), keras.layers.Dense(10)]
    model = keras.Sequential([keras.Input((64,)), *layers])
    optimizer = job.make(model.parameters())
    if job.start:
        model.load_weights(job.folder / "model.weights.h5")
        optimizer.load_state_dict(torch.load(job.file))
    for _ in range(job.start, job.stop):
        for inputs, labels in loader():
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
    model.save_weights(job.folder / "model.weights.h5")
    torch.save(optimizer.state_dict(), job.file)
    return model


def flat_shards() -> str:
    """What accelerate does with FSDP1, which it has on accelerators alone: here the switch is set by hand.

    Returns:
        The refusal: the default rule looks at whole tensors, and cannot see them in flat shards.
    """
    from accelerate import Accelerator, DistributedType, FullyShardedDataParallelPlugin
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)  # it is one for the process
    with tempfile.TemporaryDirectory() as name:
        torch.distributed.init_process_group("gloo", init_method=f"file://{name}/meeting", rank=0, world_size=1)
        try:
            accelerator = Accelerator(cpu=True)
            accelerator.state.distributed_type = DistributedType.FSDP
            accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(fsdp_version=1)
            model = accelerator.prepare(network(0))
            accelerator.prepare(LearnedOptimizer(model.parameters()))
        except ValueError as refusal:
            return str(refusal)
        finally:
            AcceleratorState._reset_state(reset_partial_state=True)
            torch.distributed.destroy_process_group()
    raise AssertionError("flat shards must be refused")


@dataclass(frozen=True)
class Client:
    """Someone else's training loop.

    Attributes:
        package: on PyPI, and its module.
        name: of what is used of it.
        train: makes a run.
        note: what a user of it has to know.
        options: of LearnedOptimizer there; a client that has a rate of its own must be given 1.
    """

    package: str
    name: str
    train: Callable[[Job], nn.Module]
    note: str = ""
    options: dict[str, Any] = field(default_factory=dict)


CLIENTS = [
    Client("torch", "a loop of one's own", plain_loop),
    Client(
        "transformers",
        "Trainer, rate constant",
        partial(hugging_face_trainer, schedule="constant"),
        '`lr_scheduler_type="constant", optimizer_cls_and_kwargs=(LearnedOptimizer, {})`',
    ),
    Client("transformers", "Trainer, rate falls to 0", partial(hugging_face_trainer, schedule="linear"), "its default"),
    Client("lightning", "Trainer", lightning_trainer),
    Client("accelerate", "Accelerator", accelerate_loop),
    Client("skorch", "NeuralNetClassifier", skorch_classifier, "given `lr=1.0`", {"lr": 1.0}),
    Client("skorch", "NeuralNetClassifier", skorch_classifier, "its own rate, .01"),
    Client("pytorch-ignite", "create_supervised_trainer", ignite_engine),
    Client("fastai", "fit", fastai_learner, "given `lr=1.0`", {"lr": 1.0}),
    Client("fastai", "fit", fastai_learner, "its own rate, .001"),
    Client("fastai", "fit_one_cycle", partial(fastai_learner, one_cycle=True), "given `lr_max=1.0`"),
    Client("timm", "create_optimizer_v2", partial(timm_factory, schedule=None), "after `default_registry.register`"),
    Client("timm", "create_scheduler_v2", partial(timm_factory, schedule="cosine"), "cosine over epochs"),
    Client("opacus", "PrivacyEngine", opacus_engine, "gradients clipped to 1, noise of .5"),
    Client("peft", "LoraConfig", peft_adapters, "LoRA of rank 8 on one layer, the other trained whole"),
    Client("keras", "a loop in torch", keras_loop, "backend torch; initial weights of its own"),
]

SCHEDULES: dict[str, Callable[[Any, float], lr_scheduler.LRScheduler] | None] = {
    "none": None,
    "LinearLR to 0": lambda o, peak: lr_scheduler.LinearLR(o, 1.0, 0.0, total_iters=STEPS),
    "CosineAnnealingLR": lambda o, peak: lr_scheduler.CosineAnnealingLR(o, STEPS),
    "OneCycleLR(max_lr=1.0)": lambda o, peak: lr_scheduler.OneCycleLR(o, peak, total_steps=STEPS + 1),
    "CyclicLR(.1, 1.0)": lambda o, peak: lr_scheduler.CyclicLR(o, peak / 10, peak, step_size_up=BATCHES),
}
"""Rates of a loop of one's own, as multiples of the peak, stepped after every batch."""


def measure(train: Callable[[Job], nn.Module], optimizer: dict[str, Any], seed: int) -> dict[str, Any]:
    """One training run: its loss, that of the same run resumed half-way, and what LearnedOptimizer warned of."""
    with (
        tempfile.TemporaryDirectory() as whole,
        tempfile.TemporaryDirectory() as halves,
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("always")
        job = Job(Path(whole), seed=seed, **optimizer)
        loss = training_loss(train(job))
        job = replace(job, folder=Path(halves), stop=EPOCHS // 2)
        train(job)
        resumed = training_loss(train(replace(job, start=EPOCHS // 2, stop=EPOCHS)))
    said = {str(warning.message).partition(":")[0] for warning in caught if OURS.match(str(warning.message))}
    return {"loss": loss, "resumed": resumed, "said": sorted(said)}


def beside_adamw(train: Callable[[Job], nn.Module], seeds: int, **options: Any) -> dict[str, Any]:
    """Losses of both optimizers over seeds, and the loss ratio, above 1 where the rule is better."""
    adamw = {"optimizer": torch.optim.AdamW, "options": {"lr": 1e-3}, "peak": 1e-3}
    runs = {
        name: [measure(train, made, seed) for seed in range(seeds)]
        for name, made in {"default": {"options": options}, "adamw": adamw}.items()
    }
    losses = {name: [run["loss"] for run in found] for name, found in runs.items()}
    ratios = [theirs / ours for ours, theirs in zip(losses["default"], losses["adamw"], strict=True)]
    return {
        "losses": losses,
        "ratio": math.exp(sum(map(math.log, ratios)) / seeds),
        "resumed_equal": all(run["loss"] == run["resumed"] for run in runs["default"]),
        "said": sorted({said for run in runs["default"] for said in run["said"]}),
    }


def measure_clients(seeds: int) -> list[dict[str, Any]]:
    """A row for each client; of one that is not there or fails, the reason."""
    rows: list[dict[str, Any]] = []
    for client in CLIENTS:
        row: dict[str, Any] = {"client": client.package, "used": client.name, "note": client.note}
        try:
            row["version"] = metadata.version(client.package)
            row |= beside_adamw(client.train, seeds, **client.options)
        except Exception as error:  # noqa: BLE001 - whatever it is, the table has it
            row["failed"] = f"{type(error).__name__}: {error}"
        click.echo(json.dumps(row))
        rows.append(row)
    return rows


def measure_schedules(seeds: int) -> list[dict[str, Any]]:
    """A row for each schedule, with the number of steps given to the rule and without."""
    rows: list[dict[str, Any]] = []
    for name, schedule in SCHEDULES.items():
        for planned in ({}, {"num_steps": STEPS}):

            def train(job: Job, schedule: Any = schedule) -> nn.Module:
                return plain_loop(job, schedule and (lambda optimizer: schedule(optimizer, job.peak)))

            rows.append({"schedule": name, "num_steps": bool(planned), **beside_adamw(train, seeds, **planned)})
            click.echo(json.dumps(rows[-1]))
    return rows


def _cells(row: dict[str, Any]) -> list[str]:
    losses = [sum(row["losses"][name]) / len(row["losses"][name]) for name in ("default", "adamw")]
    return [*(f"{loss:.3f}" for loss in losses), f"{row['ratio']:.1f}", "yes" if row["resumed_equal"] else "no"]


def _said(row: dict[str, Any]) -> str:
    return "; ".join(filter(None, [row.get("note", ""), *(f"warns: {said}" for said in row["said"])]))


def tables(content: dict[str, Any]) -> dict[str, str]:
    """What the page has of the results, by the names of its marks."""
    measured = ["loss", "AdamW's", "ratio", "resumed equal"]
    clients = [["client", "version", "used", *measured, "note"]]
    for row in content["clients"]:
        about = [row["client"], row.get("version", "not installed"), row["used"]]
        clients.append([*about, *([""] * 4 + [row["failed"]] if "failed" in row else [*_cells(row), _said(row)])])
    schedules = [["schedule", "`num_steps`", *measured, "note"]]
    for row in content["schedules"]:
        schedules.append([row["schedule"], "80" if row["num_steps"] else "", *_cells(row), _said(row)])
    refusal = f"> {content['accelerate with FSDP1']}"
    return {"clients": _table(clients), "schedules": _table(schedules), "fsdp1": refusal}


def _table(rows: list[list[str]]) -> str:
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def page() -> str:
    """The page with its tables as the results have them."""
    text = PAGE.read_text()
    for name, table in tables(json.loads((FOLDER / "frameworks.json").read_text())).items():
        marked = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.S)
        text = marked.sub(lambda found, table=table: f"{found[1]}{table}\n{found[2]}", text)
    return text


@click.command()
@click.option("--seeds", default=3)
def main(seeds: int) -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"
    torch.set_num_threads(1)
    content = {
        "steps": STEPS,
        "seeds": seeds,
        "loss": "mean training loss of all examples after the last step",
        "clients": measure_clients(seeds),
        "schedules": measure_schedules(seeds),
        "accelerate with FSDP1": flat_shards(),
    }
    records.write(FOLDER / "frameworks.json", content)
    PAGE.write_text(page())


if __name__ == "__main__":
    main()
