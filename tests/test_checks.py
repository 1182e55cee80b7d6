"""Checks: the verdicts as they are defined, on rows whose truth is known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from cnnaudit.answerable import check_levels
from cnnaudit.checks import _judgement, _Trial, judge
from cnnaudit.junit import junit_xml
from cnnaudit.specs import CheckSpec, Requirement
from cnnaudit.types import AuditError
from cnnaudit.verdicts import (
    FAIL,
    INCOMPLETE,
    INCONCLUSIVE,
    NOT_MEASURED,
    PASS,
    contradictions,
    overall,
    told,
    verdict_of,
    verdicts,
    worst,
)
from tests.test_contrasts import COLOUR, MODELS, make_image_set, make_rows

DIFFERENCE = Requirement("difference", minimum=-0.1)
LEVEL = Requirement("level", minimum=0.5)
CHECK = CheckSpec("looks", "colour", "mass", ("cam",), (DIFFERENCE,), 0.9)


def _verdicts(rows: pd.DataFrame, *checks: CheckSpec) -> dict[tuple[str, str, str], str]:
    judgements = judge(rows, checks or [CHECK], [COLOUR], seed=0)
    return {(j.statistic, j.within, j.level): j.verdict for j in judgements}


def _one(rows: pd.DataFrame, check: CheckSpec = CHECK) -> str:
    (verdict,) = set(_verdicts(rows, check).values())
    return verdict


def test_a_difference_far_over_the_bound_passes_and_far_under_it_fails() -> None:
    rows = make_rows({"left": -0.02, "overhead": -0.4})
    level = "equal − different"
    assert _verdicts(rows) == {
        ("difference", "left", level): PASS,
        ("difference", "overhead", level): FAIL,
    }
    assert verdict_of(judge(rows, [CHECK], [COLOUR], 0)) == FAIL


def test_at_the_bound_nothing_is_decided() -> None:
    assert _one(make_rows({"left": -0.1, "overhead": -0.1}, scenes=20)) == INCONCLUSIVE


def test_a_level_is_judged_at_every_level() -> None:
    rows = make_rows({"left": -0.02, "overhead": -0.4}, scenes=14)
    found = _verdicts(rows, replace(CHECK, requirements=(LEVEL,)))
    assert found[("level", "overhead", "equal")] == FAIL
    assert found[("level", "overhead", "different")] == PASS
    assert found[("level", "left", "equal")] == PASS
    assert len(found) == 4


def test_a_check_passes_where_the_one_sided_interval_keeps_the_bound() -> None:
    """Student's, of 95 %, and the bound itself is kept."""
    rows = make_rows(scenes=14)
    first = rows[(rows.light == "left") & (rows.colour == "equal")]
    low = stats.ttest_1samp(first.value, 0, alternative="greater").confidence_interval(0.95).low
    for minimum, verdict in ((low - 1e-6, PASS), (low + 1e-6, INCONCLUSIVE)):
        level = Requirement("level", minimum=minimum)
        found = _verdicts(rows, replace(CHECK, requirements=(level,)))
        assert found["level", "left", "equal"] == verdict
    assert _one(rows.assign(value=0.5), replace(CHECK, requirements=(LEVEL,))) == PASS


def test_an_upper_bound() -> None:
    upper = replace(CHECK, requirements=(Requirement("level", maximum=0.5),))
    found = _verdicts(make_rows({"left": -0.4, "overhead": -0.4}, scenes=14), upper)
    assert found[("level", "left", "equal")] == PASS
    assert found[("level", "left", "different")] == FAIL


def test_too_few_units_are_not_measured_never_a_pass() -> None:
    assert _one(make_rows({"left": 0.3, "overhead": 0.3}, scenes=6)) == NOT_MEASURED
    assert _one(make_rows({"left": 0.3, "overhead": 0.3}, scenes=7)) == PASS


def test_too_little_coverage_is_not_measured() -> None:
    rows = make_rows({"left": 0.0, "overhead": 0.0})
    few = rows["item"].isin(["0-left-equal", "1-left-equal", "2-left-equal"])
    rows.loc[few, ["value", "status"]] = [np.nan, "undefined"]
    found = _verdicts(rows)
    assert found[("difference", "left", "equal − different")] == NOT_MEASURED
    assert found[("difference", "overhead", "equal − different")] == PASS
    assert set(_verdicts(rows, replace(CHECK, coverage=0.5)).values()) == {PASS}


def test_the_coverage_that_is_asked_is_enough() -> None:
    """0.55 * 100 is more than 55, as Python multiplies."""
    rows = make_rows({"left": 0.0, "overhead": 0.0}, scenes=100)
    gone = rows.unit.str.removeprefix("scene_").astype(int) < 45
    rows.loc[gone, ["value", "lift", "status"]] = [np.nan, np.nan, "undefined"]
    assert _one(rows, replace(CHECK, coverage=0.55)) == PASS
    assert _one(rows, replace(CHECK, coverage=0.56)) == NOT_MEASURED


