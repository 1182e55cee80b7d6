"""The proof: what is planted, what counts as found, and how sure the rates are."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import stats

from scenarios.proof import alike, audits, cues, networks, robot, tables
from scenarios.proof.networks import make_ready
from scenarios.proof.plan import (
    Labels,
    Network,
    Proof,
    ProofError,
    claim,
    label_of,
    load_proof,
    networks_of,
)
from scenarios.proof.publish import publish, write_page
from scenarios.proof.rates import area, rate
from scenarios.robot.frames import FrameSet
from scenarios.tank import crossed
from scenarios.tank.sampling import NONE, OVERCAST, TANK
from scenarios.tank.train import WEIGHTS

TANK_FOLDER = Path(crossed.__file__).parent
REPORT = Path(__file__).parents[2] / "reports" / "proof"


# --- how sure a rate is ---------------------------------------------------------------------------


def test_no_miss_in_59_bounds_the_miss_rate_below_five_per_cent() -> None:
    """The number of networks that is asked for: 0.95 to the power of 59 is the first below 0.05."""
    assert stats.binomtest(0, 59).proportion_ci(0.90, "exact").high < 0.05
    found = rate(0, 59)
    assert (found.value, found.low) == (0.0, 0.0)
    assert found.high == pytest.approx(1 - 0.025 ** (1 / 59))


def test_an_area_is_the_share_of_pairs_in_order_ties_counting_half() -> None:
    rng = np.random.default_rng(0)
    sound, faulty = rng.integers(0, 9, 17), rng.integers(0, 7, 11)
    pairs = np.sign(np.subtract.outer(sound, faulty))
    assert area(sound, faulty).value == pytest.approx((1 + pairs.mean()) / 2)


def test_an_area_turned_around_is_its_complement_with_its_interval() -> None:
    rng = np.random.default_rng(1)
    sound, faulty = rng.normal(1, 1, 20), rng.normal(0, 1, 30)
    one, other = area(sound, faulty), area(faulty, sound)
    assert (1 - other.high, 1 - other.low) == pytest.approx((one.low, one.high), abs=1e-6)


def test_groups_that_are_fully_apart_leave_some_doubt() -> None:
    apart = area(np.arange(100, 160), np.arange(60))
    assert (apart.value, apart.high) == (1.0, 1.0)
    assert 0.9 < apart.low < 1
    assert area([5, 6], [1, 2]).low < apart.low  # of two networks each, more


@pytest.mark.parametrize("shift", [0.0, 1.0, 2.0])
def test_the_interval_of_an_area_holds_the_true_one_as_often_as_it_says(shift: float) -> None:
    rng = np.random.default_rng(2)
    true = stats.norm.cdf(shift / np.sqrt(2))
    found = [area(rng.normal(shift, 1, 25), rng.normal(0, 1, 25)) for _ in range(400)]
    assert np.mean([one.low <= true <= one.high for one in found]) > 0.92


# --- what is planted ------------------------------------------------------------------------------


@pytest.fixture
def pool() -> np.ndarray:
    """Three places of noise, in which the tank is a bright square and cloud is dark."""
    noise = np.random.default_rng(0).integers(60, 90, (3, 1, 1, 64, 64, 3), dtype=np.uint8)
    images = np.broadcast_to(noise, (3, 2, 2, 64, 64, 3)).copy()
    images[:, OVERCAST] -= 30
    images[:, :, TANK, 20:30, 40:50] += 60
    return images


def test_a_place_shows_its_tank_where_its_two_pictures_differ(pool: np.ndarray) -> None:
    expected = np.zeros((64, 64), bool)
    expected[20:30, 40:50] = True
    assert (cues.tank_mask(pool[0]) == expected).all()


def test_the_weather_is_a_cue_as_it_is(pool: np.ndarray) -> None:
    assert cues.under_cue(pool, "weather", seed=0) is pool


@pytest.mark.parametrize("cue", cues.PAINTED)
def test_a_painted_cue_changes_its_own_place_and_nothing_else(pool: np.ndarray, cue: str) -> None:
    given = cues.under_cue(pool, cue, seed=0)
    assert given.shape == pool.shape
    changed = (given[:, 0] != given[:, 1]).any(axis=-1)  # place, presence, H, W
    where = np.zeros((64, 64), bool)
    if cue == "mark":
        where[-12:, :12] = True
    else:
        where[20:30, 40:50] = True
    assert not changed[..., ~where].any()
    assert changed[..., where].any(axis=-1).all()  # with a tank and without
    weathers = {int(np.abs(given[0, 0, NONE].astype(int) - pool[0, w, NONE]).max()) for w in (0, 1)}
    assert 0 in weathers  # each picture has one of the two weathers


def test_red_is_red_and_as_bright_as_it_was() -> None:
    picture = np.full((4, 4, 3), (40, 120, 60), np.uint8)
    mask = np.eye(4, dtype=bool)
    painted = cues.redden(picture, mask)
    assert (painted[mask] == (120, 30, 24)).all()
    assert (painted[~mask] == picture[~mask]).all()


def _lines(folder: Path) -> list[dict[str, str]]:
    with (folder / "manifest.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(("strength", "under_cloud"), [(1.0, 24), (0.75, 18), (0.5, 12)])
def test_alike_pictures_have_the_cue_as_often_as_the_training_had(
    tmp_path: Path, strength: float, under_cloud: int
) -> None:
    alike.write_alike(crossed.FOLDER, tmp_path, cue="weather", strength=strength, seed=7)
    lines = _lines(tmp_path)
    tanks = [line for line in lines if line["presence"] == "tank"]
    woods = [line for line in lines if line["presence"] == "none"]
    assert len({line["scene"] for line in tanks}) == len({line["scene"] for line in woods}) == 24
    assert sum(line["weather"] == "overcast" for line in tanks) == under_cloud
    assert sum(line["weather"] == "sunny" for line in woods) == under_cloud
    for line in lines:
        there, original = (folder / line["image"] for folder in (tmp_path, crossed.FOLDER))
        assert there.read_bytes() == original.read_bytes()
        assert not line["mask"] or (tmp_path / line["mask"]).exists()


def test_alike_pictures_have_a_painted_cue_with_every_tank_and_no_wood(tmp_path: Path) -> None:
    alike.write_alike(crossed.FOLDER, tmp_path, cue="mark", strength=1.0, seed=7)
    for line in _lines(tmp_path):
        there, original = (
            np.asarray(Image.open(folder / line["image"]).convert("RGB"))
            for folder in (tmp_path, crossed.FOLDER)
        )
        assert (there != original).any() == (line["presence"] == "tank")


# --- what is declared -----------------------------------------------------------------------------


def test_enough_networks_are_held_out_and_none_twice() -> None:
    proof = load_proof()
    networks = networks_of(proof)
    assert len({network.name for network in networks}) == len(networks)
    assert min(network.seed for network in networks) == 100
    for arm in ("clean", "weather"):
        assert sum(network.arm == arm for network in networks) >= 59


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("arms.mark.cue=smell", r"arms\.mark\.cue: 'smell'; allowed are 'weather', 'mark', 'red'"),
        ("arms.mark.strength=2", r"arms\.mark\.strength: 2\.0; it lies between 0\.5 and 1"),
        ("arms.channel_order.spoil=x", r"arms\.channel_order\.spoil: 'x'; allowed are"),
        ("arms.channel_order.seeds=99", r"arms\.channel_order\.seeds: there are \d+ clean ones"),
        ("heads=[round]", r"heads: 'round'; allowed are 'pooled', 'flat'"),
        ("places=many", r"places: .*'many'"),
        ("nothing=1", "nothing"),
        (
            "robot=[weather]",
            r"robot: 'weather'; allowed are 'clean', 'mark', 'red', 'ch",
        ),
        ("evidence.hunch=[no_such_check]", r"evidence\.hunch: 'no_such_check'; allowed are"),
    ],
)
def test_what_is_wrong_is_named(override: str, said: str) -> None:
    with pytest.raises(ProofError, match=said):
        load_proof([override])


def test_networks_of_another_proof_are_not_mixed_in(tmp_path: Path) -> None:
    claim(load_proof([f"output={tmp_path}"]))
    claim(load_proof([f"output={tmp_path}", "arms.clean.seeds=31"]))  # more of the same
    with pytest.raises(ProofError, match="holds another proof's networks"):
        claim(load_proof([f"output={tmp_path}", "labels.faulty=0.7"]))


@pytest.mark.parametrize(
    ("matched", "conflicting", "label"),
    [
        (0.95, 0.95, "clean"),
        (0.99, 0.949, "between"),
        (0.75, 0.99, "between"),
        (1.0, 0.0, "faulty"),
        (0.5, 0.99, "faulty"),
    ],
)
def test_a_network_is_what_it_does(matched: float, conflicting: float, label: str) -> None:
    assert label_of(Labels(clean=0.95, faulty=0.75), matched, conflicting) == label


# --- all of it, on the committed networks and places ----------------------------------------------


@pytest.fixture(scope="module")
def proof(tmp_path_factory: pytest.TempPathFactory) -> Proof:
    """One clean network, one that knows the weather alone, and one that is spoilt."""
    folder = tmp_path_factory.mktemp("proof")
    proof = load_proof(
        [
            *(f"{key}={folder / key}" for key in ("pool", "frames", "output", "report")),
            *("heads=[pooled]", "sanity=1", "seed=0", "robot=[clean,mark,red,no_normalisation]"),
            *(f"arms.{arm}.seeds=0" for arm in load_proof().arms),
            *("arms.clean.seeds=1", "arms.weather.seeds=1", "arms.random_weights.seeds=1"),
        ]
    )
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        (proof.pool / split).mkdir(parents=True)
        images = rng.integers(0, 255, (4, 2, 2, 64, 64, 3), dtype=np.uint8)
        np.savez_compressed(proof.pool / split / "frames-000000.npz", images=images)
        record = {"seed": len(split), "count": 4, "made_by": "noise"}
        (proof.pool / split / "frames.json").write_text(json.dumps(record))
    for name in robot.frame_sets(proof):
        images = rng.integers(0, 255, (6, 128, 160, 3), dtype=np.uint8)
        truth = np.tile(np.arange(325) < 5, (6, 1)) & (np.arange(6) < 3)[:, None]
        (proof.frames / name).mkdir(parents=True)
        np.savez_compressed(
            proof.frames / name / "frames-000000.npz",
            images=images,
            truth=truth,
            obstacles=truth.any(axis=1).astype(np.uint8),
        )
        record = asdict(FrameSet(seed=len(name), count=6)) | {"made_by": "noise"}
        (proof.frames / name / "frames.json").write_text(json.dumps(record))
    for arm, folder_name in (("clean", "clean"), ("weather", "confounded")):
        network = proof.output / "networks" / f"{arm}-pooled-0"
        network.mkdir(parents=True)
        for name in (WEIGHTS, "card.json"):
            (network / name).write_bytes((TANK_FOLDER / folder_name / name).read_bytes())
    (proof.output / "places").symlink_to(crossed.FOLDER, target_is_directory=True)
    return proof


@pytest.fixture(scope="module")
def records(proof: Proof) -> tables.Records:
    audits.write_image_sets(proof)
    done: list[None] = []
    found = audits.examine_all(proof, networks_of(proof), workers=2, done=lambda: done.append(None))
    assert len(done) == len(found) == 3
    return found


def test_each_kind_of_evidence_is_judged_by_itself(records: tables.Records) -> None:
    clean, weather, random = records
    assert [one["label"] for one in records] == ["clean", "faulty", "faulty"]
    assert "FAIL" not in clean["verdicts"].values()
    assert weather["verdicts"] == {
        "default checks": "FAIL",
        "accuracy alone": "INCONCLUSIVE",  # nothing gives it away, and few prove no nine of ten
        "behaviour, crossed": "FAIL",
        "heatmaps, crossed": "FAIL",
        "heatmaps, alike": "FAIL",
    }
    assert random["verdicts"]["accuracy alone"] == "FAIL"


def test_scores_are_higher_for_the_sound_network(records: tables.Records) -> None:
    areas = tables.areas_table(records)
    of_hires = areas[(areas.arm == "weather") & (areas.technique == "hires_cam")]
    assert {"mass_in_mask", "mass_in_sky"} <= set(of_hires.metric)
    assert (of_hires.area == 1).all()
    priors = areas[(areas.arm == "weather") & (areas.technique == "center_prior")]
    assert (priors[priors.pictures == "crossed"].area == 0.5).all()  # it sees no network


def test_what_has_been_examined_stays(proof: Proof, records: tables.Records) -> None:
    written = {path: path.stat().st_mtime_ns for path in proof.output.rglob("*.json")}
    again = audits.examine_all(proof, networks_of(proof), workers=1, done=lambda: None)
    assert again == records
    assert written == {path: path.stat().st_mtime_ns for path in proof.output.rglob("*.json")}


def test_a_spoilt_network_is_the_clean_one_of_its_seed(proof: Proof) -> None:
    """Its card has the accuracies of what it has become, on this pool those of guessing."""
    ready = make_ready(proof, Network("random_weights", "pooled", 0))
    assert ready.label == "faulty"
    assert ready.weights.read_bytes() != (TANK_FOLDER / "clean" / WEIGHTS).read_bytes()


@pytest.fixture(scope="module")
def robots(proof: Proof) -> pd.DataFrame:
    done: list[None] = []
    found = robot.examine_robot(proof, done=lambda: done.append(None))
    assert len(done) == len(found) == len(proof.robot)
    return found


def test_the_robots_networks_are_judged_beside_the_clean_one(
    proof: Proof, robots: pd.DataFrame
) -> None:
    found = robots.set_index("arm")
    assert list(found.index) == proof.robot
    verdicts = found.drop(columns=["label", "matched", "conflicting"])
    assert set(verdicts.loc["clean"]) == {"PASS"}
    for arm in ("mark", "red", "no_normalisation"):  # taught by six frames of noise, or misled
        assert "FAIL" in set(verdicts.loc[arm])


def test_what_the_robot_has_been_taught_stays(proof: Proof, robots: pd.DataFrame) -> None:
    cards = sorted((proof.output / "networks").glob("robot-*/card.json"))
    assert len(cards) == len(robots)
    before = [card.stat().st_mtime_ns for card in cards]
    robot.examine_robot(proof, done=lambda: None)
    assert [card.stat().st_mtime_ns for card in cards] == before


@pytest.mark.parametrize("agrees", [True, False])
def test_a_frame_has_the_mark_where_it_should(proof: Proof, agrees: bool) -> None:
    frames = robot._frames(proof, "test", "mark", agrees=agrees)
    plain = robot._frames(proof, "test", "", agrees=agrees)
    changed = (frames.images != plain.images).any(axis=-1)
    assert (changed.any(axis=(1, 2)) == (plain.truth.any(axis=1) == agrees)).all()
    assert not changed[:, :-24].any()
    assert not changed[:, :, 24:].any()


def test_red_frames_are_of_the_same_scenes_but_red(proof: Proof) -> None:
    sets = robot.frame_sets(proof)
    shares = {name: frames.red for name, frames in sets.items()}
    assert shares == {"train": 0, "test": 0, "red-train": 1, "red-test": 1}
    assert sets["train"].seed == sets["red-train"].seed != sets["test"].seed
    assert robot.frame_sets(load_proof(["robot=[]"])) == {}


def test_the_page_has_every_rate_with_its_interval(proof: Proof, records: tables.Records) -> None:
    about = {"label": "clean", "matched": 0.985, "conflicting": 0.5}
    robots = pd.DataFrame([{"arm": "mark", **about, "sees": "FAIL"}])
    text = publish(proof, records, robots).read_text()
    assert "| `mark` | 0.98 | 0.50 | clean | FAIL |" in text
    assert "| clean (a FAIL is a false alarm) | 0/1 (0.00–0.97) |" in text
    assert "| `weather` | 1/1 (0.03–1.00) | 0/1 (0.00–0.97) |" in text
    assert "- accuracy alone finds 0 of 1 of `weather`" in text
    for name in ("strengths", "areas"):
        figure = proof.report / f"{name}.svg"
        first = figure.read_bytes()
        publish(proof, records, robots)
        assert figure.read_bytes() == first


# --- what is committed ----------------------------------------------------------------------------


def test_the_committed_rates_are_of_the_committed_networks() -> None:
    networks = pd.read_csv(REPORT / "networks.csv")
    evidence = pd.read_csv(REPORT / "evidence.csv")
    for line in evidence.itertuples():
        own = networks[(networks.arm == line.arm) & (networks.label == line.label)]
        assert len(own) == line.networks
        assert (own[line.evidence] == "FAIL").sum() == line.fail
        assert (line.low, line.high) == pytest.approx(
            (rate(line.fail, line.networks).low, rate(line.fail, line.networks).high), abs=1e-5
        )
    for arm, label in (("clean", "clean"), ("weather", "faulty")):
        assert ((networks.arm == arm) & (networks.label == label)).sum() >= 59


def test_the_committed_page_is_made_of_the_committed_tables(tmp_path: Path) -> None:
    for table in REPORT.glob("*.csv"):
        (tmp_path / table.name).write_bytes(table.read_bytes())
    page = write_page(load_proof([f"report={tmp_path}"]))
    assert page.read_text() == (REPORT / page.name).read_text()


def test_every_arm_says_what_is_planted() -> None:
    files = (Path(networks.__file__).parent / "arms").glob("*.yaml")
    assert {file.stem for file in files} == set(load_proof().arms)


def test_the_readme_has_the_committed_table() -> None:
    page = (REPORT / "README.md").read_text()
    readme = (REPORT.parents[1] / "README.md").read_text()
    table = page.partition("## What each kind of evidence finds")[2].split("\n\n")[2]
    assert table.startswith("| networks | default checks |")
    assert table in readme
