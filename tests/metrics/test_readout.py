"""Numbers on their way back: every one as it was, whatever else comes with it."""

from __future__ import annotations

import numpy as np
import torch

from cnnaudit.metrics.readout import Readout


def test_numbers_come_back_as_they_were() -> None:
    given = [
        torch.tensor([1 / 3, torch.nan, -torch.inf]),
        torch.rand(2, 3, 4, dtype=torch.float64),
        torch.tensor(7),
        torch.zeros(0, 5),
        torch.tensor([True, False]),
    ]
    readout = Readout()
    to_come = [readout.later(values) for values in given]
    for values, later in [*zip(given, to_come, strict=True)][::-1]:
        assert later().dtype == np.float64
        assert later().shape == values.shape
        np.testing.assert_array_equal(later(), values.double().numpy())


def test_what_is_added_after_a_look_comes_with_the_next() -> None:
    readout = Readout()
    first = readout.later(torch.ones(2))
    assert first().tolist() == [1, 1]
    second, third = readout.later(torch.zeros(1)), readout.later(torch.full((1, 1), 2.0))
    assert (third().tolist(), second().tolist(), first().tolist()) == ([[2]], [0], [1, 1])


def test_numbers_of_a_graph_leave_it_alone() -> None:
    leaf = torch.ones(3, requires_grad=True)
    squares = leaf**2
    assert Readout().later(squares)().tolist() == [1, 1, 1]
    squares.sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.tolist() == [2, 2, 2]
