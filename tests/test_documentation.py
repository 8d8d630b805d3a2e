"""Every block and every command of the documentation runs: a page from its top to its end, in one folder.

Long ones are made short by SHORTER alone, text for text; what cannot run here is in LEFT_OUT_BY_REASON.
"""

import csv
import itertools
import re
import shlex
import shutil
from pathlib import Path
from string import Template

import numpy as np
import pytest
from PIL import Image
from sybil import Document, Region
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser
from sybil.region import Lexeme

from tests.command_line import run_python
from tests.few_shot.test_sources import omniglot_npz
from tests.own_data import write_texts

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", "CONTRIBUTING.md", *sorted(str(file.relative_to(ROOT)) for file in (ROOT / "docs").rglob("*.md"))]

QUICK_EVALUATION = "--horizon 4 --seeds 2 --tuning-seeds 1 --baselines adamw"
QUICK_SUITE = f"--suite suite.txt {QUICK_EVALUATION}"
QUICK_META_TRAINING = "--students 2 --validation-students 2 --outer-steps 1 --horizon 10 --truncation-length 5"
QUICK_SPECIALISATION = "--minutes 0.02 --horizon 10 --seeds 2 --tuning-seeds 1 --baselines ''"

SHORTER = {
    "README.md": {
        "--outer-steps 300": QUICK_META_TRAINING,
        "--horizon 100": QUICK_EVALUATION,
        "tensorboard --logdir": "tensorboard --inspect --logdir",  # reads the same files, and ends
        "--minutes 10": QUICK_SPECIALISATION,
        "--label is_fraud": "--label is_fraud --members 2 --steps 5",
    },
    "docs/commands.md": {
        "--outer-steps 300": QUICK_META_TRAINING,
        "--horizon 100 --horizon 200": f"--horizon 5 {QUICK_EVALUATION}",
        "inspect runs/first": "inspect runs/first --horizon 4 --baselines adam --tuning-seeds 1",
        "report runs/first": f"report runs/first {QUICK_EVALUATION}",
        "tensorboard --logdir": "tensorboard --inspect --logdir",
        "--minutes 10": QUICK_SPECIALISATION,
    },
    "docs/rules.md": {"--out runs/signs": f"{QUICK_META_TRAINING} --out runs/signs"},
    "docs/settings.md": {"--suite seen": QUICK_SUITE},
    "docs/tasks.md": {
        "--out runs/spiral": f"{QUICK_META_TRAINING} --out runs/spiral",
        "in range(100)": "in range(2)",
    },
    "docs/start/meta-train.md": {
        "--outer-steps 300": QUICK_META_TRAINING,
        "--horizon 100": QUICK_EVALUATION,
        "tensorboard --logdir": "tensorboard --inspect --logdir",  # reads the same files, and ends
    },
    "docs/start/ten-examples.md": {"--label is_fraud": "--label is_fraud --members 2 --steps 5"},
    "docs/gpu.md": {'device="cuda"': 'device="cpu"'},
    "docs/questions.md": {"--baselines adamw,muon": f"{QUICK_EVALUATION},muon"},
    "CONTRIBUTING.md": {"industry.fraud": "industry.fraud --merchants 11 --outer-steps 1"},
    "docs/density.md": {
        "range(1000)": "range(20)",
        "--horizon 500 --out runs": f"{QUICK_EVALUATION} --out runs",
        "--horizon 500 --outer-steps 500": QUICK_META_TRAINING,
    },
    "docs/evaluation.md": {
        "--suite seen --horizon 500 --horizon 2000 --seeds 5 --nproc 2": QUICK_SUITE,
        "--horizon 100": QUICK_EVALUATION,
        "--baselines adamw,muon,prodigy": f"{QUICK_EVALUATION},muon,prodigy",
        "horizons=(500,)": "horizons=(4,), num_seeds=2, tuning_seeds=1",
    },
    "docs/specialise.md": {
        "--minutes 10": QUICK_SPECIALISATION,
        "tensorboard --logdir": "tensorboard --inspect --logdir",  # reads the same files, and ends
        "minutes=10": "minutes=0.02, horizon=10, seeds=2, tuning_seeds=1, baselines=()",
        "--horizon 100": "--horizon 4 --baselines adam --tuning-seeds 1",
    },
    "docs/few-shot.md": {
        "--label is_fraud": "--label is_fraud --members 2 --steps 5",
        "--data photos/": "--data photos/ --grey --side 8 --members 2 --steps 5",
        "--outer-steps 5000": "--outer-steps 2 --validation-episodes 5",
        "--outer-steps 20000": "--outer-steps 2 --validation-episodes 5 --meta-batch 2",
        "--rule rnnprop": "--rule rnnprop --outer-steps 2 --validation-episodes 5",
        "evaluate runs/sines": "evaluate runs/sines --num-episodes 5",
        "outer_steps=200, validate_every=50": "outer_steps=2, validate_every=2",
    },
    "docs/fraud.md": {
        "industry.fraud": "industry.fraud --merchants 11 --outer-steps 1",
        "support=30)": "support=30, outer_steps=1)",
        "range(24)": "range(11)",
    },
    "docs/inspection.md": {
        "--horizon 500": "--horizon 4 --baselines adam --tuning-seeds 1",
        "tensorboard --logdir": "tensorboard --inspect --logdir",
        "report default-4": f"report default-4 {QUICK_EVALUATION}",
        "report runs/first": f"report runs/first {QUICK_EVALUATION}",
    },
    "docs/meta-training.md": {
        "--out runs/mine": f"{QUICK_META_TRAINING} --out runs/mine",
        "hidden=8..32,layers=1..3": "hidden=2..4,layers=1..2",
        "--horizon 100..2000": "--horizon 10..20 --validation-students 2",
        "--truncation-length 20 --students 8": "--truncation-length 5 --students 4",
        "--truncation-length 50 --students 16 --group-size 8": "--truncation-length 5 --students 2 --group-size 2",
        "--outer-steps 100000": "--outer-steps 1",
        "--outer-steps 1900": "--outer-steps 1",
        "--outer-steps 1000": "--outer-steps 1",
        "--task mnist-mlp --horizon 100": "--task digits-mlp --horizon 4 --validation-students 2",
        "--truncation-length 100 --normalisation": "--truncation-length 4 --normalisation",
        "--outer-steps 2800": "--outer-steps 1 --truncation-length 2",
        "--outer-steps 1100": "--outer-steps 1",
        "--outer-steps 300": "--outer-steps 1",
        "--students 16 ...": "--students 2 --rule adam --task quadratics --outer-steps 1",
        "--nproc-per-node 4": "--nproc-per-node 1",
        "--students 64 ...": "--students 2 --rule adam --task quadratics --outer-steps 1 --out runs/second-launch",
    },
    "docs/placeholder-images.md": {
        "industry.placeholder_images": "industry.placeholder_images --outer-steps 1 --train-steps 5",
        "num_models=4)": "num_models=4, outer_steps=2)",
    },
    "docs/recommendation.md": {
        "--horizon 500 --out runs": f"{QUICK_EVALUATION} --out runs",
        "--horizon 500 --outer-steps 500": QUICK_META_TRAINING,
        "range(1000)": "range(20)",
    },
    "docs/reinforcement-learning.md": {
        "adapting_policies": "adapting_policies --outer-steps 1 --environments 2",
        "gymnasium_policy": "gymnasium_policy --updates 2",
        "--task cartpole --rule": "--task cartpole:steps=20,episodes=4 --rule",
        "swapped=False --horizon 200": f"swapped=False,steps=20,episodes=4 {QUICK_EVALUATION}",
        "--horizon 100": QUICK_EVALUATION,
    },
}

