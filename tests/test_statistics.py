"""Statistics against scipy, published examples, and the truth of simulated data."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from cnnaudit.statistics import (
    estimate,
    fewest_units,
    holm,
    sign_flip_ps,
    unit_ranks,
    with_ends,
)

# Darwin's maize: differences in height (eighths of an inch) of 15 pairs of cross- and
# self-fertilised plants; Fisher (1935, §21) counts 863 of 32768 sums at least as large.
DARWIN = np.array([49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48], float)


def _p(values: np.ndarray, alternative: str = "two-sided") -> float:
    return float(sign_flip_ps([values], alternative)[0])  # type: ignore[arg-type]


def test_fishers_count_for_darwins_maize() -> None:
    assert _p(DARWIN, "greater") == pytest.approx(863 / 32768)
    assert _p(DARWIN) == pytest.approx(2 * 863 / 32768)


@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
@pytest.mark.parametrize("n", [2, 5, 9, 12])
def test_sign_flips_are_scipys_permutation_test(n: int, alternative: str) -> None:
    values = np.random.default_rng(n).normal(0.4, 1, n)
    peer = stats.permutation_test(
        (values,),
        np.sum,
        permutation_type="samples",
        alternative=alternative,
        n_resamples=np.inf,
        vectorized=False,
    )
    assert _p(values, alternative) == pytest.approx(peer.pvalue)  # type: ignore[arg-type]


def test_monte_carlo_is_near_the_exact_value_and_never_zero() -> None:
    values = np.random.default_rng(1).normal(0.5, 1, 20)
    t_test = stats.ttest_1samp(values, 0).pvalue
    assert _p(values) == pytest.approx(t_test, abs=0.02)
    assert _p(values) == _p(values)
    assert _p(np.ones(30)) == pytest.approx(1 / (2**16 + 1))


@pytest.mark.parametrize(
    ("tests", "patterns"), [(1, 2**16), (3276, 2**16), (3277, 2**17), (4000, 2**17), (10**9, 2**20)]
)
def test_a_large_family_can_still_decide(tests: int, patterns: int) -> None:
    """With 2¹⁶ patterns alone Holm would raise the smallest p of 4,000 tests above 5 %."""
    (p,) = sign_flip_ps([-np.ones(40)], "less", tests=tests)
    assert p == 1 / (patterns + 1)
    assert (p * tests < 0.05) == (tests < 10**9)


def test_many_samples_have_the_ps_that_each_has_alone() -> None:
    rng = np.random.default_rng(6)
    samples = [rng.normal(0.4, 1, n) for n in (9, 1, 20, 0, 9, 6, *[7] * 21, 20)]
    for alternative in ("two-sided", "greater", "less"):
        alone = [_p(sample, alternative) for sample in samples]
        np.testing.assert_array_equal(sign_flip_ps(samples, alternative), alone)


def test_the_patterns_of_many_units_are_drawn_block_by_block() -> None:
    """Those of 2,000 units are 1 GB; the p-values are those of all patterns at once."""
    samples = list(np.random.default_rng(0).normal(0.03, 1, (3, 2000)))
    tracemalloc.start()
    blocks = sign_flip_ps(samples, seed=4)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 200e6
    bits = np.random.default_rng(4).integers(0, 2, (2**16, 2000)).astype(np.int8)
    for sample, p in zip(samples, blocks, strict=True):
        sums = sample.sum() - 2 * (bits @ sample)
        extreme = (np.abs(sums) >= np.abs(sample.sum())).sum()
        assert p == (extreme + 1) / (2**16 + 1)


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=10))
def test_laws_of_sign_flips(values: list[float]) -> None:
    array = np.array(values)
    p = _p(array)
    assert 2 / 2 ** len(values) <= p <= 1
    assert _p(-array) == p
    assert _p(array * 4) == p
    assert _p(array, "greater") == _p(-array, "less")


def _is_above(share: float, units: int, ends: tuple[float, ...]) -> float:
    """Return how often the lower end of a one-sided 95 % interval lies above the true share."""
    drawn = np.random.default_rng(units).random((2000, units)) < share
    lows = [estimate(hits.astype(float), 0.9, ends).low for hits in drawn]
    return float(np.mean(np.array(lows) > share + 1e-9))


@pytest.mark.parametrize("units", [6, 12, 24, 50])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.8, 0.9, 0.95, 0.98])
def test_the_interval_of_a_share_is_rarely_above_it(share: float, units: int) -> None:
    assert _is_above(share, units, (0.0, 1.0)) < 0.085


def test_students_interval_of_a_share_is_not_an_interval_of_a_share() -> None:
    """Why there are ends: of twelve that hit all, Student knows that the next one will."""
    assert _is_above(0.95, 12, ()) > 0.5


@pytest.mark.parametrize("ends", [(0.0, 1.0), (-1.0, 1.0)])
def test_the_interval_of_a_difference_of_shares_is_rarely_above_it(
    ends: tuple[float, float],
) -> None:
    rng = np.random.default_rng(3)
    drawn = np.where(rng.random((2000, 12)) < 0.05, ends[0], ends[1] * (ends[0] == 0))
    true = drawn.mean()
    above = np.mean([estimate(one, 0.9, ends).low > true for one in drawn])
    assert above < 0.085 < np.mean([estimate(one, 0.9).low > true for one in drawn])


@given(st.lists(st.sampled_from([0.0, 0.25, 1.0]), min_size=2, max_size=30))
def test_laws_of_intervals_with_ends(values: list[float]) -> None:
    array = np.array(values)
    found, mirrored = estimate(array, ends=(0.0, 1.0)), estimate(1 - array, ends=(0.0, 1.0))
    assert found.mean == array.mean()
    assert found.units == len(array)
    assert 0 <= found.low <= found.mean <= found.high <= 1
    assert found.low < found.high
    assert (mirrored.low, mirrored.high) == pytest.approx((1 - found.high, 1 - found.low))
    better = estimate(np.append(array[1:], 1.0), ends=(0.0, 1.0))  # one more hit
    assert better.low >= found.low - 1e-9 or array[0] == 1.0


def test_ends_keep_a_test_from_being_sure_of_few_misses() -> None:
    """None of eight hits, and one of ten should: that happens in 43 % of samples."""
    none = np.zeros(8)
    assert _p(none - 0.1, "less") < 0.01
    assert _p(with_ends(none, (0.0, 1.0)) - 0.1, "less") > 0.4
    assert _p(with_ends(none, (0.0, 1.0)) - 0.5, "less") < 0.05


def test_where_nothing_was_measured_there_are_no_ends() -> None:
    assert len(with_ends(np.array([]), (0.0, 1.0))) == 0
    assert np.isnan(estimate(np.array([1.0]), ends=(0.0, 1.0)).low)


def test_the_interval_is_students() -> None:
    values = np.random.default_rng(2).normal(3, 2, 11)
    found = estimate(values)
    low, high = stats.t.interval(0.95, 10, values.mean(), stats.sem(values))
    assert (found.mean, found.low, found.high) == pytest.approx((values.mean(), low, high))
    assert found.units == 11


def test_too_few_units_have_no_interval() -> None:
    none, one = estimate(np.array([])), estimate(np.array([2.0]))
    assert np.isnan([none.mean, none.low, none.high, one.low, one.high]).all()
    assert (none.units, one.units, one.mean) == (0, 1, 2)
    assert np.isnan(_p(np.array([])))
    assert (_p(np.array([2.0])), _p(np.array([2.0]), "greater")) == (1, 0.5)


def test_holm_against_a_worked_example() -> None:
    # Holm's procedure on p = 0.01, 0.04, 0.03, 0.005 gives 0.03, 0.06, 0.06, 0.02.
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])


def test_holm_leaves_out_what_was_not_tested() -> None:
    adjusted = holm(np.array([0.01, np.nan, 0.02]))
    np.testing.assert_allclose(adjusted, [0.02, np.nan, 0.02])
    assert len(holm(np.array([]))) == 0


def test_no_adjusted_p_is_above_1() -> None:
    assert list(holm(np.array([0.9, 0.4, 0.8]))) == [1, 1, 1]


@pytest.mark.parametrize(("tests", "units"), [(1, 6), (4, 8), (24, 10), (96, 12)])
def test_fewest_units(tests: int, units: int) -> None:
    assert fewest_units(tests) == units


def test_scene_means_keep_false_positives_at_the_level() -> None:
    """20 scenes × 4 lights under the null; a scene's lights share its own deviation."""
    rng = np.random.default_rng(7)
    runs, scenes, lights = 1500, 12, 4
    data = rng.normal(size=(runs, scenes, 1)) + rng.normal(size=(runs, scenes, lights))
    by_scene = np.mean([_p(run.mean(axis=1)) <= 0.05 for run in data])
    by_image = np.mean(stats.ttest_1samp(data.reshape(runs, -1), 0, axis=1).pvalue <= 0.05)
    assert by_scene <= 0.055
    assert by_image > 0.2  # what the unit of independence is for