def test_a_reference_level_that_sees_nothing_makes_no_difference_count() -> None:
    """An untrained network's heatmaps do not change with the colour, and must not pass for it."""
    blind = make_rows({"left": 0.0, "overhead": 0.0})
    blind["value"] -= 0.5  # at chance
    blind["lift"] = (blind.value - blind.chance) / (1 - blind.chance)
    assert _one(blind) == NOT_MEASURED
    asked = replace(CHECK, requirements=(LEVEL, DIFFERENCE))
    found = _verdicts(blind, asked)
    assert found[("difference", "left", "equal − different")] == NOT_MEASURED
    assert found[("level", "left", "different")] == FAIL


def test_a_verdict_that_dead_heatmaps_decide_is_inconclusive() -> None:
    rows = make_rows({"left": 0.0, "overhead": 0.0}, scenes=14)
    dead = (rows.colour == "equal") & (rows.unit < "scene_07")
    rows.loc[dead, ["flag", "value", "lift"]] = ["dead", 0.1, 0.0]
    judgements = judge(rows, [CHECK], [COLOUR], 0)
    assert {one.verdict for one in judgements} == {INCONCLUSIVE}
    assert all(one.reason.startswith("dead heatmaps decide: ") for one in judgements)
    # All of them dead and the bound far away: they fail even at their best.
    rows["value"] = rows.value.where(rows.flag == "dead", 0.6)
    out_of_reach = replace(CHECK, requirements=(Requirement("difference", minimum=0.9),))
    assert _one(rows, out_of_reach) == FAIL


def test_the_p_of_a_judgement_is_the_larger_of_those_that_dead_heatmaps_may_give() -> None:
    rows = make_rows({"left": -0.12, "overhead": -0.12}, scenes=14)
    dead = (rows.colour == "equal") & (rows.unit < "scene_02")
    rows.loc[dead, ["flag", "value", "lift"]] = ["dead", 0.1, 0.0]
    found = judge(rows, [CHECK], [COLOUR], 0)
    either = [
        judge(rows.assign(flag="", value=rows.value.mask(dead, score)), [CHECK], [COLOUR], 0)
        for score in (0.0, 1.0)
    ]
    for one, worst_case, best_case in zip(found, *either, strict=True):
        assert worst_case.p < best_case.p == one.p
        assert worst_case.p_holm < best_case.p_holm == one.p_holm


def test_what_correction_alone_keeps_from_failing_says_so() -> None:
    gaps = np.linspace(-0.25, 0.05, 16)
    names = [f"cam{n}" for n in range(len(gaps))]
    rows = [
        make_rows({"left": gap, "overhead": gap}, scenes=14, technique=name, seed=n)
        for n, (name, gap) in enumerate(zip(names, gaps, strict=True))
    ]
    judgements = judge(pd.concat(rows), [replace(CHECK, techniques=tuple(names))], [COLOUR], 0)
    for one in judgements:
        kept = one.verdict == INCONCLUSIVE and one.p <= 0.05 < one.p_holm
        said = f"alone it would FAIL (p = {one.p:.3f}), not as one of 32 tests"
        assert one.reason == (said if kept else "")
    assert any(one.reason for one in judgements)
    assert {one.verdict for one in judgements} == {FAIL, INCONCLUSIVE, PASS}


def test_a_small_p_is_never_written_as_none() -> None:
    margin = np.linspace(-0.5, 0.4, 10)
    names = ("check", "metric", "model", "target", "technique", "within")
    about = dict.fromkeys((*names, "statistic", "level", "bound"), "")
    required = Requirement("level", minimum=0.0)
    trial = _Trial(about, required, [margin] * 3, (), "", [0.0004, 0.0004])
    assert "(p < 0.001)" in _judgement(trial, [0.09, 0.09], 231).reason


def test_techniques_that_contradict_each_other_decide_nothing() -> None:
    good = make_rows({"left": 0.0, "overhead": 0.0}, technique="cam")
    bad = make_rows({"left": -0.5, "overhead": -0.5}, technique="other", seed=1)
    check = replace(CHECK, techniques=("cam", "other"))
    judgements = judge(pd.concat([good, bad]), [check], [COLOUR], 0)
    assert {one.verdict for one in judgements} == {PASS, FAIL}
    assert verdict_of(judgements) == INCONCLUSIVE
    assert len(contradictions(judgements)) == 2
    assert "cam pass, other fail" in contradictions(judgements)[0]


def test_a_technique_does_not_contradict_itself_on_another_target() -> None:
    good = make_rows({"left": 0.0, "overhead": 0.0}, technique="cam").assign(target="cat")
    bad = make_rows({"left": -0.5, "overhead": -0.5}, technique="cam", seed=1).assign(target="dog")
    judgements = judge(pd.concat([good, bad]), [replace(CHECK, techniques=("cam",))], [COLOUR], 0)
    assert {one.verdict for one in judgements} == {PASS, FAIL}
    assert contradictions(judgements) == []
    assert verdict_of(judgements) == FAIL


