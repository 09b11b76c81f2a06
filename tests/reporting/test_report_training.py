"""The pages of training runs: what they say is what the folders hold."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from command import run
from run_folders import made, rows_drawn, train_settings, trained
from undertow.errors import DataError
from undertow.maths.displacement import largest_decrease
from undertow.reporting.sweep.page import arms_table, multi, names, read_arms, row_of
from undertow.reporting.sweep.page import figures as sweep_figures
from undertow.reporting.sweep.page import headline as sweep_headline
from undertow.reporting.sweep.page import report as sweep_report
from undertow.reporting.training.page import cards, fallen, gaining, headline, notes, run_charts
from undertow.reporting.training.page import report as training_report
from undertow.reporting.training.reading import Run, read_run, spread
from undertow.training.run import train_to_folder
from undertow.training.settings import TrainSettings
from undertow.training.sweep import sweep
from undertow.wording.numbers import MISSING, number, percent, signed, times


@pytest.fixture(scope="module")
def model_and_data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return made(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def folder(model_and_data: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with a guard that fires again and again, a watched group and a filter; only read."""
    data, model = model_and_data
    return trained(
        data, model, tmp_path_factory.mktemp("trained") / "run", watch={"yes": ("Yes", "Sure")},
        guard=("margin_change>0 -> warn",), filter=("ln_ches drop-highest 25%",),
    )  # fmt: skip


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    """The same run, to be changed."""
    return shutil.copytree(folder, tmp_path / "run")


def by_name(run: Run) -> dict[str, Any]:
    return {figure.name: figure for figure in run_charts(run)}


def a_run(**final: Any) -> Run:
    """A run of two looks, the second as given."""
    looks = [
        {"step": 0, "chosen_logp": -10.0, "rejected_logp": -9.0, "chosen_change": 0.0, "rejected_change": 0.0,
         "margin": -1.0, "margin_change": 0.0, "reward_accuracy": 0.0, "displaced": 0.0, "largest_decrease": 0.0},
    ]  # fmt: skip
    looks.append({**looks[0], "step": 300, **final})
    summary = {"steps": 300, "loss": 0.5, "tracked": looks[-1], "arguments": {"loss": "DPO(beta=0.1)"}}
    return Run("run", looks, {}, summary, [], None, [])


def test_the_numbers_are_those_of_the_last_look(folder: Path) -> None:
    page = training_report(folder)
    last = pq.read_table(folder / "tracking.parquet").to_pylist()[-1]
    shown = {card["label"]: card["value"] for card in cards(read_run(folder))}
    assert shown["Displaced"] == percent(last["displaced"])
    assert shown["Margin"] == signed(last["margin_change"])
    assert shown["Largest decrease"] == number(last["largest_decrease"])
    assert headline(read_run(folder)) in page.replace("<strong>", "").replace("</strong>", "").replace("&#39;", "'")
    assert f"margin grew by {number(last['margin_change'])} nats" in page
    for label, value in shown.items():
        assert label in page
        assert value in page


def test_the_course_draws_every_look_and_marks_the_guards(folder: Path) -> None:
    found = read_run(folder)
    course = by_name(found)["course"]
    rows = rows_drawn(course.chart)
    for name, what in (("chosen_change", "chosen"), ("rejected_change", "rejected"), ("margin_change", "margin")):
        assert [(row["step"], row[name]) for row in found.looks] == [
            (row["step"], row["value"]) for row in rows if row.get("what") == what and "value" in row
        ]
    fired = [json.loads(line)["step"] for line in (folder / "guard.jsonl").read_text().splitlines()]
    assert len(fired) > 1
    assert {row["step"] for row in rows if "number" in row} == set(fired)
    assert "margin_change&gt;0 -&gt; warn" in training_report(folder)
    assert f"Guards fired {times(len(fired))} (dashed)." in course.says


def test_what_was_left_out_and_watched_and_logged_is_told(folder: Path) -> None:
    found = read_run(folder)
    assert found.filtered == len((folder / "filtered.jsonl").read_text().splitlines()) == 6
    assert any("6 pairs had been left out" in note for note in notes(found))
    shown = by_name(found)
    assert shown.keys() == {"course", "levels", "watched", "loss", "rewards"}
    log = json.loads((folder / "checkpoint-8" / "trainer_state.json").read_text())["log_history"]
    losses = [entry["loss"] for entry in log if "loss" in entry]
    assert [row["value"] for row in rows_drawn(shown["loss"].chart)] == losses
    last = pq.read_table(folder / "tracking.parquet").to_pylist()[-1]
    assert signed(last["watch/yes"]) in shown["watched"].says
    table = gaining(found)
    assert [token["text"] for token in table[-1]["tokens"]] == [
        text for text, gain in zip(last["gaining_tokens"], last["gaining"], strict=True) if gain > 0
    ]


