"""Means and contrasts → sentences: where two levels differ most, the network's answers first."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from cnnaudit.specs import ContrastSpec, GridSpec
from cnnaudit.statistics import ALPHA, say, say_p
from cnnaudit.summary import factor_columns
from cnnaudit.types import POOLED, ImageSet

_NO_NEWS = 0.015  # a smaller difference the other way is not told
_NOT_SHOWN = -1.0  # sorts after every difference
_TESTED = ("first_level", "second_level", "model", "metric", "technique", "target", "within")
_MANY_DEAD = 0.5  # the share of heatmaps that are zero everywhere from which on it is said

Finding = dict[str, str]
Catalogue = Mapping[str, Any]
Line = Mapping[Any, Any]  # of the table of contrasts


def find(
    summary: pd.DataFrame,
    contrasts: pd.DataFrame,
    declared: Iterable[ContrastSpec],
    image_sets: Sequence[ImageSet],
    catalogue: Catalogue,
) -> list[Finding]:
    """Say in a sentence each what grids and contrasts show, behaviour before heatmaps.

    Of a grid's row factor two levels are compared, those that differ most if there are more, at the
    column where they do; where behaviour differs most comes first, and last what a declared
    contrast does not find to differ. A contrast is told by itself where no grid shows its factor.
    """
    declared = tuple(declared)
    of_grids = list(_of_grids(summary, contrasts, declared, image_sets, catalogue))
    of_contrasts = list(_of_contrasts(contrasts, declared, image_sets, catalogue))
    most_first = [one for one, _ in sorted(of_grids, key=lambda one: -one[1])]
    behaviour = [one for one in (*most_first, *of_contrasts) if not one["technique"]]
    as_declared = (*(one for one, _ in of_grids), *of_contrasts)
    return [*behaviour, *(one for one in as_declared if one["technique"])]


class _Words:
    """How an image set says the levels of its factors, and its units."""

    def __init__(self, image_set: ImageSet) -> None:
        self._words, self._places = image_set.spec.words, image_set.spec.places
        self._unit = image_set.spec.unit or "image"

    def units(self, count: float) -> str:
        return f"{count:,.0f} {self._unit}{'' if count == 1 else 's'}"

    def of(self, factor: str, level: str) -> str:
        return self._words.get(factor, {}).get(level, f"{factor} {level!r}")

    def at(self, factor: str, level: str) -> str:
        said = self._words.get(factor, {}).get(level, f"at {factor} {level!r}")
        return self._places.get(factor, {}).get(level, said)


def _subject(catalogue: Catalogue, metric: str, technique: str, target: str, several: bool) -> str:
    """Say what is measured: a metric, of which technique, for which of several targets."""
    subject = str(catalogue["metrics"][metric]["title"])
    if technique:
        subject += f" of {catalogue['techniques'][technique]['title']}"
        subject += f" for the target {target!r}" * several
    return subject


def _is_reference(catalogue: Catalogue, technique: str) -> bool:
    return bool(catalogue["techniques"].get(technique, {}).get("reference"))


def _named(catalogue: Catalogue, kind: str, measured: Iterable[str]) -> list[str]:
    """Return the metrics of a kind that were measured, the primary one first."""
    metrics, there = catalogue["metrics"], set(measured)
    return [name for name in metrics if metrics[name]["kind"] == kind and name in there]


def _is_seen(first: float, second: float) -> bool:
    """Say whether two numbers differ as they are written."""
    return f"{first:.2f}" != f"{second:.2f}"


def _is_shown(line: Line) -> bool:
    """Say whether the test of a contrast finds a difference."""
    return bool(line["status"] == "ok" and line["p_holm"] <= ALPHA)


def _may_be_told(test: Line | None) -> bool:
    """Say whether a difference may be told: it was not tested, or the test finds it."""
    return test is None or _is_shown(test)


def _two(first: float, second: float) -> str:
    return f"{first:.2f} and {second:.2f}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


# --- grids ----------------------------------------------------------------------------------------


def _of_grids(
    summary: pd.DataFrame,
    contrasts: pd.DataFrame,
    declared: Sequence[ContrastSpec],
    image_sets: Iterable[ImageSet],
    catalogue: Catalogue,
) -> Iterator[tuple[Finding, float]]:
    """Yield findings, each with how far its two levels are apart."""
    for image_set in image_sets:
        for number, grid in enumerate(image_set.spec.grids):
            levels = grid.levels or image_set.levels(grid.rows)
            if len(levels) > 1 and grid.crosses_factors:
                place = {"image_set": image_set.spec.name, "grid": str(number)}
                tests = _tests_of(contrasts, declared, image_set.spec.name, grid)
                shown = _Grid(summary, image_set, grid.rows, grid.cols, levels, tests)
                for finding, gap in shown.findings(catalogue):
                    yield {**finding, **place}, gap


def _tests_of(
    contrasts: pd.DataFrame, declared: Iterable[ContrastSpec], image_set: str, grid: GridSpec
) -> list[dict[Hashable, Any]]:
    """Return the lines of contrasts between a grid's rows, column by column."""
    shown = (image_set, grid.rows, [grid.cols])
    names = {one.name for one in declared if (one.image_set, one.factor, [*one.within]) == shown}
    lines = contrasts.to_dict("records") if names else []
    return [line for line in lines if line["contrast"] in names and not line["net_of"]]