# What a page takes for done on other pages.
BEFORE = {
    "docs/inspection.md": [
        f"l2l-opt meta-train --rule rnnprop {QUICK_META_TRAINING} --out runs/first",
        f"l2l-opt evaluate runs/first {QUICK_EVALUATION} --out runs/seen",
    ]
}

LEFT_OUT_BY_REASON = {
    "this very suite": ["scripts/test", "scripts/test --fast"],
    "minutes, and makes an environment": ["scripts/demo"],
    "compiles for a minute": ["pip wheel --no-deps ."],
    "changes the environment that the tests run in": [
        "python -m venv .venv && . .venv/bin/activate",
        "pip install .",
        "pip install . --extra-index-url URL",
        "pip install . -c constraints.txt",
        "pip install -e .[dev]",
        "pip install 'l2l_opt[rl]'",
    ],
    "downloads": ["npm install --no-package-lock --prefix tests/browser"],
    "needs a git clone; tests/scripts/test_house.py runs it there": [
        "python -m scripts.house.count_code",
        "python -m scripts.house.count_words",
    ],
    "writes a file of results; tests/evaluation compares with it": [
        "python -m scripts.experiments.held_out.suite_digest"
    ],
    "names in sentences": ["l2l-opt evaluate", "l2l-opt evaluate --suite", "l2l-opt few-shot meta-train"],
    "writes a page of docs, which tests/scripts compares with it": [
        "python -m scripts.experiments.benchmarks.scale",
        "python -m scripts.experiments.few_shot.page",
        "python -m scripts.house.model_cards",
    ],
    "runs with less in tests/scripts": [
        "python -m scripts.examples.specialising.shop_models",
        "python -m scripts.examples.specialising.sweep",
        "python -m scripts.examples.density.importance_sampling",
        "python -m scripts.experiments.optimizer.fuzz_files",
        "python -m scripts.experiments.paper.reproduce_paper --figure all --artefacts",
    ],
    "hours, and MNIST, which does not ship": ["python -m scripts.experiments.paper.reproduce_paper --figure mnist"],
    "wrote what lies under results, in minutes to hours of a quiet machine": [
        "python -m scripts.experiments.benchmarks.benchmark all",
        "python -m scripts.experiments.default.measure_learning",
        "python -m scripts.experiments.default.measure_limits first-sizes tables short-runs",
        "python -m scripts.experiments.default.measure_sizes default-4 --students 3",
        "python -m scripts.experiments.default.meta_train_default",
        "python -m scripts.experiments.default.meta_train_default --recipe default-4",
        "python -m scripts.experiments.default.draw_ratios results/held_out/default-4/evaluation.json",
        "python -m scripts.experiments.default.evaluate_again results/default/held-out --out runs/again",
        "python -m scripts.examples.specialising.shop_models --rule default-2 --loss-on test --minutes 8",
        "python -m scripts.experiments.examples.measure_examples density",
        "python -m scripts.experiments.examples.measure_examples gymnasium_policy",
        "python -m scripts.experiments.examples.measure_examples reinforcement_learning",
        "python -m scripts.experiments.examples.measure_examples recommendation",
        "python -m scripts.experiments.few_shot.measure_adapt",
        "python -m scripts.experiments.few_shot.measure_few_shot train NAME",
        "python -m scripts.experiments.inspection.draw_tab",
        "python -m scripts.experiments.industry.measure_industry fraud",
        "python -m scripts.experiments.industry.measure_industry placeholder",
        "python -m scripts.experiments.optimizer.measure_frameworks",
        "python -m scripts.experiments.optimizer.measure_optimizer",
        "python -m scripts.experiments.other_tasks.measure_other_tasks density",
        "python -m scripts.experiments.other_tasks.measure_other_tasks recommendation",
        "python -m scripts.experiments.reinforcement_learning.measure_reinforcement_learning adaptation TASK",
        "python -m scripts.experiments.reinforcement_learning.measure_reinforcement_learning training cartpole",
    ],
}
LEFT_OUT = [command for commands in LEFT_OUT_BY_REASON.values() for command in commands]