def test_a_run_that_is_not_finished_has_a_page_that_says_so(copied: Path) -> None:
    (copied / "train.json").unlink()
    page = training_report(copied)
    assert "This run is not finished" in page
    assert "margin grew by" in page
    shutil.rmtree(copied / "checkpoint-8")
    shutil.rmtree(copied / "checkpoint-4")
    assert by_name(read_run(copied)).keys() == {"course", "levels", "watched"}


def test_columns_that_a_run_may_have_are_drawn_or_do_no_harm(copied: Path) -> None:
    """Gradients at each look, with ``--track-gradients``; and a column that nobody knows."""
    table = pq.read_table(copied / "tracking.parquet")
    shares = {f"case/{case}": 0.25 * (case in (2, 4)) + 0.5 * (case == 1) for case in range(5)}
    products = {"gradient/chosen": 7.0, "gradient/cross": 3.0, "gradient/rejected": 5.0, "gradient/condition": 0.5}
    over_all = {f"full_{name}": 1 - value for name, value in (shares | products).items()}
    for name, value in (shares | products | over_all | {"other/thing": 1.0}).items():
        table = table.append_column(name, pa.array([value] * len(table)))
    pq.write_table(table, copied / "tracking.parquet")
    shown = by_name(read_run(copied))
    assert {"cases", "gradients", "full-cases", "full-gradients"} <= shown.keys()
    for said in ("both down 25%", "chosen down, rejected up 25%", "chosen up, rejected down 50%"):
        assert said in shown["cases"].says
    assert "both up" not in shown["cases"].says
    last = [row["value"] for row in rows_drawn(shown["cases"].chart) if row.get("step") == 8]
    assert sum(last) == 1
    assert "of 50% of the probe pairs" in shown["gradients"].says
    assert "of 50% of some of the probe pairs, by the gradients of all" in shown["full-gradients"].says
    assert "both down 75%" in shown["full-cases"].says
    assert {row["value"] for row in rows_drawn(shown["gradients"].chart) if "value" in row} == {7.0, 3.0, 5.0}


def test_a_run_that_was_not_tracked_says_so(model_and_data: tuple[Path, Path], tmp_path: Path) -> None:
    data, model = model_and_data
    out = trained(data, model, tmp_path / "run", track_every=0)
    page = training_report(out)
    assert "nothing is known of the probe pairs" in page
    assert "--track-every 0" in page
    assert by_name(read_run(out)).keys() == {"loss", "rewards"}


def test_what_guards_did_is_told(model_and_data: tuple[Path, Path], tmp_path: Path) -> None:
    data, model = model_and_data
    guards = ("margin_change>0 -> drop=10%", "margin_change>0 for 2 -> rollback")
    out = trained(data, model, tmp_path / "run", guard=guards, save_every=2)
    found, page = read_run(out), training_report(out)
    dropped = next(firing for firing in found.firings if firing["action"] == "drop")
    assert f"drop 10%, {len(dropped['rows'])} pairs" in page
    stopped = next(firing for firing in found.firings if firing["action"] == "rollback")
    assert f"A guard ended the run at step {stopped['step']}: margin_change&gt;0 for 2 -&gt; rollback." in page
    assert found.summary is not None
    assert found.summary["rolled_back_to"] is None  # at every checkpoint a guard held
    assert "No checkpoint was inside the guards&#39; limits" in page


