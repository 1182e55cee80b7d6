"""Networks as they were before they learnt anything: the same architecture, new weights."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

from cnnaudit.models import device_of

if TYPE_CHECKING:
    import torch
    from torch import nn

VERSION = 1  # raise it when the same seed would give other weights


def untrained_twin(model: nn.Module, seed: int) -> nn.Module:
    """Return a copy of a model, on its device, in which every layer has new weights."""
    import torch

    twin = deepcopy(model).cpu()
    generator = torch.Generator().manual_seed(seed)
    for module in twin.modules():
        reinitialise(module, generator)
    return twin.to(device_of(model))


def reinitialise(module: nn.Module, generator: torch.Generator) -> None:
    """Give a module on the CPU new parameters, by its own rule where it has one.

    What that leaves as it was is drawn anew with the same mean and spread.
    """
    import torch

    before = [parameter.clone() for parameter in own_parameters(module)]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.set_state(generator.get_state())
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
        for parameter, old in zip(own_parameters(module), before, strict=True):
            if torch.equal(parameter, old):
                parameter.normal_(float(old.mean()), float(old.std(correction=0)))
        generator.set_state(torch.default_generator.get_state())


def own_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Return the floating-point parameters of a module itself, not those of the modules in it."""
    own = module.parameters(recurse=False)
    return [parameter for parameter in own if parameter.is_floating_point()]
