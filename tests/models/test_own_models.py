"""A user's own networks: made by their code, which only the command line lets run."""

from __future__ import annotations

import importlib
import sys
from contextlib import nullcontext
from dataclasses import replace
from itertools import count
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from cnnaudit import own_code
from cnnaudit.audit import Invocation, run_audit
from cnnaudit.config import load_specs
from cnnaudit.models import build_model, inspect_model, resolve_model
from cnnaudit.plan import requests_of, run_fields
from cnnaudit.specs import ModelSpec
from cnnaudit.types import AuditError

ALLOW = "allow_code=true"
MODEL = """
from torch import nn
from .parts import WIDTH

def build(width=WIDTH, classes=3):
    return nn.Sequential(
        nn.Conv2d(3, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(width, classes),
    )

def grey():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 14 * 18, 2))

def dense(width=4):
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU())

def raises():
    raise RuntimeError("no luck")

def nothing():
    return 7

def exported():
    import torch
    return torch.export.export(build().eval(), (torch.zeros(1, 3, 16, 20),)).module()
"""
_numbers = count()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Write a package into the folder where the command runs, under a name never imported yet."""
    name = f"my_package_{next(_numbers)}"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").touch()
    (tmp_path / name / "my_model.py").write_text(MODEL)
    (tmp_path / name / "parts.py").write_text("WIDTH = 4\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return name


def overrides_of(factory: str, *more: str) -> list[str]:
    keys = (f"factory={factory}", "weights=none", "preprocessing.resize=[16,20]")
    statistics = ("preprocessing.mean=[0,0,0]", "preprocessing.std=[1,1,1]")
    return [
        *("experiment=none", "model=[factory]"),
        *(f"model.factory.{text}" for text in (*keys, *statistics)),
        *more,
    ]


def spec_of(factory: str, *more: str) -> ModelSpec:
    return load_specs(overrides_of(factory, *more, ALLOW)).models[0]


# --- the door -------------------------------------------------------------------------------------


def test_a_factory_is_refused_without_the_words(package: str) -> None:
    factory = f"{package}.my_model:build"
    with pytest.raises(AuditError, match=r"model.factory.factory: .*only with allow_code=true on"):
        load_specs(overrides_of(factory))
    with pytest.raises(AuditError, match="only with allow_code=true"):
        load_specs(overrides_of(factory, ALLOW, "allow_code=false"))
    assert package not in sys.modules
    assert str(Path.cwd()) not in sys.path


def test_a_plugin_is_refused_without_the_words(package: str) -> None:
    with pytest.raises(AuditError, match=r"plugins: .*only with allow_code=true on the command"):
        load_specs([f"plugins=[{package}]"])
    assert package not in sys.modules


def test_a_config_file_cannot_open_the_door(package: str, tmp_path: Path) -> None:
    experiment = tmp_path / "conf/experiment/sent.yaml"
    experiment.parent.mkdir(parents=True)
    experiment.write_text(f"# @package _global_\nplugins: [{package}]\nallow_code: true\n")
    with pytest.raises(AuditError, match="allow_code: true counts only when it is given on the"):
        load_specs(["experiment=sent"], tmp_path / "conf")
    assert package not in sys.modules
    load_specs(["experiment=sent", ALLOW], tmp_path / "conf")
    assert package in sys.modules


@pytest.mark.parametrize(
    ("overrides", "given"),
    [
        ([], False),
        (["allow_code=true"], True),
        (["++allow_code=True"], True),
        (["allow_code=true", "allow_code=false"], False),
        (["allow_code=false", "allow_code=true"], True),
        (["allow_code=true,false"], False),
        (["allow_code=${oc.env:ALLOWED}"], False),
        (["name=allow_code=true"], False),
        (["model.x.allow_code=true"], False),
    ],
)
def test_what_opens_the_door(overrides: list[str], given: bool) -> None:
    assert own_code.given(overrides) is given


# --- the factory ----------------------------------------------------------------------------------


def test_a_factory_makes_a_seeded_network(package: str) -> None:
    spec = spec_of(f"{package}.my_model:build")
    assert (spec.builder, spec.factory) == ("factory", f"{package}.my_model:build")
    facts = inspect_model(spec, seed=1)
    assert facts.outputs == 3
    assert facts.roles["first_conv"] == "0"
    one, same, other = (build_model(spec, seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(one["0.weight"], same["0.weight"])
    assert not torch.equal(one["0.weight"], other["0.weight"])


def test_a_network_of_grey_pictures(package: str) -> None:
    grey = [f"model.factory.preprocessing.{key}" for key in ("channels=grey", "mean=[0.3]")]
    with pytest.raises(AuditError, match=r"std: \[1, 1, 1\] is not a list of 1 number, not b"):
        spec_of(f"{package}.my_model:grey", *grey)
    spec = spec_of(f"{package}.my_model:grey", *grey, "model.factory.preprocessing.std=[0.2]")
    assert inspect_model(spec, 1).input == (1, 16, 20)


def test_arguments_reach_it_and_weights_are_loaded(package: str, tmp_path: Path) -> None:
    from importlib import import_module

    spec = spec_of(f"{package}.my_model:build", "+model.factory.arguments={width:6,classes:5}")
    assert dict(spec.arguments) == {"width": 6, "classes": 5}
    trained = import_module(f"{package}.my_model").build(6, 5).state_dict()
    save_file(trained, tmp_path / "w.safetensors")
    model = build_model(replace(spec, weights=tmp_path / "w.safetensors"), 1)
    assert torch.equal(model.state_dict()["4.weight"], trained["4.weight"])
    with pytest.raises(AuditError, match=r"does not fit '.*my_model:build': 0.weight has the sha"):
        build_model(replace(spec, weights=tmp_path / "w.safetensors", arguments={}), 1)


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("no_such_package:build", r"factory: no_such_package cannot be imported \(ModuleNotFound"),
        ("{}.my_modle:build", r"factory: .*my_modle cannot be imported"),
        ("{}.my_model:biuld", r"'biuld' is no allowed function. Did you mean 'build'\?"),
        ("{}.my_model:WIDTH", r"'WIDTH' is no allowed function"),
        ("{}.my_model:raises", r"my_model:raises raised RuntimeError: no luck"),
        ("{}.my_model:nothing", r"my_model:nothing returned a int, a torch.nn.Module is expected"),
    ],
)
def test_what_is_wrong_with_a_factory_is_said(package: str, factory: str, message: str) -> None:
    with pytest.raises(AuditError, match=message) as error:
        inspect_model(spec_of(factory.format(package)), 1)
    assert str(error.value).startswith("model.factory.factory: ")


def test_an_exported_network_is_refused(package: str) -> None:
    with pytest.raises(AuditError, match=r"^model.factory: it is made by torch.export, and"):
        inspect_model(spec_of(f"{package}.my_model:exported"), 1)


@pytest.mark.parametrize(
    ("more", "allowed"),
    [
        ([], False),
        (["target=[truth]"], False),
        (["target=[class]", "target.class.of=2"], False),
        (["target=[all_outputs]"], True),
        (["technique=[edges]"], True),
        (["model.factory.task=structured_regression"], True),
        (["+model.factory.outputs={channel:4,y:14,x:18}"], True),
    ],
)
def test_a_class_with_a_score_at_every_place(package: str, more: list[str], allowed: bool) -> None:
    audit = load_specs(
        overrides_of(
            f"{package}.my_model:dense",
            *("image_set=[folder]", "image_set.folder.root=.", "technique=[saliency]"),
            *(ALLOW, *more),
        )
    )
    spec = audit.models[0]
    facts = inspect_model(spec, 1)
    said = (
        rf"model.factory: the target '\w+' is about one score .* class has {14 * 18}, one at each"
    )
    with nullcontext() if allowed else pytest.raises(AuditError, match=said):
        requests_of(audit, spec, facts)


def test_a_module_that_raises_is_said(package: str, tmp_path: Path) -> None:
    (tmp_path / package / "broken.py").write_text("1 / 0\n")
    with pytest.raises(AuditError, match=r"broken cannot be imported \(ZeroDivisionError"):
        inspect_model(spec_of(f"{package}.broken:build"), 1)


@pytest.mark.parametrize("factory", ["my_package.my_model", "a:b:c", "a/b.py:build"])
def test_a_factory_is_a_module_and_a_function(factory: str) -> None:
    with pytest.raises(AuditError, match=r"model.factory.factory: .* is not a module and a func"):
        spec_of(f"'{factory}'")


def test_an_argument_that_does_not_exist(package: str) -> None:
    spec = spec_of(f"{package}.my_model:build", "+model.factory.arguments.widht=6")
    with pytest.raises(AuditError, match=r"arguments.widht: .*Did you mean 'width'\? Allowed: wi"):
        inspect_model(spec, 1)


# --- what determines a cell -----------------------------------------------------------------------


def test_the_factorys_files_and_arguments_are_in_the_key(package: str, tmp_path: Path) -> None:
    audit = load_specs(overrides_of(f"{package}.my_model:build", ALLOW))
    spec = audit.models[0]
    before = run_fields(audit, spec)
    assert run_fields(audit, spec) == before
    assert run_fields(audit, replace(spec, arguments={"width": 5})) != before
    assert run_fields(audit, replace(spec, output_entry="logits")) != before
    for name in ("my_model.py", "parts.py", "__init__.py"):
        file = tmp_path / package / name
        file.write_text(file.read_text() + "# another line\n")
        assert run_fields(audit, spec) == before, "what is imported is as it was"
        _forget(package)
        after = run_fields(audit, spec)
        assert after != before, name
        before = after
    (tmp_path / package / "aside.py").write_text("# imported by nobody\n")
    _forget(package)
    assert run_fields(audit, spec) == before


def _forget(package: str) -> None:
    """Have a package imported again, as another process would."""
    importlib.invalidate_caches()
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        del sys.modules[name]


def test_weights_that_are_replaced_after_planning_are_refused(package: str, tmp_path: Path) -> None:
    file = tmp_path / "last.safetensors"
    factory = f"{package}.my_model:build"
    network = build_model(spec_of(factory), seed=1)
    save_file(network.state_dict(), file)
    spec = resolve_model(spec_of(factory, f"model.factory.weights={file}"))
    build_model(spec, seed=0)
    save_file({name: value + 1 for name, value in network.state_dict().items()}, file)
    with pytest.raises(AuditError, match=r"model.factory.weights: .*last.safetensors has changed"):
        build_model(spec, seed=0)
    build_model(replace(spec, weights_digest=""), seed=0)  # planned anew


def test_what_is_imported_when_it_is_called_counts_before_and_after(
    package: str, tmp_path: Path
) -> None:
    """Otherwise the key of a network would change as soon as it has been built."""
    lazy = "def build():\n    from .blocks import net\n    return net()\n"
    either = "try:\n    from ..beyond import X\nexcept ImportError:\n    X = 1\n"
    (tmp_path / package / "lazy.py").write_text(either + lazy)
    (tmp_path / package / "blocks.py").write_text(
        "from .my_model import build\nfrom torch import nn\nnet = build\n"
    )
    own_code.open_door(True, [ALLOW])
    module = own_code.import_own(f"{package}.lazy", "here")
    before = own_code.sources(f"{package}.lazy")
    assert {path.name for path in before} == {
        *("lazy.py", "blocks.py", "my_model.py", "parts.py", "__init__.py")
    }
    module.build()
    assert own_code.sources(f"{package}.lazy") == before


def test_a_module_alone_and_what_lies_beside_it(package: str, tmp_path: Path) -> None:
    name = f"alone_{package}"
    (tmp_path / f"{name}.py").write_text(
        "try:\n    from .beside import Y\nexcept ImportError:\n    import beside, json\n"
    )
    (tmp_path / "beside.py").write_text("Y = 1\n")
    own_code.open_door(True, [ALLOW])
    own_code.import_own(name, "here")
    assert own_code.sources(name) == sorted([tmp_path / "beside.py", tmp_path / f"{name}.py"])


def test_sources_are_the_users_own(package: str, tmp_path: Path) -> None:
    (tmp_path / package / "net.py").write_text(
        "import torch, cnnaudit\nfrom . import parts\nfrom .my_model import build as make\n"
    )
    own_code.open_door(True, [ALLOW])
    own_code.import_own(f"{package}.net", "here")
    found = {path.name for path in own_code.sources(f"{package}.net")}
    assert found == {"net.py", "parts.py", "my_model.py", "__init__.py"}
    for path in own_code.sources("safetensors.torch"):
        assert path.parent.name == "safetensors"
    assert own_code.sources("cnnaudit.techniques.cam") == []
    assert own_code.sources("no_module_at_all") == []


# --- used -----------------------------------------------------------------------------------------

RULE = """
import torch
from torch import nn

