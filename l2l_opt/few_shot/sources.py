"""Episodes by name: ``omniglot:ways=5,shots=1``, ``images:folder=photos``, ``table:file=rows.csv,label=fraud``."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor

from l2l_opt.checks import check_choices
from l2l_opt.few_shot.classifier.image_folder import read_image_folder
from l2l_opt.few_shot.episodes import (
    PHASES,
    ClassEpisodes,
    EpisodeSource,
    ImbalancedEpisodes,
    SinusoidEpisodes,
    split_classes,
)
from l2l_opt.few_shot.omniglot import load_omniglot
from l2l_opt.registry import Registry, parse_spec
from l2l_opt.tasks.tables.encoder import TableEncoder
from l2l_opt.tasks.tables.table import read_table

Phase = Literal["meta-train", "validation", "test"]

EPISODES: Registry[EpisodeSource] = Registry("source of episodes", beside=("phase", "device", "dtype"))
"""Factories that take ``device``, ``dtype`` and, if their phases differ, ``phase``; options follow."""

SPLIT = "3x1x1"
"""Parts of the classes, or rows, for each phase, where data have no split of their own."""


def register_episodes(name: str) -> Callable[[Callable[..., EpisodeSource]], Callable[..., EpisodeSource]]:
    """Decorator that enters a source of episodes: a function of ``phase``, ``device``, ``dtype`` and options.

    Raises:
        ValueError: the name is taken.
    """

    def enter(factory: Callable[..., EpisodeSource]) -> Callable[..., EpisodeSource]:
        EPISODES.register(name, factory)
        return factory

    return enter


def make_episodes(
    spec: str, *, phase: Phase, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> EpisodeSource:
    """Episodes of one phase from ``name`` or ``name:option=value,...``.

    Raises:
        ValueError: unknown source, unknown option, bad value or bad data.
        FileNotFoundError: the data are not on this machine.
    """
    check_choices(dict.fromkeys(PHASES), phase=phase)
    name, options = parse_spec(spec)
    given = {"phase": phase, "device": device, "dtype": dtype}
    EPISODES.check_names(name, options)
    known = EPISODES.parameters(name)
    return EPISODES.make(name, **{**options, **{key: value for key, value in given.items() if key in known}})


@register_episodes("sinusoids")
def sinusoids(*, device: Any, dtype: torch.dtype, shots: int = 10, queries: int = 10) -> EpisodeSource:
    """Regression of sine waves of random amplitude and phase; one distribution, whatever episodes are for.

    Args:
        device: of the episodes.
        dtype: of them.
        shots: points to learn from.
        queries: points of the query set.

    Source: arXiv 1703.03400, section 5.1.
    """
    return SinusoidEpisodes(shots=shots, queries=queries, device=device, dtype=dtype)


@register_episodes("omniglot")
def omniglot(
    *,
    phase: Phase,
    device: Any,
    dtype: torch.dtype,
    ways: int = 5,
    shots: int = 1,
    queries: int = 5,
    split: str = "random",
    rotations: bool = True,
    root: str | None = None,
) -> EpisodeSource:
    """Hand-written characters.

    Args:
        phase: meta-train, validation or test.
        device: of the episodes.
        dtype: of them.
        ways: characters an episode.
        shots: drawings of each to learn from.
        queries: drawings of each of the query set.
        split: ``random``, 1,200 characters drawn once to meta-train on (100 of them for validation) and 423 to test,
            as in MAML's paper; ``background``, the authors' 964 (100 for validation) and their evaluation set.
        rotations: whether turned characters are characters of their own in meta-training.
        root: the folder to look in.
    """
    check_choices({"random": None, "background": None}, split=split)
    data = load_omniglot(root)
    order = torch.randperm(len(data.images), generator=torch.Generator().manual_seed(0))
    if split == "background":
        order = torch.cat([order[data.background[order]], order[~data.background[order]]])
        known = int(data.background.sum())
    else:
        known = len(order) * 1200 // 1623
    held_back = known // 12 if split == "random" else known * 100 // 964
    classes = {
        "meta-train": order[: known - held_back],
        "validation": order[known - held_back : known],
        "test": order[known:],
    }[phase]
    characters, drawings = data.images.shape[:2]
    return ClassEpisodes(
        data.images.flatten(0, 1),
        torch.arange(characters).repeat_interleave(drawings),
        classes=classes,
        ways=ways,
        shots=shots,
        queries=queries,
        rotations=rotations and phase == "meta-train",
        device=device,
        dtype=dtype,
    )


@register_episodes("clusters")
def clusters(
    *,
    phase: Phase,
    device: Any,
    dtype: torch.dtype,
    ways: int = 5,
    shots: int = 1,
    queries: int = 5,
    dim: int = 16,
    noise: float = 0.5,
) -> EpisodeSource:
    """Generated classes: points around a random place for each, all in a random plane of a quarter of the dimensions.

    Args:
        phase: meta-train, validation or test.
        device: of the episodes.
        dtype: of them.
        ways: classes an episode.
        shots: points of each to learn from.
        queries: points of each of the query set.
        dim: coordinates of a point.
        noise: deviation of points in all directions; places have deviation 1.
    """
    inputs, labels = _clusters(dim, float(noise))
    own = {"ways": ways, "shots": shots, "queries": queries, "device": device, "dtype": dtype}
    return _of_phase(inputs, labels, phase, SPLIT, [str(number) for number in range(100)], "clusters", **own)


@lru_cache(4)
def _clusters(dim: int, noise: float, classes: int = 100, members: int = 40) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    plane = torch.randn(max(dim // 4, 1), dim, generator=generator)
    places = torch.randn(classes, len(plane), generator=generator) @ plane / len(plane) ** 0.5
    scatter = noise * torch.randn(classes, members, dim, generator=generator)
    return (places[:, None] + scatter).flatten(0, 1), torch.arange(classes).repeat_interleave(members)


@register_episodes("images")
def images(
    *,
    phase: Phase,
    device: Any,
    dtype: torch.dtype,
    folder: str,
    side: int = 28,
    colour: bool = False,
    ways: int = 5,
    shots: int = 1,
    queries: int = 5,
    rotations: bool = False,
    split: str = SPLIT,
) -> EpisodeSource:
    """A folder of images for each class, in an order drawn once; three fifths of them are to meta-train on.

    Args:
        phase: meta-train, validation or test.
        device: of the episodes.
        dtype: of them.
        folder: with a folder for each class.
        side: to which images are made square.
        colour: whether colours are kept.
        ways: classes an episode.
        shots: images of each to learn from.
        queries: images of each of the query set.
        rotations: whether turned images are classes of their own in meta-training.
        split: parts of the classes to meta-train on, for validation and for test.
    """
    data = read_image_folder(folder, side=side, colour=colour)
    return _of_phase(
        data.images,
        data.labels,
        phase,
        str(split),
        data.classes,
        folder,
        ways=ways,
        shots=shots,
        queries=queries,
        rotations=rotations and phase == "meta-train",
        device=device,
        dtype=dtype,
    )


@register_episodes("table")
def table(
    *,
    phase: Phase,
    device: Any,
    dtype: torch.dtype,
    file: str,
    label: str,
    ways: int = 5,
    shots: int = 1,
    queries: int = 5,
    split: str = SPLIT,
) -> EpisodeSource:
    """Rows of a CSV file with many classes, in an order drawn once; three fifths of the classes are to meta-train on.

    Args:
        phase: meta-train, validation or test.
        device: of the episodes.
        dtype: of them.
        file: with a header.
        label: the column of classes.
        ways: classes an episode.
        shots: rows of each to learn from.
        queries: rows of each of the query set.
        split: parts of the classes to meta-train on, for validation and for test.
    """
    rows = read_table(file, label=label)
    inputs = TableEncoder.fit(rows.columns).encode(rows.columns)
    own = {"ways": ways, "shots": shots, "queries": queries, "device": device, "dtype": dtype}
    return _of_phase(inputs, rows.targets(), phase, str(split), rows.classes, file, **own)


@register_episodes("imbalanced")
def imbalanced(
    *,
    phase: Phase,
    device: Any,
    dtype: torch.dtype,
    file: str,
    label: str,
    support: int = 30,
    queries: int = 100,
    split: str = SPLIT,
) -> EpisodeSource:
    """Rows of a CSV file with two classes, stratified, at least three of the rare one in each set.

    Args:
        phase: meta-train, validation or test; each has rows of its own.
        device: of the episodes.
        dtype: of them.
        file: with a header.
        label: the column of classes.
        support: rows to learn from.
        queries: rows of the query set.
        split: parts of the rows to meta-train on, for validation and for test.
    """
    rows = read_table(file, label=label)
    targets = rows.targets()
    if len(rows.classes) != 2:
        raise ValueError(
            f"imbalanced episodes need two classes; got {len(rows.classes)} in column {label!r}, use table:..."
        )
    if 2 * int(targets.sum()) > len(targets):
        targets = 1 - targets
    inputs = TableEncoder.fit(rows.columns).encode(rows.columns)
    own = split_classes(len(targets), _shares(str(split)))[PHASES.index(phase)]
    return ImbalancedEpisodes(inputs, targets, support=support, queries=queries, rows=own, device=device, dtype=dtype)


def _of_phase(
    inputs: Tensor, labels: Tensor, phase: Phase, split: str, names: list[str], place: str, **options: Any
) -> ClassEpisodes:
    """Episodes of the phase's own classes; what there is too little of is named.

    Raises:
        ValueError: fewer classes than ways, or a class with fewer than shots + queries examples.
    """
    counts = torch.bincount(labels, minlength=len(names)).tolist()
    parts = split_classes(len(names), _shares(split))
    classes = parts[PHASES.index(phase)].tolist()
    own, ways = sorted(names[c] for c in classes), options["ways"]
    if len(own) * (4 if options.get("rotations") else 1) < ways:
        sizes = ", ".join(f"{len(part)} for {name}" for name, part in zip(PHASES, parts, strict=True))
        raise ValueError(
            f"there must be at least as many classes as ways; got ways={ways} and, of the {len(names)} classes of "
            f"{place!r} that split={split} parts into {sizes}, {len(own)} for {phase} ({', '.join(own) or 'none'}): "
            "use fewer ways, another split, or add classes"
        )
    needed = options["shots"] + options["queries"]
    for c in classes:
        if counts[c] < needed:
            raise ValueError(
                f"a class must have at least shots + queries = {needed} examples; got {counts[c]} of {names[c]!r} in "
                f"{place!r}, which is for {phase}: use fewer shots or queries, or leave it out"
            )
    return ClassEpisodes(inputs, labels, classes=classes, **options)


def _shares(split: str) -> list[float]:
    """``"3x1x1"`` as the shares of phases, which sum to 1.

    Raises:
        ValueError: not three positive integers joined by x.
    """
    parts = split.split("x")
    if len(parts) != len(PHASES) or not all(part.isdigit() and int(part) for part in parts):
        raise ValueError(
            f"split must be three positive integers joined by x, for {', '.join(PHASES)}; got {split!r}, use {SPLIT}"
        )
    return [int(part) / sum(map(int, parts)) for part in parts]
