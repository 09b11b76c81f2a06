"""The report of a comparison: what moved between two models, in words, numbers, charts and texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from undertow.comparing.calibration import SIDES
from undertow.reporting.comparison import charts
from undertow.reporting.comparison.reading import (
    ComparisonRun,
    Predicted,
    read_comparison_run,
    read_predicted,
    skills,
    worst_pairs,
)
from undertow.reporting.page.explains import explains
from undertow.reporting.page.settings import flat
from undertow.reporting.page.shell import Figure, render
from undertow.wording import comparison as words
from undertow.wording.numbers import MISSING, interval, number, percent, signed, token

__all__ = ["cards", "comparison_figures", "figures", "masses_table", "report", "tokens_gained"]

Vector = NDArray[np.float64]

TOKENS = 15


def report(folder: str | Path, *, pairs_url: str | None = None) -> str:
    """The page of a finished comparison; ``pairs_url`` is where its table of all pairs is served, if it is.

    Raises:
        DataError: the folder holds none.
    """
    run = read_comparison_run(folder)
    summary = run.summary
    still = words.nothing_moved(summary)
    predicted = Predicted() if still else read_predicted(run)
    return render(
        "comparison.html.j2",
        title=f"Comparison: {run.folder.resolve().name}",
        pairs_url=pairs_url,
        explains=explains(run.folder, served=bool(pairs_url)),
        figures=[] if still else list(comparison_figures(run, predicted)),
        headline=words.headline(summary),
        strong=percent(summary["means"]["displaced"]["value"]),
        still=still,
        detail=words.detail(summary),
        verdict=words.verdict(summary),
        answers=words.changed_answers(summary["continuations"]),
        summary=summary,
        cards=[] if still else cards(summary),
        without=predicted.without,
        masses=None if still else masses_table(summary),
        worst=[] if still else worst_pairs(run),
        settings=flat(summary["arguments"]),
    )


def figures(folder: str | Path) -> tuple[Figure, ...]:
    """The charts of a comparison's page.

    Raises:
        DataError: the folder holds no finished comparison.
    """
    run = read_comparison_run(folder)
    if words.nothing_moved(run.summary):
        return ()
    return tuple(comparison_figures(run, read_predicted(run)))


def cards(summary: Mapping[str, Any]) -> list[dict[str, str]]:
    """The numbers that count, each with its interval."""
    means = summary["means"]

    def card(label: str, name: str, show: str, note: str) -> dict[str, str]:
        value = means[name]["value"]
        shown = percent(value) if show == "percent" else signed(value)
        within = interval(means[name], show)
        return {"label": label, "value": shown, "note": note + (f"; 95%: {within}" if within != MISSING else "")}

    before = percent(means["likelihood_accuracy_before"]["value"])
    likelihood = f"pairs whose chosen response is the more probable one; before: {before}"
    return [
        card("Displaced", "displaced", "percent", "chosen responses less likely than before"),
        card("Chosen", "dlogp_chosen", "signed", "nats, mean change of ln π(chosen)"),
        card("Rejected", "dlogp_rejected", "signed", "nats, mean change of ln π(rejected)"),
        card("Margin", "dmargin", "signed", "nats, mean change"),
        card("Reward accuracy", "reward_accuracy", "percent", "pairs whose margin grew"),
        card("Likelihood accuracy", "likelihood_accuracy_after", "percent", likelihood),
    ]


def comparison_figures(run: ComparisonRun, predicted: Predicted) -> Iterator[Figure]:
    """The charts that the comparison has the numbers for."""
    if not run.pairs:
        return
    columns, means = run.columns, run.summary["means"]
    drawn_as = "points" if run.pairs <= charts.POINTS else "a map of counts: the more pairs, the more solid"
    sides = {side: (columns[f"before_logp_{side}"], columns[f"after_logp_{side}"]) for side in SIDES}
    fell = {side: float(np.mean(columns[f"dlogp_{side}"] < 0)) for side in SIDES}
    says = (
        f"Below the dashed line a response is less likely than before: {percent(fell['chosen'])} of the chosen and "
        f"{percent(fell['rejected'])} of the rejected responses. Drawn as {drawn_as}."
    )
    wide, narrow = (charts.before_after(sides, run.rows, narrow=narrow) for narrow in (False, True))
    yield Figure("before-after", "Before and after", wide, says, narrow=narrow)
    changes = {side: columns[f"dlogp_{side}"] for side in SIDES}
    says = " ".join(
        f"{side.capitalize()} responses: median {signed(float(np.median(values)))} nats, the middle half from "
        f"{signed(float(np.quantile(values, 0.25)))} to {signed(float(np.quantile(values, 0.75)))}."
        for side, values in changes.items()
    )
    yield Figure("moves", "How far the responses moved", charts.moves(changes), says + _edges(run))
    if skilled := skills(run.summary):
        found = [
            ", ".join([f"{row['score']} {number(row['spearman']['value'])}", *_known(row["auc"]["value"])])
            for row in skilled
        ]
        area = ", and area under the curve for displaced" if _known(skilled[0]["auc"]["value"]) else ""
        says = (
            f"Rank correlation with what happened{area}: {'; '.join(found)}. Higher is better; the dashed lines are "
            f"guessing. Grey: a {words.BASELINE}, known without an audit."
        )
        wide, narrow = (charts.skill(skilled, narrow=narrow) for narrow in (False, True))
        yield Figure("skill", "Did the audit predict it?", wide, says, narrow=narrow, numbers=_skill_numbers(skilled))
    if calibration := run.summary.get("calibration"):
        yield from _calibration(run, calibration, predicted)
    if predictions := predicted.scores:
        shown = "" if run.pairs <= charts.POINTS // len(predictions) else " A sample of the pairs is drawn."
        says = (
            "Across: how strongly a score said that the chosen response would fall, by rank; up: what its "
            "log-probability did. A good predictor's points fall from left to right; a line, where the pairs are "
            f"enough, joins the medians of tenths.{shown}"
        )
        change = columns["dlogp_chosen"]
        wide, narrow = (charts.predicted(predictions, change, run.rows, narrow=narrow) for narrow in (False, True))
        yield Figure("predicted", "Predicted and what happened", wide, says + _edges(run), narrow=narrow)
    divergence = {side: columns[f"kl_{side}"] for side in SIDES}
    says = (
        "How far the next-token distributions are from those before: on average "
        f"{number(means['kl_chosen']['value'])} nats a token along chosen and "
        f"{number(means['kl_rejected']['value'])} along rejected responses."
    )
    yield Figure("divergence", "How much the model changed", charts.divergences(divergence), says + _edges(run))
    tokens = tokens_gained(run.summary)
    if tokens:
        most = tokens[0]
        says = f"Where the responses part, {most['token']} gained most: {number(most['mean_increase'])} on average."
        numbers = [["token", "mean increase", "in the top 3 of so many pairs"], *(list(one.values()) for one in tokens)]
        yield Figure("gained", "Where the probability went", charts.gained(tokens), says, numbers=numbers)


def _calibration(run: ComparisonRun, calibration: Mapping[str, Any], predicted: Predicted) -> Iterator[Figure]:
    """The nats that a forecast foretold against those that happened."""
    bins = {side: calibration[side]["bins"] for side in SIDES if calibration[side]["bins"]}
    if not bins:
        return
    points = {side: (predicted.forecast[side], run.columns[f"dlogp_{side}"]) for side in bins if predicted.forecast}
    wide, narrow = (charts.calibration(points, bins, run.rows, narrow=narrow) for narrow in (False, True))
    says = " ".join(words.calibration_says(run.summary)) + (
        " On the dashed diagonal what was foretold happened; the line joins the means of groups of equally many pairs."
    )
    header = ["responses", "pairs", "foretold", "happened", "foretold to fall", "fell"]
    cells = [
        [
            side,
            number(one["pairs"]),
            *(signed(one[when]) for when in ("forecast", "realised")),
            *(percent(one["displaced"][when]) for when in ("forecast", "realised")),
        ]
        for side, groups in bins.items()
        for one in groups
    ]
    yield Figure("calibration", "Forecast and fact", wide, says + _edges(run), narrow=narrow, numbers=[header, *cells])


def _skill_numbers(skilled: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    cells = [
        [
            f"{row['score']} ({words.BASELINE})" if words.is_baseline(row) else row["score"],
            *(cell for name in ("spearman", "auc") for cell in (number(row[name]["value"]), interval(row[name]))),
        ]
        for row in skilled
    ]
    return [["score", "Spearman", "95%", "AUC", "95%"], *cells]


def _known(value: float | None) -> list[str]:
    return [] if value is None else [number(value)]


def _edges(run: ComparisonRun) -> str:
    return "" if run.pairs <= charts.POINTS else " The outermost half percent at each end is drawn at the edge."


def tokens_gained(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The tokens that gained most overall, as texts of which no two are the same."""
    found: dict[str, dict[str, Any]] = {}
    for gained in summary["gained"][:TOKENS]:
        text = token(gained["token"])
        text = text if text not in found else f"{text} (id {gained['id']})"
        found[text] = {"token": text, **{name: gained[name] for name in ("mean_increase", "pairs_in_top")}}
    return list(found.values())


def masses_table(summary: Mapping[str, Any]) -> dict[str, Any] | None:
    """Total probability masses on the responses that the data list, where the comparison has them."""
    found = summary.get("masses")
    if not found or not found.get("prompts"):
        return None
    rows = [{"name": words.MASSES[name], **words.mass_cells(found, name)} for name in words.shown_masses(found)]
    return {"rows": rows, "prompts": found["prompts"], "says": words.masses_says(found)}