PROGRAMS = {
    "l2l-opt": ["-m", "l2l_opt.cli"],
    "python": [],
    "tensorboard": ["-m", "tensorboard.main"],
    "torchrun": ["-m", "torch.distributed.run"],
}
IN_A_SENTENCE = re.compile(r"`((?:l2l-opt|python|tensorboard|torchrun|pip|npm|scripts/[^\s`]+) [^`\n]+)`")
FILE_AND_ITS_COMMAND = re.compile(r"# (\w+\.(?:py|toml)):  (.*)\n")


class Reader:
    """Types what a page shows."""

    def __init__(self, page, folder):
        self.page, self.folder, self.variables = page, folder, {}

    def read(self):
        def sentences(document):
            for found in IN_A_SENTENCE.finditer(document.text):
                yield Region(found.start(), found.end(), found[1], self.type_commands)

        kinds = {"python": self.run_or_write, "toml": self.run_or_write, "bash": self.type_commands}
        blocks = [CodeBlockParser(kind, evaluator) for kind, evaluator in kinds.items()]
        for example in Document.parse(str(ROOT / self.page), *blocks, sentences):
            example.evaluate()

    def run_or_write(self, example):
        source = example.parsed
        example.parsed = Lexeme(self.shorter(source), source.offset, source.line_offset)
        if named := FILE_AND_ITS_COMMAND.match(example.parsed):
            (self.folder / named[1]).write_text(example.parsed)
            self.type(named[2])
        else:
            PythonEvaluator()(example)

    def type_commands(self, example):
        for line in example.parsed.replace("\\\n", " ").splitlines():
            command = re.sub(r"(^|\s)#.*", "", line).strip()
            if command and command not in LEFT_OUT:
                self.type(self.shorter(command))

    def type(self, command):
        """Variables stand for their text, as in a shell; a command must end well."""
        words = shlex.split(Template(command).safe_substitute(self.variables))
        name, is_assignment, value = words[0].partition("=")
        if is_assignment:
            self.variables[name] = value
            return
        assert words[0] in PROGRAMS, f"what {command!r} does must be tested, or be in LEFT_OUT_BY_REASON"
        done = run_python(*PROGRAMS[words[0]], *words[1:], folder=self.folder)
        assert done.returncode == 0, f"{self.page}: {command}\n{done.stdout}{done.stderr}"

    def shorter(self, text):
        for long, short in SHORTER.get(self.page, {}).items():
            text = text.replace(long, short)
        return text


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with all files that pages take for the reader's own."""
    folder, random = tmp_path_factory.mktemp("reader"), np.random.default_rng(0)

    def write_rows(name, count, label=None):
        rows = random.normal(size=(count, 5)).round(3)
        header = ["a", "b", "c", "d", "e", *([label] if label else [])]
        with open(folder / name, "w", newline="") as file:
            csv.writer(file).writerows(
                [header, *([*row, *([int(row[0] + row[1] > 1.5)] if label else [])] for row in rows)]
            )

    def write_pictures(name, count):
        (folder / name).mkdir(parents=True)
        for number, pixels in enumerate(random.integers(0, 255, (count, 28, 28), dtype=np.uint8)):
            Image.fromarray(pixels).save(folder / name / f"{number}.png")

    write_rows("my.csv", 40, "is_fraud")
    write_rows("mine.csv", 60, "is_fraud")
    write_rows("new.csv", 240)
    (folder / "merchants").mkdir()
    for number in range(10):
        write_rows(f"merchants/{number}.csv", 1300, "is_fraud")
    for name in ("photos/dress", "photos/sneaker", "shop/photo", "shop/placeholder", "unsorted"):
        write_pictures(name, 6)
    ratings = [(user, item, user, item, random.integers(1, 6)) for user in range(8) for item in range(8)]
    with open(folder / "ratings.csv", "w", newline="") as file:
        csv.writer(file).writerows([("user", "item", "userId", "movieId", "rating"), *ratings])
    write_texts(folder / "texts")
    (folder / "suite.txt").write_text("digits-mlp:hidden=4\n")
    (folder / ".cache" / "l2l_opt").mkdir(parents=True)
    omniglot_npz(folder / ".cache" / "l2l_opt", characters=150)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_a_page_runs_as_written(page, data, tmp_path, monkeypatch):
    folder = shutil.copytree(data, tmp_path / "reader")
    (folder / "scripts").symlink_to(ROOT / "scripts")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    reader = Reader(page, folder)
    for command in BEFORE.get(page, []):
        reader.type(command)
    reader.read()