def test_beating_references() -> None:
    rows = make_rows({"left": 0.0, "overhead": 0.0})
    reference = make_rows({"left": 0.0, "overhead": 0.0}, technique="edges", seed=2)
    reference["value"] -= 0.3
    both = pd.concat([rows, reference])
    beats = replace(CHECK, requirements=(Requirement("beats", references=("edges", "image_swap")),))
    found = _verdicts(both, beats)
    assert set(found.values()) == {PASS}
    assert {statistic for statistic, _, _ in found} == {"beats edges", "beats image_swap"}
    reference["value"] += 0.6
    found = _verdicts(pd.concat([rows, reference]), beats)
    assert found[("beats edges", "left", "equal")] == FAIL
    assert found[("beats image_swap", "left", "equal")] == PASS
    assert set(_verdicts(rows, beats).values()) == {NOT_MEASURED, PASS}


def test_beating_the_untrained_twin() -> None:
    rows = make_rows({"left": 0.0, "overhead": 0.0})
    beats = replace(CHECK, requirements=(Requirement("beats", references=("untrained_twin",)),))
    assert set(_verdicts(rows, beats).values()) == {PASS}
    assert set(_verdicts(rows.assign(twin=0.95), beats).values()) == {FAIL}
    found = judge(rows.assign(twin=np.nan), [beats], [COLOUR], 0)
    assert {(one.verdict, one.reason) for one in found} == {
        (NOT_MEASURED, "untrained_twin has no value for some of the images")
    }


def test_a_check_can_be_about_one_level_alone() -> None:
    """Only one of two levels has a shadow: the other has no such region."""
    rows = make_rows({"left": 0.0, "overhead": 0.0})
    other = rows.colour == "different"
    rows.loc[other, ["value", "lift", "status"]] = [np.nan, np.nan, "ineligible"]
    only = replace(CHECK, requirements=(LEVEL,), at=("equal",))
    assert _verdicts(rows, only) == {
        ("level", "left", "equal"): PASS,
        ("level", "overhead", "equal"): PASS,
    }
    assert _one(rows, replace(CHECK, requirements=(LEVEL,))) == NOT_MEASURED
    rows.loc[~other, "status"] = "ineligible"
    (judgement,) = judge(rows, [only], [COLOUR], 0)
    assert (judgement.verdict, judgement.reason) == (NOT_MEASURED, "no mass at equal")


def test_each_names_factors_that_are_never_pooled() -> None:
    """What fails at one level of a factor does not pass because another makes up for it."""
    good = make_rows({"left": 0.0, "overhead": 0.0}, distance="near")
    bad = make_rows({"left": -0.3, "overhead": -0.3}, distance="far", seed=1)
    rows = pd.concat([good, bad])
    assert set(_verdicts(rows, replace(CHECK, requirements=(LEVEL,))).values()) != {PASS}
    found = _verdicts(rows, replace(CHECK, requirements=(LEVEL,), each=("colour", "distance")))
    assert {within for _, within, _ in found} == {
        *("left · near", "left · far", "overhead · near", "overhead · far")
    }
    assert found["level", "left · near", "equal"] == PASS
    assert found["level", "left · far", "equal"] == FAIL


@pytest.mark.parametrize(
    ("each", "requirement", "message"),
    [
        ("shade", LEVEL, r"check.looks.each: 'shade' is no factor of s\. Allowed"),
        ("lihgt", LEVEL, r"check.looks.each: 'lihgt' .* Did you mean 'light'\?"),
        ("scene", LEVEL, r"check.looks.each: 'scene' is the unit of independence of s\. Allowed"),
        ("presence", DIFFERENCE, "check.looks.each: 'presence' is none of the blocks"),
    ],
)
def test_levels_of_what_is_no_factor_or_no_block_are_refused(
    each: str, requirement: Requirement, message: str
) -> None:
    image_set = replace(make_image_set(), factors=("scene", "light", "colour", "presence"))
    check = replace(CHECK, each=(each,), requirements=(requirement,))
    with pytest.raises(AuditError, match=message):
        check_levels(check, COLOUR, image_set)
    check_levels(replace(check, each=("colour", "light")), COLOUR, image_set)


def test_levels_of_what_is_no_block_can_be_judged_one_by_one() -> None:
    """Only a difference has two sides that may differ in it; those of two models do not."""
    image_set = replace(make_image_set(), factors=("scene", "light", "colour", "presence"))
    check = replace(CHECK, each=("presence",), requirements=(LEVEL,))
    check_levels(check, COLOUR, image_set)
    both = replace(check, requirements=(LEVEL, DIFFERENCE))
    check_levels(both, MODELS, image_set)
    with pytest.raises(AuditError, match="'presence' is none of the blocks"):
        check_levels(both, COLOUR, image_set)


