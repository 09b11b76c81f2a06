"""Pairs and a model in, or the folder of a run, and why each pair goes where it goes out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from undertow.data.pairs import BadRow, Pair
from undertow.data.tokens.encoder import PairEncoder, TokenPair, TokenSettings
from undertow.data.tokens.pieces import pieces, text_of
from undertow.errors import BadRowsError, DataError, OptionError
from undertow.explaining.explanation import Explanation, Side
from undertow.explaining.foretold import Course, course
from undertow.explaining.measuring import (
    heat_map,
    loss_cases,
    own_step,
    parting_of,
    responses_directions,
    weights_of,
)
from undertow.explaining.settings import ExplainSettings, Subject, run_of
from undertow.forecasting.look import paired_logps
from undertow.forecasting.measure import Engine
from undertow.maths.losses import PairLoss
from undertow.models.loading import check_companion, load_config, load_model, load_tokenizer, shared_vocabulary
from undertow.models.model import Model
from undertow.models.sources import find_model
from undertow.runs.names import COMPARE, FORECAST, PAIRS, TRAIN
from undertow.runs.progress import Silent, Watcher
from undertow.runs.settings import DataSettings, LossSettings
from undertow.scoring.columns import BY_LAYER
from undertow.scoring.gradient import FullProducts, full_row
from undertow.scoring.shards import read_scores

__all__ = ["explain", "explain_pairs"]

_EXPLAINED = "the explained model's"


def explain(
    data: str | Path | None = None,
    model: str | None = None,
    *,
    row: int | Sequence[int] = (),
    pair_id: str | Sequence[str] = (),
    prompt: str | None = None,
    chosen: str | None = None,
    rejected: str | None = None,
    loss: str = "dpo",
    beta: float | None = None,
    loss_args: Mapping[str, object] | None = None,
    calibrated: bool = False,
    ref: str | None = None,
    reading: DataSettings | None = None,
    tokens: TokenSettings | None = None,
    watch: Watcher | None = None,
    **options: Any,
) -> list[Explanation]:
    """Why pairs go where they go: token by token, layer by layer, and by which other pairs.

    Args:
        data: file, folder or Hub id of the pairs; or the folder of an audit, a forecast or a comparison, which then
            says the data, the model and the loss, and of a forecast also what its simulated run does.
        model: Hub id, folder or .gguf file; of a run's folder it is not given.
        row: one or several rows of the data.
        pair_id: one or several ids of pairs.
        prompt: of a pair that is given by itself.
        chosen: likewise.
        rejected: likewise.
        loss: whose weights decide.
        beta: of the loss.
        loss_args: its other parameters.
        calibrated: with reward calibration.
        ref: the loss's reference model; the model itself when not given.
        reading: how the data is read.
        tokens: maximum length, end-of-turn token and template.
        watch: told of the progress.
        **options: others of :class:`~undertow.explaining.settings.ExplainSettings`.

    Raises:
        InputError: the data, the model or an option cannot be used, or there is no such pair.
    """
    subject = Subject.of(
        (row,) if isinstance(row, int) else tuple(row),
        (pair_id,) if isinstance(pair_id, str) else tuple(pair_id),
        prompt,
        chosen,
        rejected,
    )
    settings = ExplainSettings(
        loss=LossSettings(loss, beta, loss_args or {}, calibrated),
        ref=ref,
        data=reading or DataSettings(),
        tokens=tokens or TokenSettings(),
        **options,
    )
    return explain_pairs(data, model, subject, settings, watch=watch)


def explain_pairs(
    data: str | Path | None,
    model: str | None,
    subject: Subject,
    settings: ExplainSettings | None = None,
    *,
    watch: Watcher | None = None,
) -> list[Explanation]:
    """The same, as ``undertow explain`` does it.

    Raises:
        InputError: the data, the model or an option cannot be used, or there is no such pair.
    """
    settings, watch = settings or ExplainSettings(), watch or Silent()
    run = run_of(Path(data)) if data is not None and Path(data).is_dir() else None
    if run is None:
        if model is None:
            raise OptionError("--model: which model? Give it, or name the folder of an audit or a forecast as DATA.")
        if data is None and subject.pair is None:
            raise OptionError("DATA: which data are --row and --pair-id of? Name them, or the folder of a run.")
        with_pairs = None if subject.pair is not None or data is None else str(data)
        return _by_model(with_pairs, model, subject, settings, None, watch)
    if model is not None:
        raise OptionError(f"--model: {data} is a run's folder, which says the model; leave one of the two away.")
    kind, where, name, record = run
    assert data is not None
    if kind == FORECAST:
        return _by_forecast(Path(data), subject, settings, watch)
    same = ExplainSettings.recorded(
        record,
        heat_map=settings.heat_map,
        top=settings.top,
        device=settings.device,
        batch_tokens=settings.batch_tokens,
    )
    known = _known_pairs(Path(data), kind)
    return _by_model(where, name, subject, same, None if known is None else (Path(data), known), watch)


def _by_forecast(folder: Path, subject: Subject, settings: ExplainSettings, watch: Watcher) -> list[Explanation]:
    with course(folder, watch) as found:
        run = found.run
        train = run.settings.train
        encoder = run.audited.encoder
        pairs = _chosen(subject, found.pairs, encoder, str(run.data))
        full = FullProducts.of(run.model, found.engine.parameters)
        explained = _Explainer(
            found.engine,
            full,
            train.loss.make(),
            run.audited.reference if train.ref else None,
            "" if subject.pair is not None else str(run.data),
            settings,
            watch,
            found,
        )
        looked = found.looked(pairs)
        return [explained.of(pair, look) for pair, look in zip(pairs, looked, strict=True)]


def _by_model(
    data: str | None,
    model_name: str,
    subject: Subject,
    settings: ExplainSettings,
    run: tuple[Path, pa.Table] | None,
    watch: Watcher,
) -> list[Explanation]:
    source = find_model(model_name)
    ref = find_model(settings.ref, option="--ref") if settings.ref else None
    trust = settings.trust_remote_code
    config = load_config(source, trust_remote_code=trust)
    encoder = PairEncoder(
        load_tokenizer(source, trust_remote_code=trust),
        settings.tokens,
        vocabulary=shared_vocabulary(source, config, ref, trust_remote_code=trust),
    )
    if ref:
        check_companion(
            ref,
            encoder.tokenizer,
            named=f"--ref {ref.name}",
            whose=_EXPLAINED,
            max_length=settings.tokens.max_length,
            trust_remote_code=trust,
        )
    watch.phase("reading")
    entries = () if data is None else settings.data.open(data).entries()
    pairs = _chosen(subject, entries, encoder, data or "")
    if run is not None and subject.pair is None:
        _check_same(pairs, *run)
    watch.phase("loading the model")
    options: dict[str, Any] = {
        "device": settings.device,
        "trust_remote_code": trust,
        "packed": settings.packed,
        "tokenizer": encoder.tokenizer,
    }
    model = load_model(source.name, config=config, **options)
    reference = load_model(ref, **options) if ref else None
    full = FullProducts.of(model)
    engine = Engine(model, full.parameters, full.packed, None, settings.batch_tokens)
    shown = "" if subject.pair is not None else data or ""
    explained = _Explainer(engine, full, settings.loss.make(), reference, shown, settings, watch)
    return [explained.of(pair) for pair in pairs]


def _chosen(
    subject: Subject, entries: Iterable[Pair | BadRow | TokenPair], encoder: PairEncoder, data: str
) -> list[TokenPair]:
    """The wanted pairs as tokens, in the order in which they were asked for.

    Raises:
        BadRowsError: one of them cannot be used.
        OptionError: one of them is not there.
    """
    if subject.pair is not None:
        return [_encoded(subject.pair, encoder)]
    rows: dict[int, TokenPair] = {}
    ids: dict[str, TokenPair] = {}
    seen = -1
    for entry in entries:
        seen = max(seen, entry.row)
        named = [] if isinstance(entry, BadRow) else [one for one in subject.pair_ids if entry.pair_id.startswith(one)]
        if entry.row in subject.rows or named:
            pair = entry if isinstance(entry, TokenPair) else _encoded(entry, encoder)
            if entry.row in subject.rows:
                rows[entry.row] = pair
            for one in named:
                ids.setdefault(one, pair)
        if len(rows) == len(set(subject.rows)) and len(ids) == len(set(subject.pair_ids)):
            break
    missing = next((row for row in subject.rows if row not in rows), None)
    if missing is not None:
        raise OptionError(f"--row {missing}: {data} has no pair there; its rows go from 0 to {seen}.")
    unknown = next((one for one in subject.pair_ids if one not in ids), None)
    if unknown is not None:
        raise OptionError(f"--pair-id {unknown}: {data} has no such pair; the column pair_id of its scores names all.")
    return [*(rows[row] for row in subject.rows), *(ids[one] for one in subject.pair_ids)]


def _encoded(entry: Pair | BadRow, encoder: PairEncoder) -> TokenPair:
    found = encoder.encode(entry) if isinstance(entry, Pair) else entry
    if isinstance(found, BadRow):
        raise BadRowsError([found], 1)
    return found


def _known_pairs(folder: Path, kind: str) -> pa.Table | None:
    """The table of a run's pairs; a training run has none."""
    if kind == TRAIN:
        return None
    return pq.read_table(folder / PAIRS) if kind == COMPARE else read_scores(folder)


