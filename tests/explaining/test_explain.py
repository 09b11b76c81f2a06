"""Why a pair goes where it goes, held against autograd, the audit, the forecast and its own parts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import undertow as ut
from command import write_jsonl
from run_folders import TOKENS, audited, compared, made, train_settings, trained
from tiny import tiny_folder
from undertow.auditing.audit import audit_to_folder
from undertow.auditing.settings import AuditSettings
from undertow.data.tokens.pieces import pieces, text_of
from undertow.explaining.explanation import Explanation
from undertow.explaining.foretold import course
from undertow.forecasting.folder import read_tensors
from undertow.forecasting.forecast import forecast_to_folder
from undertow.forecasting.settings import ForecastSettings
from undertow.models.gradients import Response, WholeGradients, response_gradients
from undertow.models.loading import load_tokenizer
from undertow.models.sources import find_model
from undertow.runs.progress import Silent

RUN = {"lr": 1e-4, "batch_size": 3}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Data, model, and the folder of a forecast."""
    folder = tmp_path_factory.mktemp("explain")
    data, model = made(folder)
    settings = ForecastSettings(train=train_settings(**RUN), sketch=131_071)
    forecast_to_folder(data, str(model), folder / "out", settings)
    return data, model, folder / "out"


@pytest.fixture(scope="module")
def explained(runs: tuple[Path, Path, Path]) -> list[Explanation]:
    """Two rows of that forecast."""
    return ut.explain(runs[2], row=[3, 7])


def test_its_numbers_are_those_of_an_audit_over_all_parameters(runs: tuple[Path, Path, Path], tmp_path: Path) -> None:
    data, model, _ = runs
    audit_to_folder(data, str(model), tmp_path, AuditSettings(tokens=TOKENS, level="gradient"))
    line = ut.read_scores(tmp_path).slice(5, 1).to_pylist()[0]
    (found,) = ut.explain(data, str(model), row=5, tokens=TOKENS)
    for name in ("full_gg_chosen", "full_gg_cross", "full_gg_rejected", "full_dlogp_chosen", "full_case"):
        assert found.numbers[name] == pytest.approx(line[name], rel=1e-5), name
    # Tokens sum to the responses, and so do layers and the heat map.
    assert found.chosen.own.sum() == pytest.approx(line["full_dlogp_chosen"], rel=1e-4)
    assert found.rejected.own.sum() == pytest.approx(line["full_dlogp_rejected"], rel=1e-4)
    assert found.chosen.logps.sum() == pytest.approx(line["logp_chosen"], rel=1e-5)
    assert sum(layer["cross"] for layer in found.layers) == pytest.approx(line["full_gg_cross"], rel=1e-6)
    assert found.heat is not None
    assert found.heat.level == "gradient"
    assert float(found.heat.products.cross.sum()) == pytest.approx(line["full_gg_cross"], rel=1e-4)
    dpo = next(case for case in found.cases if case.loss == "dpo")
    assert (dpo.case, dpo.d_chosen) == (line["full_case"], pytest.approx(found.numbers["d_chosen"]))
    # And of the run's folder it is the same pair.
    (again,) = ut.explain(tmp_path, row=5)
    assert again.numbers == pytest.approx(found.numbers)
    assert again.foretold is None


def test_the_row_of_the_entanglement_is_autograds(runs: tuple[Path, Path, Path], explained: list[Explanation]) -> None:
    """Exact inner products of whole gradients under the optimiser's scaling, times the simulated coefficients."""
    with course(runs[2], Silent()) as found:
        assert found.scales is not None
        parameters = found.engine.parameters
        some = [found.pairs[int(number)] for number in found.stored.study.sample]
        responses = [Response(pair.prompt, tokens) for pair in some for tokens in (pair.chosen, pair.rejected)]
        sink = WholeGradients(parameters, len(responses))
        response_gradients(found.engine.model, responses, parameters, sink, packed=False)
        at = next(index for index, pair in enumerate(some) if pair.row == 3)
        P = {name: scale.flatten().double().square() for name, scale in found.scales.items()}
        mine = sink.found[2 * at]
        K = [
            sum(float((mine[name].double() * P[name] * other[name].double()).sum()) for name in P)
            for other in sink.found
        ]
        acted = (torch.tensor(K, dtype=torch.float64) * found.found.coefficients).view(-1, 2).sum(1)
    told = explained[0].foretold
    assert told is not None
    assert told.own == pytest.approx(float(acted[at]), rel=1e-3)
    others = [(float(nats), some[i].row) for i, nats in enumerate(acted) if i != at]
    scale = max(abs(nats) for nats, _ in others)
    assert told.others == pytest.approx(sum(nats for nats, _ in others), abs=1e-3 * scale)
    named = [(one.nats, one.row) for one in told.down]
    assert [row for _, row in named] == [row for nats, row in sorted(others)[: len(named)] if nats < 0]
    for (nats, _), (expected, _) in zip(named, sorted(others), strict=False):
        assert nats == pytest.approx(expected, abs=1e-3 * scale)
    ups = [one.nats for one in told.up]
    assert ups == sorted(ups, reverse=True)
    assert all(nats > 0 for nats in ups)