class Redness(nn.Module):
    def forward(self, images):
        red = (images[:, 0] - images[:, 1]).clamp(min=0)
        return torch.stack([red.mean((1, 2)), red.amax((1, 2))], 1)
"""


NORMED = """
from torch import nn

def build():
    layer = nn.utils.weight_norm(nn.Conv2d(3, 2, 3))
    return nn.Sequential(layer, nn.AdaptiveAvgPool2d(1), nn.Flatten())
"""


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_network_that_cannot_be_copied_has_no_twin(
    package: str, tmp_path: Path, image_set: Path
) -> None:
    (tmp_path / package / "normed.py").write_text(NORMED)
    asked = ("technique=[saliency]", "metric=[mass_in_mask]", "untrained_twin=true")
    sets = ("image_set=[manifest]", f"image_set.manifest.root={image_set}", "device=cpu", ALLOW)
    own = overrides_of(f"{package}.normed:build", *asked, *sets, f"output_dir={tmp_path / 'out'}")
    with pytest.raises(AuditError, match=r"model.factory: its untrained twin cannot be made \("):
        run_audit(load_specs(own), Invocation("test", [], ""))


def test_a_rule_without_weights_is_audited(package: str, tmp_path: Path, image_set: Path) -> None:
    (tmp_path / package / "rule.py").write_text(RULE)
    asked = ("technique=[saliency]", "metric=[mass_in_mask]", "sanity=[randomisation]")
    sets = ("image_set=[manifest]", f"image_set.manifest.root={image_set}", "untrained_twin=true")
    own = overrides_of(f"{package}.rule:Redness", *asked, *sets, f"output_dir={tmp_path / 'out'}")
    outcome = run_audit(load_specs([*own, "device=cpu", ALLOW]), Invocation("test", [], ""))
    assert outcome.complete
    rows = (
        pd.read_parquet(outcome.run_dir / "results/rows.parquet")
        .query("status == 'ok'")
        .dropna(subset="twin")
    )
    assert len(rows) > 0
    assert (rows["value"] == rows["twin"]).all()  # nothing in it was learnt
    (curve,) = pd.read_csv(outcome.run_dir / "results/randomisation.csv").to_dict("records")
    assert curve["status"] == "not_applicable: the network has no weights"