def test_what_is_not_part_of_the_audit_is_not_measured() -> None:
    check = replace(CHECK, techniques=("cam", "absent"))
    judgements = judge(make_rows({"left": 0.0, "overhead": 0.0}), [check], [COLOUR], 0)
    (absent,) = (one for one in judgements if one.technique == "absent")
    assert (absent.verdict, absent.reason) == (NOT_MEASURED, "absent is not part of this audit")
    many = replace(CHECK, techniques=tuple("hgfedcba"))
    assert [one.technique for one in judge(make_rows(), [many], [COLOUR], 0)] == [*"abcdefgh"]
    beats = Requirement("beats", references=("center_prior",))
    judgements = judge(make_rows(), [replace(CHECK, requirements=(beats,))], [COLOUR], 0)
    assert {one.reason for one in judgements} == {"center_prior is not part of this audit"}
    (other,) = judge(make_rows(), [replace(CHECK, metric="box_iou")], [COLOUR], 0)
    assert other.reason == "box_iou is not part of this audit"
    other = replace(CHECK, metric="nothing")
    assert verdict_of(judge(make_rows(), [other], [COLOUR], 0)) == NOT_MEASURED
    answers = replace(other, techniques=())
    (none,) = judge(make_rows(), [answers], [COLOUR], 0)
    assert (none.verdict, none.reason) == (
        NOT_MEASURED,
        "no nothing at both levels of the contrast",
    )


def test_the_worst_verdict_counts_and_incomplete_is_the_worst() -> None:
    assert worst([PASS, INCONCLUSIVE, NOT_MEASURED]) == NOT_MEASURED
    assert worst([PASS, FAIL, NOT_MEASURED]) == FAIL
    assert worst([]) == NOT_MEASURED
    judgements = judge(make_rows({"left": 0.0, "overhead": 0.0}), [CHECK], [COLOUR], 0)
    assert overall([CHECK], judgements, complete=True) == PASS
    assert overall([CHECK], judgements, complete=False) == INCOMPLETE
    assert overall([], [], complete=True) == ""


def test_false_fails_at_the_bound_stay_under_the_level() -> None:
    """Twelve judgements exactly at their bound: the family fails in at most 5 % of audits."""
    rng = np.random.default_rng(3)
    checks = [replace(CHECK, name=f"check {n}", metric=f"metric {n}") for n in range(6)]
    failed = 0
    runs = 60
    for _ in range(runs):
        parts = [
            make_rows(
                {"left": -0.1, "overhead": -0.1}, 14, int(rng.integers(1e9)), metric=f"metric {n}"
            )
            for n in range(6)
        ]
        judgements = judge(pd.concat(parts), checks, [COLOUR], 0)
        assert len(judgements) == 12
        failed += verdict_of(judgements) == FAIL
    assert failed / runs <= 0.055


def test_junit_has_a_case_per_check_and_an_error_per_failed_cell() -> None:
    from xml.etree import ElementTree

    judgements = judge(make_rows({"left": 0.0, "overhead": -0.5}), [CHECK], [COLOUR], 0)
    gap = {"model": "m", "image_set": "s", "reason": "<\x00&>"}
    gap["missing"] = {"": ["correct"], "cam": ["mass", "iou"]}
    failures = [gap, {**gap, "reason": "memory", "missing": {"cam": ["iou"]}}]
    suite = ElementTree.fromstring(junit_xml("robot", judgements, failures))
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("3", "1", "2")
    error = suite.find("testcase[@name='m on s, cam']/error")
    assert error is not None
    assert (error.get("message"), error.text) == (r"<\x00&>", "<\\x00&>\nmemory")
    assert suite.find("testcase[@name='m on s, behaviour']/error") is not None
    failure = suite.find("testcase[@name='looks']/failure")
    assert failure is not None
    assert "overhead" in str(failure.text)
    assert "left" not in str(failure.text).split("equal")[0]


def test_junit_says_what_has_no_value_and_of_which_target_it_is() -> None:
    one = judge(make_rows({"left": -0.4, "overhead": -0.4}), [CHECK], [COLOUR], 0)[0]
    empty = replace(one, value=math.nan, low=math.nan, high=math.nan, units=0, reason="failed")
    single = replace(empty, value=-0.5, units=1, reason="1 unit, at least 6 are needed")
    judgements = [replace(one, verdict=NOT_MEASURED, target="cat") for one in (empty, single)]
    text = junit_xml("robot", judgements, []).decode()
    assert "cat, left, equal − different: no value, 0 units, failed" in text
    assert "cat, left, equal − different: -0.500, 1 unit, 1 unit, at least" in text


