"""The report of a comparison: what moved between two models, in words, numbers, charts and texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from undertow.reporting.comparison import charts
from undertow.reporting.comparison.reading import Moved, read_moved, realised, skills, worst_pairs
from undertow.reporting.page.settings import flat
from undertow.reporting.page.shell import Figure, render
from undertow.wording.numbers import MISSING, counted, interval, number, percent, rose, signed, token

__all__ = ["cards", "detail", "drawn", "figures", "headline", "masses_table", "report", "tokens_gained"]

Vector = NDArray[np.float64]

TOKENS = 15
SIDES = ("chosen", "rejected")
VERDICTS = {
    "displaced": (
        "The mean DPO loss fell, and so did the chosen responses on average: displaced, by the strict definition."
    ),
    "not displaced": (
        "The mean DPO loss fell and the chosen responses on average did not: not displaced, by the strict definition."
    ),
    "not applicable": "The mean DPO loss did not fall, so the strict definition of displacement does not apply.",
}
MASSES = {
    "good": "on the good responses",
    "bad": "on the bad responses",
    "share": "share of the good",
    "ln_good": "ln of the mass on the good",
    "ln_bad": "ln of the mass on the bad",
    "logit_share": "logit of the good share",
}


def report(folder: str | Path, *, pairs_url: str | None = None) -> str:
    """The page of a finished comparison; ``pairs_url`` is where its table of all pairs is served, if it is.

    Raises:
        DataError: the folder holds none.
    """
    moved = read_moved(folder)
    summary = moved.summary
    predictions, without = realised(moved)
    return render(
        "comparison.html.j2",
        title=f"Comparison: {moved.folder.resolve().name}",
        pairs_url=pairs_url,
        figures=list(drawn(moved, predictions)),
        headline=headline(summary),
        strong=percent(summary["means"]["displaced"]["value"]),
        detail=detail(summary),
        verdict=VERDICTS[summary["displacement"]["verdict"]],
        summary=summary,
        cards=cards(summary),
        without=without,
        masses=masses_table(summary),
        worst=worst_pairs(moved),
        settings=flat(summary["arguments"]),
    )


def figures(folder: str | Path) -> tuple[Figure, ...]:
    """The charts of a comparison's page.

    Raises:
        DataError: the folder holds no finished comparison.
    """
    moved = read_moved(folder)
    return tuple(drawn(moved, realised(moved)[0]))


def headline(summary: Mapping[str, Any]) -> str:
    """What happened, in a sentence: how many chosen responses fell."""
    found, pairs = summary["means"]["displaced"], counted(summary["data"]["pairs"], "pair")
    if found["value"] is None:
        return f"Of {pairs}, none has numbers that are finite."
    if found["value"] in (0, 1):
        which = (
            f"In all of {pairs} the chosen response is"
            if found["value"]
            else f"In none of {pairs} is the chosen response"
        )
        return f"{which} less likely than before."
    low_high = interval(found, "percent")
    within = f" (95% interval {low_high})" if low_high != MISSING else ""
    return f"In {percent(found['value'])} of {pairs} the chosen response is less likely than before{within}."


def detail(summary: Mapping[str, Any]) -> str:
    """By how much, on average."""
    means = summary["means"]
    chosen, margin = means["dlogp_chosen"], means["dmargin"]
    if chosen["value"] is None:
        return ""
    before, after = (percent(means[f"{when}_correct"]["value"]) for when in ("before", "after"))
    return (
        f"On average the chosen response {rose(chosen['value'])}{_within(chosen)} and the margin "
        f"{rose(margin['value'], up='grew', down='shrank')}{_within(margin)}. The chosen response is the more probable "
        f"one in {after} of the pairs; before, in {before}."
    )


def _within(found: Mapping[str, float | None]) -> str:
    shown = interval(found, "signed")
    return f" (95%: {shown})" if shown != MISSING else ""


def cards(summary: Mapping[str, Any]) -> list[dict[str, str]]:
    """The numbers that count, each with its interval."""
    means = summary["means"]

    def card(label: str, name: str, show: str, note: str) -> dict[str, str]:
        value = means[name]["value"]
        shown = percent(value) if show == "percent" else signed(value)
        within = interval(means[name], show)
        return {"label": label, "value": shown, "note": note + (f"; 95%: {within}" if within != MISSING else "")}

    return [
        card("Displaced", "displaced", "percent", "chosen responses less likely than before"),
        card("Chosen", "dlogp_chosen", "signed", "nats, mean change of ln π(chosen)"),
        card("Rejected", "dlogp_rejected", "signed", "nats, mean change of ln π(rejected)"),
        card("Margin", "dmargin", "signed", "nats, mean change"),
        card("Accuracy before", "before_correct", "percent", "pairs with the chosen response more probable"),
        card("Accuracy after", "after_correct", "percent", "pairs with the chosen response more probable"),
    ]


def drawn(moved: Moved, predictions: Mapping[str, Vector]) -> Iterator[Figure]:
    """The charts that the comparison has the numbers for."""
    if not moved.pairs:
        return
    columns, means = moved.columns, moved.summary["means"]
    drawn = "points" if moved.pairs <= charts.POINTS else "a map of counts: the more pairs, the more solid"
    sides = {side: (columns[f"before_logp_{side}"], columns[f"after_logp_{side}"]) for side in SIDES}
    fell = {side: float(np.mean(columns[f"dlogp_{side}"] < 0)) for side in SIDES}
    says = (
        f"Below the dashed line a response is less likely than before: {percent(fell['chosen'])} of the chosen and "
        f"{percent(fell['rejected'])} of the rejected responses. Drawn as {drawn}."
    )
    wide, narrow = (charts.before_after(sides, moved.rows, narrow=narrow) for narrow in (False, True))
    yield Figure("before-after", "Before and after", wide, says, narrow=narrow)
    changes = {side: columns[f"dlogp_{side}"] for side in SIDES}
    says = " ".join(
        f"{side.capitalize()} responses: median {signed(float(np.median(values)))} nats, the middle half from "
        f"{signed(float(np.quantile(values, 0.25)))} to {signed(float(np.quantile(values, 0.75)))}."
        for side, values in changes.items()
    )
    yield Figure("moves", "How far the responses moved", charts.moves(changes), says + _edges(moved))
    if skilled := skills(moved.summary):
        found = [
            ", ".join([f"{row['score']} {number(row['spearman']['value'])}", *_known(row["auc"]["value"])])
            for row in skilled
        ]
        area = ", and area under the curve for displaced" if _known(skilled[0]["auc"]["value"]) else ""
        says = (
            f"Rank correlation with the realised change{area}: {'; '.join(found)}. Higher is "
            "better; the dashed lines are guessing."
        )
        wide, narrow = (charts.skill(skilled, narrow=narrow) for narrow in (False, True))
        yield Figure("skill", "Did the audit foretell it?", wide, says, narrow=narrow, numbers=_skill_numbers(skilled))
    if predictions:
        shown = "" if moved.pairs <= charts.POINTS // len(predictions) else " A sample of the pairs is drawn."
        says = (
            "Across: how strongly a score said that the chosen response would fall, by rank; up: what its "
            "log-probability did. A good predictor's points fall from left to right; a line, where the pairs are "
            f"enough, joins the medians of tenths.{shown}"
        )
        change = columns["dlogp_chosen"]
        wide, narrow = (charts.predicted(predictions, change, moved.rows, narrow=narrow) for narrow in (False, True))
        yield Figure("predicted", "Predicted against realised", wide, says + _edges(moved), narrow=narrow)
    divergence = {side: columns[f"kl_{side}"] for side in SIDES}
    says = (
        "How far the next-token distributions are from those before: on average "
        f"{number(means['kl_chosen']['value'])} nats a token along chosen and "
        f"{number(means['kl_rejected']['value'])} along rejected responses."
    )
    yield Figure("divergence", "How much the model changed", charts.divergences(divergence), says + _edges(moved))
    tokens = tokens_gained(moved.summary)
    if tokens:
        most = tokens[0]
        says = f"Where the responses part, {most['token']} gained most: {number(most['mean_increase'])} on average."
        numbers = [["token", "mean increase", "in the top 3 of so many pairs"], *(list(one.values()) for one in tokens)]
        yield Figure("gained", "Where the probability went", charts.gained(tokens), says, numbers=numbers)


def _skill_numbers(skilled: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    cells = [
        [
            row["score"],
            *(cell for name in ("spearman", "auc") for cell in (number(row[name]["value"]), interval(row[name]))),
        ]
        for row in skilled
    ]
    return [["score", "Spearman", "95%", "AUC", "95%"], *cells]


def _known(value: float | None) -> list[str]:
    return [] if value is None else [number(value)]


def _edges(moved: Moved) -> str:
    return "" if moved.pairs <= charts.POINTS else " The outermost half percent at each end is drawn at the edge."


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
    rows = [
        _mass(name, values)
        for name, values in found.items()
        if isinstance(values, Mapping) and {"before", "after", "change"} <= values.keys()
    ]
    fell = {name: percent(found[name]["value"]) for name in ("good_fell", "share_fell")}
    says = (
        f"The probability of the good ones fell for {fell['good_fell']} of the prompts, their share for "
        f"{fell['share_fell']}."
    )
    if found["nested"]:
        says += f" {counted(found['nested'], 'prompt')} left out: one response is the beginning of another."
    return {"rows": rows, "prompts": found["prompts"], "says": says}


def _mass(name: str, values: Mapping[str, Mapping[str, float | None]]) -> dict[str, str]:
    show = percent if name == "share" else number
    ends = {when: show(values[when]["value"]) for when in ("before", "after")}
    change = signed(values["change"]["value"])
    return {"name": MASSES.get(name, name), **ends, "change": change, "interval": interval(values["change"], "signed")}
