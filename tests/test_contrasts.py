"""Contrasts: paired over units, refused where they cannot be answered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cnnaudit.answerable import check_contrast
from cnnaudit.contrasts import Places, contrast_table, contrasts_of
from cnnaudit.metrics import binary_metrics
from cnnaudit.specs import ContrastSpec, ImageSetSpec, MetricSpec
from cnnaudit.types import POOLED, AuditError, File, ImageSet, Item
from tests.test_summary import make_row

COLOUR = ContrastSpec(
    "colour", "s", "colour", ("equal", "different"), ("scene", "light"), ("light",)
)
MODELS = ContrastSpec("models", "s", "model", ("mended", "m"), (), ("light",))
LIGHTS = ("left", "overhead")
NAMES = {"model": ["m", "mended"], "technique": ["cam", "edges"], "target": ["t"]}


def make_rows(
    effect: dict[str, float] | None = None, scenes: int = 12, seed: int = 0, **columns: object
) -> pd.DataFrame:
    """Rows of one technique: per light, equal lies lower than different by an effect."""
    rng = np.random.default_rng(seed)
    effect = effect or {"left": -0.1, "overhead": -0.4}
    lines = []
    for scene in range(scenes):
        own = rng.normal(0, 0.05)
        for light in LIGHTS:
            for colour in COLOUR.levels:
                value = 0.6 + own + rng.normal(0, 0.02) + effect[light] * (colour == "equal")
                about = {"item": f"{scene}-{light}-{colour}", "swap": 0.12, "twin": 0.15}
                about |= {"ceiling": 0.9, **columns}
                lines.append(make_row(f"scene_{scene:02d}", colour, light, value) | about)
    return pd.DataFrame(lines)


def make_image_set(change: Callable[[list[Item]], list[Item]] = lambda items: items) -> ImageSet:
    items = [
        Item(name, File("", b""), {}, None, {"scene": f"{n}", "light": light} | level)
        for n in range(3)
        for light in LIGHTS
        for colour, level in [(c, {"colour": c} if c else {}) for c in ("equal", "different", "")]
        for name in (f"{n}-{light}-{colour}",)
    ]
    spec = ImageSetSpec("s", "manifest", Path(), "scene", 1, (), {}, {})
    return ImageSet(spec, tuple(change(items)), ("scene", "colour", "light"))


def test_a_metric_that_has_no_pair_changes_nothing_of_the_others() -> None:
    rows = make_rows()
    whole = contrast_table(rows, [COLOUR], seed=0)
    without = rows.assign(metric="auroc", value=np.nan, status="ineligible")
    pd.testing.assert_frame_equal(contrasts_of([without, rows], [COLOUR], seed=0), whole)
    assert contrasts_of([without, without], [COLOUR], seed=0).empty


def test_contrasts_of_pieces_are_those_of_the_whole() -> None:
    both = [replace(COLOUR, name="second"), replace(COLOUR, name="first", within=())]
    rows = [make_rows(metric=metric, seed=n) for n, metric in enumerate(("mass", "auroc", "iou"))]
    whole = contrast_table(pd.concat(rows), both, seed=0)
    pd.testing.assert_frame_equal(contrasts_of(rows, both, seed=0), whole)
    assert list(whole.contrast) == ["second"] * 6 + ["first"] * 3
    assert list(whole.within) == ["left", "overhead"] * 3 + [POOLED] * 3


def test_two_layers_of_a_technique_are_two_subjects() -> None:
    rows = pd.concat([make_rows(), make_rows(layer="k", seed=1)])
    table = contrast_table(rows, [replace(COLOUR, within=())], seed=0)
    assert list(table.layer) == ["k", "l"]


def test_a_family_without_any_pair_is_not_measured() -> None:
    rows = make_rows()
    rows.loc[rows.colour == "equal", ["value", "status"]] = [np.nan, "undefined"]
    table = contrast_table(rows, [COLOUR], seed=0)
    assert set(table.status) == {"not measured: fewer than 6 units"}
    assert (
        table[["first", "second", "difference", "low", "high", "p", "p_holm"]].isna().all(axis=None)
    )
    assert (table.units == 0).all()


def test_the_effect_is_found_at_each_level_and_not_pooled() -> None:
    table = contrast_table(make_rows(), [COLOUR], seed=0)
    assert list(table.within) == ["left", "overhead"]
    assert set(table.first_level + " − " + table.second_level) == {"equal − different"}
    assert table["first"].to_numpy() == pytest.approx([0.5, 0.2], abs=0.05)
    assert table.second.to_numpy() == pytest.approx([0.6, 0.6], abs=0.05)
    assert table.difference.to_numpy() == pytest.approx([-0.1, -0.4], abs=0.02)
    assert (table.units == 12).all()
    assert ((table.low < table.difference) & (table.difference < table.high)).all()
    assert (table.p_holm <= 0.05).all()
    assert (table.status == "ok").all()


def test_pairs_are_over_units() -> None:
    rows = make_rows()
    places = Places(rows, replace(COLOUR, within=()))
    (pairs,) = places.pairs(places.column("value"))
    assert len(pairs.difference) == 12
    by_hand = (
        rows.pivot_table(index=["unit", "light"], columns="colour", values="value")
        .eval("equal - different")
        .groupby(level="unit")
        .mean()
    )
    np.testing.assert_allclose(pairs.difference, by_hand)


def test_a_pair_of_which_one_side_is_missing_is_counted_not_compared() -> None:
    rows = make_rows()
    rows.loc[rows["item"] == "0-left-equal", ["value", "status"]] = [np.nan, "undefined"]
    table = contrast_table(rows, [COLOUR], seed=0).set_index("within")
    assert (table.units["left"], table.scored["left"], table.eligible["left"]) == (11, 23, 24)
    assert table.units["overhead"] == 12


def test_too_few_units_are_said() -> None:
    table = contrast_table(make_rows(scenes=5), [COLOUR], seed=0)
    assert set(table.status) == {"not measured: fewer than 7 units"}


def test_holm_is_over_all_techniques_and_levels_of_a_metric() -> None:
    rows = pd.concat([make_rows(technique=f"t{n}", seed=n) for n in range(3)])
    table = contrast_table(rows, [COLOUR], seed=0)
    assert len(table) == 6
    assert table.p_holm.min() >= 6 * table.p.min() - 1e-12


def test_dead_shares_stand_beside_the_difference() -> None:
    rows = make_rows()
    dead = (rows.colour == "equal") & (rows.light == "overhead") & (rows.unit < "scene_03")
    rows.loc[dead, "flag"] = "dead"
    table = contrast_table(rows, [COLOUR], seed=0).set_index("within")
    assert table.dead_first["overhead"] == pytest.approx(3 / 12)
    assert table.dead_second["overhead"] == 0
    answers = contrast_table(rows.assign(technique=""), [COLOUR], seed=0)
    assert answers[["dead_first", "dead_second"]].isna().all(axis=None)


def test_a_subject_without_both_levels_is_no_contrast() -> None:
    rows = make_rows()
    rows.loc[rows.colour == "equal", "status"] = "ineligible"
    assert contrast_table(rows, [COLOUR], seed=0).empty


def test_a_balanced_set_can_be_asked() -> None:
    check_contrast(COLOUR, make_image_set(), NAMES)
    net = replace(COLOUR, net_of=("edges", "untrained_twin", "cam"))
    check_contrast(net, make_image_set(), NAMES)


@pytest.mark.parametrize(
    ("contrast", "message"),
    [
        (replace(COLOUR, factor="color"), r"contrast.colour.factor: 'color' .* mean 'colour'\?"),
        (replace(COLOUR, levels=("equal", "other")), r"levels: 'other' is no level of 'colour'"),
        (replace(COLOUR, levels=("equal", "diferent")), r"levels: .* mean 'different'\? Allowed"),
        (replace(COLOUR, blocks=("scene", "lite")), r"blocks: 'lite' is no factor"),
        (replace(COLOUR, within=("colour",)), r"within: 'colour' must be one of the block"),
        (replace(COLOUR, within=("scene",)), r"within: 'scene' is the unit of independence of s"),
        (replace(COLOUR, factor="scene"), r"factor: 'scene' is the unit of independence of s"),
        (replace(COLOUR, blocks=("light",)), r"blocks: 'scene', the unit of s, must be one"),
        (replace(COLOUR, net_of=("edge",)), r"net_of: 'edge' .*Did you mean 'edges'"),
        (
            replace(MODELS, levels=("mended", "n")),
            r"levels: 'n' is no level of 'model'.* m, mended",
        ),
        (replace(MODELS, within=("lite",)), r"within: 'lite' is no factor of s"),
    ],
)
def test_what_cannot_be_answered_is_refused(contrast: ContrastSpec, message: str) -> None:
    with pytest.raises(AuditError, match=message):
        check_contrast(contrast, make_image_set(), NAMES)


def test_unbalanced_blocks_are_named() -> None:
    image_set = make_image_set(lambda items: [i for i in items if i.id != "1-left-equal"])
    with pytest.raises(AuditError, match=r"unbalanced, blocks that lack .*: 1 \(1, left\); add "):
        check_contrast(COLOUR, image_set, NAMES)
    gone = ("2-left-equal", "1-overhead-equal", "1-left-equal")
    gone += ("0-overhead-different", "0-left-different")
    image_set = make_image_set(lambda items: [i for i in items if i.id not in gone])
    named = "0, left; 0, overhead; 1, left; 1, overhead; 2, left"
    with pytest.raises(AuditError, match=rf"levels: 5 \({named}\); "):
        check_contrast(COLOUR, image_set, NAMES)


def test_a_contrast_without_a_pair_is_refused() -> None:
    def apart(items: list[Item]) -> list[Item]:
        wanted = {"0": "equal", "1": "different", "2": "different"}
        return [i for i in items if i.factors.get("colour") == wanted[i.factors["scene"]]]

    with pytest.raises(AuditError, match="has no pair of 'equal' and 'different'"):
        check_contrast(COLOUR, make_image_set(apart), NAMES)


def test_pairs_of_different_pictures_need_a_unit() -> None:
    """Without one each picture is its own, and what has no pair could never be measured."""
    image_set = make_image_set()
    alone = replace(image_set, spec=replace(image_set.spec, unit=None))
    with pytest.raises(AuditError, match=r"has no pair of .*: .* image_set.s.unit=…"):
        check_contrast(COLOUR, alone, NAMES)


def test_two_models_are_compared_image_by_image() -> None:
    check_contrast(MODELS, make_image_set(), NAMES)
    before = make_rows({"left": -0.1, "overhead": -0.4}, seed=1)
    after = before.assign(model="mended", layer="other", value=before.value + 0.2)
    table = contrast_table(pd.concat([before, after]), [MODELS], seed=0).set_index("within")
    assert table.difference.to_numpy() == pytest.approx([0.2, 0.2])
    assert (table.units == 12).all()
    assert set(table.model) == {""}  # it is what is compared
    assert set(table.technique) == {"cam"}
    by_hand = before[before.light == "left"].groupby("unit").value.mean().mean()
    assert table.second["left"] == pytest.approx(by_hand)


def test_two_techniques_are_compared_and_their_dead_shares_stand_beside() -> None:
    techniques = replace(MODELS, factor="technique", levels=("cam", "edges"), within=())
    cam = make_rows()
    cam.loc[cam.colour == "equal", "flag"] = "dead"
    edges = make_rows(technique="edges", layer="")
    (line,) = contrast_table(pd.concat([cam, edges]), [techniques], 0).to_dict("records")
    assert line["difference"] == pytest.approx(0)
    assert (line["technique"], line["model"]) == ("", "m")
    assert (line["dead_first"], line["dead_second"]) == (0.5, 0)


def test_a_difference_is_shown_net_of_what_a_reference_shows_itself() -> None:
    cam = make_rows({"left": -0.1, "overhead": -0.4})
    edges = make_rows({"left": -0.1, "overhead": -0.1}, seed=1, technique="edges", layer="")
    table = contrast_table(pd.concat([cam, edges]), [replace(COLOUR, net_of=("edges",))], 0)
    net = table[table.net_of == "edges"].set_index("within")
    assert list(net.technique) == ["cam", "cam"]  # a reference is not net of itself
    assert net.difference.to_numpy() == pytest.approx([0, -0.3], abs=0.02)
    assert (net.low < net.difference).all()
    assert net.p.isna().all()
    tested = table[table.net_of == ""]
    alone = contrast_table(pd.concat([cam, edges]), [COLOUR], 0)
    assert list(tested.p_holm) == list(alone.p_holm)  # the family stays what it was


def test_a_difference_is_shown_net_of_the_untrained_twin() -> None:
    rows = make_rows({"left": -0.1, "overhead": -0.4})
    rows["twin"] = 0.2 - 0.05 * (rows.colour == "equal")
    twin = (*("edges", "untrained_twin"),)  # edges are not part of it and have no line
    table = contrast_table(rows, [replace(COLOUR, net_of=twin)], 0)
    net = table[table.net_of != ""]
    assert list(net.net_of) == ["untrained_twin"] * 2
    own = table[table.net_of == ""]
    assert net.difference.to_numpy() == pytest.approx(own.difference.to_numpy() + 0.05)


def test_the_fewest_units_that_can_decide_are_enough() -> None:
    table = contrast_table(make_rows(scenes=7), [COLOUR], seed=0)
    assert set(table.status) == {"ok"}
    assert set(contrast_table(make_rows(scenes=6), [COLOUR], seed=0).status) != {"ok"}


def test_net_of_a_reference_are_the_units_that_it_has() -> None:
    edges = make_rows(technique="edges", layer="", seed=1)
    rows = pd.concat([make_rows(), edges[edges.unit != "scene_03"]])
    table = contrast_table(rows, [replace(COLOUR, net_of=("edges",))], seed=0)
    assert set(table[table.net_of == "edges"].units) == {11}


def test_net_of_a_reference_is_of_the_images_that_both_have() -> None:
    """A twin that earns just the same leaves nothing, whichever of its values are missing."""
    rows = make_rows({"left": -0.1, "overhead": -0.4}, twin=0.0)
    rows["twin"] = rows.value.where(rows.light != "overhead")
    net = replace(COLOUR, net_of=("untrained_twin",))
    table = contrast_table(rows, [net], 0).query("net_of != ''")
    assert list(table.within) == ["left"]
    pooled = replace(net, blocks=("scene",), within=())
    assert contrast_table(rows, [pooled], 0).query("net_of != ''").empty
    rows["twin"] = rows.value.where(rows.unit != "scene_03")
    (line,) = contrast_table(rows, [pooled], 0).query("net_of != ''").to_dict("records")
    assert line["difference"] == pytest.approx(0)
    assert (line["units"], line["scored"], line["eligible"]) == (11, 44, 48)


def test_models_are_compared_where_both_have_a_value() -> None:
    before = make_rows()
    after = before.assign(model="mended", value=before.value + 0.2)
    after.loc[after["item"] == "0-left-equal", ["value", "status"]] = [np.nan, "undefined"]
    table = contrast_table(pd.concat([before, after]), [MODELS], seed=0)
    assert table.difference.to_numpy() == pytest.approx([0.2, 0.2])
    assert list(table.units) == [12, 12]  # of the first scene the other image is left


def test_pairs_that_agree_on_hits_are_no_certainty() -> None:
    rows = make_rows().assign(value=1.0, swap=0.0)
    net = [replace(COLOUR, net_of=("image_swap",))]
    table = contrast_table(rows, net, 0, {"mass"})
    own, other = table[table.net_of == ""], table[table.net_of != ""]
    assert (own.difference == 0).all()
    assert (own.low < -0.1).all()
    assert own.high.to_numpy() == pytest.approx(-own.low.to_numpy())
    assert other.low.to_numpy() == pytest.approx(2 * own.low.to_numpy())
    assert (contrast_table(rows, net, 0).low == 0).all()


def test_what_scores_an_image_0_or_1() -> None:
    named = MetricSpec("hits", "pointing_game", "mask", {"tolerance": 5})
    others = MetricSpec("mass", "mass_in_mask", "mask", {}), MetricSpec("gone", "deletion", "", {})
    assert binary_metrics([named, *others]) == {"hits", "correct"}
