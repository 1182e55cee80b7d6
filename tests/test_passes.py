"""What the passes promise: one forward, no gradient of a parameter, a network left as it was."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from cnnaudit.models.perception import SimpleCNN
from cnnaudit.passes import forward, run_passes
from cnnaudit.targets import all_outputs, predicted
from cnnaudit.techniques import TECHNIQUES, NotApplicable
from cnnaudit.types import AuditError, PassSpec, Signals
from tests.conftest import state_of

EVERYTHING = PassSpec(frozenset({"0", "2"}), True, True, True)


def network(*last: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.ReLU(), nn.Flatten(), *last
    )


def signals_of(
    model: nn.Module, images: Tensor, spec: PassSpec, score_from: str | None = None
) -> Signals:
    return run_passes(model, images, score_from, {"t": all_outputs}, {"t": spec})[1]["t"]


def spec_for(technique: str, layer: str) -> PassSpec:
    needs = TECHNIQUES[technique].needs
    return PassSpec(
        frozenset({layer} if needs.layer else ()),
        needs.gradients,
        needs.input_gradient,
        needs.guided_input_gradient,
    )


class Counted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x


class OnCall(nn.Module):
    """Run a function of the input in the forward pass."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class NoWayBack(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        raise ValueError("backward on purpose")


def fail(x: Tensor) -> Tensor:
    raise ValueError("forward on purpose")


# --- the network is left as it was ----------------------------------------------------------------


SPECS = {
    "score": PassSpec(),
    "layer": PassSpec(frozenset({"3"})),
    "gradients": PassSpec(frozenset({"3"}), gradients=True),
    "input": PassSpec(input_gradient=True),
    # the guided rule refuses the network that fails, so that its plain gradient has to
    "guided": PassSpec(input_gradient=True, guided_input_gradient=True),
    "head": PassSpec(head=True),
}


@pytest.mark.parametrize("where", ["nowhere", "forward", "backward", "target"])
@pytest.mark.parametrize("asked", sorted(SPECS))
def test_the_network_is_left_as_it_was(asked: str, where: str) -> None:
    """As test_laws holds for each technique, here for each kind of pass."""
    last = {"forward": fail, "backward": NoWayBack.apply}.get(where, nn.Identity())
    model = network(OnCall(last), nn.BatchNorm1d(5 * 2 * 3), nn.Dropout())
    model.train()
    model[6].eval()
    model[0].weight.requires_grad_(False)
    images, spec = torch.randn(2, 3, 6, 7), SPECS[asked]
    before = state_of(model)

    def target(scores: Tensor) -> Tensor:
        if where == "target":
            raise ValueError("target on purpose")
        return all_outputs(scores)

    if where == "nowhere" or (where == "backward" and asked in ("score", "layer", "head")):
        run_passes(model, images, None, {"t": target}, {"t": spec})
    else:
        with pytest.raises(ValueError, match=f"{where} on purpose"):
            run_passes(model, images, None, {"t": target}, {"t": spec})
    assert state_of(model) == before
    assert not images.requires_grad
    assert images.grad is None
    assert torch.is_grad_enabled()


def test_batch_norm_and_dropout_run_in_evaluation_mode() -> None:
    model = network(nn.BatchNorm1d(5 * 2 * 3), nn.Dropout(0.9)).train()
    images = torch.randn(4, 3, 6, 7)
    outputs, _ = forward(model, images, None)
    torch.testing.assert_close(outputs, model.eval()(images).detach())
    assert int(model[5].num_batches_tracked) == 0


def test_a_model_that_works_in_place_on_its_input_does_not_change_the_images() -> None:
    model = nn.Sequential(OnCall(lambda x: x.mul_(2)), nn.Flatten())
    images = torch.ones(2, 3, 4, 5)
    forward(model, images, None)
    signals = signals_of(model, images, PassSpec(input_gradient=True))
    assert (images == 1).all()
    assert (signals.input_gradients["plain"] == 2).all()


# --- only what is asked for is computed -----------------------------------------------------------


