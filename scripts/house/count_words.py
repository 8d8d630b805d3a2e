"""Find words that the house does not use (docs/glossary.md has those that it does) in code, help and prose.

    python -m scripts.house.count_words       # file:line of each; exits with 1 where there is one

Results, the notebook and the changelog are history and are not read. A word that stays has a reason in ``ALLOWED``; a
reason that no line needs any longer is reported too.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
READ = re.compile(r"(\.(py|h|cpp|md|jinja|toml|cfg)|scripts/(demo|test))$")
NOT_READ = re.compile(r"results/|CHANGELOG\.md$|scripts/house/|tests/scripts/test_house")


@dataclass(frozen=True)
class Word:
    """What is not said.

    Attributes:
        pattern: of words, matched whole; an underscore ends a word.
        say: instead.
        where: of paths, in the sense meant; all where empty.
        but: of paths in which it is the usual word.
    """

    pattern: str
    say: str
    where: str = ""
    but: str = r"\Z"


@dataclass(frozen=True)
class Use:
    """A use that stays: what of a line, in which paths, and why."""

    pattern: str
    where: str
    reason: str


RULES = r"(l2l_opt|tests)/(rules|kernels)/|scripts/experiments/default/"
EPISODES = (
    r"(l2l_opt|tests)/(few_shot|tasks/policies)/|scripts/e\w+/(few_shot|reinforcement_learning|industry)/|scripts/examples/(density|notebooks/maml)"
    r"|docs/(few-shot|reinforcement-learning|fraud|placeholder-images|density|glossary)|tests/(scripts|cli|contract/test_registries|test_documentation)"
    r"|l2l_opt/cli/(few_shot|list|main)|l2l_opt/inspection/tensorboard/few_shot"
)

WORDS = (
    Word(r"judg\w*", "evaluate, score"),
    Word(r"figures?", "score, metric, result, number"),
    Word(r"told|says", "given, set, passed, states"),
    Word(r"by heart", "overfits, memorises"),
    Word(r"trust\w*", "log_step_scale in rules, stacking weights in few-shot"),
    Word(r"teachers?|taught", "update rule; the network or function that labels"),
    Word(r"self made", "self-training, self-labelled"),
    Word(r"ages?|aged|lifetimes?|li[fv]es?", "inner step, inner run"),
    Word(r"(begin\w*|start\w*) (\w+ )?anew", "reset"),
    Word(r"episodes?", "inner run", but=EPISODES),
    Word(r"looks?|answer\w*", "features, output", where=r"l2l_opt/(rules|kernels|inner_loop)/"),
    Word(r"pace|reached|seen|walks?|walked|mass|masses|choices", "length_scale, touched_fraction, ...", where=RULES),
    Word(r"memories", "estimator_state, snapshot, tensor_scalars"),
    Word(r"parts?", "local parameters", where=r"l2l_opt/optimizer/"),
    Word(r"protocol", "SuiteConfig", where=r"l2l_opt/|scripts/"),
    Word(r"recipes?", "LearnerConfig", where=r"(l2l_opt|tests)/few_shot/"),
    Word(r"phi", "the rule's weights", where=r"README|docs/(?!glossary)|l2l_opt/cli/"),
    Word(r"(?<!model )cards?", "model card", where=r"README|docs/"),
    Word(r"AdamW's loss over", "loss ratio"),
)

ALLOWED = (
    # Names in files that users have.
    Use(
        r"judged[_-]on|\"judged\" not in",
        r"l2l_opt/(cli/meta_train|meta_training/run)|test_recipes",
        "an option in run.json",
    ),
    Use(r"judged_at", r"evaluation/", "a key of evaluation.json"),
    Use(r"\"protocol\"", r"evaluation/summary|experiments/default", "a key of evaluation.json"),
    Use(
        r"[\"`]+figures[\"`]+|\bfigures=",
        r"storage|run|cli/|scripts/experiments|tests/",
        "a key of model cards and run.json",
    ),
    Use(r"held_out_figures", r"storage/card|tests/cli", "a key of show --json"),
    Use(r"\"figure\"", r"meta_training/outer_loop", "a key of checkpoints"),
    Use(r"\"(episode|age|lifetime)\"", r"inner_loop/student", "keys of checkpoints"),
    Use(r"\"recipe\"", r"few_shot/saved_learner", "a key of learners' files"),
    Use(r"validation/figure|students/age_\S*", r"inspection|experiments/default|tests/", "tags of TensorBoard events"),
    Use(
        r"([\"`])(trust|seen|walk)\1|(trust \(q\)|seen \(j\)|walk \(W\))|and trust are|walk is in the",
        r"rules|kernels",
        "state keys",
    ),
    Use(
        r"\b(trust|seen|walk)\b(?=[,\[ ])",
        r"kernels/native/(layouts|scale_free)",
        "state keys, by which kernels know scalars",
    ),
    Use(
        r"[\"`.=/]choices",
        r"rules/scale_free|experiments/default",
        "a weight's name in artefacts, and ``only=`` with it",
    ),
    Use(r"--suite seen|\"seen\"|default/seen/", r"default/(measure_default|draw_ratios)", "a suite's name"),
    Use(
        r"teacher-mlp|labels=\S*teacher|\"teacher\"",
        r"tasks|recipes|meta_train_default|search_constants|measure_specialise|shipped_suites|model-cards",
        "tasks named on cards",
    ),
    Use(
        r"clusters(,| or) teacher|Teacher(?=:)|A teacher is a random",
        r"tasks/",
        "the label option of clusters-mlp, explained",
    ),
    Use(r"top level with self-made examples", r"docs/fraud|measure_industry", "a method's name in results/industry"),
    Use(r"of_the_sum_of_an_episode", r"measure_estimators", "a key of results/long_horizons"),
    Use(r"results/long_horizons/judged|\"judged\"", r"compare_estimators", "a folder of results"),
    Use(r"trust(?= in steps)", r"docs/model-cards", "an artefact's own words"),
    Use(r"AdamW's loss over ours", r"default/ship_rule", "a key of shipped cards"),
    Use(r"--average-phi", r"meta|model-cards", "an option"),
    # Other senses.
    Use(r"the teacher g_phi", r"docs/glossary", "the literature's word, named once"),
    Use(
        r"(?i)\b(add_)?figure\b",
        r"(?i)inspection|notebooks|specialising/events|evaluation/plots|draw_|benchmark|curve|reinforcement|test_(report|below_zero)",
        "matplotlib's",
    ),
    Use(
        r"\bfigures(?=\.|$|:|;| import|,)|Figures as SVG",
        r"inspection|specialising/(page|events)",
        "matplotlib's, and the file that draws them",
    ),
    Use(
        r"(?i)figures?",
        r"experiments/paper|test_experiments|README|docs/(paper|tasks)|test_documentation",
        "of the paper",
    ),
    Use(r"\bProtocol\b", r"\.py$", "typing's"),
    Use(r"(random|RANDOM)[ _](walk|WALK)\w*", r"rules|kernels", "the process"),
    Use(r"look(?= ahead)", r"hand_designed", "Nesterov's"),
    Use(r"imaginary parts|shape of parts", r"optimizer", "of complex numbers"),
    Use(r"\"?\bage\b\"?", r"tests/tasks/tables", "a column of data"),
    Use(r"episodes", r"CONTRIBUTING|docs/tasks|cards/default-4|measure_examples|search_constants", "few-shot and RL"),
    Use(r"phi", r"docs/(few-shot|meta-training|placeholder-images)", "equations and what evolution strategies perturb"),
)


def lines_of(root: Path) -> Iterator[tuple[str, int, str]]:
    listed = subprocess.run(["git", "ls-files"], cwd=root, capture_output=True, text=True, check=True)
    for name in listed.stdout.splitlines():
        if READ.search(name) and not NOT_READ.match(name) and (root / name).is_file():
            for number, line in enumerate((root / name).read_text().splitlines(), 1):
                yield name, number, line


def findings(root: Path = ROOT) -> list[str]:
    """``file:line: word``, one for each use that is not allowed, and reasons that nothing needs."""
    any_word = re.compile("|".join(word.pattern for word in WORDS), re.I)
    patterns = [(word, re.compile(rf"(?<![a-z])({word.pattern})(?![a-z])", re.I)) for word in WORDS]
    allowed = [(use, re.compile(use.where), re.compile(use.pattern)) for use in ALLOWED]
    found, needed = [], set()
    for name, number, line in lines_of(root):
        plain = line.replace("-", " ")
        if not any_word.search(plain):
            continue
        for word, pattern in patterns:
            if not re.match(word.where, name) or re.match(word.but, name) or not pattern.search(plain):
                continue
            left = line
            for use, where, own in allowed:
                if where.search(name) and own.search(left):
                    left, needed = own.sub("", left), needed | {use}
            if match := pattern.search(left.replace("-", " ")):
                found.append(f"{name}:{number}: {match[0]!r}, say {word.say}")
    stale = [f"no line needs {use.pattern!r} in {use.where!r} any longer" for use in ALLOWED if use not in needed]
    return found + stale


if __name__ == "__main__":
    found = findings()
    print("\n".join(found) or "no words that are not of the house")
    sys.exit(bool(found))