def test_the_pairs_that_fell_are_listed_the_worst_first(copied: Path) -> None:
    rows = pq.read_table(copied / "probe.parquet").to_pylist()
    for n, row in enumerate(rows):
        row |= {"chosen_change": -2.5 + n, "rejected_change": -1.0, "displaced": -2.5 + n < 0}
    rows[1]["chosen_change"] = float("nan")
    rows[0]["chosen"] = "<script>alert(1)</script>\u202e"
    pq.write_table(pa.Table.from_pylist(rows[::-1]), copied / "probe.parquet")
    found = fallen(read_run(copied))
    assert [pair["row"] for pair in found["pairs"]] == [rows[0]["row"], rows[2]["row"]]
    worst = found["pairs"][0]
    assert (worst["chosen_change"], worst["margin_change"]) == (signed(-2.5), signed(-1.5))
    assert found["says"].startswith(f"2 of {len(rows) - 1} probe pairs have a chosen response that is less likely")
    page = training_report(copied)
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;[U+202E]" in page
    assert page.index(f"Row {rows[0]['row']}<") < page.index(f"Row {rows[2]['row']}<")
    assert rows[2]["prompt"].splitlines()[0] in page
    # A threshold: those below it are listed too, and marked.
    tracking = pq.read_table(copied / "tracking.parquet").to_pylist()
    summary = json.loads((copied / "train.json").read_text())
    summary["tracked"] |= {"displaced_by": 1.0, "displaced": 0.1}
    (copied / "train.json").write_text(json.dumps(summary))
    rows[2]["displaced"] = False
    pq.write_table(pa.Table.from_pylist(rows), copied / "probe.parquet")
    page = training_report(copied)
    assert "1 fell by more than 1.00 nats and count as displaced" in page
    assert "tokens, not counted as displaced" in page
    assert "probe pairs whose chosen response fell by more than 1.00 nats" in page
    assert tracking[-1]["displaced_by"] == 0.0


def test_no_pair_fell(copied: Path) -> None:
    rows = pq.read_table(copied / "probe.parquet").to_pylist()
    pq.write_table(pa.Table.from_pylist([{**row, "chosen_change": 0.5} for row in rows]), copied / "probe.parquet")
    assert fallen(read_run(copied))["says"].endswith("none has a chosen response that is less likely than before.")
    assert '<details class="pair"' not in training_report(copied)


def test_a_folder_of_an_earlier_version_is_shown(copied: Path, swept: Path, tmp_path: Path) -> None:
    """``reward_accuracy`` was called ``accuracy``, and nothing was kept of single pairs."""
    looks = pq.read_table(copied / "tracking.parquet").to_pylist()
    old = [{"accuracy" if name == "reward_accuracy" else name: value for name, value in row.items()} for row in looks]
    for row in old:
        del row["likelihood_accuracy"], row["displaced_by"]
    pq.write_table(pa.Table.from_pylist(old), copied / "tracking.parquet")
    summary = json.loads((copied / "train.json").read_text())
    summary["tracked"] = old[-1]
    (copied / "train.json").write_text(json.dumps(summary))
    (copied / "probe.parquet").unlink()
    shown = {card["label"]: card["value"] for card in cards(read_run(copied))}
    assert shown["Reward accuracy"] == percent(looks[-1]["reward_accuracy"])
    assert "kept no numbers of single pairs" in training_report(copied)
    sweep = shutil.copytree(swept, tmp_path / "sweep")
    arms = json.loads((sweep / "sweep.json").read_text())["arms"]
    for arm in arms:
        arm["accuracy"] = arm.pop("reward_accuracy")
    (sweep / "sweep.json").write_text(json.dumps({"arms": arms}))
    assert read_arms(sweep) == read_arms(swept)
    assert sweep_report(sweep) == sweep_report(swept)


def test_a_token_is_only_a_text(copied: Path) -> None:
    rows = pq.read_table(copied / "tracking.parquet").to_pylist()
    rows[-1]["gaining_tokens"] = ["</script><script>alert(1)</script>", "{{ 7 * 7 }}", "\x1b[31m\u202e\n"]
    rows[-1]["gaining"] = [0.3, 0.2, 0.1]
    pq.write_table(pa.Table.from_pylist(rows), copied / "tracking.parquet")
    page = training_report(copied)
    assert "<script>alert" not in page
    assert "{{␣7␣*␣7␣}}" in page
    assert "␛[31m[U+202E]⏎" in page


def test_numbers_that_are_not_finite_leave_a_gap(copied: Path) -> None:
    rows = pq.read_table(copied / "tracking.parquet").to_pylist()
    rows[-1] |= {name: float("nan") for name in ("chosen_change", "margin_change", "chosen_logp", "displaced")}
    pq.write_table(pa.Table.from_pylist(rows), copied / "tracking.parquet")
    summary = json.loads((copied / "train.json").read_text())
    summary["tracked"] |= {"chosen_change": float("nan"), "margin_change": float("nan")}
    (copied / "train.json").write_text(json.dumps(summary))
    assert "no finite numbers any more" in headline(read_run(copied))
    page = training_report(copied)  # JSON has no NaN: the page could not be made with one
    assert "no finite numbers any more" in page
    assert MISSING in page


