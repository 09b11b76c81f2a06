"""What is said of a forecast, on the terminal and on its page alike: pure functions of its numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from undertow.wording.numbers import counted, duration, interval, nats_of, of_all, percent, signed_nats
from undertow.wording.verdicts import Verdict

__all__ = [
    "assumptions",
    "at_risk",
    "cost_says",
    "curve_says",
    "fact_says",
    "forecast_verdict",
    "group_says",
    "held_out_says",
    "movers_say",
    "protected_says",
    "pushing",
    "run_length",
    "simulation_verdict",
    "why",
]

Summary = Mapping[str, Any]

_ORDERS = {
    "train": "The batches are those that undertow train draws with this seed.",
    "trl": "The batches are those that TRL's trainers draw with this seed.",
}


def forecast_verdict(summary: Summary) -> Verdict:
    """The headline of a forecast, and the sentences after it.

    Without a look there is no count, no share and no mean in it: a linear forecast ranks only.

    Args:
        summary: as ``forecast.json`` holds it.
    """
    data, end = summary["data"], summary["end"]
    length = run_length(summary)
    if not _known(end["chosen"], end["rejected"]):
        after = f" after {length}: the numbers are not finite"
        return Verdict("", "No forecast", after, ("A lower learning rate may give one.",))
    if not summary["counts"]:
        ranked = counted(data["sample"], "chosen response")
        sentences = [
            _straight_line(summary.get("look")),
            *_on_average(summary),
            *_held_out(summary),
        ]
        return Verdict("", ranked, f" ranked by what {length} will do to them", tuple(sentences))
    share, of = end["displaced"], data["trained_sample"]
    count, exact = _count(share["value"], of)
    moves = _moves(end["chosen"], end["rejected"])
    sentences = [*_on_average(summary), *_held_out(summary)]
    tone = "bad" if count else "good"
    about = "" if exact else "about "
    if data["sample"] == data["pairs"]:
        number = of_all(count, of, "chosen response")
        if not exact:
            number = f"about {count:,} of {counted(of, 'chosen response')} ({percent(share['value'])})"
        return Verdict(f"After {length} ", number, f" will have lost probability; {moves}", tuple(sentences), tone)
    whole = f"all {data['trained']:,}"
    if 0 < count < of:
        before = f"After {length}, of {counted(of, 'pair')} looked at, "
        number = f"{about}{counted(count, 'chosen response')} ({percent(share['value'])})"
        estimate = f"about {percent(share['value'])} of {whole}, {interval(share, 'percent')}"
    else:
        before, number = f"After {length} ", f"{of_all(count, of, 'chosen response')} looked at"
        estimate = f"nearly {whole}" if count else f"few or none of {whole}"
    after = f" will have lost probability, so {estimate}; {moves}"
    return Verdict(before, number, after, tuple(sentences), tone)


def _straight_line(look: Mapping[str, Any] | None) -> str:
    """Why a forecast ranks and does not count."""
    line = "is a straight line: it says which chosen responses fall first, not how many fall or how far."
    if look and not look.get("told", True):
        return (
            f"Even {look['size']:g} of the way to where the simulated run ends the model is far from linear, so that a "
            f"look tells nothing and the forecast {line} A lower learning rate gives a forecast, and probably a better "
            "model."
        )
    return f"Without a look the forecast {line} Shares and averages need the look: forecast again without --no-look."


def simulation_verdict(summary: Summary) -> Verdict:
    """The headline of a simulated run: of all pairs, those left out too, as leaving out what falls mends nothing.

    Args:
        summary: as ``undertow simulate --json`` prints it.
    """
    data, everyone, left_out = summary["data"], summary["all"], summary["left_out"]["pairs"]
    end = {**summary["end"], **{name: everyone[name] for name in ("displaced", "chosen", "rejected")}}
    data = {**data, "trained": data["pairs"], "trained_sample": everyone["pairs"]}
    found = forecast_verdict({**summary, "end": end, "data": data})
    if not summary["counts"] or not _known(everyone["chosen"], everyone["rejected"]):
        return found
    before = summary["forecast"]["all"]["displaced"]["value"]
    shares = f"{percent(before)} → {percent(everyone['displaced']['value'])}"
    said = [f"Share displaced of all pairs, as it was forecast and now: {shares}."]
    if left_out:
        said.append(
            f"{counted(left_out, 'pair')} {'is' if left_out == 1 else 'are'} not trained on, and counted all the same; "
            "of pairs that the forecast's own run trained on, too many tend to count as falling when they are left out."
        )
    return replace(found, sentences=(*said, *found.sentences))


def fact_says(said: Sequence[float], chosen: Sequence[float], rejected: Sequence[float], made_on: str) -> str:
    """What training really did to the pairs that were forecast.

    Args:
        said: the forecast of the chosen responses, in nats.
        chosen, rejected: realised changes, in the same order.
        made_on: where it was trained.
    """
    falls = sum(value < 0 for value in chosen)
    both = sum(one < 0 and other < 0 for one, other in zip(said, chosen, strict=True))
    means = [sum(values) / len(values) for values in (chosen, rejected)]
    return (
        f"Trained for real ({made_on}), {of_all(falls, len(chosen), 'chosen response')} lost probability, {both} of "
        f"them as foretold; on average a chosen response {_moved(means[0])} and a rejected one {_moved(means[1])}."
    )


def _moved(change: float) -> str:
    return f"{'gained' if change > 0 else 'lost'} {nats_of(change)} nats"


def run_length(summary: Summary) -> str:
    """How long the simulated run is: ``one epoch``, ``3 epochs``, ``0.5 of an epoch``, ``120 steps``."""
    training = summary["arguments"]["training"]
    epochs = training["epochs"]
    if training["max_steps"]:
        return "one step" if summary["end"]["steps"] == 1 else counted(summary["end"]["steps"], "step")
    if epochs == 1:
        return "one epoch"
    return f"{epochs:g} epochs" if epochs > 1 else f"{epochs:g} of an epoch"


def held_out_says(summary: Summary) -> str | None:
    """What happens to the held-out pairs, in a sentence; None where there are none."""
    found, count = summary.get("held_out"), summary["data"]["held_out"]
    if not found:
        return None
    if not _known(found["chosen"]):
        return "The numbers of the held-out pairs are not finite."
    one = count == 1
    whose = "The one held-out chosen response" if one else f"The {count:,} held-out chosen responses"
    change = found["chosen"]
    verb = ("gains" if one else "gain") if change > 0 else ("loses" if one else "lose")
    moved = f"{verb} {nats_of(change)} nats" if change else ("stays where it is" if one else "stay where they are")
    average = "" if one else " on average"
    if not summary["counts"]:
        return f"{whose} {moved}{average}, by the straight line."
    falling, exact = _count(found["displaced"]["value"], count)
    if one:
        return f"{whose} {moved}."
    if falling in (0, count):
        return f"{whose} {moved}{average}; {'all fall' if falling else 'none falls'}."
    about = "" if exact else "about "
    fall = "falls" if falling == 1 else "fall"
    return f"{whose} {moved}{average}; {about}{falling:,} ({percent(found['displaced']['value'])}) {fall}."


def group_says(group: str, change: float | None, start: float | None) -> str:
    """What happens to a group of texts: ``refusals: −3.1 nats on average, from −12.4.``

    Args:
        group: its name, as given.
        change: mean change of its texts' log-probabilities, in nats.
        start: mean of them before the run, in nats.
    """
    return f"{group}: {signed_nats(change)} nats on average, from {signed_nats(start)}."


def movers_say(rows: Sequence[int], pushes: Sequence[float]) -> str:
    """Which pairs move a group most: ``Moved most by row 3 (+27.7) and row 20 (−6.6).``"""
    if not rows:
        return "No pair moves it."
    named = [f"row {row} ({signed_nats(push)})" for row, push in zip(rows, pushes, strict=True)]
    return f"Moved most by {', '.join(named[:-1])}{' and ' if named[1:] else ''}{named[-1]}."


def why(pair: Mapping[str, float | None], steps: int, *, again: bool = False) -> str:
    """Why a chosen response ends where it does: its parts, and when the pair is trained.

    Args:
        pair: ``own_chosen``, ``others_chosen``, ``curvature_chosen`` (nats) and ``step``, as ``forecast.parquet`` has
            them; no step where the order is not known or the pair is left out of training.
        steps: of the whole run.
        again: whether a pair is trained more than once.
    """
    own, others = pair["own_chosen"], pair["others_chosen"]
    curvature, step = pair["curvature_chosen"], pair["step"]
    if own is None or others is None:
        return "no gradient was taken of it"
    parts = [f"its own training {_gives(own)}"] if step or own else ["it is not trained on"]
    parts.append(f"the others {_gives(others, many=True)}")
    if curvature:
        parts.append(f"curvature {signed_nats(curvature)}")
    if step:
        parts.append(f"{'first ' if again else ''}trained at step {int(step):,} of {steps:,}")
    return ", ".join(parts)


def curve_says(summary: Summary) -> str:
    """Over which pairs the curve's means are."""
    data = summary["data"]
    said = (
        "Means over the pairs" if data["sample"] == data["pairs"] else "Means over the pairs that had gradients taken"
    )
    return said + (", those left out of training too" if data["trained"] < data["pairs"] else "")


