"""An artefact: a rule in one self-describing safetensors file, without pickle."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from l2l_opt.rules.base import RULES, UpdateRule
from l2l_opt.storage.files import write_atomically
from l2l_opt.storage.rule_building import build_rule
from l2l_opt.storage.safetensors_file import FileFormatError, brief, digest, read, serialised, shortened
from l2l_opt.types import is_dict

FORMAT_VERSION = 1


def save_rule(rule: UpdateRule, path: str | os.PathLike[str], *, card: Mapping[str, Any] | None = None) -> str:
    """Write a rule to one self-describing file, atomically.

    Args:
        rule: of a registered kind.
        path: where to; by habit it ends in ``.safetensors``.
        card: what is known of the rule, plain JSON values: ``task``, ``horizon``, ``provenance``, ``figures``,
            ``licence``.

    Returns:
        The digest of phi.

    Raises:
        ValueError: a rule that is not registered, weights that are not finite, a card that is not JSON, or more than
            ``load_rule`` would read: 64 MiB, 1 MiB of card, cards nested 32 levels deep.
        OSError: the place cannot be written.
    """
    phi = {name: weight.detach().cpu().contiguous() for name, weight in rule.named_parameters()}
    RULES.factory(rule.registry_name)
    if not all(weight.isfinite().all() for weight in phi.values()):
        raise ValueError(
            f"a saved rule's weights must be finite; got others in {rule.registry_name!r}, save a sound one"
        )
    metadata = dict(card or {}) | {
        "format_version": FORMAT_VERSION,
        "rule": {"name": rule.registry_name, "config": rule.config},
    }
    write_atomically(path, serialised(phi, metadata, kind="rule"))
    return digest(phi)


def load_rule(source: str | os.PathLike[str]) -> UpdateRule:
    """Build the rule that an artefact holds. Nothing in the file is executed.

    Args:
        source: a path, or the name of a shipped artefact (``list_pretrained()`` names them).

    Returns:
        The rule, on the CPU, with its model card as ``rule.card``.

    Raises:
        FileNotFoundError: neither a file nor a shipped name.
        FileFormatError: not an artefact, damaged, of more than 64 MiB or of a later format (a ``ValueError``); weights
            that are not finite, or of other shapes than its config asks for.
        ValueError: an artefact of a rule that is not registered in this process.
    """
    from l2l_opt.pretrained import find_artefact

    kind = str(source).partition(":")[0]
    if kind in RULES.names() and not Path(source).exists():
        raise FileNotFoundError(
            f"learned weights must be named by a shipped name or a path; got {str(source)!r}, which is a kind of rule: "
            f"use make_rule({str(source)!r}) for a fresh one, or meta-train it"
        )
    path = find_artefact(source)
    phi, card = read(path, kind="rule", format_version=FORMAT_VERSION)
    about = card.get("rule")
    if not (is_dict(about) and isinstance(about.get("name"), str) and isinstance(about.get("config"), dict)):
        raise FileFormatError(
            f"an artefact must name its rule and config; got {brief(about)} in {path}, save it anew with save_rule"
        )
    name = about["name"]
    if name not in RULES.names():
        raise ValueError(
            f"the rule of an artefact must be registered; got {brief(name)} in {path}, "
            "import the file that registers it first (--plugin FILE.py)"
        )
    try:
        earlier = getattr(RULES.factory(name), "earlier_options", {})
        rule = build_rule(name, {**earlier, **about["config"]}, phi)
    except ValueError as error:
        reason = shortened(str(error))
        raise FileFormatError(
            f"an artefact's weights must fit its rule {name!r}; got {path}: {reason}, save it anew with save_rule"
        ) from error
    rule.card = card
    return rule