@pytest.mark.parametrize("sign", ["\x1b", "\ufffe", "\uffff", "\ud800", "\r"])
def test_junit_is_well_formed_whatever_things_are_called(sign: str) -> None:
    from xml.etree import ElementTree

    judgements = judge(make_rows({"left": 0.0, "overhead": -0.5}), [CHECK], [COLOUR], 0)
    judgements = [replace(one, check=f"looks{sign}") for one in judgements]
    gap = {"model": f"m{sign}", "image_set": "s", "reason": sign, "missing": {"cam": ["iou"]}}
    suite = ElementTree.fromstring(junit_xml(f"robot{sign}", judgements, [gap]))
    written = ascii(sign)[1:-1]
    assert suite.get("name") == f"robot{written}"
    names = [case.get("name") for case in suite]
    assert names == [f"looks{written}", f"m{written} on s, cam"]


@pytest.mark.parametrize("scenes", [12, 24])
def test_a_judgement_states_its_evidence(scenes: int) -> None:
    one = judge(make_rows({"left": -0.4, "overhead": -0.4}, scenes), [CHECK], [COLOUR], 0)[0]
    assert one.units == scenes
    assert one.low < one.value < one.high
    assert one.value == pytest.approx(-0.4, abs=0.03)
    assert one.p <= one.p_holm <= 0.05
    assert one.bound == "≥ −0.1"


def test_the_seed_decides_which_signs_are_drawn() -> None:
    """Of more than 16 units not all patterns are tried."""
    rows = make_rows({"left": -0.1, "overhead": -0.1}, scenes=20)
    p = [judge(rows, [CHECK], [COLOUR], seed)[0].p for seed in (0, 0, 1)]
    assert p[0] == p[1] != p[2]


def test_a_dead_heatmap_may_lie_as_far_below_chance_as_there_is() -> None:
    """Its lift at its worst is −chance / (1 − chance), not 0."""
    rows = make_rows({"left": 0.0, "overhead": 0.0}, scenes=14)
    rows["chance"], rows["lift"] = 0.5, 0.1
    rows.loc[rows.unit < "scene_07", ["flag", "value", "lift"]] = ["dead", 0.5, 0.0]
    check = replace(CHECK, requirements=(Requirement("lift", minimum=-0.4),))
    assert {one.verdict for one in judge(rows, [check], [COLOUR], 0)} == {INCONCLUSIVE}


def test_a_verdict_is_told_with_a_reason_of_its_own() -> None:
    (one, *_) = judge(make_rows(), [CHECK], [COLOUR], 0)
    lines = [(INCONCLUSIVE, "dead"), (FAIL, ""), (FAIL, "low"), (FAIL, "lower")]
    looks = [replace(one, verdict=verdict, reason=reason) for verdict, reason in lines]
    plain = replace(one, check="plain", verdict=PASS, reason="")
    assert told([*looks, plain]) == ["looks: FAIL (low)", "plain: PASS"]


def test_each_check_has_its_verdict() -> None:
    strict = replace(CHECK, name="strict", requirements=(Requirement("difference", minimum=0.9),))
    rows = make_rows({"left": 0.3, "overhead": 0.3})
    assert verdicts(judge(rows, [CHECK, strict], [COLOUR], 0)) == {"looks": PASS, "strict": FAIL}


# --- metrics that score an image 0 or 1 -----------------------------------------------------------


def _hits(rate: dict[str, Sequence[float]], scenes: int) -> pd.DataFrame:
    """Rows of a metric that is 0 or 1: at each level of the contrast the hits, over and over."""
    rows = make_rows(scenes=scenes)
    scene = rows.unit.str.removeprefix("scene_").astype(int)
    rows["value"] = [
        rate[colour][number % len(rate[colour])]
        for colour, number in zip(rows.colour, scene, strict=True)
    ]
    return rows.assign(lift=(rows.value - rows.chance) / (1 - rows.chance))


def _of_hits(rows: pd.DataFrame, *required: Requirement, binary: bool = True) -> set[str]:
    check = replace(CHECK, requirements=required)
    names = {"mass"} if binary else ()
    return {one.verdict for one in judge(rows, [check], [COLOUR], 0, names)}


ALL = {"equal": [1.0], "different": [1.0]}
NONE = {"equal": [0.0], "different": [0.0]}


def test_the_ends_of_a_level_are_0_and_1_whatever_chance_is() -> None:
    rows = _hits(ALL, 12).assign(chance=0.9, lift=1.0)
    assert _of_hits(rows, Requirement("level", minimum=0.7)) == {PASS}


def test_twelve_right_of_twelve_do_not_prove_nine_of_ten() -> None:
    required = Requirement("level", minimum=0.9)
    assert _of_hits(_hits(ALL, 12), required) == {INCONCLUSIVE}
    assert _of_hits(_hits(ALL, 12), Requirement("level", minimum=0.7)) == {PASS}
    assert _of_hits(_hits(ALL, 60), required) == {PASS}
    assert _of_hits(_hits(ALL, 12), required, binary=False) == {
        PASS
    }  # of what is measured, they do


