"""The audit: data and a model in, a table of scores out, in memory or as a folder that can be continued."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor
from transformers import PretrainedConfig

from undertow.auditing.settings import DEFAULT_LEVEL, AuditSettings, check_level, check_loss
from undertow.auditing.summary import summarise
from undertow.data.pairs import Pair
from undertow.data.reading import Pairs
from undertow.data.tokens.encoder import PairEncoder, TokenSettings
from undertow.errors import OptionError
from undertow.maths.losses import DPO, PairLoss
from undertow.models.checks import check_same_tokens
from undertow.models.device import multiplies_bfloat16
from undertow.models.loading import (
    check_companion,
    check_max_length,
    load_config,
    load_model,
    load_tokenizer,
    shared_vocabulary,
)
from undertow.models.model import Model
from undertow.models.sources import ModelSource, find_model
from undertow.runs.identity import token_identity
from undertow.runs.preparation import Prepared, prepare
from undertow.runs.progress import Silent, Watcher
from undertow.runs.settings import Shard
from undertow.runs.targets import Target, check_targets, data_input, model_inputs
from undertow.runs.texts import keep_texts
from undertow.runs.token_file import TokenFile
from undertow.runs.versions import made_with
from undertow.scoring.columns import PULL_COLUMNS
from undertow.scoring.folder import ScoreStore
from undertow.scoring.levels import SCORE_VERSION, includes
from undertow.scoring.scorer import Scorer, add_pull, part_count, score_parts

AUDITED = "the audited model's"


def audit(
    pairs: Iterable[Pair],
    model: Model,
    *,
    level: str = DEFAULT_LEVEL,
    loss: PairLoss | None = None,
    reference: Model | None = None,
    pull: bool = False,
    tokens: TokenSettings | None = None,
    batch_tokens: int = AuditSettings().batch_tokens,
    watch: Watcher | None = None,
) -> pa.Table:
    """Score pairs in memory: the table of the contract, one row a pair, in the pairs' order.

    Args:
        pairs: what :func:`undertow.read_pairs` returns, or any pairs of your own.
        model: what :func:`undertow.load_model` returns.
        level: ``text``, ``hidden`` or ``unembedding``; a level includes those before it.
        loss: whose weights decide how the log-probabilities move; DPO with β = 0.1 when not given.
        reference: the loss's reference model, with the same tokenizer; the model itself when not given.
        pull: read every pair against the gradient of the whole data set, in a second pass.
        tokens: maximum length, end-of-turn token and template.
        batch_tokens: tokens a forward pass; changes speed and memory only.
        watch: told of the progress.

    Raises:
        BadRowsError: a pair cannot be scored (identical responses, nothing left after truncation, …). Pairs read with
            ``on_bad_row="skip"`` leave such pairs out instead.
    """
    scorer = Scorer(level, model, loss or DPO(), reference, pull, batch_tokens)
    _check_scorer(scorer)
    encoder = PairEncoder(model.tokenizer, tokens or TokenSettings(), vocabulary=len(model.head.weight))
    on_bad_row = pairs.on_bad_row if isinstance(pairs, Pairs) else "stop"
    entries = pairs.entries() if isinstance(pairs, Pairs) else pairs
    watch = watch or Silent()
    with prepare(entries, encoder, Shard(), on_bad_row, watch) as ready:
        spool = ready.spool
        update = scorer.no_update() if pull else None
        watch.phase("scoring", pairs=spool.pairs, tokens=spool.tokens)
        table = pa.concat_tables(score_parts(spool, scorer, part_pairs=spool.pairs, watch=watch, update=update))
        if update is not None:
            watch.phase("pull", pairs=spool.pairs, tokens=spool.tokens)
            update /= spool.pairs
            table = add_pull(table, 0, spool, scorer, update, part_pairs=spool.pairs, watch=watch)
        return table


@dataclass(frozen=True, slots=True)
class Audited:
    """A finished audit whose data and models are still at hand, for what goes on from there."""

    summary: dict[str, Any]
    store: ScoreStore
    ready: Prepared
    encoder: PairEncoder
    model: Model | None
    reference: Model | None


def audit_to_folder(
    data: str | Path,
    model_name: str,
    out: str | Path,
    settings: AuditSettings | None = None,
    *,
    overwrite: bool = False,
    watch: Watcher | None = None,
) -> dict[str, Any]:
    """Audit a data set into a folder, as ``undertow audit`` does, and return what ``audit.json`` then holds.

    A run that was stopped goes on with the first part that is not whole; a finished one is only read. Another run's
    folder is refused.

    Raises:
        InputError: the data, the model, the options or the output folder cannot be used.
    """
    with auditing(data, model_name, out, settings, overwrite=overwrite, watch=watch) as done:
        return done.summary


@contextlib.contextmanager
def auditing(
    data: str | Path,
    model_name: str,
    out: str | Path,
    settings: AuditSettings | None = None,
    *,
    overwrite: bool = False,
    watch: Watcher | None = None,
) -> Iterator[Audited]:
    """The same; tokens and models stay until the context ends.

    Raises:
        InputError: as above.
    """
    settings, watch = settings or AuditSettings(), watch or Silent()
    store = ScoreStore(Path(out))
    store.check_writable()
    source = find_model(model_name)
    ref = find_model(settings.ref, option="--ref") if settings.ref else None
    inputs = [*data_input(data, settings.data.split, settings.data.name), *model_inputs(source, ref)]
    check_targets([Target("--out", Path(out), "run")], inputs)
    config = None
    if settings.level != "text":
        config = load_config(source, trust_remote_code=settings.trust_remote_code)
        check_max_length(source, config, settings.tokens.max_length)
    encoder = PairEncoder(
        load_tokenizer(source, trust_remote_code=settings.trust_remote_code),
        settings.tokens,
        vocabulary=shared_vocabulary(source, config, ref, trust_remote_code=settings.trust_remote_code)
        if config
        else None,
    )
    if ref:
        check_companion(
            ref,
            encoder.tokenizer,
            named=f"--ref {ref.name}",
            whose=AUDITED,
            max_length=settings.tokens.max_length,
            trust_remote_code=settings.trust_remote_code,
        )
    pairs = settings.data.open(data, by=settings.by)
    reading = (pairs.entries(), encoder, settings.shard, settings.data.on_bad_row, watch)
    with prepare(*reading, texts_by=pairs.by) as ready:
        spool, bad = ready.spool, ready.bad
        for note in pairs.notes:
            watch.note(note)
        known = _identity(ready.fingerprint, encoder, settings)
        store.check_run(known, overwrite=overwrite)
        model = _model(source, config, encoder, settings, watch)
        reference = _reference(ref, encoder, settings, watch) if ref else None
        scorer = Scorer(settings.level, model, settings.loss.make(), reference, settings.pull, settings.batch_tokens)
        identity = known | _models(scorer)
        with contextlib.closing(store):
            store.begin(identity, _arguments(data, model_name, settings), overwrite=overwrite)
            if ready.texts:
                keep_texts(ready.texts, store.folder)
            if store.finished:
                watch.note(f"{out} is finished already: nothing was scored again.")
                yield Audited(store.summary(), store, ready, encoder, model, reference)
                return
            seconds = _score(store, spool, scorer, settings.part_pairs, watch)
            store.write_skipped(bad)
            summary = {
                **made_with(),
                "arguments": _arguments(data, model_name, settings),
                "fingerprints": identity,
                "tokens": ready.tokens,
                "model": model.describe() if model else {"name": model_name},
                "reference": reference.describe() if reference else None,
                "data": {**pairs.describe(), "pairs": spool.pairs, "skipped": bad.count, "tokens": spool.tokens},
                **summarise(store.read_parts()),
                "scoring": seconds,
            }
            summary = store.commit(summary)
            if summary["nonfinite"]["count"]:
                rows = ", ".join(map(str, summary["nonfinite"]["rows"]))
                watch.note(f"{summary['nonfinite']['count']} pairs have scores that are not finite (rows {rows}).")
            yield Audited(summary, store, ready, encoder, model, reference)


def _check_scorer(scorer: Scorer) -> None:
    """What the settings check for the command line, for a call from Python."""
    check_level(scorer.level)
    check_loss(scorer.loss)
    if scorer.pull and not includes(scorer.level, "unembedding"):
        raise OptionError(f"pull=True needs level='unembedding', not {scorer.level!r}.")
    if scorer.reference is not None and scorer.model is not None:
        ours, theirs = scorer.model.tokenizer, scorer.reference.tokenizer
        rows = min(scorer.model.vocabulary, scorer.reference.vocabulary)
        check_same_tokens(ours, theirs, f"reference={scorer.reference.name}", whose=AUDITED, vocabulary=rows)


def _model(
    source: ModelSource, config: PretrainedConfig | None, encoder: PairEncoder, settings: AuditSettings, watch: Watcher
) -> Model | None:
    """The model, where the level needs one."""
    if settings.level == "text":
        return None
    watch.phase("loading the model")
    model = load_model(
        source.name,
        device=settings.device,
        dtype=settings.computed_in,
        trust_remote_code=settings.trust_remote_code,
        packed=settings.packed,
        tokenizer=encoder.tokenizer,
        config=config,
    )
    if model.dtype == torch.bfloat16 and not multiplies_bfloat16(model.device):
        watch.note("This processor has no bfloat16 products of its own and emulates them slowly: try --dtype float32.")
    if model.attention_note:
        watch.note(f"Scoring one sequence at a time: {model.attention_note}.")
    return model


def _reference(ref: ModelSource, encoder: PairEncoder, settings: AuditSettings, watch: Watcher) -> Model:
    """The reference model, for tokens of the audited model's tokenizer."""
    watch.phase("loading the reference")
    return load_model(
        ref,
        device=settings.device,
        dtype=settings.computed_in,
        trust_remote_code=settings.trust_remote_code,
        packed=settings.packed,
        tokenizer=encoder.tokenizer,
    )