def test_no_gradient_of_a_parameter_is_computed() -> None:
    asked = []

    class Noted(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, weight):
            asked.append(ctx.needs_input_grad)
            return x * weight

        @staticmethod
        def backward(ctx, gradient):
            return gradient, None

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor) -> Tensor:
            return Noted.apply(x, self.weight)

    model = network(Scaled(), nn.Linear(30, 4))
    model(torch.randn(1, 3, 6, 7)).sum().backward()  # here it is asked for
    assert asked.pop() == (True, True)
    model.zero_grad(set_to_none=True)
    signals_of(model, torch.randn(2, 3, 6, 7), PassSpec(frozenset({"0"}), True, True, False))
    assert asked == [(True, False)]
    assert all(p.grad is None for p in model.parameters())


def test_backward_stops_at_the_layer_unless_the_input_is_asked_for() -> None:
    model = nn.Sequential(OnCall(NoWayBack.apply), nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Flatten())
    images = torch.randn(2, 3, 5, 6)
    signals = signals_of(model, images, PassSpec(frozenset({"1"}), gradients=True))
    (gradient,) = signals.gradients.values()
    torch.testing.assert_close(gradient, (signals.activations["1", 0] > 0).float())
    assert signals.input_gradients == {}
    with pytest.raises(ValueError, match="backward on purpose"):
        signals_of(model, images, PassSpec(frozenset({"1"}), True, True))


def test_no_graph_is_built_before_the_layer() -> None:
    graphs = []
    model = nn.Sequential(
        OnCall(lambda x: graphs.append(x.requires_grad) or x), nn.Conv2d(3, 4, 1), nn.Flatten()
    )
    images = torch.randn(2, 3, 5, 6)
    signals_of(model, images, PassSpec(frozenset({"1"}), gradients=True))
    signals_of(model, images, PassSpec(frozenset({"1"}), gradients=True, input_gradient=True))
    assert graphs == [False, True]


def test_no_graph_is_built_for_activations_only() -> None:
    graphs = []
    model = network(OnCall(lambda x: graphs.append(x.requires_grad) or x))
    signals = signals_of(model, torch.randn(2, 3, 6, 7), PassSpec(frozenset({"2"})))
    assert graphs == [False]
    assert list(signals.activations) == [("2", 0)]
    assert signals.gradients == {}


def test_targets_share_one_forward_and_do_not_touch_each_other() -> None:
    model = network(Counted(), nn.Linear(30, 4))
    images = torch.randn(3, 3, 6, 7)
    targets = {"all": all_outputs, "top": predicted}
    _, both = run_passes(model, images, None, targets, dict.fromkeys(targets, EVERYTHING))
    assert model[5].calls == 1
    for name, target in targets.items():
        alone = run_passes(model, images, None, {name: target}, {name: EVERYTHING})[1][name]
        for kind in ("plain", "guided"):
            assert torch.equal(alone.input_gradients[kind], both[name].input_gradients[kind])
        for call, gradient in alone.gradients.items():
            assert torch.equal(gradient, both[name].gradients[call])
    assert not torch.equal(
        both["all"].input_gradients["plain"], both["top"].input_gradients["plain"]
    )


def test_each_target_gets_what_its_own_spec_asks_for() -> None:
    model = network()
    specs = {"all": PassSpec(frozenset({"0"}), True), "top": PassSpec(input_gradient=True)}
    targets = {"all": all_outputs, "top": predicted}
    _, signals = run_passes(model, torch.randn(2, 3, 6, 7), None, targets, specs)
    assert list(signals["all"].gradients) == [("0", 0)]
    assert signals["all"].input_gradients == {}
    assert signals["top"].activations == {}
    assert list(signals["top"].input_gradients) == ["plain"]


# --- values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("b", [1, 2])
def test_shapes_with_four_different_sizes(b: int) -> None:
    c, h, w = 3, 9, 7
    signals = signals_of(network(), torch.randn(b, c, h, w), EVERYTHING)
    assert signals.activations["0", 0].shape == (b, 4, h - 2, w - 2)
    assert signals.gradients["2", 0].shape == (b, 5, h - 4, w - 4)
    assert {g.shape for g in signals.input_gradients.values()} == {(b, c, h, w)}