def test_no_hit_of_twelve_proves_that_not_half_are_hit_and_no_more() -> None:
    assert _of_hits(_hits(NONE, 12), Requirement("level", minimum=0.5)) == {FAIL}
    assert _of_hits(_hits(NONE, 12), Requirement("level", minimum=0.1)) == {INCONCLUSIVE}


def test_the_lift_of_hits_has_the_ends_of_a_lift() -> None:
    low = Requirement("lift", minimum=0.05)
    assert _of_hits(_hits(NONE, 12), low) == {INCONCLUSIVE}
    assert _of_hits(_hits(NONE, 12), low, binary=False) == {FAIL}
    (first, *_) = judge(
        _hits(ALL, 12), [replace(CHECK, requirements=(low,))], [COLOUR], 0, {"mass"}
    )
    assert first.value == pytest.approx(1)
    assert 0.6 < first.low < 0.8
    assert first.high == pytest.approx(1)


def test_an_interval_of_hits_holds_its_mean_however_many_images_units_have() -> None:
    rows = _hits(NONE, 30)
    rows["chance"] = np.where(rows.unit < "scene_20", 0.05, 0.6)
    rows["lift"] = -rows.chance / (1 - rows.chance)
    more = [rows[rows.unit < "scene_20"].assign(item=lambda r, n=n: r["item"] + f"-{n}")
            for n in range(4)]  # fmt: skip
    check = replace(CHECK, requirements=(Requirement("lift", minimum=0.05),))
    for one in judge(pd.concat([rows, *more]), [check], [COLOUR], 0, {"mass"}):
        assert one.low <= one.value + 1e-9 <= one.high


def test_twelve_equal_pairs_do_not_prove_that_there_is_no_difference() -> None:
    assert _of_hits(_hits(ALL, 12), DIFFERENCE) == {INCONCLUSIVE}
    assert _of_hits(_hits(ALL, 60), DIFFERENCE) == {PASS}
    worse = {"equal": [0.0, 0.0, 1.0], "different": [1.0]}
    assert _of_hits(_hits(worse, 12), DIFFERENCE) == {FAIL}


def test_hits_that_are_few_do_not_show_that_the_reference_sees() -> None:
    """Ten of twelve at the reference level: above chance, and not surely above 0.7."""
    seen = {"equal": [0.0], "different": [1.0, 1.0, 1.0, 1.0, 1.0, 0.0]}
    level = Requirement("level", minimum=0.7)
    assert NOT_MEASURED in _of_hits(_hits(seen, 12), level, DIFFERENCE)
    assert _of_hits(_hits(seen, 12), DIFFERENCE) == {FAIL}


def test_twelve_hits_of_twelve_do_not_show_that_the_reference_keeps_nine_of_ten() -> None:
    level = Requirement("level", minimum=0.9)
    assert _of_hits(_hits(ALL, 12), level, DIFFERENCE) == {INCONCLUSIVE, NOT_MEASURED}


def test_hits_beat_a_reference_that_never_hits() -> None:
    beats = Requirement("beats", references=("image_swap",))
    assert _of_hits(_hits(ALL, 12).assign(swap=0.0), beats) == {PASS}
    assert _of_hits(_hits(ALL, 12).assign(swap=1.0), beats) == {INCONCLUSIVE}


# --- what a check has to be about -----------------------------------------------------------------

BLOCK_OF_LIGHTS = replace(COLOUR, blocks=("scene",), within=())


def test_a_row_that_is_missing_does_not_make_the_sides_of_a_pair_unlike() -> None:
    """Without blocks of one light, what is dark on one side alone would be told as an effect."""
    dark = {"left": 0.0, "overhead": 0.0}
    rows = make_rows(dark, scenes=20)
    rows["value"] -= 0.3 * (rows.light == "overhead")
    gone = (rows.light == "left") & (rows.colour == "equal") & (rows.unit < "scene_08")
    rows.loc[gone, ["value", "lift", "status"]] = [np.nan, np.nan, "undefined"]
    (found,) = judge(rows, [replace(CHECK, coverage=0.75)], [BLOCK_OF_LIGHTS], 0)
    assert found.value == pytest.approx(0, abs=0.02)
    assert (found.units, found.verdict) == (12, PASS)


def test_an_upper_bound_asks_whether_the_first_level_sees() -> None:
    """It may not be much above the second: were it blind, it never would be."""
    most = replace(CHECK, requirements=(Requirement("difference", maximum=0.1),))
    blind = make_rows({"left": 0.0, "overhead": 0.0})
    blind["value"] = 0.1 + 0.5 * (blind.colour == "equal")
    blind["lift"] = (blind.value - 0.1) / 0.9
    assert _one(blind, most) == FAIL  # the second is at chance, which is what is asked about
    other = blind.assign(value=0.1, lift=0.0)
    (reason,) = {one.reason for one in judge(other, [most], [COLOUR], 0)}
    assert reason == "the heatmaps at 'equal' are not above chance"