def _score(store: ScoreStore, spool: TokenFile, scorer: Scorer, part_pairs: int, watch: Watcher) -> dict[str, float]:
    """Score the parts that are not there yet; what this run did of it, and how fast."""
    done = min(store.finished_parts(), part_count(spool, part_pairs))
    update = None
    if scorer.pull:
        done, update = _update_so_far(store, scorer, done)
    watch.phase("scoring", pairs=spool.pairs, tokens=spool.tokens, done=min(done * part_pairs, spool.pairs))
    tables = score_parts(spool, scorer, part_pairs=part_pairs, watch=watch, first_part=done, update=update)
    started, pairs, tokens = time.monotonic(), 0, 0
    for index, table in enumerate(tables, start=done):
        store.write_part(index, table)
        if update is not None:
            store.write_update(index + 1, update.cpu().numpy())
        pairs += len(table)
        tokens += sum(pc.sum(table[f"{part}_tokens"]).as_py() for part in ("prompt", "chosen", "rejected"))
    if update is not None:
        _pull(store, spool, scorer, update / spool.pairs, part_pairs, watch)
    seconds = time.monotonic() - started
    return {"pairs": pairs, "seconds": round(seconds, 3), "tokens_per_second": round(tokens / max(seconds, 1e-9), 1)}


