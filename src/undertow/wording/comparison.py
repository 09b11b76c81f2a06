"""What is said of a comparison of two models, on the terminal and on its page alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from undertow.wording.numbers import MISSING, counted, interval, number, percent, rose, signed

__all__ = [
    "BASELINE",
    "MASSES",
    "MEANS",
    "SHARES",
    "VERDICTS",
    "answer_changed",
    "answers_first",
    "calibration_says",
    "changed_answers",
    "detail",
    "headline",
    "is_baseline",
    "mass_cells",
    "masses_says",
    "nothing_moved",
    "shown_masses",
    "verdict",
]

Summary = Mapping[str, Any]

VERDICTS = {
    "displaced": (
        "The mean DPO loss fell, and so did the chosen responses on average: displaced, by the strict definition."
    ),
    "not displaced": (
        "The mean DPO loss fell and the chosen responses on average did not: not displaced, by the strict definition."
    ),
    "not applicable": "The mean DPO loss did not fall, so the strict definition of displacement does not apply.",
}
MEANS = {
    "dlogp_chosen": "change of ln π(chosen)",
    "dlogp_rejected": "change of ln π(rejected)",
    "dmargin": "change of the margin",
    "displaced": "chosen responses that fell",
    "reward_accuracy": "reward accuracy",
    "likelihood_accuracy_before": "likelihood accuracy, before",
    "likelihood_accuracy_after": "likelihood accuracy, after",
    "kl_chosen": "KL(after ‖ before) a token, chosen",
    "kl_rejected": "KL(after ‖ before) a token, rejected",
}
SHARES = ("displaced", "reward_accuracy", "likelihood_accuracy_before", "likelihood_accuracy_after")
"""Means that are shares of the pairs."""
MASSES = {
    "good": "on the good responses",
    "bad": "on the bad responses",
    "share": "the good ones' share of the two",
    "ln_good": "ln of the mass on the good",
    "ln_bad": "ln of the mass on the bad",
    "logit_share": "logit of the good share",
}
BASELINE = "plain baseline"

_PROBABILITIES = ("good", "bad", "share")
_NOTHING = 1e-6
"""A total probability below this is nothing that a user of the model could meet: only its logarithm says something."""


def nothing_moved(summary: Summary) -> str | None:
    """A sentence where the two models do the same; else None.

    The mean of a divergence is 0 only where every one of them is.
    """
    prints, means = summary.get("fingerprints", {}), summary["means"]
    if prints.get("weights before") and prints["weights before"] == prints.get("weights after"):
        if summary["after"]["dtype"] == "float32":
            return "The two models are the same: nothing moved."
        return f"Rounded to {summary['after']['dtype']}, the two models are the same: nothing moved."
    if all(means[name]["value"] == 0 for name in ("kl_chosen", "kl_rejected", "dlogp_chosen", "dlogp_rejected")):
        return "The weights of the two models differ, but nothing moved on these pairs."
    return None


def headline(summary: Summary) -> str:
    """What happened, in a sentence: how many chosen responses fell."""
    if still := nothing_moved(summary):
        return still
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


def detail(summary: Summary) -> str:
    """By how much, on average; both accuracies, each in its own words."""
    means = summary["means"]
    chosen, margin = means["dlogp_chosen"], means["dmargin"]
    if chosen["value"] is None or nothing_moved(summary):
        return ""
    before, after = (percent(means[f"likelihood_accuracy_{when}"]["value"]) for when in ("before", "after"))
    grew = means["reward_accuracy"]["value"]  # a comparison of an earlier version has none
    reward = f"The margin grew in {percent(grew)} of the pairs (reward accuracy). " if grew is not None else ""
    return (
        f"On average the chosen response {rose(chosen['value'])}{_within(chosen, 'signed')} and the margin "
        f"{rose(margin['value'], up='grew', down='shrank')}{_within(margin, 'signed')}. {reward}The chosen response is "
        f"the more probable one in {after} of the pairs; before, in {before} (likelihood accuracy)."
    )


def _within(found: Mapping[str, float | None], show: str = "number") -> str:
    shown = interval(found, show)
    return f" (95%: {shown})" if shown != MISSING else ""


def verdict(summary: Summary) -> str:
    """The strict definition's word, and the loss that it rests on."""
    found = summary["displacement"]
    said = VERDICTS[found["verdict"]]
    if found["loss_before"] is None:
        return said
    return f"{said} {found['loss']}: {number(found['loss_before'])} before, {number(found['loss_after'])} after."


