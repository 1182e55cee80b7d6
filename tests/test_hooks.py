"""What hooks promise: captures nobody overwrites, a guided rule per node, nothing left behind."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from cnnaudit import hooks


class Reused(nn.Module):
    """One in-place ReLU module used three times, with a residual connection."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.first(x))
        return self.relu(self.relu(self.second(y)) - y)


class Broken(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise ValueError("broken on purpose")


def hooks_on(model: nn.Module) -> int:
    return sum(
        len(m._forward_hooks)
        + len(m._forward_pre_hooks)
        + len(m._backward_hooks)
        + len(m._backward_pre_hooks)
        for m in model.modules()
    )


def guided_gradient(score: Tensor, x: Tensor) -> Tensor:
    with hooks.guided(score) as reason:
        assert reason is None
        return torch.autograd.grad(score, x, retain_graph=True)[0]


def test_in_place_relu_does_not_overwrite_what_was_captured() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True))
    images = torch.randn(2, 3, 5, 6)
    with torch.no_grad(), hooks.capture(model, {"0", "1"}, differentiable=False) as captured:
        out = model(images)
    before = functional.conv2d(images, model[0].weight, model[0].bias)
    assert (before < 0).any()
    torch.testing.assert_close(captured["0", 0], before.detach())
    torch.testing.assert_close(captured["1", 0], out)


@pytest.mark.parametrize("differentiable", [False, True])
def test_capture_does_not_change_what_the_model_returns(differentiable: bool) -> None:
    model, images = Reused(), torch.randn(2, 3, 5, 6)
    plain = model(images).detach()
    with hooks.capture(model, {"first", "relu"}, differentiable=differentiable):
        torch.testing.assert_close(model(images).detach(), plain, rtol=0, atol=0)


def test_captures_are_keyed_by_path_and_call() -> None:
    model, images = Reused(), torch.randn(2, 3, 5, 6)
    with torch.no_grad(), hooks.capture(model, {"relu"}, differentiable=False) as captured:
        out = model(images)
    assert list(captured) == [("relu", 0), ("relu", 1), ("relu", 2)]
    y = functional.relu(functional.conv2d(images, model.first.weight, model.first.bias))
    z = functional.relu(functional.conv2d(y, model.second.weight, model.second.bias))
    torch.testing.assert_close(captured["relu", 0], y.detach())
    torch.testing.assert_close(captured["relu", 1], z.detach())
    torch.testing.assert_close(captured["relu", 2], out)


def test_capture_of_an_unknown_path_leaves_no_hook_on_the_known_ones() -> None:
    model = Reused()
    with (
        pytest.raises(AttributeError),
        hooks.capture(model, ["first", "relu", "third"], differentiable=False),
    ):
        pass
    assert hooks_on(model) == 0


@pytest.mark.parametrize("broken", [False, True])
def test_hooks_are_gone_afterwards(broken: bool) -> None:
    last = Broken() if broken else nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), last)
    try:
        with (
            hooks.capture(model, {"0", "1"}, differentiable=True),
            hooks.execution_order(model),
            hooks.picked(model, "1", lambda output: output),
            hooks.head(model),
        ):
            assert hooks_on(model) >= 6
            assert torch._C._len_torch_function_stack() == 1
            model(torch.randn(1, 3, 2, 2))
    except ValueError:
        assert broken
    assert hooks_on(model) == 0
    assert torch._C._len_torch_function_stack() == 0