class _Grid:
    """The means at the levels of two factors, the others pooled, and tests of their differences."""

    def __init__(
        self,
        summary: pd.DataFrame,
        image_set: ImageSet,
        rows: str,
        cols: str,
        levels: tuple[str, ...],
        tests: Iterable[Line],
    ) -> None:
        others = [f for f in factor_columns(summary) if f not in (rows, cols)]
        own = summary.image_set == image_set.spec.name
        pooled = (summary[others] == POOLED).all(axis=1)
        varied = (~summary[[rows, cols]].isin([POOLED, ""])).all(axis=1)
        self._table = summary[own & pooled & varied & summary["mean"].notna()]
        self._rows, self._cols, self._levels = rows, cols, levels
        self._words = _Words(image_set)
        self._tests = {self._key(*(one[name] for name in _TESTED)): one for one in tests}

    @staticmethod
    def _key(first: str, second: str, *place: str) -> tuple[object, ...]:
        """Return what tells tests apart; which of two levels is the first does not."""
        return frozenset((first, second)), *place

    def findings(self, catalogue: Catalogue) -> Iterator[tuple[Finding, float]]:
        for model in self._table.model.unique():
            of_model = self._table[self._table.model == model]
            for kind in ("behaviour", "overlap"):
                named = _named(catalogue, kind, of_model["metric"].unique())
                yield from self._of_metrics(of_model, str(model), named, catalogue)

    def _of_metrics(
        self, of_model: pd.DataFrame, model: str, metrics: Sequence[str], catalogue: Catalogue
    ) -> Iterator[tuple[Finding, float]]:
        """Yield what the first metric shows that has two levels to compare, else one of any."""
        tables = (
            (metric, paired, gather(of_model, metric))
            for paired, gather in ((True, self._pairs), (False, self._alone))
            for metric in metrics
        )
        metric, paired, found = next((one for one in tables if len(one[2])), ("", False, None))
        if found is None:
            return
        several = found["target"].nunique() > 1
        keys = ["technique", "target"]
        for (technique, target), part in found.groupby(keys, sort=False, observed=True):
            if _is_reference(catalogue, str(technique)):
                continue
            subject = _subject(catalogue, metric, str(technique), str(target), several)
            about = {"model": model, "metric": metric, "technique": str(technique)}
            if not paired:
                yield {**about, "text": self._sentence_of_one(subject, model, part)}, 0.0
                continue
            tests = [self._test(about, pair) for pair in part.to_dict("records")]
            part = _as_tested(part, tests)
            shown = [place for place, test in enumerate(tests) if _may_be_told(test)]
            seen = any(map(_is_seen, part["first"], part["second"]))
            if technique and not (shown and seen):
                continue
            gaps = (part["first"] - part["second"]).abs()
            most = max(shown or range(len(part)), key=lambda place: gaps.iloc[place])
            text = self._sentence(subject, model, part, tests, most)
            yield {**about, "text": text}, gaps.iloc[most] if shown else _NOT_SHOWN

    def _sentence_of_one(self, subject: str, model: str, means: pd.DataFrame) -> str:
        """Say where what has no counterpart at another level is highest, and where lowest."""
        most, least = means.iloc[means["first"].argmax()], means.iloc[means["first"].argmin()]
        words, rows, cols = self._words, self._rows, self._cols
        text = (
            f"{_capital(words.at(cols, most['col']))} the {subject} is {most['first']:.2f} for "
            f"{words.of(rows, most['level'])} ({model}, {words.units(most['units'])}"
        )
        if pd.notna(most["chance"]):
            text += f", by chance {most['chance']:.2f}"
        if most.name == least.name:
            return f"{text})."
        other = f" for {words.of(rows, least['level'])}" * (most["level"] != least["level"])
        where = words.at(cols, least["col"])
        return f"{text}); it is lowest {where}{other}: {least['first']:.2f}."

    def _test(self, about: Mapping[str, str], pair: Line) -> Line | None:
        """Return the line of a declared contrast of two levels at a column; None: there is none."""
        place = about["model"], about["metric"], about["technique"], pair["target"], pair["col"]
        return self._tests.get(self._key(pair["one"], pair["other"], *place))

    def _certainty(self, test: Line | None, first: str) -> str:
        """Say how sure a difference is, the first level minus the other."""
        if test is None:
            return ""
        if test["status"] != "ok":
            return "; too few to be tested"
        sign = 1 if test["first_level"] == first else -1
        numbers = sign * test["difference"], *sorted((sign * test["low"], sign * test["high"]))
        difference, low, high = map(say, numbers)
        none = "" if _is_shown(test) else ": none is shown"
        return f"; difference {difference} [{low}, {high}], {say_p(test['p_holm'])}{none}"

    def _sentence(
        self,
        subject: str,
        model: str,
        pairs: pd.DataFrame,
        tests: Sequence[Line | None],
        place: int,
    ) -> str:
        """Say how two levels differ at a column, and where least or the other way round."""
        gap = pairs["first"] - pairs["second"]
        most = pairs.iloc[place]
        sign = 1 if most["first"] < most["second"] else -1
        opposite = sign * gap * np.array([*map(_may_be_told, tests)])
        turned = opposite.max() > max(gap.abs().max() / 10, _NO_NEWS)
        least = pairs.iloc[opposite.argmax() if turned else gap.abs().argmin()]
        words = self._words
        first, second = (words.of(self._rows, most[name]) for name in ("one", "other"))
        text = (
            f"{_capital(words.at(self._cols, most['col']))} the {subject} is {most['first']:.2f} "
            f"for {first} and {most['second']:.2f} for {second} "
            f"({model}, {words.units(most['units'])}"
        )
        if len(self._levels) > 2:
            differ = any(map(_is_seen, pairs["first"], pairs["second"]))
            told = "the two that differ most" if differ else "none differs"
            text += f", of {len(self._levels)} levels {told}"
        text += f"){self._certainty(tests[place], most['one'])}"
        if most["dead"] >= _MANY_DEAD:
            text += f"; up to {100 * most['dead']:.0f} % of these heatmaps are zero everywhere"
        if len(pairs) > 1 and len({*map(_two, pairs["first"], pairs["second"])}) == 1:
            text += f"; it is the same whatever the {self._cols}"
        elif most["col"] != least["col"]:
            told = "it is the other way round" if turned else "the difference is smallest"
            numbers = _two(least["first"], least["second"])
            text += f"; {told} {words.at(self._cols, least['col'])}: {numbers}"
        return text + "."

    def _pairs(self, table: pd.DataFrame, metric: str) -> pd.DataFrame:
        """Return the means of two levels side by side, per technique, target and column level.

        Each technique and target has its own two: those that differ most.
        """
        chosen = table[(table.metric == metric) & table[self._rows].isin(self._levels)]
        kinds = chosen.groupby(["technique", "target"], sort=False, observed=True)
        found = [pairs for _, own in kinds if len(pairs := self._pairs_of(own))]
        return pd.concat(found or [self._pairs_of(chosen)], ignore_index=True)

    def _pairs_of(self, chosen: pd.DataFrame) -> pd.DataFrame:
        one, other = _most_apart(chosen, self._rows, self._cols, self._levels)
        keys = ["technique", "target", "region", self._cols]
        first, second = (chosen[chosen[self._rows] == level] for level in (one, other))
        pairs = first.merge(second, on=keys, suffixes=("_1", "_2"))
        return pd.DataFrame(
            {
                "technique": pairs.technique,
                "target": pairs.target,
                "col": pairs[self._cols],
                "one": one,
                "other": other,
                "first": pairs.mean_1,
                "second": pairs.mean_2,
                "dead": pairs[["dead_1", "dead_2"]].max(axis=1),
                "units": pairs[["units_1", "units_2"]].min(axis=1),
            }
        )

    def _alone(self, table: pd.DataFrame, metric: str) -> pd.DataFrame:
        """Return the means of what may be at one level alone, such as a region of shadows."""
        own = table[(table.metric == metric) & table[self._rows].isin(self._levels)]
        renamed = own.rename(columns={self._cols: "col", "mean": "first", self._rows: "level"})
        return renamed[["technique", "target", "col", "level", "first", "chance", "units"]]