def _update_so_far(store: ScoreStore, scorer: Scorer, done: int) -> tuple[int, Tensor]:
    """From which part to go on, and the data set's update up to there: a sum that is behind its parts wins."""
    update = scorer.no_update()
    done = min(done, store.updated_parts())
    found = store.read_update(done) if done else None
    if found is None or found.shape != tuple(update.shape):
        return 0, update
    return done, torch.from_numpy(found).to(update)


def _pull(store: ScoreStore, spool: TokenFile, scorer: Scorer, update: Tensor, part_pairs: int, watch: Watcher) -> None:
    """The second pass: every part that lacks the columns of the pull is written again, with them."""
    parts = range(part_count(spool, part_pairs))
    waiting = [index for index in parts if store.read_part(index)[PULL_COLUMNS[0]].null_count]
    done = min((len(parts) - len(waiting)) * part_pairs, spool.pairs)
    watch.phase("pull", pairs=spool.pairs, tokens=spool.tokens, done=done)
    for index in waiting:
        table = store.read_part(index)
        store.write_part(index, add_pull(table, index, spool, scorer, update, part_pairs=part_pairs, watch=watch))


def _identity(data: str, encoder: PairEncoder, settings: AuditSettings) -> dict[str, Any]:
    """What the numbers depend on besides the models: hashes, not names."""
    identity = {
        "score version": SCORE_VERSION,
        "data": data,
        **token_identity(encoder),
        "level": settings.level,
        "batch tokens": settings.batch_tokens,
        "part pairs": settings.part_pairs,
        "shard": str(settings.shard),
    }
    if includes(settings.level, "unembedding"):
        identity |= {"loss": repr(settings.loss.make()), "pull": settings.pull}
    return identity


def _models(scorer: Scorer) -> dict[str, Any]:
    """The rest of it. Two runs of which all this is equal give equal tables."""
    model, reference = scorer.model, scorer.reference
    identity = {
        "model weights": model.weights_fingerprint() if model else None,
        "dtype": str(model.dtype).removeprefix("torch.") if model else None,
        "device": model.device.type if model else None,
        "attention": model.attention if model else None,
    }
    if includes(scorer.level, "unembedding"):
        identity["reference weights"] = reference.weights_fingerprint() if reference else None
    return identity


def _arguments(data: str | Path, model_name: str, settings: AuditSettings) -> Mapping[str, Any]:
    return {"data": str(data), "model": model_name, **settings.record()}
