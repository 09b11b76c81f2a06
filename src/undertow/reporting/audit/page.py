"""The report of an audit: which pairs will displace, under which loss, and what leaving some out would do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from undertow.filtering.dropping import PERCENTS, Dropping, dropping
from undertow.reporting.audit.figures import FIRST, SCORE, figures_of, measure_of
from undertow.reporting.audit.listing import listing
from undertow.reporting.audit.reading import Audited, read_audited
from undertow.reporting.audit.verdict import verdict
from undertow.reporting.page.settings import flat
from undertow.reporting.page.shell import Figure, render
from undertow.scoring.levels import LEVELS
from undertow.wording.commands import filter_command
from undertow.wording.losses import written
from undertow.wording.names import LABELS, MEASURE_LABELS, WHAT
from undertow.wording.numbers import MISSING, number, percent

__all__ = ["figures", "report"]


def report(folder: str | Path, *, pairs_url: str | None = None) -> str:
    """The page of a finished audit; ``pairs_url`` is where its table of all pairs is served, if it is.

    Raises:
        DataError: the folder holds none.
    """
    audited = read_audited(folder)
    leaving = {by: dropping(audited.table, by, audited.groups) for by in audited.predictors}
    pairs = listing(audited)
    drawn = list(figures_of(audited, leaving))
    return render(
        "audit.html.j2",
        title=f"Audit: {audited.folder.resolve().name}",
        figures=drawn,
        distributions=[figure.name for figure in drawn if figure.name.startswith(SCORE)],
        data={"pairs": pairs, "dropping": _slider(audited, leaving)},
        pairs_url=pairs_url,
        audited=audited,
        arguments=audited.summary["arguments"],
        verdict=verdict(audited),
        cards=list(_cards(audited)),
        measures={name: MEASURE_LABELS[name] for name in audited.falls},
        measure=measure_of(audited),
        predictors={by: LABELS[by] for by in leaving},
        command=filter_command(audited.summary["arguments"], _scores_folder(audited), audited.by, PERCENTS[FIRST]),
        listing=pairs,
        left_out=audited.losses[1],
        deeper=LEVELS[LEVELS.index(audited.level) + 1 :],
        facts=list(_facts(audited)),
        settings=flat(audited.summary["arguments"]),
    )


def figures(folder: str | Path) -> tuple[Figure, ...]:
    """The charts of that page.

    Raises:
        DataError: the folder holds no finished audit.
    """
    audited = read_audited(folder)
    return tuple(figures_of(audited, {by: dropping(audited.table, by) for by in audited.predictors}))


def _slider(audited: Audited, leaving: Mapping[str, Dropping]) -> dict[str, Any]:
    """What the slider looks up: computed here, by the rules of the filter itself."""
    arguments, scores = audited.summary["arguments"], _scores_folder(audited)
    return {
        "percents": PERCENTS,
        "first": FIRST,
        "pairs": audited.pairs,
        "tokens": audited.tokens,
        "groups": {
            name: {"labels": group.labels, "sizes": np.bincount(group.index, minlength=len(group.labels)).tolist()}
            for name, group in audited.groups.items()
        },
        "by": {
            by: {
                "kind": one.kind,
                "dropped": one.dropped.tolist(),
                "tokens": one.kept_tokens.tolist(),
                "falling": {name: counts.tolist() for name, counts in one.falling.items()},
                "thresholds": [float(f"{value:.6g}") for value in one.thresholds],
                "groups": {name: counts.tolist() for name, counts in one.by_group.items()},
                # The last "0%" is the share itself.
                "command": filter_command(arguments, scores, by, "0").rsplit("0%", 1),
            }
            for by, one in leaving.items()
        },
    }


def _cards(audited: Audited) -> Iterator[tuple[str, str, str, str]]:
    """Label, value, note and tone."""
    for name, label in (
        ("own", "Pulled down by own pair"),
        ("free", "Hidden embeddings free"),
        ("pull", "Pulled down by all pairs"),
    ):
        if name in audited.falls:
            falling = int(audited.falls[name].sum())
            note = f"{falling:,} of {audited.pairs:,} chosen responses"
            yield label, percent(falling / audited.pairs), note, "bad" if falling else "good"
    data, aside = audited.summary["data"], []
    if data["skipped"]:
        aside.append(f"{data['skipped']:,} set aside")
    truncated = int(np.sum(audited.table["truncated"].to_numpy(zero_copy_only=False)))
    if truncated:
        aside.append(f"{truncated:,} truncated")
    yield "Pairs", f"{audited.pairs:,}", ", ".join(aside) or "every row scored", ""
    yield "Tokens", f"{audited.tokens:,}", f"{audited.tokens / max(audited.pairs, 1):,.0f} a pair", ""
    if not audited.exact:
        by = audited.by
        values = audited.column(by)
        finite = values[np.isfinite(values)]
        yield f"Median {LABELS[by]}", number(float(np.median(finite))) if len(finite) else MISSING, WHAT[by], ""


def _facts(audited: Audited) -> Iterator[tuple[str, object]]:
    summary = audited.summary
    model, tokens, arguments = summary["model"], summary["tokens"], summary["arguments"]
    yield "Data", arguments["data"]
    yield "Layout", summary["data"]["format"]
    yield "Model", model["name"]
    if "dtype" in model:
        yield "Computed on", f"{model['device']} in {model['dtype']}, {model['attention']} attention"
    yield "Level", audited.level
    if audited.exact:
        yield "Loss", written(audited.loss)
        yield "Reference", arguments.get("ref") or "the audited model"
    yield "Tokens", f"at most {tokens['max_length']:,} a pair" if "max_length" in tokens else tokens
    if audited.shard:
        yield "Shard", audited.shard
    elif len(audited.runs) > 1:
        yield "Shards", len(audited.runs)
    yield "Scored with", f"Undertow {summary['undertow']}"
    yield "Fingerprint of the data", str(summary["fingerprints"]["data"])[:16]


def _scores_folder(audited: Audited) -> Path:
    """What ``--scores`` takes: of one shard of several, the folder that holds them all."""
    return audited.folder.parent if audited.shard else audited.folder