def test_what_is_left_out_or_made_shorter_is_still_on_a_page():
    texts = {page: (ROOT / page).read_text() for page in PAGES}
    for page, changes in SHORTER.items():
        for long in changes:
            assert long in texts[page], f"{page} has no {long!r} any more: take it out of SHORTER"
    for command in LEFT_OUT:
        alone = re.compile(rf"(^|`){re.escape(command)}\s*(`|#|$)", re.MULTILINE)
        assert any(alone.search(text) for text in texts.values()), (
            f"no page has {command!r}: take it out of LEFT_OUT_BY_REASON"
        )
        for script in re.findall(r"scripts[/.][\w./]+", command):
            file = ROOT / script.replace(".", "/")
            assert file.exists() or file.with_suffix(".py").exists(), f"{command!r} names a file that is not there"


def test_every_block_is_of_a_kind_that_runs_or_no_code():
    for page in PAGES:
        text = (ROOT / page).read_text()
        assert set(re.findall(r"^```(\S*)$", text, re.MULTILINE)) <= {"", "bash", "python", "toml"}, page


def test_links_and_pictures_lead_to_files():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)", (ROOT / page).read_text()):
            if "://" not in target:
                assert ((ROOT / page).parent / target).exists(), f"{page}: {target}"


@pytest.mark.parametrize("page", PAGES)
def test_every_column_of_a_table_has_a_heading(page):
    """Whoever hears a page rather than sees it knows a cell by its column's heading."""
    lines = (ROOT / page).read_text().splitlines()
    headings = [above for above, below in itertools.pairwise(lines) if re.fullmatch(r"\|(?:\s*:?-+:?\s*\|)+", below)]
    assert not [line for line in headings if not all(map(str.strip, line.strip("|").split("|")))]
