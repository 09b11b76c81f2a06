"""``undertow compare`` as users run it: what it writes, what it refuses, and that a stopped run goes on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from scipy.stats import spearmanr

import undertow as ut
import undertow.cli.commands.compare
from command import run, some_rows, write_jsonl
from tiny import tiny_folder, tiny_hf, tiny_tokenizer
from undertow.comparing.compare import compare, compare_to_folder
from undertow.comparing.continuations import greedy, worst
from undertow.comparing.folder import read_comparison
from undertow.comparing.pairs import SCHEMA
from undertow.comparing.settings import CompareSettings
from undertow.errors import DataError

ROWS = 24


def trained_folder(path: Path, *, by: float = 0.03) -> Path:
    """The tiny model after a training that was a small random step."""
    hf = tiny_hf("llama")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in hf.parameters():
            parameter += by * torch.randn(parameter.shape, generator=generator)
    hf.save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("before"))


@pytest.fixture(scope="module")
def after(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_folder(tmp_path_factory.mktemp("after"))


@pytest.fixture(scope="module")
def prefs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("data") / "prefs.jsonl", some_rows(ROWS))


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory, prefs: Path, before: Path) -> Path:
    """An audit of the model before, with the pull of the whole data set."""
    from undertow.auditing.audit import audit_to_folder
    from undertow.auditing.settings import AuditSettings

    out = tmp_path_factory.mktemp("audit") / "scores"
    settings = AuditSettings(tokens=ut.TokenSettings(max_length=400), dtype="float32", pull=True)
    audit_to_folder(prefs, str(before), out, settings)
    return out


def arguments(prefs: Path, before: Path, after: Path, out: Path, *more: object) -> list[object]:
    base: list[object] = ["compare", prefs, "--before", before, "--after", after, "--out", out, "--max-length", 400]
    return [*base, "--dtype", "float32", "--resamples", 200, *more]


@pytest.fixture(scope="module")
def done(tmp_path_factory, prefs: Path, before: Path, after: Path, scores: Path) -> Path:
    """A finished comparison, to be read only."""
    out = tmp_path_factory.mktemp("done") / "moved"
    settings = CompareSettings(
        tokens=ut.TokenSettings(max_length=400), dtype="float32", resamples=200, scores=(str(scores),)
    )
    compare_to_folder(prefs, str(before), str(after), out, settings)
    return out


def test_writes_what_it_says(capsys, prefs, before, after, scores, done, tmp_path) -> None:
    out = tmp_path / "moved"
    code, stdout, stderr = run(capsys, *arguments(prefs, before, after, out, "--scores", scores, "--json"))
    assert code == 0, stderr
    assert stderr == "note: Columns of the data that are not used: `source`.\n"  # no terminal, no progress
    summary = json.loads(stdout.splitlines()[-1])
    assert summary == json.loads((out / "compare.json").read_text())
    assert sorted(path.name for path in out.iterdir() if path.name != ".lock") == [
        "compare.json",
        "pairs.parquet",
        "report.html",
        "settings.json",
        "texts.parquet",
    ]
    table = pq.read_table(out / "pairs.parquet")
    assert table.schema.names == SCHEMA.names
    assert table["row"].to_pylist() == list(range(ROWS))
    assert (out / "pairs.parquet").read_bytes() == (done / "pairs.parquet").read_bytes()  # and so from Python
    for words in (
        "Displacement:",
        "Tokens that gained most",
        "responses listed",
        "AUC",
        "Spearman",
        "95% interval",
        "lowest change",
    ):
        assert words in stdout
    for found in summary["continuations"]:
        assert f"Row {found['row']}," in stdout
    assert {"torch", "transformers"} <= summary["versions"].keys()


def test_numbers_are_those_of_two_audits(done: Path, prefs: Path, before: Path, after: Path) -> None:
    table, _ = read_comparison(done)
    pairs, tokens = ut.read_pairs(prefs), ut.TokenSettings(max_length=400)
    for name, folder in (("before", before), ("after", after)):
        audited = ut.audit(pairs, ut.load_model(str(folder), dtype="float32"), tokens=tokens)
        for side in ("chosen", "rejected"):
            assert table[f"{name}_logp_{side}"].to_pylist() == audited[f"logp_{side}"].to_pylist()
            assert table[f"{side}_tokens"].equals(audited[f"{side}_tokens"])
        assert table["pair_id"].equals(audited["pair_id"])


def expected(table: pa.Table, name: str) -> np.ndarray:
    """What is averaged, by its definition over the columns of the table."""
    before, after = (
        np.array(table[f"{when}_logp_chosen"]) > np.array(table[f"{when}_logp_rejected"])
        for when in ("before", "after")
    )
    margins = [
        np.array(table[f"{when}_logp_chosen"]) - np.array(table[f"{when}_logp_rejected"])
        for when in ("before", "after")
    ]
    derived = {
        "reward_accuracy": margins[1] > margins[0],
        "likelihood_accuracy_before": before,
        "likelihood_accuracy_after": after,
        "likelihood_accuracy_change": after.astype(float) - before,
    }
    return np.asarray(derived[name] if name in derived else np.array(table[name]), float)


def test_summary_is_that_of_the_table(done: Path) -> None:
    table, summary = read_comparison(done)
    for name, found in summary["means"].items():
        values = expected(table, name)
        assert found["value"] == pytest.approx(values.mean(), rel=1e-12), name
        assert found["low"] <= found["value"] <= found["high"]
    assert summary["means"]["dmargin"]["low"] < summary["means"]["dmargin"]["high"]
    margin = np.array(table["dmargin"])
    loss = np.log1p(np.exp(-0.1 * margin)).mean()
    found = summary["displacement"]
    assert found["loss_before"] == pytest.approx(np.log(2), rel=1e-12)
    assert found["loss_after"] == pytest.approx(loss, rel=1e-12)
    change = np.array(table["dlogp_chosen"]).mean()
    verdict = ("displaced" if change < 0 else "not displaced") if loss < np.log(2) else "not applicable"
    assert found["verdict"] == verdict


def test_predictions_are_held_against_what_happened(done: Path, scores: Path) -> None:
    table, summary = read_comparison(done)
    audited, fact = ut.read_scores(scores), np.array(table["dlogp_chosen"])
    found = summary["prediction"]["predictors"]
    low = {"dlogp_chosen", "free_dlogp_chosen", "edit_distance", "pull"}
    baselines = {"chosen_tokens", "-logp_chosen"}
    assert found.keys() == low | {"ln_ches", "ches", "last_hidden_ip"} | baselines
    for name, values in found.items():
        assert values["baseline"] == (name in baselines)
        derived = {
            "pull": lambda: np.array(audited["pull_own"]) + np.array(audited["pull_others"]),
            "-logp_chosen": lambda: -np.array(audited["logp_chosen"]),
        }
        score = derived[name]() if name in derived else np.array(audited[name], float)
        score = score * (1 if name in low else -1)
        assert values["pairs"] == ROWS
        assert values["spearman"]["value"] == pytest.approx(spearmanr(score, fact).statistic, abs=1e-9), name
        wins = [(a < b) + 0.5 * (a == b) for a in score[fact < 0] for b in score[fact >= 0]]
        assert values["auc"]["value"] == pytest.approx(np.mean(wins), abs=1e-9), name
        assert values["auc"]["low"] <= values["auc"]["value"] <= values["auc"]["high"]


def test_a_perfect_predictor_scores_one(done: Path) -> None:
    """The sign: a score that *is* what happened is right, at whichever end its displacing pairs are."""
    from undertow.comparing.prediction import against_fact, predictions_of

    table, _ = read_comparison(done)
    scores = table.select(["row", "pair_id", "dlogp_chosen"])
    scores = scores.append_column("ln_ches", pa.array(-np.array(table["dlogp_chosen"])))
    found = against_fact(predictions_of(scores), table, resamples=20, seed=0)["predictors"]
    for values in found.values():
        assert values["spearman"]["value"] == pytest.approx(1.0)
        assert values["auc"]["value"] == 1.0


def test_scores_may_stand_in_any_order(done: Path, scores: Path) -> None:
    """A table that is not in row order gives every pair its own score."""
    from undertow.comparing.prediction import against_fact, predictions_of

    table, summary = read_comparison(done)
    audited = ut.read_scores(scores)
    for order in (np.arange(ROWS)[::-1], np.random.default_rng(0).permutation(ROWS)):
        shuffled = predictions_of(audited.take(pa.array(order)))
        assert shuffled.fingerprint == predictions_of(audited).fingerprint
        assert against_fact(shuffled, table, resamples=200, seed=0) == summary["prediction"]
    with pytest.raises(DataError, match="row 3 of the data more than once"):
        predictions_of(pa.concat_tables([audited, audited.slice(3, 1)]))


def test_a_longer_response_is_said_to_fall_by_the_baseline() -> None:
    """The baselines' sign: where longer and less likely responses fall more, both are right."""
    from undertow.comparing.prediction import against_fact, predictions_of

    tokens = np.array([5, 40, 10, 80, 2])
    ids = [f"{row}" for row in range(5)]
    common = {"row": range(5), "pair_id": ids}
    scored = {**common, "ln_ches": [0.0, 1.0, 0.5, 2.0, 0.1], "chosen_tokens": tokens, "logp_chosen": -1.5 * tokens}
    fact = pa.table({**common, "dlogp_chosen": 6.0 - tokens})
    found = against_fact(predictions_of(pa.table(scored)), fact, resamples=20, seed=0)["predictors"]
    for name in ("chosen_tokens", "-logp_chosen"):
        assert found[name]["spearman"]["value"] == pytest.approx(1.0)
        assert found[name]["auc"]["value"] == 1.0