def test_holm_keeps_the_family_wise_error() -> None:
    rng = np.random.default_rng(8)
    families = [
        holm(np.array([_p(test) for test in rng.normal(size=(8, 10))])).min() for _ in range(400)
    ]
    assert np.mean(np.array(families) <= 0.05) <= 0.055


def test_intervals_cover_normal_data() -> None:
    rng = np.random.default_rng(9)
    found = [estimate(values) for values in rng.normal(1, 2, (4000, 12))]
    assert np.mean([one.low <= 1 <= one.high for one in found]) >= 0.93


def test_power_for_an_effect_like_the_robots() -> None:
    """A difference of −0.3 with a deviation of 0.25 between 24 scenes is always found."""
    rng = np.random.default_rng(10)
    runs = rng.normal(-0.3, 0.25, (40, 24))
    assert np.mean([_p(values) <= 0.05 / 24 for values in runs]) > 0.9


def test_up_to_sixteen_units_every_sign_is_flipped() -> None:
    assert _p(np.ones(16)) == 2 / 2**16


@pytest.mark.parametrize("shape", [(2,), (4, 5)])
def test_the_product_of_unit_ranks_is_spearmans_correlation(shape: tuple[int, ...]) -> None:
    first, second = np.random.default_rng(0).integers(0, 9, (2, *shape)).astype(float)
    ranks, others = unit_ranks(first), unit_ranks(second)
    assert ranks is not None
    assert others is not None
    assert ranks @ others == pytest.approx(stats.spearmanr(first.ravel(), second.ravel())[0])
    assert unit_ranks(np.full(shape, 0.1)) is None