def test_gradients_are_those_of_plain_autograd() -> None:
    model, images = network(nn.Linear(30, 4)), torch.randn(2, 3, 6, 7)
    x = images.clone().requires_grad_()
    first = model[0](x)
    second = model[2](first.relu())
    score = model[5](second.relu().flatten(1)).sum()
    by_first, by_second, by_input = torch.autograd.grad(score, [first, second, x])
    signals = signals_of(model, images, PassSpec(frozenset({"0", "2"}), True, True))
    torch.testing.assert_close(signals.activations["0", 0], first.detach())
    torch.testing.assert_close(signals.gradients["0", 0], by_first)
    torch.testing.assert_close(signals.gradients["2", 0], by_second)
    torch.testing.assert_close(signals.input_gradients["plain"], by_input)


def test_score_from_explains_the_scores_before_the_sigmoid() -> None:
    torch.manual_seed(1)
    model, images = SimpleCNN().eval(), torch.randn(2, 3, 64, 80)
    x = images.clone().requires_grad_()
    logits = model.decoder[:4](model.encoder(x).flatten(1))
    expected = torch.autograd.grad(logits.sum(), x)[0]
    probabilities = model(x)
    saturated = torch.autograd.grad(probabilities.sum(), x)[0]
    outputs, signals = run_passes(
        model, images, "decoder.3", {"t": all_outputs}, {"t": PassSpec(input_gradient=True)}
    )
    found = signals["t"].input_gradients["plain"]
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, saturated, rtol=0.1)
    torch.testing.assert_close(outputs, probabilities.detach())
    outputs, scores = forward(model, images, "decoder.3")
    torch.testing.assert_close(outputs, probabilities.detach())
    torch.testing.assert_close(scores, logits.detach())


def test_scores_are_those_of_the_last_call() -> None:
    twice = nn.Flatten()
    model = nn.Sequential(twice, OnCall(lambda x: 10 * x), twice, nn.Sigmoid())
    _, scores = forward(model, torch.ones(2, 3), "0")
    assert (scores == 10).all()


def test_targets_see_the_scores_not_the_outputs() -> None:
    seen = []
    model = nn.Sequential(nn.Flatten(), nn.Sigmoid())
    images = torch.full((1, 1, 2, 3), 5.0)

    def target(scores: Tensor) -> Tensor:
        seen.append(scores)
        return all_outputs(scores)

    run_passes(model, images, "0", {"t": target}, {"t": PassSpec(input_gradient=True)})
    assert seen[0].tolist() == [[5.0] * 6]
    assert not seen[0].requires_grad


def test_the_layer_may_be_the_one_that_gives_the_scores() -> None:
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Sigmoid())
    spec = PassSpec(frozenset({"0"}), gradients=True)
    signals = signals_of(model, torch.randn(2, 3, 5, 6), spec, score_from="0")
    assert (signals.gradients["0", 0] == 1).all()


def test_a_layer_is_its_last_use_unless_it_names_one() -> None:
    relu = nn.ReLU()
    spec = PassSpec(frozenset({"0"}))
    signals = signals_of(nn.Sequential(*[relu] * 11), torch.randn(1, 2, 3, 4), spec)
    assert signals.call_of("0") == ("0", 10)
    assert signals.call_of("0@9") == ("0", 9)
    assert signals.call_of("0@11") is None
    assert signals.call_of("1") is None


@pytest.mark.parametrize(("layer", "value"), [("relu@0", 1), ("relu@1", 2), ("relu", 6)])
def test_activations_and_gradients_are_those_of_the_use(layer: str, value: float) -> None:
    class Thrice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu = nn.ReLU(inplace=True)

        def forward(self, x: Tensor) -> Tensor:
            return 5 * self.relu(3 * self.relu(2 * self.relu(x))).flatten(1)

    spec = PassSpec(frozenset({layer}), gradients=True)
    signals = signals_of(Thrice(), torch.ones(1, 2, 3, 4), spec)
    call = signals.call_of(layer)
    assert call is not None
    assert (signals.activations[call] == value).all()
    assert (signals.gradients[call] * value == 30).all()


# --- the linear end -------------------------------------------------------------------------------