def test_a_model_against_itself(capsys, prefs, before, scores, tmp_path) -> None:
    out = tmp_path / "moved"
    code, stdout, err = run(capsys, *arguments(prefs, before, before, out, "--scores", scores))
    assert code == 0, err
    assert "The two models are the same: nothing moved." in stdout
    for table_of_zeros in ("Means", "Probability on", "Spearman", "lowest change", "Row "):
        assert table_of_zeros not in stdout
    table, summary = read_comparison(out)
    for name in ("dlogp_chosen", "dlogp_rejected", "dmargin", "kl_chosen", "kl_rejected"):
        assert set(table[name].to_pylist()) == {0.0}
        assert summary["means"][name] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert summary["displacement"]["verdict"] == "not applicable"
    assert summary["gained"] == []
    for values in summary["prediction"]["predictors"].values():
        assert values["spearman"]["value"] is None
        assert values["auc"]["value"] is None
    assert all(found["before"] == found["after"] for found in summary["continuations"])


def test_verdicts() -> None:
    """Definition 1, by hand, β = 1: the margin must have grown for the word to apply at all."""
    from undertow.comparing.summary import displacement

    def verdict(dw: float, dl: float) -> str:
        names = ("before_logp_chosen", "before_logp_rejected", "after_logp_chosen", "after_logp_rejected")
        values = dict(zip(names, (-3.0, -4.0, -3.0 + dw, -4.0 + dl), strict=True))
        return displacement({k: np.array([v]) for k, v in {**values, "dlogp_chosen": dw}.items()}, 1.0)["verdict"]

    assert verdict(-1.0, -2.0) == "displaced"
    assert verdict(1.0, -2.0) == "not displaced"
    assert verdict(0.0, -2.0) == "not displaced"  # strictly
    assert verdict(-2.0, -1.0) == "not applicable"
    assert verdict(-1.0, -1.0) == "not applicable"


