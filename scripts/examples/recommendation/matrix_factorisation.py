"""Recommendation from a CSV file of user,item,rating: matrix factorisation under LearnedOptimizer, nothing tuned.

    python -m scripts.examples.recommendation.matrix_factorisation               # with ratings that are generated
    python -m scripts.examples.recommendation.matrix_factorisation ratings.csv   # with your own

Needs no network. Prints the test error beside that of always predicting the mean, and what to recommend to one user.
"""

import sys
import tempfile
from pathlib import Path

import torch

from l2l_opt import LearnedOptimizer
from l2l_opt.tasks import make_task
from l2l_opt.tasks.tables.recommendation import generate_ratings, rating_error, read_ratings, write_ratings


def train(file: Path, *, steps: int, seed: int = 0) -> tuple[float, float, list[str]]:
    """Fit the ratings of a file.

    Args:
        file: columns user, item, rating.
        steps: updates.
        seed: of first weights and batches.

    Returns:
        The root mean square error on test ratings and that of the mean, in the file's unit, and the five items that the
        file's first user is expected to like best.
    """
    ratings = read_ratings(file)
    family = make_task("recommendation", file=file)
    generator = torch.Generator().manual_seed(seed)
    params = family.init_params({}, generator)
    nothing = {name: torch.zeros_like(value) for name, value in params.items()}
    # torch.optim.Adam(params.values(), lr=1e-2) could stand here.
    optimizer = LearnedOptimizer([value.requires_grad_() for value in params.values()], num_steps=steps)
    for _ in range(steps):
        optimizer.zero_grad()
        family.loss(params, {}, family.sample_batch({}, generator)).backward()
        optimizer.step()
    errors = [ratings.deviation * float(rating_error(family, own, {})) for own in (params, nothing)]
    pairs = torch.tensor([[0, item] for item in ratings.items.values()])
    with torch.no_grad():
        predictions, _ = torch.func.functional_call(family.module, params, (pairs,))
    names = list(ratings.items)
    return errors[0], errors[1], [names[place] for place in predictions.topk(min(5, len(names))).indices]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(folder) / "ratings.csv"
        if len(sys.argv) == 1:
            write_ratings(file, *generate_ratings(torch.Generator().manual_seed(0), 8000))
        error, error_of_mean, liked = train(file, steps=1000)
    print(f"test RMSE {error:.3f}; of the mean {error_of_mean:.3f}")
    print(f"for the first user: {', '.join(liked)}")


if __name__ == "__main__":
    main()