def _answers(**columns: object) -> pd.DataFrame:
    own = {"technique": "", "layer": "", "region": "", "chance": np.nan, "lift": np.nan}
    return make_rows({"left": 0.0, "overhead": 0.0}, metric="right", **(own | columns))


def test_answers_that_are_wrong_at_both_levels_are_no_robustness() -> None:
    costs = CheckSpec("costs", "colour", "right", (), (DIFFERENCE,), 0.9)
    knows = replace(costs, name="knows", requirements=(LEVEL,))
    high, low = _answers(), _answers()
    low["value"] -= 0.55
    of_one = judge(low, [costs], [COLOUR], 0)
    assert {one.verdict for one in of_one} == {NOT_MEASURED}
    assert of_one[0].reason == "no check says what right must be: require a level as well"
    for rows, verdict, reason in (
        (low, NOT_MEASURED, "'different' itself does not keep level ≥ 0.5"),
        (high, PASS, ""),
    ):
        found = [one for one in judge(rows, [costs, knows], [COLOUR], 0) if one.check == "costs"]
        assert {(one.verdict, one.reason) for one in found} == {(verdict, reason)}


def test_where_less_is_better_the_other_level_has_to_see() -> None:
    """Of an error the first level may be far above the second, unless the first is good."""
    least = Requirement("difference", minimum=-0.1)
    error = CheckSpec("error", "colour", "right", (), (Requirement("level", maximum=0.3), least), 1)
    found = judge(_answers(), [error], [COLOUR], 0)
    (reason,) = {one.reason for one in found if one.statistic == "difference"}
    assert reason == "'equal' itself does not keep level ≤ 0.3"


def test_an_image_without_a_lift_does_not_count_as_measured() -> None:
    rows = make_rows({"left": 0.0, "overhead": 0.0}, scenes=20)
    rows.loc[rows.unit < "scene_10", "lift"] = np.nan
    lift = replace(CHECK, requirements=(Requirement("lift", minimum=0.1),))
    (reason,) = {one.reason for one in judge(rows, [lift], [COLOUR], 0)}
    assert reason == "10 of 20 eligible images have a value, 90% are asked"


def test_what_has_no_chance_level_has_no_lift_and_says_so() -> None:
    rows = make_rows({"left": 0.0, "overhead": 0.0}, scenes=20).assign(chance=np.nan, lift=np.nan)
    lift = replace(CHECK, requirements=(Requirement("lift", minimum=0.1),))
    (reason,) = {one.reason for one in judge(rows, [lift], [COLOUR], 0)}
    assert reason == "mass has no chance level, and so no lift"
    (reason,) = {one.reason for one in judge(rows, [CHECK], [COLOUR], 0)}
    assert reason == "mass has no chance level: require a level as well"
    both = replace(CHECK, requirements=(Requirement("level", minimum=0.1), DIFFERENCE))
    assert _one(rows, both) == PASS


def test_each_level_of_a_difference_has_to_be_covered() -> None:
    rows = make_rows({"left": 0.0, "overhead": 0.0}, scenes=20)
    gone = (rows.colour == "equal") & (rows.unit < "scene_04")
    rows.loc[gone, ["value", "lift", "status"]] = [np.nan, np.nan, "undefined"]
    (reason,) = {one.reason for one in judge(rows, [CHECK], [COLOUR], 0)}
    assert reason == "16 of 20 eligible images have a value, 90% are asked"


def test_a_place_without_one_of_the_levels_is_not_measured_and_says_so() -> None:
    rows = make_rows({"left": 0.0, "overhead": 0.0}, scenes=20)
    night = rows[(rows.light == "left") & (rows.colour == "equal")].assign(light="night")
    night["item"] += "-night"
    (one,) = (
        j for j in judge(pd.concat([rows, night]), [CHECK], [COLOUR], 0) if j.within == "night"
    )
    assert one.verdict == NOT_MEASURED
    assert one.reason == "0 of 0 eligible images have a value, 90% are asked"


def test_a_bound_of_another_image_set_says_nothing_of_this_one() -> None:
    costs = CheckSpec("costs", "colour", "right", (), (DIFFERENCE,), 0.9)
    knows = CheckSpec("knows", "elsewhere", "right", (), (LEVEL,), 0.9)
    contrasts = [COLOUR, replace(COLOUR, name="elsewhere", image_set="other")]
    rows = _answers()
    both = pd.concat([rows, rows.assign(image_set="other")])
    found = verdicts(judge(both, [costs, knows], contrasts, 0))
    assert found == {"costs": NOT_MEASURED, "knows": PASS}


