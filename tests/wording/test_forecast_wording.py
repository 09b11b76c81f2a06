"""A forecast in words: right for every case of its numbers."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from undertow.wording.commands import filter_command, forecast_command, simulate_command, sweep_command
from undertow.wording.forecast import (
    assumptions,
    cost_says,
    curve_says,
    fact_says,
    forecast_verdict,
    group_says,
    held_out_says,
    movers_say,
    protected_says,
    run_length,
    simulation_verdict,
    why,
)
from undertow.wording.numbers import duration, nats_of, signed_nats

SUMMARY: dict[str, Any] = {
    "arguments": {
        "order": "train",
        "orders": 20,
        "world_size": 1,
        "training": {"epochs": 1.0, "max_steps": 0},
    },
    "data": {"pairs": 318, "trained": 318, "sample": 318, "trained_sample": 318, "held_out": 0, "texts": 0},
    "counts": True,
    "end": {
        "steps": 40,
        "displaced": {"value": 80 / 318, "low": 0.2, "high": 0.3},
        "chosen": 4.12,
        "rejected": -14.61,
        "protected": {"what": "displaced", "count": 80},
    },
    "assumed": "Not simulated: dropout (training here has none).",
}
SAMPLE = {"pairs": 12_000, "trained": 12_000, "sample": 500, "trained_sample": 500}


def summary(*, data: Any = (), end: Any = (), arguments: Any = (), training: Any = (), **other: Any) -> dict[str, Any]:
    found = deepcopy(SUMMARY) | other
    found["data"] |= dict(data)
    found["end"] |= dict(end)
    found["arguments"] |= dict(arguments)
    found["arguments"]["training"] |= dict(training)
    return found


def share(value: float, low: float | None = None, high: float | None = None) -> dict[str, Any]:
    return {"displaced": {"value": value, "low": low, "high": high}}


def test_the_headline() -> None:
    found = forecast_verdict(SUMMARY)
    assert found.headline == (
        "After one epoch 80 of 318 chosen responses (25%) will have lost probability; on average a chosen response "
        "gains 4.1 nats, a rejected one loses 14.6."
    )
    assert (found.number, found.tone, found.sentences) == ("80 of 318 chosen responses (25%)", "bad", ())


@pytest.mark.parametrize(
    ("training", "steps", "said"),
    [
        ({"epochs": 1.0}, 40, "one epoch"),
        ({"epochs": 3.0}, 120, "3 epochs"),
        ({"epochs": 0.5}, 20, "0.5 of an epoch"),
        ({"epochs": 1.5}, 60, "1.5 epochs"),
        ({"max_steps": 120}, 120, "120 steps"),
        ({"max_steps": 1}, 1, "one step"),
        ({"max_steps": 1200, "epochs": 3.0}, 1200, "1,200 steps"),
    ],
)
def test_how_long_the_run_is(training: dict[str, Any], steps: int, said: str) -> None:
    given = summary(training=training, end={"steps": steps})
    assert run_length(given) == said
    assert forecast_verdict(given).headline.startswith(f"After {said} 80 of 318 ")


@pytest.mark.parametrize(
    ("chosen", "rejected", "said"),
    [
        (4.12, -14.61, "a chosen response gains 4.1 nats, a rejected one loses 14.6."),
        (-4.12, -14.61, "a chosen response loses 4.1 nats, a rejected one 14.6."),
        (4.12, 0.532, "a chosen response gains 4.1 nats, a rejected one 0.53."),
        (-0.0312, 1234.5, "a chosen response loses 0.031 nats, a rejected one gains 1,234.5."),
        (0.0, -2.0, "a chosen response stays where it is, a rejected one loses 2.0 nats."),
        (2.0, 0.0, "a chosen response gains 2.0 nats, a rejected one stays where it is."),
        (0.0, 0.0, "a chosen response stays where it is, a rejected one stays where it is."),
    ],
)
def test_who_gains_and_who_loses(chosen: float, rejected: float, said: str) -> None:
    found = forecast_verdict(summary(end={"chosen": chosen, "rejected": rejected})).headline
    assert found.endswith(f"; on average {said}")


def test_none_and_all_are_said_in_words() -> None:
    none = forecast_verdict(summary(end=share(0.0, 0.0, 0.0)))
    assert none.headline.startswith("After one epoch none of 318 chosen responses will have lost probability; ")
    assert none.tone == "good"
    every = forecast_verdict(summary(end=share(1.0, 1.0, 1.0)))
    assert every.headline.startswith("After one epoch all 318 chosen responses will have lost probability; ")
    assert every.tone == "bad"


def test_a_sample_stands_for_all_pairs() -> None:
    some = forecast_verdict(summary(data=SAMPLE, end=share(0.25, 0.212, 0.289)))
    assert some.headline.startswith(
        "After one epoch, of 500 pairs looked at, 125 chosen responses (25%) will have lost probability, so about 25% "
        "of all 12,000, 21% to 29%; on average a chosen response gains"
    )
    none = forecast_verdict(summary(data=SAMPLE, end=share(0.0, 0.0, 0.0))).headline
    assert "none of 500 chosen responses looked at will have lost probability, so few or none of all 12,000;" in none
    every = forecast_verdict(summary(data=SAMPLE, end=share(1.0, 1.0, 1.0))).headline
    assert "all 500 chosen responses looked at will have lost probability, so nearly all 12,000;" in every


def test_what_is_left_out_of_training_is_not_counted() -> None:
    data = {"trained": 254, "trained_sample": 254}
    found = forecast_verdict(summary(data=data, end=share(20 / 254)))
    assert found.number == "20 of 254 chosen responses (8%)"
    assert curve_says(summary(data=data)) == "Means over the pairs, those left out of training too"
    assert curve_says(SUMMARY) == "Means over the pairs"


@pytest.mark.parametrize("given", [{}, SAMPLE])
def test_without_a_look_nothing_is_counted(given: dict[str, Any]) -> None:
    held = {"displaced": {"value": 0.5, "low": 0.3, "high": 0.7}, "chosen": -1.23, "rejected": 0.0}
    found = forecast_verdict(summary(counts=False, data={**given, "held_out": 40}, held_out=held))
    assert (
        found.headline
        == f"{(given or SUMMARY['data'])['sample']} chosen responses ranked by what one epoch will do to them."
    )
    assert found.tone == ""
    said = " ".join((found.headline, *found.sentences))
    assert "%" not in said
    assert "80" not in said
    assert "4.1" not in said
    assert "need the look: forecast again without --no-look" in said
    assert "The 40 held-out chosen responses lose 1.2 nats on average, by the straight line." in found.sentences
    assert protected_says(summary(counts=False)) == "the chosen responses that fall, by the straight line"


def test_an_order_that_is_not_known_is_said() -> None:
    unknown = {"order": "unknown"}
    found = forecast_verdict(summary(arguments=unknown, end=share(0.28)))
    assert found.number == "about 89 of 318 chosen responses (28%)"
    assert found.sentences == ("The order of the batches is not known: this is the mean over 20 orders.",)
    rare = forecast_verdict(summary(arguments=unknown, end=share(0.0001)))
    assert rare.number == "none of 318 chosen responses"
    often = forecast_verdict(summary(arguments=unknown, end=share(0.9999)))
    assert often.number == "all 318 chosen responses"
    one = forecast_verdict(summary(arguments=unknown | {"orders": 1}))
    assert one.number == "80 of 318 chosen responses (25%)"
    assert one.sentences == ("The order of the batches is not known: this is one drawn at random.",)


def test_numbers_that_are_not_finite_are_no_forecast() -> None:
    for bad in (None, float("nan"), float("inf")):
        found = forecast_verdict(summary(end={"chosen": bad}))
        assert found.headline == "No forecast after one epoch: the numbers are not finite."


@pytest.mark.parametrize(
    ("count", "falls", "chosen", "said"),
    [
        (40, 23, -1.23, "The 40 held-out chosen responses lose 1.2 nats on average; 23 (57%) fall."),
        (40, 1, 1.23, "The 40 held-out chosen responses gain 1.2 nats on average; 1 (2%) falls."),
        (40, 0, 1.23, "The 40 held-out chosen responses gain 1.2 nats on average; none falls."),
        (40, 40, -3.0, "The 40 held-out chosen responses lose 3.0 nats on average; all fall."),
        (40, 7.4, -3.0, "The 40 held-out chosen responses lose 3.0 nats on average; about 7 (18%) fall."),
        (1, 1, -3.0, "The one held-out chosen response loses 3.0 nats."),
        (1, 0, 0.0, "The one held-out chosen response stays where it is."),
    ],
)
def test_held_out_pairs(count: int, falls: float, chosen: float, said: str) -> None:
    held = {**share(falls / count), "chosen": chosen, "rejected": 0.0}
    given = summary(data={"held_out": count}, held_out=held)
    assert held_out_says(given) == said
    assert forecast_verdict(given).sentences == (said,)
    assert held_out_says(SUMMARY) is None


def test_groups_of_texts() -> None:
    assert group_says("refusals", -3.12, -12.41) == "refusals: −3.1 nats on average, from −12.4."
    assert (
        movers_say([3, 12, 20], [27.66, 17.5, -6.6]) == "Moved most by row 3 (+27.7), row 12 (+17.5) and row 20 (−6.6)."
    )
    assert movers_say([3], [0.5]) == "Moved most by row 3 (+0.50)."
    assert movers_say([], []) == "No pair moves it."


@pytest.mark.parametrize(
    ("own", "others", "curvature", "step", "again", "said"),
    [
        (18.36, -6.12, -2.03, 7, False,
         "its own training gives +18.4, the others take −6.1, curvature −2.0, trained at step 7 of 24"),
        (-0.38, 15.1, 0.0, 3, True,
         "its own training takes −0.38, the others give +15.1, first trained at step 3 of 24"),
        (2.0, -3.0, 1.0, None, False, "its own training gives +2.0, the others take −3.0, curvature +1.0"),
        (0.0, -3.0, 0.0, None, False, "it is not trained on, the others take −3.0"),
        (0.0, -3.0, 0.0, 4, False, "its own training gives 0, the others take −3.0, trained at step 4 of 24"),
        (None, None, None, 4, False, "no gradient was taken of it"),
    ],
)  # fmt: skip
def test_why_a_pair_falls(own, others, curvature, step, again: bool, said: str) -> None:
    pair = {"own_chosen": own, "others_chosen": others, "curvature_chosen": curvature, "step": step}
    assert why(pair, 24, again=again) == said


def test_whose_mean_a_push_is_about() -> None:
    def said(what: str, count: int) -> str:
        return protected_says(summary(end={"protected": {"what": what, "count": count}}))

    assert said("displaced", 80) == "the 80 chosen responses that fall"
    assert said("displaced", 1) == "the chosen response that falls"
    assert said("held-out", 40) == "the 40 held-out chosen responses"
    assert said("all", 318) == "the chosen responses of all pairs"


def test_what_is_assumed() -> None:
    assert assumptions(SUMMARY)[:2] == [
        "Not simulated: dropout (training here has none).",
        "The batches are those that undertow train draws with this seed.",
    ]
    said = assumptions(summary(data=SAMPLE, arguments={"order": "unknown", "world_size": 4}, counts=False))
    assert said[1] == "The order of the batches is not known: this is the mean over 20 orders."
    assert said[2] == "4 processes train, each on its own batches."
    assert said[3].startswith("500 pairs of 12,000 had their gradients taken; the 11,500 others are stood in for")
    assert said[4].endswith("no look shows its curvature.")


def test_cost() -> None:
    cost = {"seconds": {"second_moments": 100.0, "features": 150.0, "look": 2.0}, "training_run_seconds": 300.0}
    assert cost_says(cost) == "4.2 min; a training run takes about 5.0 min"
    kept = {"seconds": {"second_moments": 0.0, "features": 0.0, "look": 2.0}, "training_run_seconds": 0.0}
    assert cost_says(kept) == "2.0 s, second moments and features kept from an earlier call"


def test_amounts_and_times() -> None:
    assert [nats_of(x) for x in (14.62, -0.999, 0.0321, 0.0, None)] == ["14.6", "1.0", "0.032", "0", "–"]
    assert [signed_nats(x) for x in (-3.14, 27.66, 0.0, float("nan"))] == ["−3.1", "+27.7", "0", "–"]
    assert [duration(x) for x in (0.0, 12.3, 89, 95, 300, 9000)] == [
        "0 s",
        "12 s",
        "89 s",
        "1.6 min",
        "5.0 min",
        "2.5 h",
    ]


def test_commands_to_copy() -> None:
    assert simulate_command("a b", "push", "10") == "undertow simulate 'a b' --filter 'push drop-lowest 10%'"
    found = filter_command({"data": "prefs.jsonl", "reading": {}}, "out", "push", "10")
    assert found == "undertow filter prefs.jsonl --scores out --by push --drop-lowest 10% --out filtered.jsonl"


def test_the_commands_that_lead_from_scores_to_a_forecast_and_on() -> None:
    found = forecast_command({"data": "a b.jsonl", "model": "./sft", "reading": {"format": "standard"}})
    assert found == "undertow forecast 'a b.jsonl' --format standard --model ./sft --out forecast"
    assert sweep_command("scores") == "undertow simulate scores --sweep common"


def test_the_fact_is_said_with_how_much_of_it_was_foretold() -> None:
    said = fact_says([-1.0, 2.0, -3.0, 4.0], [-2.0, -1.0, 1.0, 6.0], [-3.0, -4.0, -5.0, -2.0], "a machine")
    assert said == (
        "Trained for real (a machine), 2 of 4 chosen responses (50%) lost probability, 1 of them as foretold; on "
        "average a chosen response gained 1.0 nats and a rejected one lost 3.5 nats."
    )


def test_a_simulation_speaks_of_all_pairs_not_of_the_kept_alone() -> None:
    part = {"chosen": 5.0, "rejected": -2.0}
    found = summary(
        data={"trained": 286, "trained_sample": 286},
        end={**share(0.0), **part},
        kept={"pairs": 286, **share(0.0), **part},
        left_out={"pairs": 32, **share(0.5), **part},
        all={"pairs": 318, **share(16 / 318), "chosen": 4.0, "rejected": -1.0},
        forecast={"all": {"pairs": 318, **share(80 / 318)}},
    )
    said = simulation_verdict(found)
    assert said.headline == (
        "After one epoch 16 of 318 chosen responses (5%) will have lost probability; on average a chosen response "
        "gains 4.0 nats, a rejected one loses 1.0."
    )
    assert said.sentences[0] == "Share displaced of all pairs, as it was forecast and now: 25% → 5%."
    assert said.sentences[1].startswith("32 pairs are not trained on, and counted all the same; ")
    assert len(simulation_verdict({**found, "left_out": {"pairs": 0}}).sentences) == 1
    assert simulation_verdict({**found, "counts": False}) == forecast_verdict({**found, "counts": False})
    everyone = {**found["all"], "pairs": 500, **share(0.05, 0.03, 0.07)}
    of_a_sample = {**found, "data": {**found["data"], **SAMPLE, "trained": 10_900}, "all": everyone}
    assert ", so about 5% of all 12,000" in simulation_verdict(of_a_sample).headline