class Ends(nn.Module):
    """A convolution, and what is made of its features."""

    def __init__(self, end, hidden: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.conv, self.end = nn.Conv2d(3, 4, 3, padding=1), end
        self.hidden, self.fc = hidden or nn.Identity(), nn.Linear(4, 5)
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self, functional.relu(self.conv(x)))


LINEAR_ENDS = {
    "module": lambda m, x: m.fc(m.pool(x).flatten(1)),
    "functional": lambda m, x: m.fc(functional.adaptive_avg_pool2d(x, (1, 1)).flatten(1)),
    "window": lambda m, x: m.fc(functional.avg_pool2d(x, x.shape[2:]).flatten(1)),
    "mean": lambda m, x: m.fc(x.mean([2, 3])),
    "torch.mean": lambda m, x: m.fc(torch.mean(x, dim=(-2, -1))),
    "two axes": lambda m, x: m.fc(functional.dropout(m.pool(x)[..., 0, 0], training=m.training)),
    "a squeeze before": lambda m, x: m.fc((x * m.pool(x).sigmoid()).mean([2, 3])),
}
OTHER_ENDS = {
    "no linear layer gives the scores": lambda m, x: m.pool(x).flatten(1),
    "no global average pool comes before the last linear layer": lambda m, x: m.fc(
        functional.adaptive_max_pool2d(x, 1).flatten(1)
    ),
    "more than a linear layer comes after the average pool": lambda m, x: m.fc(
        functional.relu(m.hidden(m.pool(x).flatten(1)))
    ),
}
HEAD = PassSpec(head=True)


@pytest.mark.parametrize("end", sorted(LINEAR_ENDS))
def test_the_head_is_found_and_gives_the_scores(end: str) -> None:
    model, images = Ends(LINEAR_ENDS[end]), torch.randn(2, 3, 6, 7)
    outputs, signals = run_passes(model, images, None, {"t": predicted}, {"t": HEAD})
    head = signals["t"].head
    assert head is not None
    assert head.features.shape == (2, 4, 6, 7)
    classes = outputs.argmax(dim=1)
    torch.testing.assert_close(head.weights, model.fc.weight.detach()[classes])
    score = (head.features.mean(dim=(2, 3)) * head.weights).sum(dim=1) + model.fc.bias[classes]
    torch.testing.assert_close(signals["t"].score, score.detach())


@pytest.mark.parametrize("reason", sorted(OTHER_ENDS))
def test_what_is_no_linear_end_has_no_head(reason: str) -> None:
    model = Ends(OTHER_ENDS[reason], nn.Linear(4, 4))
    signals = signals_of(model, torch.randn(2, 3, 6, 7), HEAD)
    assert signals.head is None
    assert signals.inapplicable == {"head": reason}


@pytest.mark.parametrize("bias", [0.0, 1e3, 1e6])
def test_a_large_bias_neither_hides_a_wrong_head_nor_costs_a_right_one(bias: float) -> None:
    normed = Ends(lambda m, x: m.fc(m.hidden(m.pool(x).flatten(1))), nn.LayerNorm(4))
    plain, images = Ends(LINEAR_ENDS["module"]), torch.randn(2, 3, 6, 7)
    for model in (normed, plain):
        nn.init.constant_(model.fc.bias, bias)
    assert signals_of(normed, images, HEAD).inapplicable["head"].startswith("more than a linear")
    assert signals_of(plain, images, HEAD).head is not None


@pytest.mark.parametrize("scale", [1.0, 1e-6])
@pytest.mark.parametrize(
    "between",
    [
        lambda pooled: pooled / 2,
        lambda pooled: pooled * 2,
        lambda pooled: pooled * torch.tensor([[1.0], [0.9]]),  # of one image alone
        lambda pooled: pooled.repeat(1, 2)[:, 2:6],
    ],
)
def test_what_lies_between_the_average_and_the_linear_layer_is_seen(between, scale: float) -> None:
    model = Ends(lambda m, x: m.fc(between(m.pool(x * scale).flatten(1))))
    reason = signals_of(model, torch.randn(2, 3, 6, 7), HEAD).inapplicable["head"]
    assert reason == "more than a linear layer comes after the average pool"