def test_python_gives_the_same(done: Path, prefs: Path, before: Path, after: Path, scores: Path) -> None:
    table, summary = read_comparison(done)
    models = [ut.load_model(str(folder), dtype="float32") for folder in (before, after)]
    found = compare(
        ut.read_pairs(prefs), *models, scores=ut.read_scores(scores), tokens=ut.TokenSettings(max_length=400),
        resamples=200, generate=3,
    )  # fmt: skip
    assert found.table.equals(table)
    assert found.summary == {name: summary[name] for name in found.summary}
    assert [model.attention for model in models] == ["tree", "tree"]


def test_continuations_are_greedy_and_of_the_worst_pairs(done: Path, after: Path) -> None:
    table, summary = read_comparison(done)
    change = np.array(table["dlogp_chosen"])
    assert [found["row"] for found in summary["continuations"]] == np.argsort(change)[:3].tolist() == worst(table, 3)
    tokenizer, hf = tiny_tokenizer(), tiny_hf("llama")
    hf.load_state_dict(ut.load_model(str(after), dtype="float32").hf.state_dict())
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    for found in summary["continuations"]:
        row = some_rows(ROWS)[found["row"]]
        message = [{"role": "user", "content": row["prompt"]}]
        ids = list(tokenizer.apply_chat_template(message, add_generation_prompt=True)["input_ids"])
        said: list[int] = []
        with torch.no_grad():
            while len(said) < 48 and not {end, 2} & set(said):
                said.append(int(hf(input_ids=torch.tensor([ids + said])).logits[0, -1].argmax()))
        assert found["after"] == tokenizer.decode(said, skip_special_tokens=True)
        assert found["chosen"] == row["chosen"]
        assert row["prompt"] in found["prompt"]


