"""The comparison: data and two models in, what moved out, in memory or as a folder that can be continued."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from undertow.comparing.checkpoints import (
    Checkpoints,
    check_vocabulary,
    find_sources,
    load_checkpoints,
)
from undertow.comparing.continuations import continue_pairs, worst
from undertow.comparing.folder import CompareFolder
from undertow.comparing.gains import Tally
from undertow.comparing.pairs import COMPARE_VERSION, SCHEMA, compare_rows
from undertow.comparing.prediction import Predictions, check_same_data, predictions_of, read_predictions
from undertow.comparing.responses import list_responses
from undertow.comparing.settings import NEW_TOKENS, CompareSettings
from undertow.comparing.summary import summarise
from undertow.data.pairs import Pair
from undertow.data.reading import Pairs
from undertow.data.tokens.encoder import PairEncoder, TokenSettings
from undertow.models.checks import check_same_tokens
from undertow.models.loading import check_companion, load_tokenizer
from undertow.models.model import Model
from undertow.runs.identity import token_identity
from undertow.runs.preparation import prepare
from undertow.runs.progress import Silent, Watcher
from undertow.runs.settings import Shard
from undertow.runs.skipped import write_skipped
from undertow.runs.targets import Target, check_targets, data_input, model_inputs, score_inputs
from undertow.runs.texts import keep_texts
from undertow.runs.token_file import TokenFile
from undertow.runs.versions import made_with

__all__ = ["PART_PAIRS", "Comparison", "compare", "compare_to_folder"]

PART_PAIRS = 512
"""Pairs that a stopped run computes again at most."""


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """What moved between two models: a row a pair, and the same in a few numbers with their intervals."""

    table: pa.Table
    summary: dict[str, Any]


def compare(
    pairs: Iterable[Pair],
    before: Model,
    after: Model,
    *,
    scores: pa.Table | None = None,
    beta: float = CompareSettings().beta,
    generate: int = 0,
    resamples: int = CompareSettings().resamples,
    seed: int = 0,
    tokens: TokenSettings | None = None,
    batch_tokens: int = CompareSettings().batch_tokens,
    watch: Watcher | None = None,
) -> Comparison:
    """Compare two models on pairs, in memory; the rows are in the pairs' order.

    Args:
        pairs: what :func:`undertow.read_pairs` returns, or any pairs of your own.
        before: the model before training; its tokenizer makes the tokens.
        after: the model after it, of the same vocabulary.
        scores: an audit's table for the same pairs, to hold its predictions against what happened.
        beta: of the DPO loss that says whether training lowered the loss at all.
        generate: how many of the worst pairs both models continue.
        resamples: bootstrap resamples behind every interval.
        seed: of the bootstrap.
        tokens: maximum length, end-of-turn token and template.
        batch_tokens: tokens a forward pass; changes speed and memory only.
        watch: told of the progress.

    Raises:
        ModelError: the two models have different vocabularies.
        BadRowsError: a pair cannot be used. Pairs read with ``on_bad_row="skip"`` leave such pairs out instead.
    """
    watch = watch or Silent()
    settings = CompareSettings(
        beta=beta,
        generate=generate,
        resamples=resamples,
        seed=seed,
        tokens=tokens or TokenSettings(),
        batch_tokens=batch_tokens,
    )
    check_vocabulary(before, after)
    both = (before.tokenizer, after.tokenizer, f"after={after.name}")
    check_same_tokens(*both, whose="the model before", vocabulary=min(before.vocabulary, after.vocabulary))
    encoder = PairEncoder(before.tokenizer, settings.tokens, vocabulary=before.vocabulary)
    models = Checkpoints(before, after)
    on_bad_row = pairs.on_bad_row if isinstance(pairs, Pairs) else "stop"
    entries = pairs.entries() if isinstance(pairs, Pairs) else pairs
    with prepare(entries, encoder, Shard(), on_bad_row, watch) as ready:
        predictions = predictions_of(scores) if scores is not None else None
        _check_predictions(predictions, ready.spool)
        tally = Tally(len(before.head.weight))
        watch.phase("comparing", pairs=ready.spool.pairs, tokens=ready.spool.tokens)
        table = pa.concat_tables(part_tables(ready.spool, models, tally, settings, ready.spool.pairs, watch))
        summary = {
            **summarise(table, list_responses(ready.spool), predictions, settings),
            "gained": tally.record(models.tokenizer),
            "continuations": _continuations(table, ready.spool, models, encoder, settings, watch),
        }
    return Comparison(table, summary)


def compare_to_folder(
    data: str | Path,
    before: str,
    after: str,
    out: str | Path,
    settings: CompareSettings | None = None,
    *,
    overwrite: bool = False,
    part_pairs: int = PART_PAIRS,
    watch: Watcher | None = None,
) -> dict[str, Any]:
    """Compare two models into a folder, as ``undertow compare`` does, and return what ``compare.json`` then holds.

    A run that was stopped goes on with the first part that is not whole; a finished one is only read. Another run's
    folder is refused.

    Raises:
        InputError: the data, a model, the scores, the options or the output folder cannot be used.
    """
    settings, watch = settings or CompareSettings(), watch or Silent()
    folder = CompareFolder(Path(out))
    folder.check_writable()
    sources, vocabulary = find_sources(before, after, settings)
    inputs = [*data_input(data, settings.data.split, settings.data.name), *model_inputs(*sources)]
    check_targets([Target("--out", Path(out), "run")], [*inputs, *score_inputs(settings.scores)])
    encoder = PairEncoder(
        load_tokenizer(sources[0], trust_remote_code=settings.trust_remote_code),
        settings.tokens,
        vocabulary=vocabulary,
    )
    theirs = check_companion(
        sources[1],
        encoder.tokenizer,
        named=f"--after {after}",
        whose="the model before",
        max_length=settings.tokens.max_length,
        trust_remote_code=settings.trust_remote_code,
    )
    if getattr(encoder.tokenizer, "chat_template", None) != getattr(theirs, "chat_template", None):
        watch.note("The two models have different chat templates: both read the tokens of the one before.")
    predictions = read_predictions(settings.scores) if settings.scores else None
    pairs = settings.data.open(data)
    arguments: dict[str, Any] = {"data": str(data), "before": before, "after": after, **settings.record()}
    reading = (pairs.entries(), encoder, Shard(), settings.data.on_bad_row, watch)
    with prepare(*reading, texts_by=()) as ready:
        spool, bad = ready.spool, ready.bad
        for note in pairs.notes:
            watch.note(note)
        _check_predictions(predictions, spool)
        known = _identity(ready.fingerprint, encoder, predictions, settings, part_pairs)
        folder.check_run(known, overwrite=overwrite)
        models = load_checkpoints(sources, encoder.tokenizer, settings, watch)
        identity = known | _models(models)
        with contextlib.closing(folder):
            folder.begin(identity, arguments, overwrite=overwrite)
            if ready.texts:
                keep_texts(ready.texts, folder.folder)
            if folder.finished:
                watch.note(f"{out} is finished already: nothing was compared again.")
                return folder.summary()
            tally, seconds = _compare(folder, spool, models, settings, part_pairs, watch)
            write_skipped(folder.folder, bad)
            table = folder.table([name for name in SCHEMA.names if not pa.types.is_list(SCHEMA.field(name).type)])
            summary = {
                **made_with(),
                "arguments": arguments,
                "fingerprints": identity,
                "tokens": ready.tokens,
                "before": models.before.describe(),
                "after": models.after.describe(),
                "data": {**pairs.describe(), "pairs": spool.pairs, "skipped": bad.count, "tokens": spool.tokens},
                **summarise(table, list_responses(spool), predictions, settings),
                "gained": tally.record(models.tokenizer),
                "continuations": _continuations(table, spool, models, encoder, settings, watch),
                "comparing": seconds,
            }
            summary = folder.commit(summary)
    if summary["nonfinite"]["count"]:
        rows = ", ".join(map(str, summary["nonfinite"]["rows"]))
        watch.note(f"{summary['nonfinite']['count']} pairs have numbers that are not finite (rows {rows}).")
    return summary


def part_tables(
    spool: TokenFile,
    models: Checkpoints,
    tally: Tally,
    settings: CompareSettings,
    part_pairs: int,
    watch: Watcher,
    first_part: int = 0,
) -> Iterator[pa.Table]:
    """The tables of parts ``first_part``, …; packs never reach over a part's end, so a stop changes no number."""
    for begin in range(first_part * part_pairs, spool.pairs, part_pairs):
        pairs = spool.read(begin, begin + part_pairs)
        rows = list(compare_rows(pairs, models, tally, settings.batch_tokens, watch))
        yield pa.Table.from_pylist(rows, schema=SCHEMA)


