"""Update rules, learned and hand-designed. Importing this package registers them all."""

from l2l_opt.rules import (
    celo2,
    compact,
    composed,
    hand_designed,
    lstm,
    meta_lstm,
    mlp,
    rnnprop,
    scale_free,
    tensor_lstm,
)
from l2l_opt.rules.base import RULES, UpdateRule, make_rule, register_rule

__all__ = [
    "RULES",
    "UpdateRule",
    "celo2",
    "compact",
    "composed",
    "hand_designed",
    "lstm",
    "make_rule",
    "meta_lstm",
    "mlp",
    "register_rule",
    "rnnprop",
    "scale_free",
    "tensor_lstm",
]