def test_a_models_own_generation_settings_do_not_make_greedy_something_else(before: Path) -> None:
    model = ut.load_model(str(before), dtype="float32")
    plain = greedy(model, (5, 6, 7), (), 12)
    assert len(plain) == 12
    own = model.hf.generation_config
    for name, value in (
        ("do_sample", True),
        ("temperature", 9.0),
        ("repetition_penalty", 5.0),
        ("suppress_tokens", [plain[0]]),
        ("max_length", 5),
    ):
        setattr(own, name, value)
        assert greedy(model, (5, 6, 7), (), 12) == plain, name
        assert model.hf.generation_config is own
        assert getattr(own, name) == value


def test_continuations_end_where_a_turn_or_the_positions_end(before: Path) -> None:
    model = ut.load_model(str(before), dtype="float32")
    said = greedy(model, (5, 6, 7), (), 12)
    assert greedy(model, (5, 6, 7), (said[3],), 12) == said[: said.index(said[3]) + 1]
    assert len(greedy(model, (5,) * 510, ())) == 2
    assert greedy(model, (5,) * 512, ()) == []


def test_changed_answers_stand_before_the_averages(capsys, prefs, before, after, scores, done, tmp_path) -> None:
    """Of three worst pairs the last answers otherwise than before: it is told first, the others at the end."""
    out = Path(shutil.copytree(done, tmp_path / "moved"))
    summary = json.loads((out / "compare.json").read_text())
    for one, said in zip(summary["continuations"], ("Yes.", "Yes.", "No."), strict=True):
        one |= {"before": "Yes.", "after": said}
    (out / "compare.json").write_text(json.dumps(summary))
    code, stdout, err = run(capsys, *arguments(prefs, before, after, out, "--scores", scores))
    assert code == 0, err
    rows = [one["row"] for one in summary["continuations"]]
    assert "To 1 of the 3 worst prompts the model now answers something else than before" in stdout
    places = [stdout.index(f"\nRow {row},") for row in (rows[2], rows[0], rows[1])]
    assert places == sorted(places)
    assert places[0] < stdout.index("Means over the pairs") < places[1]


def test_generate_0_turns_continuations_off(capsys, prefs, before, after, tmp_path) -> None:
    code, stdout, _ = run(capsys, *arguments(prefs, before, after, tmp_path / "out", "--generate", 0))
    assert code == 0
    assert read_comparison(tmp_path / "out")[1]["continuations"] == []
    assert "\n  before " not in stdout


def test_a_finished_comparison_is_only_read(capsys, prefs, before, after, scores, done, tmp_path, monkeypatch) -> None:
    out = Path(shutil.copytree(done, tmp_path / "moved"))
    stamp = (out / "pairs.parquet").stat().st_mtime_ns
    monkeypatch.setattr("undertow.comparing.compare.part_tables", lambda *a, **k: pytest.fail("compared again"))
    code, stdout, err = run(capsys, *arguments(prefs, before, after, out, "--scores", scores))
    assert code == 0, err
    assert "finished already" in err
    assert "Displacement" in stdout
    assert (out / "pairs.parquet").stat().st_mtime_ns == stamp