def test_the_forecasts_own_numbers_come_again_token_by_token(
    runs: tuple[Path, Path, Path], explained: list[Explanation]
) -> None:
    table = pq.read_table(runs[2] / "forecast.parquet").to_pylist()
    study = read_tensors(runs[2] / "forecast" / "entanglement.safetensors")
    look = read_tensors(runs[2] / "forecast" / "look.safetensors")
    assert study is not None
    assert look is not None
    for one in explained:
        assert one.row is not None
        assert one.foretold is not None
        told, line, at = one.foretold, table[one.row], 2 * one.row
        assert told.own == pytest.approx(line["own_chosen"], rel=0.02)
        # The forecast's are sketched: 131,071 numbers for 40,000 parameters, a part in a hundred of a sum.
        assert told.linear == pytest.approx(line["own_chosen"] + line["others_chosen"], rel=0.03)
        assert (told.size, told.told, told.steps) == (1.0, True, 8)
        assert line["step"] == told.trained_at[0]
        assert told.forecast["forecast_chosen"] == line["forecast_chosen"]
        for side, index in ((one.chosen, at), (one.rejected, at + 1)):
            assert side.looked is not None
            real = float(look[0]["logps"][index] - study[0]["logps"][index])
            assert side.looked.sum() == pytest.approx(real, abs=1e-4)
            assert len(side.pieces) == len(side.own) == len(side.looked) == len(side.logps)


def test_a_pair_by_itself_and_one_of_a_comparison(runs: tuple[Path, Path, Path], tmp_path: Path) -> None:
    data, model, out = runs
    given = {"prompt": "q?", "chosen": "yes, of course", "rejected": "yes, never"}
    (alone,) = ut.explain(model=str(model), **given)
    assert (alone.row, alone.foretold, alone.data) == (None, None, "")
    assert alone.parting is not None
    assert alone.parting.chosen != alone.parting.rejected
    gains = [one.rate for one in alone.parting.by_logp]
    assert gains == sorted(gains, reverse=True)
    (told,) = ut.explain(out, **given)
    assert told.foretold is not None
    assert told.foretold.own == 0  # it is not trained
    assert told.foretold.down
    assert told.chosen.looked is not None
    after = trained(data, model, tmp_path / "run", **RUN) / "model"
    moved = compared(data, model, after, tmp_path / "moved")
    (compare,) = ut.explain(moved, pair_id=alone_id(moved))
    assert compare.row == 2


def alone_id(folder: Path) -> str:
    """The id of row 2."""
    return str(pq.read_table(folder / "pairs.parquet")["pair_id"].to_pylist()[2])


def test_without_a_look_or_an_order_it_says_less(tmp_path: Path) -> None:
    data, model = made(tmp_path)
    settings = ForecastSettings(
        train=train_settings(**RUN, optimiser="sgd"), sketch=8191, order="unknown", orders=2, look=False, sample=12
    )
    forecast_to_folder(data, str(model), tmp_path / "out", settings)
    (found,) = ut.explain(tmp_path / "out", row=1, heat_map="none", top=3)
    told = found.foretold
    assert told is not None
    assert (told.size, found.chosen.looked, found.heat) == (None, None, None)
    assert not told.trained_at
    assert len(told.down) <= 3
    assert not any(one.steps for one in (*told.down, *told.up))
    assert told.stood_in != 0


def test_what_cannot_be_explained_is_said(runs: tuple[Path, Path, Path], tmp_path: Path) -> None:
    data, model, out = runs
    for arguments, options, said in (
        ((data, str(model)), {"row": 999}, "rows go from 0 to 23"),
        ((data, str(model)), {"pair_id": "zz"}, "no such pair"),
        ((data, str(model)), {}, "Which pair"),
        ((data, None), {"row": 1}, "--model"),
        ((None, str(model)), {"row": 1}, "DATA"),
        ((out, str(model)), {"row": 1}, "says the model"),
        ((data, str(model)), {"row": 1, "prompt": "a"}, "--chosen"),
        ((data, str(model)), {"row": 1, "heat_map": "warm"}, "--heat-map"),
    ):
        with pytest.raises(ut.OptionError, match=said):
            ut.explain(*arguments, **options)  # type: ignore[arg-type]
    same = write_jsonl(tmp_path / "same.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "b"}])
    with pytest.raises(ut.BadRowsError):
        ut.explain(same, str(model), row=0)
    scores = audited(data, model, tmp_path / "scores")
    arguments = json.loads((scores / "settings.json").read_text())
    other = write_jsonl(tmp_path / "other.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "c"}])
    arguments["settings"]["data"] = str(other)
    (scores / "settings.json").write_text(json.dumps(arguments))
    with pytest.raises(ut.DataError, match="no longer the pair"):
        ut.explain(scores, row=0)


def test_pieces_are_the_text(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(find_model(str(tiny_folder(tmp_path / "model"))))
    for text in ("plain words", "naïve 🙂 café ✓ done", "🙂" * 20, "", " a  b\n"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        found = pieces(tokenizer, ids)
        assert len(found) == len(ids)
        assert "".join(found) == text_of(tokenizer, ids)
        assert np.all([piece == "" or "\ufffd" not in piece for piece in found]) or "\ufffd" in text_of(tokenizer, ids)