def protected_says(summary: Summary) -> str:
    """Whose mean a push is about."""
    what, count = summary["end"]["protected"]["what"], summary["end"]["protected"]["count"]
    if what == "held-out":
        return "the held-out chosen response" if count == 1 else f"the {count:,} held-out chosen responses"
    if what == "displaced" and not summary["counts"]:  # a count that a straight line does not give
        return "the chosen responses that fall, by the straight line"
    if what == "displaced":
        return "the chosen response that falls" if count == 1 else f"the {count:,} chosen responses that fall"
    return "the chosen responses of all pairs"


def at_risk(none_falls: bool) -> str:
    """What the pairs with the lowest forecast are called."""
    return "pairs closest to falling" if none_falls else "pairs at risk"


def pushing(none_pushes: bool) -> str:
    """What the pairs with the lowest push are called."""
    return "pairs that push others up least" if none_pushes else "pairs that push others down"


def assumptions(summary: Summary) -> list[str]:
    """What the forecast takes for granted, in sentences."""
    arguments, data = summary["arguments"], summary["data"]
    said = [str(summary["assumed"])]
    said += [_ORDERS[arguments["order"]]] if arguments["order"] in _ORDERS else _on_average(summary)
    if arguments["world_size"] > 1:
        said.append(f"{arguments['world_size']:,} processes train, each on its own batches.")
    others = data["pairs"] - data["sample"]
    if others:
        stand = "is stood in for" if others == 1 else "are stood in for"
        said.append(
            f"{counted(data['sample'], 'pair')} of {data['pairs']:,} had their gradients taken; the "
            f"{'other one' if others == 1 else f'{others:,} others'} {stand} by pairs drawn from these."
        )
    said.append(
        "The model is taken as linear around its start, with the curvature that one look at the simulated end shows."
        if summary["counts"]
        else "The model is taken as linear around its start; no look shows its curvature."
    )
    return said


