"""The LSTM whose cell state is the student's weights."""

import math

import torch
from torch import Tensor, nn

from l2l_opt.checks import check_fractions, check_positive_numbers
from l2l_opt.rules.base import UpdateRule, initial_step, register_rule
from l2l_opt.rules.features import log_sign
from l2l_opt.rules.recurrent import RecurrentBody
from l2l_opt.types import Params, RuleState


@register_rule("meta-lstm")
class MetaLSTM(UpdateRule):
    """Gradient descent with a learned rate and a learned decay for every coordinate, the gates of an LSTM.

        theta_{t+1} = f_t theta_t - i_t g_t;    update_t = (f_t - 1) theta_t - i_t g_t
        h_t = LSTM(log-sign features of g_t, h_{t-1})
        i_t = sigmoid(w_i [h_t, theta_t, i_{t-1}] + b_i);    f_t = sigmoid(w_f [h_t, theta_t, f_{t-1}] + b_f)

    Args:
        hidden_size: units of the LSTM that reads gradients.
        lr: the input gate at first, in (0, 1): SGD's learning rate.
        decay: 1 - the forget gate at first, in (0, 1).
        p: of the log-sign features.

    State: ``hidden`` and ``cell`` ``[hidden_size, *shape]``, ``input_gate`` and ``forget_gate`` ``[1, *shape]``.

    Raises:
        ValueError: an argument out of range.

    Source: Ravi and Larochelle, "Optimization as a model for few-shot learning", ICLR 2017, section 3.
    Differs from source: the student's loss is not among what the LSTM reads, since a rule is given gradients alone.
    """

    reads_whole_tensors = False

    def __init__(self, *, hidden_size: int = 20, lr: float = 0.01, decay: float = 0.001, p: float = 10.0):
        super().__init__(hidden_size=hidden_size, lr=lr, decay=decay, p=p)
        check_positive_numbers(0.01, lr=lr, decay=decay)
        check_fractions(0.01, lr=lr, decay=decay)
        check_positive_numbers(10, p=p)
        self.p = p
        self.body = RecurrentBody(num_inputs=2, hidden_size=hidden_size, num_layers=1)
        self.forget = nn.Linear(hidden_size, 1)
        # What the gates start at must not depend on the weights of the student.
        self.own_input = nn.Parameter(torch.empty(2).uniform_(-0.01, 0.01))
        self.own_forget = nn.Parameter(torch.empty(2).uniform_(-0.01, 0.01))
        with torch.no_grad():
            for readout, start in ((self.body.readout, lr), (self.forget, 1 - decay)):
                readout.weight.uniform_(-0.01, 0.01)
                readout.bias.fill_(math.log(start) - math.log1p(-start))

    def init_state(self, params: Params) -> RuleState:
        return {
            name: {
                "step": initial_step(param),
                "input_gate": torch.zeros_like(param).unsqueeze(0),
                "forget_gate": torch.zeros_like(param).unsqueeze(0),
            }
            | self.body.init_state(param)
            for name, param in params.items()
        }

    def forward(
        self, grads: Params, state: RuleState, params: Params, *, num_steps: Tensor | None = None
    ) -> tuple[Params, RuleState]:
        if not grads:
            return {}, {}
        outputs, recurrent = self.body({name: log_sign(g, p=self.p) for name, g in grads.items()}, state)
        updates: Params = {}
        next_state: RuleState = {}
        for name, gradient in grads.items():
            theta, own = params[name], state[name]
            own_input, own_forget = self.own_input.to(theta.dtype), self.own_forget.to(theta.dtype)
            hidden = recurrent[name]["hidden"]
            read = (self.forget.weight.to(theta.dtype) @ hidden.reshape(hidden.shape[0], -1)).reshape(theta.shape)
            read = read + self.forget.bias[0].to(theta.dtype)
            rate = torch.sigmoid(outputs[name] + own_input[0] * theta + own_input[1] * own["input_gate"][0])
            # f - 1 = -sigmoid(-x) keeps the digits of a small decay.
            decay = torch.sigmoid(-(read + own_forget[0] * theta + own_forget[1] * own["forget_gate"][0]))
            updates[name] = -decay * theta - rate * gradient
            next_state[name] = {
                "step": own["step"] + 1,
                "input_gate": rate.unsqueeze(0),
                "forget_gate": (1 - decay).unsqueeze(0),
            } | recurrent[name]
        return updates, next_state