def _compare(
    folder: CompareFolder,
    spool: TokenFile,
    models: Checkpoints,
    settings: CompareSettings,
    part_pairs: int,
    watch: Watcher,
) -> tuple[Tally, dict[str, float]]:
    """Compute the parts that are not there yet and join them all; what this run did of it, and how long it took."""
    done, tally = folder.progress(len(models.before.head.weight))
    count = -(-spool.pairs // part_pairs)
    watch.phase("comparing", pairs=spool.pairs, tokens=spool.tokens, done=min(done * part_pairs, spool.pairs))
    started, pairs = time.monotonic(), 0
    for index, table in enumerate(part_tables(spool, models, tally, settings, part_pairs, watch, done), start=done):
        folder.write_part(index, table, tally)
        pairs += len(table)
    folder.join(count)
    return tally, {"pairs": pairs, "seconds": round(time.monotonic() - started, 3)}


def _continuations(
    table: pa.Table,
    spool: TokenFile,
    models: Checkpoints,
    encoder: PairEncoder,
    settings: CompareSettings,
    watch: Watcher,
) -> list[dict[str, Any]]:
    chosen = worst(table, settings.generate)
    if not chosen:
        return []
    watch.phase("continuing the worst pairs")
    pairs = [next(spool.read(index, index + 1)) for index in chosen]
    end = encoder.describe()["end_of_turn_id"]
    changes = [table["dlogp_chosen"][index].as_py() for index in chosen]
    return continue_pairs(pairs, changes, models, [end] if isinstance(end, int) else [])


def _check_predictions(predictions: Predictions | None, spool: TokenFile) -> None:
    if predictions is not None:
        known = [(pair.row, pair.pair_id) for pair in spool.read(0, spool.pairs)]
        check_same_data(predictions, [row for row, _ in known], [pair_id for _, pair_id in known])


def _identity(
    data: str,
    encoder: PairEncoder,
    predictions: Predictions | None,
    settings: CompareSettings,
    part_pairs: int,
) -> dict[str, Any]:
    """What the numbers depend on besides the models: hashes, not names."""
    return {
        "compare version": COMPARE_VERSION,
        "data": data,
        **token_identity(encoder),
        "batch tokens": settings.batch_tokens,
        "part pairs": part_pairs,
        "scores": predictions.fingerprint if predictions else None,
        "beta": settings.beta,
        "continuations": [settings.generate, NEW_TOKENS],
        "resamples": settings.resamples,
        "seed": settings.seed,
    }


def _models(models: Checkpoints) -> dict[str, Any]:
    """The rest of it. Equal identities, equal results."""
    before, after = models.before, models.after
    return {
        "weights before": before.weights_fingerprint(),
        "weights after": after.weights_fingerprint(),
        "dtype": str(before.dtype).removeprefix("torch."),
        "device": before.device.type,
        "attention": f"{before.attention}, {after.attention}",
    }
