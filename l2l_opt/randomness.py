"""Where every random number comes from: explicit generators, seeded by what they are for."""

import enum

import numpy as np
import torch


class Stream(enum.IntEnum):
    """Disjoint families of seeds: no student of one stream shares its numbers with one of another."""

    META_TRAINING = 0
    VALIDATION = 1
    TUNING = 2
    REPORTING = 3
    RULE = 4
    GROUP = 5
    EVOLUTION = 6
    COORDINATES = 7
    TEST = 8


def make_generator(seed: int, stream: Stream, *numbers: int) -> torch.Generator:
    """Return a CPU generator for (seed, stream, numbers), e.g. (seed, META_TRAINING, student number, inner run).

    Tasks draw on the CPU whatever the device of the run, so that one seed gives the same students everywhere.

    Raises:
        ValueError: a negative seed.
    """
    if seed < 0:
        raise ValueError(f"seed must not be negative; got {seed}, use 0 or more")
    words = np.random.SeedSequence([seed, int(stream), *numbers]).generate_state(2, np.uint32)
    generator = torch.Generator()
    generator.manual_seed(int(words[0]) << 31 ^ int(words[1]))
    return generator
