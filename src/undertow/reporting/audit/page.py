"""The report of an audit: which pairs will displace, under which loss, and what leaving some out would do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from undertow.auditing.summary import linked_rows
from undertow.filtering.what_if import PERCENTS, Dropping, dropping
from undertow.reporting.audit.figures import FIRST, SCORE, figures_of, measure_of
from undertow.reporting.audit.listing import listing
from undertow.reporting.audit.reading import AuditRun, read_audit_run
from undertow.reporting.page.explains import explains
from undertow.reporting.page.settings import flat
from undertow.reporting.page.shell import Figure, render
from undertow.scoring.columns import LEVELS
from undertow.wording import repeats
from undertow.wording.commands import filter_command, forecast_command
from undertow.wording.losses import written
from undertow.wording.names import LABELS, MEASURE_LABELS, WHAT, data_name
from undertow.wording.numbers import MISSING, number, percent
from undertow.wording.verdicts import Verdict, audit_verdict

__all__ = ["figures", "report", "verdict_of"]


def report(folder: str | Path, *, pairs_url: str | None = None, forecast_url: str | None = None) -> str:
    """The page of a finished audit.

    Args:
        folder: of the audit, or of all shards of one.
        pairs_url: where its table of all pairs is served, if it is.
        forecast_url: where the page of the forecast that went on from it is, if it is anywhere.

    Raises:
        DataError: the folder holds none.
    """
    run = read_audit_run(folder)
    leaving = {by: dropping(run.table, by, run.groups) for by in run.predictors}
    pairs = listing(run)
    charts = list(figures_of(run, leaving))
    how = explains(run.folder, served=bool(pairs_url))
    return render(
        "audit.html.j2",
        title=f"Audit: {run.folder.resolve().name}",
        figures=charts,
        distributions=[figure.name for figure in charts if figure.name.startswith(SCORE)],
        data={"pairs": pairs, "dropping": _slider(run, leaving), "explains": how and how.record()},
        pairs_url=pairs_url,
        other=("Forecast", forecast_url) if forecast_url else None,
        run=run,
        arguments=run.summary["arguments"],
        data_name=data_name(run.summary["arguments"]["data"]),
        verdict=verdict_of(run),
        cards=list(_cards(run)),
        measures={name: MEASURE_LABELS[name] for name in run.falls},
        measure=measure_of(run),
        predictors={by: LABELS[by] for by in leaving},
        command=filter_command(run.summary["arguments"], _scores_folder(run), run.by, PERCENTS[FIRST]),
        foretell=None if forecast_url else forecast_command(run.summary["arguments"]),
        listing=pairs,
        left_out=run.losses[1],
        deeper=LEVELS[LEVELS.index(run.level) + 1 :],
        facts=list(_facts(run)),
        settings=flat(run.summary["arguments"]),
    )


def figures(folder: str | Path) -> tuple[Figure, ...]:
    """The charts of that page.

    Raises:
        DataError: the folder holds no finished audit.
    """
    run = read_audit_run(folder)
    return tuple(figures_of(run, {by: dropping(run.table, by) for by in run.predictors}))


def verdict_of(run: AuditRun) -> Verdict:
    """What the audit found, in words."""
    return audit_verdict(
        run.pairs,
        by=run.by,
        loss=run.loss,
        falling={name: int(mask.sum()) for name, mask in run.falls.items()} if run.exact else {},
        other_losses={effect.name: effect.share for effect in run.losses[0] if not effect.audited},
    )


def _slider(run: AuditRun, leaving: Mapping[str, Dropping]) -> dict[str, Any]:
    """What the slider looks up: computed here, by the rules of the filter itself."""
    arguments, scores = run.summary["arguments"], _scores_folder(run)
    return {
        "percents": PERCENTS,
        "first": FIRST,
        "pairs": run.pairs,
        "tokens": run.tokens,
        "groups": {
            name: {"labels": group.labels, "sizes": np.bincount(group.index, minlength=len(group.labels)).tolist()}
            for name, group in run.groups.items()
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


def _cards(run: AuditRun) -> Iterator[tuple[str, str, str, str]]:
    """Label, value, note and tone."""
    for name, label in (
        ("own", "Pulled down by own pair"),
        ("free", "Hidden embeddings free"),
        ("pull", "Pulled down by all pairs"),
    ):
        if name in run.falls:
            falling = int(run.falls[name].sum())
            note = f"{falling:,} of {run.pairs:,} chosen responses"
            yield label, percent(falling / run.pairs), note, "bad" if falling else "good"
    data, aside = run.summary["data"], []
    if data["skipped"]:
        aside.append(f"{data['skipped']:,} set aside")
    truncated = int(np.sum(run.table["truncated"].to_numpy(zero_copy_only=False)))
    if truncated:
        aside.append(f"{truncated:,} truncated")
    yield "Pairs", f"{run.pairs:,}", ", ".join(aside) or "every row scored", ""
    yield "Tokens", f"{run.tokens:,}", f"{run.tokens / max(run.pairs, 1):,.0f} a pair", ""
    if not run.exact:
        by = run.by
        values = run.column(by)
        finite = values[np.isfinite(values)]
        yield f"Median {LABELS[by]}", number(float(np.median(finite))) if len(finite) else MISSING, WHAT[by], ""


def _facts(run: AuditRun) -> Iterator[tuple[str, object]]:
    summary = run.summary
    model, tokens, arguments = summary["model"], summary["tokens"], summary["arguments"]
    yield "Data", data_name(arguments["data"])
    yield "Layout", summary["data"]["format"]
    yield "Model", model["name"]
    if "dtype" in model:
        yield "Computed on", f"{model['device']} in {model['dtype']}, {model['attention']} attention"
    yield "Level", run.level
    if run.exact:
        yield "Loss", written(run.loss)
        yield "Reference", arguments.get("ref") or "the audited model"
    yield "Tokens", f"at most {tokens['max_length']:,} a pair" if "max_length" in tokens else tokens
    for note in tokens.get("notes", ()) if len(run.runs) == 1 else ():  # of one shard they would mislead
        yield "On the way to tokens", note
    # Counted here, since the pairs may be those of all shards; scores of earlier versions have no such columns.
    for title, column, said in (
        ("Duplicates", "duplicate_of", repeats.duplicates),
        ("Contradictions", "contradicts", repeats.contradictions),
    ):
        found = linked_rows(run.table, column) if column in run.table.column_names else {"count": 0}
        if found["count"]:
            yield title, said(found)
    if run.shard:
        yield "Shard", run.shard
    elif len(run.runs) > 1:
        yield "Shards", len(run.runs)
    yield "Scored with", f"Undertow {summary['undertow']}"
    yield "Fingerprint of the data", str(summary["fingerprints"]["data"])[:16]


def _scores_folder(run: AuditRun) -> Path:
    """What ``--scores`` takes: of one shard of several, the folder that holds them all."""
    return run.folder.parent if run.shard else run.folder
