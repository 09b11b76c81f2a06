"""What is said of one pair, on the terminal and on its page alike."""

from __future__ import annotations

import math
from collections.abc import Sequence

from undertow.explaining.explanation import Explanation, Foretold, HeatMap, Influence
from undertow.wording.names import CASE_LABELS
from undertow.wording.numbers import MISSING, counted, nats_of, number, percent, rose, signed, signed_nats, token
from undertow.wording.visible import visible

__all__ = [
    "case_rows",
    "headline",
    "heat_sentence",
    "influence_sentence",
    "layers_sentence",
    "numbers",
    "parting_sentence",
    "sentences",
    "steps_of",
    "when_sentence",
]


def headline(found: Explanation) -> str:
    """What happens to the chosen response, in a sentence."""
    told = found.foretold
    if found.chosen.looked is not None and told is not None and told.told:
        change = float(found.chosen.looked.sum())
        return f"At the end of the simulated run the chosen response {rose(change, up='has risen', down='has fallen')}."
    if told is not None:
        return f"On the linear model the simulated run moves the chosen response by {signed_nats(told.linear)} nats."
    change = found.numbers["full_dlogp_chosen"]
    way = "raises" if change > 0 else "lowers" if change < 0 else "does not move"
    return f"A step on this pair alone {way} the chosen response."


def sentences(found: Explanation) -> list[str]:
    """What goes with it."""
    told, said = found.foretold, []
    if told is not None:
        if told.size is not None and told.size < 1:
            said.append(
                f"The model was looked at {told.size:g} of the way to the run's end: beyond, it is far from linear."
            )
        if told.size is not None and not told.told:
            said.append("Even there it is far from linear: take the numbers of the run's end with care.")
        when = f" (at {steps_of(told.trained_at)})" if told.trained_at else ""
        said.append(
            f"On the linear model its own training{when} adds {signed_nats(told.own)} nats, all other pairs "
            f"{signed_nats(told.others)}; what is missing to the look is curvature."
            if found.chosen.looked is not None
            else f"Its own training{when} adds {signed_nats(told.own)} nats, all others {signed_nats(told.others)}."
        )
    case = int(found.numbers["full_case"])
    said.append(
        f"Under {found.loss} a step on the pair alone is of case {case}: {CASE_LABELS[case]}. The gradients of the two "
        f"responses have cosine {number(_cosine(found))}."
    )
    return said


def numbers(found: Explanation) -> list[tuple[str, str]]:
    """The facts of the pair, by name."""
    listed = [
        ("tokens, chosen and rejected", f"{len(found.chosen.pieces)} and {len(found.rejected.pieces)}"),
        ("log-probability, chosen", f"{number(found.numbers['logp_chosen'])} nats"),
        ("log-probability, rejected", f"{number(found.numbers['logp_rejected'])} nats"),
        ("weights of the loss", f"{number(found.numbers['d_chosen'])} and {number(found.numbers['d_rejected'])}"),
        ("full_gg_chosen", number(found.numbers["full_gg_chosen"], digits=4)),
        ("full_gg_cross", number(found.numbers["full_gg_cross"], digits=4)),
        ("full_gg_rejected", number(found.numbers["full_gg_rejected"], digits=4)),
        ("full_dlogp_chosen", signed(found.numbers["full_dlogp_chosen"])),
        ("full_dlogp_rejected", signed(found.numbers["full_dlogp_rejected"])),
        ("full_case", f"{int(found.numbers['full_case'])}, {CASE_LABELS[int(found.numbers['full_case'])]}"),
        ("pair_id", found.pair_id),
    ]
    forecast = {} if found.foretold is None else found.foretold.forecast
    return listed + [(name, number(value)) for name, value in forecast.items() if value is not None]