def test_another_comparison_in_the_same_folder_is_refused(capsys, prefs, before, after, scores, done, tmp_path) -> None:
    out = Path(shutil.copytree(done, tmp_path / "moved"))
    other = write_jsonl(tmp_path / "other.jsonl", some_rows(ROWS - 1))
    scored = ["--scores", scores]
    for data, one, two, more, differs in (
        (other, before, after, scored, "data"),
        (prefs, after, after, scored, "weights before"),
        (prefs, before, before, scored, "weights after"),
        (prefs, before, after, [*scored, "--no-eot"], "--eot"),
        (prefs, before, after, [*scored, "--beta", 1], "--beta"),
        (prefs, before, after, [*scored, "--seed", 1], "--seed"),
        (prefs, before, after, [*scored, "--generate", 1], "--generate"),
        (prefs, before, after, [], "--scores"),
    ):
        code, _, err = run(capsys, *arguments(data, one, two, out, *more))
        assert code == 2, differs
        assert f"\n  {differs}: " in err
        assert "--overwrite" in err
        assert (out / "pairs.parquet").read_bytes() == (done / "pairs.parquet").read_bytes()
    code, _, err = run(capsys, *arguments(other, before, after, out, "--overwrite"))
    assert code == 0, err
    assert len(read_comparison(out)[0]) == ROWS - 1


def test_a_stopped_comparison_goes_on(prefs, before, after, done, tmp_path, monkeypatch) -> None:
    """Stopped in the middle, then between the table and the summary: no finished part again, the same bytes at last."""
    from undertow.comparing import compare as module
    from undertow.comparing.folder import CompareFolder

    plain, computed = module.compare_rows, []
    monkeypatch.setattr(module, "compare_rows", lambda *a: computed.append(1) or plain(*a))
    settings = CompareSettings(tokens=ut.TokenSettings(max_length=400), dtype="float32", resamples=200)

    def go() -> dict:
        return compare_to_folder(prefs, str(before), str(after), tmp_path / "out", settings, part_pairs=5)

    def stop(*_args, **_more):
        raise KeyboardInterrupt

    write = CompareFolder.write_part
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(CompareFolder, "write_part", lambda self, i, *a: write(self, i, *a) if i < 3 else stop())
        go()
    assert not (tmp_path / "out" / "pairs.parquet").exists()
    assert len(computed) == 4
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(CompareFolder, "commit", stop)
        go()
    assert len(computed) == 6  # parts 3 and 4
    assert not (tmp_path / "out" / "compare.json").exists()
    summary = go()
    assert len(computed) == 6
    assert not (tmp_path / "out" / ".parts").exists()
    undisturbed = compare_to_folder(prefs, str(before), str(after), tmp_path / "whole", settings, part_pairs=5)
    for name in ("means", "gained", "continuations", "displacement", "fingerprints"):
        assert summary[name] == undisturbed[name]
    assert (tmp_path / "out" / "pairs.parquet").read_bytes() == (tmp_path / "whole" / "pairs.parquet").read_bytes()
    table, reference = read_comparison(tmp_path / "out")[0], read_comparison(done)[0]
    assert table["dlogp_chosen"].to_pylist() == pytest.approx(reference["dlogp_chosen"].to_pylist(), abs=1e-3)


BAD = [{"prompt": "a", "chosen": "same", "rejected": "same"}, {"prompt": "a", "chosen": "b"}]


def test_bad_rows(capsys, before, after, tmp_path, monkeypatch) -> None:
    data = write_jsonl(tmp_path / "prefs.jsonl", BAD + some_rows(5))
    with monkeypatch.context() as patch:
        patch.setattr("undertow.comparing.checkpoints.load_model", lambda *a, **k: pytest.fail("weights were loaded"))
        code, _, err = run(capsys, *arguments(data, before, after, tmp_path / "out"))
        assert code == 2
        assert "2 rows cannot be used" in err
        assert not (tmp_path / "out").exists()
    code, stdout, _ = run(capsys, *arguments(data, before, after, tmp_path / "out", "--on-bad-row", "skip"))
    assert code == 0
    assert "2 rows were set aside" in stdout
    skipped = [json.loads(line)["row"] for line in (tmp_path / "out" / "skipped.jsonl").read_text().splitlines()]
    assert skipped == [0, 1]
    assert read_comparison(tmp_path / "out")[0]["row"].to_pylist() == [2, 3, 4, 5, 6]