def _check_same(pairs: Iterable[TokenPair], folder: Path, known: pa.Table) -> None:
    """Refuse data that changed since the run: a row would not be the one that its tables speak of."""
    ids = dict(zip(known["row"].to_pylist(), known["pair_id"].to_pylist(), strict=True))
    for pair in pairs:
        if ids.get(pair.row) != pair.pair_id:
            raise DataError(f"Row {pair.row} of the data is no longer the pair that {folder} knows: the data changed.")


@dataclass(frozen=True, slots=True)
class _Explainer:
    """A model and all that stays the same from pair to pair."""

    engine: Engine
    full: FullProducts
    loss: PairLoss
    reference: Model | None
    data: str
    settings: ExplainSettings
    watch: Watcher
    course: Course | None = None

    @property
    def model(self) -> Model:
        return self.engine.model

    def of(self, pair: TokenPair, looked: Any = None) -> Explanation:
        """All that is told of a pair; ``looked``: what a forecast's look does to its tokens."""
        tokens = pair.chosen_tokens + pair.rejected_tokens
        self.watch.phase(f"row {pair.row}", pairs=1, tokens=pair.total)
        reference = None
        if self.reference is not None:
            found = paired_logps(self.reference, [pair], batch_tokens=self.engine.batch_tokens)[0].tolist()
            reference = (found[0], found[1])
        own = own_step(self.engine, pair, responses_directions(self.engine, pair, None))
        ((products, logps),) = self.full.pairs([pair])
        row = full_row(
            products,
            list(self.engine.parameters),
            logps,
            (pair.chosen_tokens, pair.rejected_tokens),
            self.loss,
            reference,
        )
        d_w, d_l = weights_of(own.products, pair, self.loss, reference)
        cases, left_out = loss_cases(own.products, pair, reference)
        parting = parting_of(self.model, pair, d_w)
        heat, note = heat_map(self.engine, pair, self.settings.heat_map, self.full.packed, self.watch)
        alone = self.data == ""
        sides = [pieces(self.model.tokenizer, side) for side in (pair.chosen, pair.rejected)]
        n = pair.chosen_tokens
        at = (slice(0, n), slice(n, tokens))
        moved = own.moved(d_w, -d_l).numpy()
        chosen, rejected = (
            Side(text, own.logps[part].numpy(), moved[part]) for text, part in zip(sides, at, strict=True)
        )
        foretold = None
        if self.course is not None:
            foretold, trained = self._foretold(self.course, pair)
            chosen, rejected = (
                replace(side, trained=trained[part], looked=None if looked is None else looked[part])
                for side, part in zip((chosen, rejected), at, strict=True)
            )
        numbers = {name: value for name, value in row.items() if name != BY_LAYER}
        notes = [text for text in (note, self.full.note and f"Gradients by autograd: {self.full.note}.") if text]
        if pair.truncated:
            notes.append("The end of a response was cut: the pair is longer than --max-length.")
        return Explanation(
            row=None if alone else pair.row,
            pair_id=pair.pair_id,
            data=self.data,
            model=self.model.name,
            loss=repr(self.loss),
            prompt=text_of(self.model.tokenizer, pair.prompt),
            chosen=chosen,
            rejected=rejected,
            numbers={**numbers, "logp_chosen": logps[0], "logp_rejected": logps[1], "d_chosen": d_w, "d_rejected": d_l},  # type: ignore[dict-item]
            layers=row[BY_LAYER],  # type: ignore[arg-type]
            cases=cases,
            left_out=left_out,
            parting=parting,
            heat=heat,
            foretold=foretold,
            notes=notes,
        )

    def _foretold(self, course: Course, pair: TokenPair) -> tuple[Any, np.ndarray[Any, np.dtype[np.float64]]]:
        directions: list[Mapping[str, Tensor]] = list(responses_directions(self.engine, pair, course.scales))
        return course.foretold(pair, own_step(self.engine, pair, directions), directions[0], self.settings.top)