def test_a_checks_own_bound_tells_whether_the_reference_sees() -> None:
    strict = Requirement("level", minimum=0.8)
    own = CheckSpec("own", "colour", "right", (), (LEVEL, DIFFERENCE), 0.9)
    other = replace(own, name="other", requirements=(strict,))
    assert verdicts(judge(_answers(), [other, own], [COLOUR], 0))["own"] == PASS
    lift = Requirement("lift", minimum=0.7)
    heat = replace(CHECK, requirements=(lift, DIFFERENCE))
    found = judge(make_rows({"left": 0.0, "overhead": 0.0}), [heat], [COLOUR], 0)
    (reason,) = {one.reason for one in found if one.statistic == "difference"}
    assert reason == "'different' itself does not keep lift ≥ 0.7"


def test_a_reference_at_its_bound_sees() -> None:
    """As a level passes at its bound."""
    both = replace(CHECK, requirements=(LEVEL, DIFFERENCE))
    assert _one(make_rows().assign(value=0.5), both) == PASS


def test_a_reference_may_have_values_at_one_level_alone() -> None:
    rows = make_rows({"left": 0.0, "overhead": 0.0})
    rows.loc[rows.colour == "equal", "swap"] = np.nan
    beats = replace(CHECK, requirements=(Requirement("beats", references=("image_swap",)),))
    found = _verdicts(rows, beats)
    assert found["beats image_swap", "left", "equal"] == NOT_MEASURED
    assert found["beats image_swap", "left", "different"] == PASS


def test_whether_heatmaps_see_is_not_asked_by_the_bound_of_another_check() -> None:
    """Of them chance is known."""
    rows = make_rows({"left": 0.0, "overhead": 0.0})
    out_of_reach = Requirement("level", minimum=0.99)
    other = replace(CHECK, name="other", requirements=(out_of_reach,))
    assert verdicts(judge(rows, [CHECK, other], [COLOUR], 0)) == {"looks": PASS, "other": FAIL}


def test_a_model_that_cannot_be_judged_is_named() -> None:
    rows = make_rows({"left": 0.0, "overhead": 0.0})
    other = rows.assign(model="other")
    out = other.colour == "different"
    other.loc[out, ["value", "lift", "status"]] = [np.nan, np.nan, "ineligible"]
    found = judge(pd.concat([rows, other]), [CHECK], [COLOUR], 0)
    assert {one.verdict for one in found if one.model == "m"} == {PASS}
    (refused,) = [one for one in found if one.model == "other"]
    assert (refused.verdict, refused.technique) == (NOT_MEASURED, "cam")
    assert refused.reason == "no mass at both levels of the contrast"


def test_a_level_of_another_factor_without_the_contrasts_levels_is_no_place() -> None:
    rows = make_rows({"left": 0.0, "overhead": 0.0})
    night = rows[rows.light == "left"].assign(light="night", colour="third")
    night["item"] += "-night"
    judgements = judge(pd.concat([rows, night]), [CHECK], [COLOUR], 0)
    assert [one.within for one in judgements] == ["left", "overhead"]


def test_each_of_the_contrasts_factor_has_no_further_level() -> None:
    check = replace(CHECK, each=("colour",))
    check_levels(check, COLOUR, make_image_set())
    items = [replace(item, factors={**item.factors, "colour": "third"})
             if item.id.endswith("-") else item for item in make_image_set().items]  # fmt: skip
    image_set = make_image_set(lambda _: items)
    with pytest.raises(AuditError, match=r"check.looks.each: 'colour' has further levels .*third"):
        check_levels(check, COLOUR, image_set)
    check_levels(replace(check, at=("equal",)), COLOUR, image_set)


def test_a_contradiction_does_not_hide_what_could_not_be_measured() -> None:
    def of(*verdicts: str) -> str:
        rows = make_rows({"left": 0.0, "overhead": 0.0})
        (one, *_) = judge(rows, [CHECK], [COLOUR], 0)
        return verdict_of(replace(one, technique=v, verdict=v) for v in verdicts)

    assert of(PASS, FAIL) == INCONCLUSIVE
    assert of(PASS, FAIL, NOT_MEASURED) == NOT_MEASURED
    assert of(PASS, NOT_MEASURED) == NOT_MEASURED


def test_a_dead_heatmap_where_everything_is_chance_has_no_lift_at_its_best_either() -> None:
    """As of a pointing game whose tolerance reaches every pixel."""
    rows = make_rows({"left": 0.0, "overhead": 0.0}, scenes=20)
    all_hit = rows.unit == "scene_03"
    rows.loc[all_hit, ["value", "chance", "lift", "flag"]] = [1.0, 1.0, np.nan, "dead"]
    lift = replace(CHECK, requirements=(Requirement("lift", minimum=0.1),))
    found = judge(rows, [lift], [COLOUR], 0, {"mass"})
    assert {(one.verdict, one.units) for one in found} == {(PASS, 19)}