def test_a_linear_layer_of_each_place_is_no_head() -> None:
    """It gives all scores at once, of averages that are as many as its inputs at one place."""
    model = Ends(lambda m, x: m.fc(m.pool(x).flatten(1)[:, None] * torch.ones(1, 3, 1)).flatten(1))
    reason = signals_of(model, torch.randn(2, 3, 6, 7), HEAD).inapplicable["head"]
    assert reason == "more than a linear layer comes after the average pool"


def test_the_weights_of_the_head_are_those_of_the_explained_score() -> None:
    model, images = Ends(LINEAR_ENDS["mean"]), torch.randn(2, 3, 6, 7)
    weights = torch.tensor([[1.0, 0, 0, -2, 0], [0, 0.5, 0, 0, 0]])
    _, signals = run_passes(model, images, None, {"t": lambda _: weights}, {"t": HEAD})
    head, rows = signals["t"].head, model.fc.weight.detach()
    assert head is not None
    torch.testing.assert_close(head.weights, torch.stack([rows[0] - 2 * rows[3], rows[1] / 2]))


def test_the_head_of_scores_behind_a_softmax() -> None:
    model = Ends(lambda m, x: m.fc(m.pool(x).flatten(1)).softmax(dim=1))
    images = torch.randn(2, 3, 6, 7)
    assert signals_of(model, images, HEAD, score_from="fc").head is not None
    assert signals_of(model, images, HEAD).inapplicable["head"].startswith("no linear layer")


def test_an_image_that_is_not_finite_does_not_cost_the_others_their_head() -> None:
    model, images = Ends(LINEAR_ENDS["module"]), torch.randn(3, 3, 6, 7)
    before = signals_of(model, images, HEAD).head
    images[1, 0, 2, 3] = torch.nan
    after = signals_of(model, images, HEAD).head
    assert before is not None
    assert after is not None
    assert torch.equal(after.features[[0, 2]], before.features[[0, 2]])


# --- what has no gradient -------------------------------------------------------------------------