def _as_tested(pairs: pd.DataFrame, tests: Sequence[Line | None]) -> pd.DataFrame:
    """Return pairs of means with those that were tested, which are of pairs of images alone."""
    pairs = pairs.copy()
    for index, test in zip(pairs.index, tests, strict=True):
        if test is not None and test["units"]:
            sides = (test["first"], test["second"])
            turned = test["first_level"] != pairs.loc[index, "one"]
            pairs.loc[index, ["first", "second"]] = sides[::-1] if turned else sides
            pairs.loc[index, "units"] = test["units"]
    return pairs


def _most_apart(
    means: pd.DataFrame, rows: str, cols: str, levels: tuple[str, ...]
) -> tuple[str, str]:
    """Return the two levels, in their order, whose means differ most anywhere."""
    apart, found = -1.0, (levels[0], levels[1])
    if len(levels) == 2:
        return found
    for _, part in means.groupby(["technique", "target", "region", cols], observed=True):
        ordered = part.sort_values("mean", kind="stable")
        low, high = ordered.iloc[0], ordered.iloc[-1]  # two levels also where all are equal
        if high["mean"] - low["mean"] > apart and len(part) > 1:
            apart = high["mean"] - low["mean"]
            one, other = sorted((low[rows], high[rows]), key=levels.index)
            found = (one, other)
    return found