@pytest.mark.parametrize(
    ("final", "words"),
    [
        (
            {"margin_change": 12.3, "chosen_change": -8.1, "displaced": 0.41},
            "After 300 steps the margin grew by 12.3 nats, but 41% of the probe pairs are displaced: "
            "the mean chosen log-probability fell by 8.10 nats.",
        ),
        ({"margin_change": 2.0, "chosen_change": 1.5, "displaced": 0.0}, "no probe pair is displaced"),
        ({"margin_change": 2.0, "chosen_change": 1.5, "displaced": 0.004}, "less than 1% of the probe pairs"),
        ({"margin_change": -2.0, "chosen_change": -3.0, "displaced": 1.0}, "the preferences were not learned"),
        ({"margin_change": 0.0, "chosen_change": 0.0, "displaced": 0.0}, "the probe pairs are as they were"),
    ],
)
def test_the_headline_says_what_happened(final: dict[str, float], words: str) -> None:
    assert words in headline(a_run(**final))


def test_a_run_that_was_rolled_back_speaks_of_the_weights_it_ended_with() -> None:
    found = a_run(margin_change=9.0, chosen_change=-5.0, displaced=0.9)
    kept = {**found.looks[0], "step": 100, "margin_change": 1.0, "chosen_change": 0.5}
    firing = {"step": 300, "guard": "displaced>0.5 -> rollback", "action": "rollback", "values": {"displaced": 0.9}}
    summary = {**found.summary, "rolled_back_to": 100, "tracked": kept}
    back = Run("run", found.looks, {}, summary, [firing], None, [])
    assert "margin grew by 1.00 nats" in headline(back)
    assert any("put back to those of step 100" in note for note in notes(back))
    assert any("displaced>0.5 -> rollback" in note for note in notes(back))


def test_the_largest_decrease_is_marked_where_it_was(folder: Path) -> None:
    looks = [{**row, "chosen_logp": value} for row, value in zip(
        read_run(folder).looks, [-10.0, -7.0, -12.0, -11.0, -11.5], strict=True)]  # fmt: skip
    found = Run("run", looks, {}, None, [], None, [])
    drop, start, end = largest_decrease([row["chosen_logp"] for row in looks])
    levels = by_name(found)["levels"]
    assert f"{number(drop)} nats from step {looks[start]['step']} to step {looks[end]['step']}" in levels.says


rows_of = st.lists(st.integers(1, 50), max_size=60).map(
    lambda gaps: [{"step": sum(gaps[: n + 1])} for n in range(len(gaps))]
)


@given(rows_of, st.integers(2, 20))
def test_spread_keeps_the_ends_and_no_more_than_it_may(rows: list[dict[str, Any]], most: int) -> None:
    kept = spread(rows, most)
    assert len(kept) == min(len(rows), most)
    assert kept[:1] + kept[-1:] == rows[:1] + rows[-1:]
    asked = [row["step"] for row in rows[1:3]]
    assert {row["step"] for row in spread(rows, most, asked)} >= set(asked)


@given(st.floats(-1e300, 1e300), st.integers(2, 6))
def test_a_number_is_shown_to_its_digits(value: float, digits: int) -> None:
    shown = float(number(value, digits=digits).replace("−", "-").replace(",", ""))
    assert shown == pytest.approx(value, rel=10.0 ** (1 - digits))


def test_a_number_has_as_many_digits_as_were_asked_for() -> None:
    values = (0.0, 9.999, -10.04, 0.09996, 1234.5, 99_960.0, 2e7, 7)
    assert [number(value) for value in values] == ["0", "10.0", "−10.0", "0.100", "1,230", "100,000", "2.00e+07", "7"]


@given(st.floats(0, 1))
def test_a_share_never_reads_as_none_or_all_when_it_is_not(share: float) -> None:
    assert (percent(share) == "0%") == (share == 0)
    assert (percent(share) == "100%") == (share == 1)


def test_what_is_missing_is_a_dash() -> None:
    assert number(None) == number(float("nan")) == percent(None) == signed(None) == MISSING


def test_another_folder_is_refused(tmp_path: Path) -> None:
    for report in (training_report, sweep_report):
        with pytest.raises(DataError, match="holds no"):
            report(tmp_path)