@pytest.mark.parametrize("broken", [False, True])
def test_frozen_restores_each_module_and_parameter(broken: bool) -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.Sequential(nn.BatchNorm2d(4), nn.ReLU()), nn.Dropout()
    )
    model.train()
    model[1][0].eval()  # a frozen batch norm in a network that trains
    model[0].bias.requires_grad_(False)
    modes = [m.training for m in model.modules()]
    wanted = [p.requires_grad for p in model.parameters()]
    assert len(set(modes)) == len(set(wanted)) == 2
    try:
        with hooks.frozen(model):
            assert not any(m.training for m in model.modules())
            assert not any(p.requires_grad for p in model.parameters())
            if broken:
                raise ValueError("broken on purpose")
    except ValueError:
        assert broken
    assert [m.training for m in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == wanted


def test_a_mode_of_a_modules_own_is_not_entered() -> None:
    """As of adapters, which merge weights in `eval` and take them apart in `train`."""

    class Merging(nn.Linear):
        merged = False

        def train(self, mode: bool = True) -> Merging:
            self.merged = not mode
            return super().train(mode)

    model = nn.Sequential(Merging(2, 2), nn.Dropout()).train()
    with hooks.frozen(model):
        assert not any(module.training for module in model.modules())
        assert not model[0].merged
    assert all(module.training for module in model.modules())
    assert not model[0].merged


def test_checkpoints_are_there_again_whichever_model_is_let_go_first() -> None:
    made = torch.utils.checkpoint.CheckpointFunction
    for first_out in (0, 1):
        held = [hooks.frozen(nn.ReLU()) for _ in range(2)]
        for one in held:
            one.__enter__()
        assert torch.utils.checkpoint.CheckpointFunction is not made
        for place in (first_out, 1 - first_out):
            held[place].__exit__(None, None, None)
        assert torch.utils.checkpoint.CheckpointFunction is made


def test_an_exported_network_is_held_as_well() -> None:
    """Its `eval` raises an error."""
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten())
    exported = torch.export.export(module, (torch.zeros(1, 3, 2, 2),)).module()
    with hooks.frozen(exported):
        assert not exported.training
    assert exported.training


def test_guided_at_a_branch() -> None:
    x = torch.tensor([1.0], requires_grad=True)
    score = (2 * x - 3 * functional.relu(x)).sum()
    assert guided_gradient(score, x).item() == 2
    # The rule is gone with its context, though the graph is the same.
    assert torch.autograd.grad(score, x)[0].item() == -1


@pytest.mark.parametrize(
    "relu",
    [
        nn.ReLU(),
        nn.ReLU(inplace=True),
        functional.relu,
        torch.relu,
        lambda x: x.relu(),
        lambda x: functional.relu(x.clone(), inplace=True),
    ],
)
def test_guided_finds_every_kind_of_relu(relu) -> None:
    x = torch.tensor([-1.0, 2.0, 3.0], requires_grad=True)
    score = (relu(x * 1) * torch.tensor([5.0, 7.0, -11.0])).sum()
    # Cut where x ≤ 0 and where the gradient from above is not positive.
    assert guided_gradient(score, x).tolist() == [0, 7, 0]


def test_guided_counts_every_use_of_one_relu_module() -> None:
    relu = nn.ReLU()
    x = torch.tensor([1.0], requires_grad=True)
    score = (-relu(-relu(x) + 5)).sum()  # −1 is cut at the outer use
    assert guided_gradient(score, x).item() == 0
    score = (3 - relu(relu(x) * 2 - 1) + 4 * relu(x)).sum()  # a use cut, two uses kept
    assert torch.autograd.grad(score, x, retain_graph=True)[0].item() == 2
    assert guided_gradient(score, x).item() == 4


def test_guided_is_undone_after_an_exception() -> None:
    x = torch.tensor([1.0], requires_grad=True)
    score = (2 * x - 3 * functional.relu(x)).sum()
    with pytest.raises(ValueError, match="on purpose"), hooks.guided(score):
        raise ValueError("on purpose")
    assert torch.autograd.grad(score, x)[0].item() == -1


OTHER_GATES = [
    nn.ReLU6,
    nn.LeakyReLU,
    nn.ELU,
    nn.SELU,
    nn.CELU,
    nn.RReLU,
    nn.Hardtanh,
    nn.Hardswish,
    nn.Hardsigmoid,
    nn.SiLU,
    nn.Mish,
]


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("gate", OTHER_GATES)
def test_guided_refuses_a_network_with_other_gates_as_well(gate, inplace: bool) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), gate(inplace=inplace)).eval()
    with hooks.guided(model(torch.randn(2, 3)).sum()) as reason:
        assert reason is not None
        assert "other than ReLU" in reason