# --- contrasts ------------------------------------------------------------------------------------


def _of_contrasts(
    table: pd.DataFrame,
    declared: Iterable[ContrastSpec],
    image_sets: Iterable[ImageSet],
    catalogue: Catalogue,
) -> Iterator[Finding]:
    """Yield where each contrast differs most, of what its test finds to differ at all."""
    by_name = {image_set.spec.name: image_set for image_set in image_sets}
    for contrast in declared:
        image_set = by_name[contrast.image_set]
        shown = {one.rows for one in image_set.spec.grids if one.crosses_factors}
        if contrast.factor in shown:
            continue
        lines = table[(table.contrast == contrast.name) & (table.net_of == "")]
        for _, of_model in lines.groupby("model", sort=False, observed=True):
            for kind in ("behaviour", "overlap"):
                # Chosen before it is seen what differs: of many metrics one does by chance.
                metric = next(iter(_named(catalogue, kind, of_model["metric"].unique())), None)
                differs = (of_model.status == "ok") & (of_model.p_holm <= ALPHA)
                own = of_model[differs & (of_model.metric == metric)]
                for _, part in own.groupby(["technique", "target"], sort=False, observed=True):
                    most = part.iloc[part.difference.abs().argmax()]
                    seen = kind == "behaviour" or _is_seen(most["first"], most["second"])
                    if seen and not _is_reference(catalogue, most["technique"]):
                        several = len({*lines["target"]} - {""}) > 1
                        yield _told(most, contrast, _Words(image_set), catalogue, several)


def _told(
    line: pd.Series, contrast: ContrastSpec, words: _Words, catalogue: Catalogue, several: bool
) -> Finding:
    technique, target = str(line["technique"]), str(line["target"])
    subject = _subject(catalogue, line["metric"], technique, target, several)
    levels = line["within"].split(" · ") if contrast.within else []
    where = ", ".join(map(words.at, contrast.within, levels))
    first, second = (words.of(contrast.factor, level) for level in contrast.levels)
    about = f"{line['model']}, " * bool(line["model"]) + words.units(line["units"])
    text = f"the {subject} is {line['first']:.2f} for {first} and {line['second']:.2f} for {second}"
    return {
        "contrast": contrast.name,
        "image_set": contrast.image_set,
        "model": str(line["model"]),
        "metric": str(line["metric"]),
        "technique": technique,
        "text": f"{_capital(f'{where} {text}'.lstrip())} ({about}, {say_p(line['p_holm'])}).",
    }