class FrozenFront(nn.Module):
    """A backbone under `no_grad`, as it is often written when only a head was trained."""

    def __init__(self) -> None:
        super().__init__()
        self.front, self.back = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3)
        self.aside = nn.Conv2d(4, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = functional.relu(self.front(x))
        self.aside(x)
        return functional.relu(self.back(x)).flatten(1)


@pytest.mark.parametrize(
    ("technique", "layer"),
    [("saliency", ""), ("guided_saliency", ""), ("grad_cam", "front"), ("layer_cam", "aside")],
)
def test_what_the_score_does_not_depend_on_has_no_heatmap(technique: str, layer: str) -> None:
    model, images = FrozenFront(), torch.randn(2, 3, 6, 7)
    parameters = {"layer": layer} if layer else {}
    for other in (frozenset(), frozenset({"back"})):  # with and without another request beside it
        spec = spec_for(technique, layer)
        spec = PassSpec(
            spec.layers | other,
            spec.gradients or bool(other),
            spec.input_gradient,
            spec.guided_input_gradient,
        )
        with pytest.raises(NotApplicable):
            TECHNIQUES[technique].compute(signals_of(model, images, spec), **parameters)
    signals = signals_of(model, images, PassSpec(frozenset({"back"}), True, True))
    assert TECHNIQUES["grad_cam"].compute(signals, layer="back").shape == (2, 2, 3)


@pytest.mark.parametrize("last_counts", [True, False])
def test_the_last_call_decides_whether_a_layer_has_a_gradient(last_counts: bool) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            uses = self.relu(x), self.relu(2 * x)
            return uses[last_counts].flatten(1)

    signals = signals_of(Twice(), torch.ones(1, 2, 3, 4), PassSpec(frozenset({"relu"}), True))
    if last_counts:
        assert TECHNIQUES["hires_cam"].compute(signals, layer="relu").tolist() == [[[4] * 4] * 3]
    else:
        with pytest.raises(NotApplicable, match="does not depend on the output of relu"):
            TECHNIQUES["hires_cam"].compute(signals, layer="relu")


# --- networks that compute their activations twice ------------------------------------------------


class Checkpointing(nn.Module):
    """A network with a checkpointed block, or the same without a checkpoint."""

    def __init__(self, **options) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.conv, self.options, self.fc = nn.Conv2d(3, 4, 3), options, nn.Linear(4, 5)
        self.block = nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x = checkpoint(self.block, x, **self.options) if self.options else self.block(x)
        return self.fc(x.mean(dim=(2, 3)))


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("by_input", [False, True])
@pytest.mark.parametrize("layers", ["block.1", "block.0 block.1 block", "conv block.1"])
def test_a_checkpointed_network_has_the_gradients_of_a_plain_one(
    layers: str, reentrant: bool, by_input: bool
) -> None:
    spec = PassSpec(
        frozenset(layers.split()), True, input_gradient=by_input, guided_input_gradient=by_input
    )
    targets, images = {"a": predicted, "b": all_outputs}, torch.randn(2, 3, 7, 8)
    made = torch.utils.checkpoint.CheckpointFunction
    (_, plain), (_, found) = (
        run_passes(model, images, None, targets, {"a": spec, "b": spec})
        for model in (Checkpointing(), Checkpointing(use_reentrant=reentrant))
    )
    for name in targets:
        assert found[name].inapplicable == plain[name].inapplicable == {}
        for kind in ("activations", "gradients", "input_gradients"):
            own, expected = getattr(found[name], kind), getattr(plain[name], kind)
            assert own.keys() == expected.keys()
            for key, values in expected.items():
                torch.testing.assert_close(own[key], values)
    assert torch.utils.checkpoint.CheckpointFunction is made


# --- models that are not what is expected ---------------------------------------------------------


@pytest.mark.parametrize(
    ("returns", "message"),
    [
        (lambda x: {"out": x}, "returns a dict"),
        (lambda x: (x, x), "returns a tuple"),
        (lambda x: x.sum(), r"shape \(\) for 2 images"),
        (lambda x: x[:1], r"shape \(1, 30\) for 2 images"),
    ],
)
def test_a_model_whose_output_is_no_batch_of_scores(returns, message: str) -> None:
    model, images = network(OnCall(returns)), torch.randn(2, 3, 6, 7)
    with pytest.raises(AuditError, match=message):
        forward(model, images, None)
    with pytest.raises(AuditError, match=message):
        signals_of(model, images, PassSpec(input_gradient=True))


def test_score_from_whose_output_is_no_tensor() -> None:
    model = nn.Sequential(OnCall(lambda x: (x, x)), OnCall(lambda xs: xs[0]), nn.Flatten())
    images = torch.randn(2, 3, 6, 7)
    with pytest.raises(AuditError, match=r"score_from: 0 returns a tuple with the entries 0 \(2, "):
        forward(model, images, "0")
    _, scores = forward(model, images, "0:1")
    assert torch.equal(scores, images.flatten(1))


def test_scores_of_an_entry_are_those_before_an_in_place_operation() -> None:
    named, relu = OnCall(lambda x: {"a": x * 1}), OnCall(lambda xs: xs["a"].relu_())
    model = nn.Sequential(nn.Flatten(), named, relu)
    images = torch.randn(2, 3, 6, 7)
    outputs, scores = forward(model, images, "1:a")
    assert torch.equal(scores, images.flatten(1))
    assert torch.equal(outputs, images.flatten(1).relu())


def test_score_from_that_takes_no_part() -> None:
    model = network()
    model.aside = nn.Identity()
    model.forward = lambda x: x.flatten(1)
    with pytest.raises(AuditError, match="'aside' gave no tensor in the forward pass"):
        forward(model, torch.randn(2, 3, 6, 7), "aside")


def test_one_score_an_image() -> None:
    model = network(OnCall(lambda x: x.sum(dim=1)))
    outputs, scores = forward(model, torch.randn(2, 3, 6, 7), None)
    assert outputs.shape == scores.shape == (2, 1)


def test_a_score_inside_leaves_the_callers_images_as_they_were() -> None:
    images = torch.ones(2, 3, 4, 5)
    forward(nn.Sequential(OnCall(lambda x: x.mul_(2)), nn.Flatten()), images, "1")
    assert (images == 1).all()
