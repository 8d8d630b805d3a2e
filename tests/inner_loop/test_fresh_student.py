"""A fresh student is the one that a batch of students begins with."""

import pytest
import torch

from l2l_opt.inner_loop.fresh_student import fresh_student
from l2l_opt.inner_loop.horizon import Horizon
from l2l_opt.inner_loop.students import Students
from l2l_opt.randomness import Stream
from l2l_opt.rules import make_rule
from l2l_opt.tasks.mixture import make_tasks

MIXTURE = "quadratics:dim=2..6 + digits-mlp:hidden=2..5,batch_size=4"


@pytest.mark.parametrize("stream", [Stream.TUNING, Stream.REPORTING])
@pytest.mark.parametrize("spec", ["digits-mlp:hidden=3,batch_size=4", MIXTURE])
def test_it_is_the_student_of_that_number(spec, stream):
    tasks = make_tasks(spec)
    students = Students(
        make_rule("sgd"), tasks, numbers=range(4), horizon=Horizon(3, 3), seed=5, stream=stream, group_size=1
    )
    for number, expected in enumerate(students.members):
        (window,) = students.windows(2, [number])
        own = fresh_student(tasks, seed=5, stream=stream, number=number)
        assert own.family is expected.family
        for name, param in own.params.items():
            torch.testing.assert_close(param, expected.inner.params[name][0], rtol=0, atol=0)
        for batch in window.batches:
            drawn = own.batch()
            assert all(torch.equal(value, batch[key][0]) for key, value in drawn.items())


@pytest.mark.parametrize("change", [{"seed": 1}, {"stream": Stream.REPORTING}, {"number": 1}])
def test_another_number_seed_or_stream_is_another_student(change):
    tasks, own = make_tasks("digits-mlp:hidden=3,batch_size=4"), {"seed": 0, "stream": Stream.TUNING, "number": 0}
    one, other = (next(iter(fresh_student(tasks, **how).params.values())) for how in (own, own | change))
    assert not torch.equal(one, other)