def cost_says(cost: Mapping[str, Any]) -> str:
    """What the forecast cost beside what it is a forecast of: ``4.2 min; a training run takes about 5.0 min``."""
    total, run = sum(cost["seconds"].values()), cost["training_run_seconds"]
    kept = [name.replace("_", " ") for name in ("second_moments", "features") if not cost["seconds"].get(name)]
    said = duration(total) + (f", {' and '.join(kept)} kept from an earlier call" if kept else "")
    return f"{said}; a training run takes about {duration(run)}" if run else said


def _on_average(summary: Summary) -> list[str]:
    """The sentence where the order of the batches is not known."""
    arguments = summary["arguments"]
    if arguments["order"] != "unknown":
        return []
    if arguments["orders"] == 1:
        return ["The order of the batches is not known: this is one drawn at random."]
    return [f"The order of the batches is not known: this is the mean over {arguments['orders']:,} orders."]


def _held_out(summary: Summary) -> list[str]:
    said = held_out_says(summary)
    return [said] if said else []


def _count(share: float, of: int) -> tuple[int, bool]:
    """How many of so many a share is expected to be, and whether that is said without "about": of a count between none
    and all it is where it is whole."""
    whole = round(share * of)
    return whole, whole in (0, of) or abs(share * of - whole) < 1e-6


def _moves(chosen: float, rejected: float) -> str:
    """``on average a chosen response gains 4.1 nats, a rejected one loses 14.6``."""
    verbs = ["stays where it is" if not value else "gains" if value > 0 else "loses" for value in (chosen, rejected)]
    first = f"{verbs[0]} {nats_of(chosen)} nats" if chosen else verbs[0]
    if not rejected:
        second = verbs[1]
    else:
        second = nats_of(rejected) if verbs[0] == verbs[1] else f"{verbs[1]} {nats_of(rejected)}"
        second += "" if chosen else " nats"
    return f"on average a chosen response {first}, a rejected one {second}"


def _gives(value: float, *, many: bool = False) -> str:
    verb = ("give" if many else "gives") if value >= 0 else ("take" if many else "takes")
    return f"{verb} {signed_nats(value)}"


def _known(*values: float | None) -> bool:
    return all(value is not None and math.isfinite(value) for value in values)