def case_rows(found: Explanation) -> list[tuple[str, str, str, str]]:
    """Under every loss: its name, the case, the weights' ratio, how far the next case is."""
    rows = []
    for one in found.cases:
        ratio = one.d_chosen / one.d_rejected if one.d_rejected else math.nan
        if math.isnan(one.log_ratio):
            far = MISSING
        elif math.isinf(one.log_ratio):
            far = "no ratio of the weights ends it"
        else:
            far = f"case {one.next_case}, when the ratio changes by a factor of {number(math.exp(abs(one.log_ratio)))}"
        rows.append((one.loss, f"{one.case}, {CASE_LABELS[one.case]}", number(ratio), far))
    return rows


def parting_sentence(found: Explanation) -> str:
    """Where the responses part, and what each takes there."""
    part = found.parting
    assert part is not None
    where = (
        "The responses differ from their first token on"
        if not part.position
        else f"The responses share {counted(part.position, 'token')}"
    )
    return (
        f"{where}; then the chosen one takes {token(visible(part.chosen))} ({percent(part.probabilities[0])}) and the "
        f"rejected one {token(visible(part.rejected))} ({percent(part.probabilities[1])}). A step on this choice alone "
        "also moves all other tokens there, by their likeness to the difference of the two (Theorem 5 of Razin et al.)."
    )


def heat_sentence(heat: HeatMap) -> str:
    """What the heat map is of."""
    over = "all trained parameters" if heat.level == "gradient" else "the unembedding matrix alone"
    return (
        f"Each cell is the inner product of two tokens' gradients over {over}. Blue: raising one raises the other; "
        "orange: it lowers the other. Raising a chosen token and lowering a rejected one work against each other where "
        "their cell is blue."
    )


def influence_sentence(told: Foretold) -> str:
    """Who pulls, in all."""
    down, up = (sum(one.nats for one in some) for some in (told.down, told.up))
    outside = (
        f" Pairs outside the forecast's sample, which others stand in for, add {signed_nats(told.stood_in)} nats."
        if told.stood_in
        else ""
    )
    return (
        f"Of {counted(told.acting, 'pair')} that were asked, the {counted(len(told.down), 'pair')} that pull this "
        f"chosen response down most take {nats_of(down)} nats over the run, and the {counted(len(told.up), 'pair')} "
        f"that hold it up most give {nats_of(up)}: exact products of gradients at the start, times the weights of the "
        f"simulated steps.{outside}"
    )


def when_sentence(told: Foretold) -> str:
    """When the named pairs act."""
    first = _earliest(told.down), _earliest(told.up)
    parts = [
        f"the first of those that {verb} acts at step {step}"
        for verb, step in zip(("pull down", "hold up"), first, strict=True)
        if step is not None
    ]
    return f"Of {told.steps} steps: {' and '.join(parts)}." if parts else f"Of {told.steps} steps."


def layers_sentence(found: Explanation) -> str:
    """Which kind of weight has most of the product."""
    kinds: dict[str, float] = {}
    for layer in found.layers:
        kinds[str(layer["kind"])] = kinds.get(str(layer["kind"]), 0.0) + float(layer["cross"])
    total = sum(kinds.values())
    if not kinds or not math.isfinite(total) or total == 0:
        return "The inner product of the two gradients by block."
    kind = max(kinds, key=lambda name: abs(kinds[name]))
    return (
        f"The inner product of the two responses' gradients is {number(total, digits=4)}; {kind} has most of it, "
        f"{number(kinds[kind], digits=4)} over all blocks. Positive parts tie the two responses together."
    )


def steps_of(steps: Sequence[int]) -> str:
    """When a pair is trained."""
    if not steps:
        return ""
    shown = ", ".join(map(str, steps[:4]))
    more = f" and {len(steps) - 4} more" if len(steps) > 4 else ""
    return f"step{'s' if len(steps) > 1 else ''} {shown}{more}"


def _earliest(some: Sequence[Influence]) -> int | None:
    return min((one.steps[0] for one in some if one.steps), default=None)


def _cosine(found: Explanation) -> float:
    ww, wl, ll = (found.numbers[f"full_gg_{part}"] for part in ("chosen", "cross", "rejected"))
    return wl / math.sqrt(ww * ll) if ww > 0 and ll > 0 else math.nan