def answers_first(continuations: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The pairs that both models continued: those with another answer than before come first, else as they were."""
    return sorted(continuations, key=lambda one: not answer_changed(one))


def answer_changed(continuation: Mapping[str, Any]) -> bool:
    """Whether the model after answers something else than the one before, both greedily."""
    return bool(continuation["before"] != continuation["after"])


def changed_answers(continuations: Sequence[Mapping[str, Any]]) -> str | None:
    """How many of the pairs that both models continued have another answer than before; None where none has."""
    changed, asked = sum(map(answer_changed, continuations)), len(continuations)
    if not changed:
        return None
    return (
        f"To {changed} of the {counted(asked, 'worst prompt')} the model now answers something else than before (both "
        "answer with the most probable token at each position)."
    )


def calibration_says(summary: Summary) -> list[str]:
    """What a forecast foretold against what happened, in sentences; none without a forecast of any pair."""
    found = summary.get("calibration")
    if not found or not found["chosen"]["pairs"]:
        return []
    chosen = found["chosen"]
    share = chosen["displaced"]
    foretold = share["probability"] if share["probability"] is not None else share["forecast"]
    says = [
        f"The forecast had {percent(foretold)} of {counted(chosen['pairs'], 'chosen response')} lose probability; "
        f"{percent(share['realised']['value'])} did{_within(share['realised'], 'percent')}."
    ]
    means = [(side, found[side]["mean"]) for side in ("chosen", "rejected") if found[side]["pairs"]]
    said = ", ".join(f"{signed(mean['forecast'])} for a {side} response" for side, mean in means)
    fact = ", ".join(signed(mean["realised"]["value"]) for _, mean in means)
    says.append(f"Mean changes, in nats: {said} foretold; {fact} in fact.")
    area = (summary.get("prediction") or {}).get("predictors", {}).get("forecast_chosen", {}).get("auc")
    named = (("slope", chosen["slope"]), ("Spearman", chosen["spearman"]), ("AUC", area))
    if skill := [
        f"{name} {number(one['value'])}{_within(one)}" for name, one in named if one and one["value"] is not None
    ]:
        says.append(
            f"Chosen responses, fact on forecast: {', '.join(skill)}. A slope of 1: neither over- nor understated."
        )
    if not found["look"]:
        says.append("The forecast was made without a look: it ranks, and its shares and means are a straight line's.")
    return says


def is_baseline(found: Mapping[str, Any]) -> bool:
    """Whether a predictor is what anybody knows without an audit."""
    return bool(found.get("baseline"))


def shown_masses(masses: Mapping[str, Any]) -> list[str]:
    """Which quantities of the masses say something: where the responses hold practically nothing, only logarithms."""
    there = [name for name in MASSES if name in masses]
    ends = [masses[name][when]["value"] for name in ("good", "bad") for when in ("before", "after")]
    if any(value is not None and value >= _NOTHING for value in ends):
        return there
    return [name for name in there if name not in _PROBABILITIES]


def mass_cells(masses: Mapping[str, Any], name: str) -> dict[str, str]:
    """One quantity before and after, its change and the change's interval, as text; masses that are nothing as such."""
    found, share = masses[name], name == "share"

    def text(value: float | None, written: Callable[[float | None], str]) -> str:
        if name in ("good", "bad") and value and abs(value) < _NOTHING:
            return f"below {_NOTHING:.0e}"
        return written(value)

    change = found["change"]
    low_high = interval(change, "signed")
    if name in ("good", "bad") and all(abs(change[end] or 0) < _NOTHING for end in ("value", "low", "high")):
        low_high = MISSING
    return {
        **{when: text(found[when]["value"], percent if share else number) for when in ("before", "after")},
        "change": text(change["value"], signed),
        "interval": low_high,
    }


def masses_says(masses: Mapping[str, Any]) -> str:
    """What to know beside the table of masses."""
    fell = {name: percent(masses[name]["value"]) for name in ("good_fell", "share_fell")}
    says = (
        f"The probability of the good ones fell for {fell['good_fell']} of the prompts, their share for "
        f"{fell['share_fell']}. Responses that nobody listed are in none of these numbers."
    )
    if "good" not in shown_masses(masses):
        says = (
            f"The listed responses hold practically no probability, before and after (less than {_NOTHING:.0e} of it), "
            f"as long responses do: only logarithms are shown. {says}"
        )
    if masses["nested"]:
        says += f" {counted(masses['nested'], 'prompt')} left out: one response is the beginning of another."
    return says