@pytest.mark.parametrize(
    ("gate", "name"),
    [
        (nn.GELU(), "Gelu"),
        (nn.PReLU(), "PreluKernel"),
        (nn.Softplus(), "Softplus"),
        (nn.Threshold(0, 0), "Threshold"),
        (lambda x: x.clamp(min=0), "Clamp"),
        (lambda x: x.clamp_min(0), "ClampMin"),
        (lambda x: -(-x).clamp_max(0), "ClampMax"),
        (nn.Hardshrink(), "Hardshrink"),
        (lambda x: torch.maximum(x, torch.zeros_like(x)), "Maximum"),
        (lambda x: torch.fmax(x, torch.zeros_like(x)), "Fmax"),
        (lambda x: -torch.fmin(-x, torch.zeros_like(x)), "Fmin"),
        (lambda x: torch.where(x > 0, x, 0.0), "Where"),
        (lambda x: x.masked_fill(x < 0, 0), "MaskedFill"),
        (lambda x: x.masked_scatter(x < 0, torch.zeros_like(x)), "MaskedScatter"),
        (nn.GLU(dim=0), "Glu"),
    ],
)
def test_guided_names_the_other_gate(gate, name: str) -> None:
    x = torch.randn(2, 3, requires_grad=True)
    with hooks.guided(gate(functional.relu(x)).sum()) as reason:
        assert reason == f"the network has activations other than ReLU ({name})"


def test_guided_refuses_a_users_own_autograd_function() -> None:
    class Swish(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x.sigmoid()

        @staticmethod
        def backward(ctx, g):
            raise AssertionError("not reached")

    x = torch.randn(2, 3, requires_grad=True)
    with hooks.guided(Swish.apply(functional.relu(x)).sum()) as reason:
        assert reason == "the network has activations other than ReLU (Swish)"


@pytest.mark.parametrize("activation", [nn.Identity(), nn.SiLU(), nn.Tanh()])
def test_guided_needs_a_relu(activation) -> None:
    x = torch.randn(2, 3, requires_grad=True)
    with hooks.guided(activation(x).sum()) as reason:
        assert reason == "the network has no ReLU"


def test_execution_order_is_that_of_the_calls() -> None:
    model = Reused()
    with hooks.execution_order(model) as calls:
        model(torch.randn(1, 3, 2, 2))
    assert [path for path, _, _ in calls] == ["first", "relu", "second", "relu", "relu"]


# --- a network's end ------------------------------------------------------------------------------


def test_the_head_is_what_was_pooled_and_every_linear_layer() -> None:
    linear = nn.Linear(4, 2)
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear, nn.ReLU(), nn.Linear(2, 3))
    images = torch.randn(2, 4, 5, 6)
    with hooks.head(model) as trace:
        scores = model(images)
    assert [x is images for x in trace.pooled] == [True]
    assert [module for module, _, _ in trace.linear] == [linear, model[4]]
    assert trace.linear[-1][2] is scores
    torch.testing.assert_close(trace.linear[0][1], images.mean(dim=(2, 3)))


@pytest.mark.parametrize(
    "pool",
    [
        lambda x: functional.adaptive_avg_pool2d(x, (1, 2)),  # halves
        lambda x: functional.avg_pool2d(x, 2),
        lambda x: x.mean(dim=2),  # rows
        lambda x: x.mean(),
        lambda x: functional.adaptive_max_pool2d(x, 1),
        lambda x: x.flatten(2).mean(dim=2),  # no places any more
    ],
)
def test_what_does_not_average_all_places_is_no_global_pool(pool) -> None:
    with hooks.head(nn.Identity()) as trace:
        pool(torch.randn(2, 4, 5, 6))
    assert trace.pooled == []


def test_what_a_library_leaves_behind_is_undone() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    own: list[int] = []
    model[0].register_forward_hook(lambda *_: own.append(1))
    theirs: list[int] = []

    def fails() -> None:
        model[0].register_forward_hook(lambda *_: theirs.append(1))
        model[1].register_full_backward_hook(lambda *_: None)
        model[1].input = torch.ones(1)
        raise ValueError("broken on purpose")

    with pytest.raises(ValueError, match="on purpose"), hooks.restored(model):
        fails()
    model(torch.ones(1, 2))
    assert (own, theirs) == ([1], [])
    assert not model[1]._backward_hooks
    assert not hasattr(model[1], "input")