def test_scores_of_other_data_are_refused_before_weights_are_loaded(
    capsys, before, after, scores, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr("undertow.comparing.checkpoints.load_model", lambda *a, **k: pytest.fail("weights were loaded"))
    swapped = [{**row, "chosen": row["chosen"] + " Yes."} for row in some_rows(ROWS)]
    data = write_jsonl(tmp_path / "prefs.jsonl", swapped)
    code, _, err = run(capsys, *arguments(data, before, after, tmp_path / "out", "--scores", scores))
    assert code == 2
    assert "row 0 is another pair" in err


def test_pairs_without_scores_are_counted(capsys, before, after, scores, tmp_path) -> None:
    data = write_jsonl(tmp_path / "prefs.jsonl", some_rows(ROWS + 3))
    code, stdout, _ = run(capsys, *arguments(data, before, after, tmp_path / "out", "--scores", scores))
    assert code == 0
    assert "3 pairs have no scores" in stdout
    found = read_comparison(tmp_path / "out")[1]["prediction"]
    assert found["without_scores"] == 3
    assert found["predictors"]["ln_ches"]["pairs"] == ROWS


def test_models_of_other_vocabularies_are_refused(capsys, prefs, before, tmp_path) -> None:
    other = tiny_folder(tmp_path / "other")
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(other)
    code, _, err = run(capsys, *arguments(prefs, before, other, tmp_path / "out"))
    assert code == 2
    assert "another vocabulary" in err
    assert "--after" in err
    hf = tiny_hf("llama")
    hf.resize_token_embeddings(304)
    hf.save_pretrained(tmp_path / "padded")
    tiny_tokenizer().save_pretrained(tmp_path / "padded")
    code, _, err = run(capsys, *arguments(prefs, before, tmp_path / "padded", tmp_path / "out"))
    assert code == 2
    assert "304 rows" in err
    assert "resize_token_embeddings(304)" in err


def test_folders_of_something_else_are_left_alone(capsys, prefs, before, after, scores, tmp_path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "pairs.parquet").write_text("mine")
    audit = Path(shutil.copytree(scores, tmp_path / "audit"))
    for out in (theirs, audit):
        code, _, err = run(capsys, *arguments(prefs, before, after, out, "--overwrite"))
        assert code == 2
        assert "Name a" in err
        assert "--out" in err
    assert (theirs / "pairs.parquet").read_text() == "mine"
    assert ut.read_scores(audit).equals(ut.read_scores(scores))


def test_a_model_that_overflows_is_said(capsys, prefs, before, tmp_path) -> None:
    from safetensors.torch import load_file, save_file

    broken = tiny_folder(tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    weights["model.embed_tokens.weight"][tiny_tokenizer().convert_tokens_to_ids("!")] = float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    code, _, err = run(capsys, *arguments(prefs, before, broken, tmp_path / "out", "--json"))
    assert code == 0, err
    assert "not finite" in err
    summary = read_comparison(tmp_path / "out")[1]
    assert summary["nonfinite"]["count"] == ROWS
    assert summary["means"]["dlogp_chosen"]["value"] is None
    assert summary["displacement"]["verdict"] == "not applicable"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--beta", "0"], "--beta 0"),
        (["--generate", "-1"], "--generate -1"),
        (["--resamples", "0"], "--resamples 0"),
        (["--batch-tokens", "0"], "--batch-tokens 0"),
        (["--seed", "-1"], "--seed -1"),
        (["--scores", "nowhere"], "nowhere"),
        (["--engine", "ray"], "--engine ray"),
        (["--max-length", "4000"], "beyond the 512 positions"),
        (["--device", "tpu"], "--device tpu"),
        (["--limit", "0"], "--limit 0"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_wrong_options_exit_2_and_name_the_option(capsys, prefs, before, after, tmp_path, more, message) -> None:
    code, _, err = run(capsys, *arguments(prefs, before, after, tmp_path / "out", *more))
    assert code == 2
    assert message in err
    assert "Traceback" not in err


def test_text_from_the_data_cannot_command_the_terminal(capsys, before, after, tmp_path) -> None:
    row = {"prompt": "say \x1b[31mred", "chosen": "[bold]red[/bold]\x1b[0m", "rejected": "blue\u202e"}
    data = write_jsonl(tmp_path / "prefs.jsonl", [row])
    code, stdout, _ = run(capsys, *arguments(data, before, after, tmp_path / "out"))
    assert code == 0
    assert "\x1b" not in stdout
    assert "\u202e" not in stdout
    assert "[bold]red[/bold]" in stdout


def test_help_teaches(capsys) -> None:
    code, out, _ = run(capsys, "compare", "--help")
    assert code == 0
    assert "undertow compare prefs" in out