@pytest.fixture(scope="module")
def swept(model_and_data: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep of two arms; only read."""
    data, model = model_and_data
    plans = {"fast": (str(model), train_settings()), "slow": (str(model), train_settings(lr=1e-5))}

    def train(model_name: str, settings: TrainSettings, out: Path) -> dict[str, Any]:
        return train_to_folder(data, model_name, out, settings)

    out = tmp_path_factory.mktemp("swept") / "sweep"
    sweep(data, plans, out, train)
    return out


def test_the_arms_stand_side_by_side(swept: Path) -> None:
    page, arms = sweep_report(swept), read_arms(swept)
    assert sweep_headline("arm", arms) in page
    fast, slow = arms_table(arms)
    assert fast["cells"][3] == {
        "value": arms[0]["margin_change"],
        "text": signed(arms[0]["margin_change"]),
        "best": True,
    }
    assert not slow["cells"][3]["best"]
    assert "best" in page  # in words, not by colour alone
    assert [row_of(read_run(swept / "arms" / arm["arm"])) for arm in arms] == arms


def test_several_runs_have_one_page_on_one_scale(swept: Path) -> None:
    folders = [swept / "arms" / name for name in ("fast", "slow")]
    page = multi(folders)
    assert "fast" in page
    (figure,) = sweep_figures(swept)
    rows = [row for row in rows_drawn(figure.chart) if "run" in row]
    for folder in folders:
        looks = read_run(folder).looks
        for side in ("chosen", "rejected"):
            assert [row["value"] for row in rows if (row["run"], row["what"]) == (folder.name, side)] == [
                look[f"{side}_change"] for look in looks
            ]
    assert "resolve" not in figure.chart.to_dict()  # shared axes are what a facet has by itself


parts = st.text("ab", min_size=1, max_size=2)


@given(st.lists(st.lists(parts, min_size=1, max_size=3).map(lambda found: Path("/", *found)), min_size=1, max_size=6))
def test_runs_of_the_same_name_are_told_apart(paths: list[Path]) -> None:
    found = names(paths)
    assert len(set(found)) == len(found)
    assert all(name.split(" (")[0] in str(path) for name, path in zip(found, paths, strict=True))


def test_arms_that_displace_equally_little_are_all_named() -> None:
    arm = {"displaced": 0.0, "margin_change": 1.0, "chosen_change": 1.0}
    arms = [arm | {"arm": "a"}, arm | {"arm": "b"}, arm | {"arm": "c", "displaced": 0.5}]
    assert sweep_headline("arm", arms) == "Of 3 arms, a and b displace least, 0% of the probe pairs; c displaces 50%."
    only = [arm | {"arm": "a", "displaced": 0.2}, arm | {"arm": "b", "margin_change": -1.0}]
    assert "only in a the margin grew by 1.00 nats, with 20% of the probe pairs displaced" in sweep_headline(
        "arm", only
    )


def test_no_arm_is_best_where_all_are_equal() -> None:
    arm = {"arm": "a", "loss": "DPO()", "steps": 1, "pairs": 1, "gained": [], "displaced": 0.5}
    arm |= {"margin_change": 1.0, "chosen_change": 1.0}
    table = arms_table([arm, {**arm, "arm": "b"}])
    assert not any(cell["best"] for row in table for cell in row["cells"])
    assert "in every arm that learned" in sweep_headline("arm", [arm, {**arm, "arm": "b"}])


def test_the_command_writes_the_page(capsys, model_and_data: tuple[Path, Path], folder: Path, tmp_path: Path) -> None:
    """Also for a run that was finished before, whose page was not written, or is older."""
    data, model = model_and_data
    out = tmp_path / "run"
    options = ["train", data, "--model", model, "--max-length", 400, "--max-steps", 2, "--track-every", 1]
    options += ["--dtype", "float32", "--device", "cpu", "--out", out]
    code, stdout, err = run(capsys, *options)
    assert code == 0, err
    assert "report.html" in stdout
    assert (out / "report.html").read_text(encoding="utf-8") == training_report(out)
    (out / "report.html").unlink()
    assert run(capsys, *options)[0] == 0
    assert (out / "report.html").exists()


def test_a_sweep_has_a_page_and_so_has_each_arm(capsys, model_and_data: tuple[Path, Path], tmp_path: Path) -> None:
    data, model = model_and_data
    arms, out = tmp_path / "arms.yaml", tmp_path / "sweep"
    arms.write_text("one: {}\nother: {loss: ipo}\n")
    options = ["train", data, "--model", model, "--max-length", 400, "--max-steps", 1, "--track-every", 1]
    options += ["--dtype", "float32", "--device", "cpu", "--sweep", arms, "--out", out]
    code, stdout, err = run(capsys, *options)
    assert code == 0, err
    assert str(out / "report.html") in stdout.replace("\n", "")
    assert (out / "report.html").read_text(encoding="utf-8") == sweep_report(out)
    for arm in ("one", "other"):
        assert (out / "arms" / arm / "report.html").read_text(encoding="utf-8") == training_report(out / "arms" / arm)
