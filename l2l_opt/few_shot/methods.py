"""Methods of few-shot learning: theta' = g_phi(theta, S), each a rule and which of theta and phi is learned."""

from collections.abc import Callable
from dataclasses import dataclass

from l2l_opt.few_shot.meta_sgd import MetaSGD
from l2l_opt.registry import Registry
from l2l_opt.rules import RULES, UpdateRule, make_rule
from l2l_opt.types import Params


@dataclass(frozen=True)
class Method:
    """How a model adapts to a support set, and what of that is meta-learned.

    Attributes:
        rule: the update rule g_phi.
        learns_initialisation: whether theta, where every episode starts, is learned; drawn anew otherwise.
        learns_rule: whether phi is learned.
        adapts: which parameters a support set changes; the others are the same in all episodes.
        second_derivatives: whether the meta-gradient goes through the support set's gradients.
        towards_adapted: instead of the gradient of the query loss, ``theta - mean(theta')`` over episodes (Reptile).
    """

    rule: UpdateRule
    learns_initialisation: bool = True
    learns_rule: bool = False
    adapts: Callable[[str], bool] = lambda name: True
    second_derivatives: bool = True
    towards_adapted: bool = False


METHODS: Registry[Method] = Registry("few-shot method", beside=("params", "rule"))
"""Factories of options; some also take ``params``, and ``learned-rule`` a ``rule``."""


def make_method(name: str, params: Params, *, rule: UpdateRule | None = None, **options: object) -> Method:
    """A method for a student.

    Args:
        name: maml, fomaml, anil, meta-sgd, reptile, meta-lstm or learned-rule.
        params: the student's parameters.
        rule: of ``learned-rule`` alone, whose rule it is.
        options: of the method.

    Raises:
        ValueError: an unknown method, option or value; a rule missing, or given to a method that has its own.
    """
    if (rule is not None) != (name == "learned-rule"):
        raise ValueError(
            f"a rule must be given to the method learned-rule and to no other; got {name!r} "
            f"{'without one' if rule is None else 'with ' + repr(rule.registry_name)}, use e.g. --method learned-rule "
            "--rule rnnprop"
        )
    known, given = METHODS.parameters(name), {"params": params, "rule": rule}
    return METHODS.make(name, **options, **{key: value for key, value in given.items() if key in known})


def maml(*, lr: float = 0.01, learns_rate: bool = False, second_derivatives: bool = True) -> Method:
    """Gradient descent from a learned initialisation (MAML).

    Args:
        lr: of the inner steps.
        learns_rate: whether lr, one number, is learned too.
        second_derivatives: False for first-order MAML.

    Source: arXiv 1703.03400, section 2.2.
    """
    return Method(make_rule("sgd", lr=lr), learns_rule=learns_rate, second_derivatives=second_derivatives)


def fomaml(*, lr: float = 0.01, learns_rate: bool = False) -> Method:
    """MAML without second derivatives.

    Source: arXiv 1703.03400, section 5.2.
    """
    return maml(lr=lr, learns_rate=learns_rate, second_derivatives=False)


def anil(params: Params, *, lr: float = 0.01, learns_rate: bool = False, second_derivatives: bool = True) -> Method:
    """MAML of which only the last layer adapts to a support set (ANIL).

    Source: arXiv 1909.09157, section 4.1.
    """
    head = next(reversed(params)).rpartition(".")[0]
    return Method(
        make_rule("sgd", lr=lr),
        learns_rule=learns_rate,
        adapts=lambda name: name.rpartition(".")[0] == head,
        second_derivatives=second_derivatives,
    )


def meta_sgd(params: Params, *, lr: float = 0.01, second_derivatives: bool = True) -> Method:
    """Gradient descent from a learned initialisation with a learned rate for every weight (Meta-SGD).

    Source: arXiv 1707.09835, section 2.2.
    """
    return Method(MetaSGD(params, lr=lr), learns_rule=True, second_derivatives=second_derivatives)


def reptile(*, lr: float = 0.01) -> Method:
    """An initialisation that moves towards what each episode's gradient descent ends at (Reptile).

    Source: arXiv 1803.02999, section 3.
    """
    return Method(make_rule("sgd", lr=lr), second_derivatives=False, towards_adapted=True)


def meta_lstm(
    *, lr: float = 0.01, hidden_size: int = 20, decay: float = 0.001, second_derivatives: bool = False
) -> Method:
    """An LSTM whose cell state is the student's weights, from a learned initialisation (Meta-LSTM).

    Source: Ravi and Larochelle, "Optimization as a model for few-shot learning", ICLR 2017; without second derivatives
    there.
    """
    rule = make_rule("meta-lstm", lr=lr, hidden_size=hidden_size, decay=decay)
    return Method(rule, learns_rule=True, second_derivatives=second_derivatives)


def learned_rule(
    *,
    rule: UpdateRule,
    learns_initialisation: bool = True,
    learns_rule: bool = True,
    second_derivatives: bool = True,
) -> Method:
    """Any registered rule or artefact, with a learned initialisation."""
    return Method(
        rule,
        learns_initialisation=learns_initialisation,
        learns_rule=learns_rule,
        second_derivatives=second_derivatives,
    )


for _name, _factory in {
    "maml": maml,
    "fomaml": fomaml,
    "anil": anil,
    "meta-sgd": meta_sgd,
    "reptile": reptile,
    "meta-lstm": meta_lstm,
    "learned-rule": learned_rule,
}.items():
    METHODS.register(_name, _factory)


def is_bound_to_student(method: Method) -> bool:
    """Whether its rule is of no use to other students, and in no registry."""
    return method.rule.registry_name not in RULES.names()
