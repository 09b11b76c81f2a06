"""What a command writes is none of what it reads: by any name of a file, in every command, before it is opened."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from command import run, some_rows, write_jsonl
from run_folders import audited, made
from undertow.errors import OptionError
from undertow.runs.targets import Target, check_targets, data_input, file_input

FILTER = ("--by", "ln_ches", "--drop-highest", "1")


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, a model and scores; copied for each test, as some try to destroy them."""
    folder = tmp_path_factory.mktemp("targets")
    data, model = made(folder)
    audited(data, model, folder / "scores")
    return folder


@pytest.fixture
def place(once: Path, tmp_path: Path) -> Path:
    shutil.copytree(once, tmp_path / "place")
    return tmp_path / "place"


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def refused(capsys, place: Path, message: str, *arguments: object) -> None:
    """The command ends with 2 and this message, and nothing was written: neither there nor elsewhere."""
    before = content(place)
    code, _, err = run(capsys, *arguments)
    assert (code, message in err) == (2, True), err
    assert content(place) == before


def aliases(path: Path) -> Iterator[Path]:
    """Other names of a file."""
    hard, soft = (path.with_name(f"{kind}-{path.name}") for kind in ("hard", "soft"))
    os.link(path, hard)
    soft.symlink_to(path)
    yield from (path, hard, soft, path.parent / "scores" / ".." / path.name, Path(os.path.relpath(path)))


def test_filter_spares_its_data_by_any_name(capsys, place: Path) -> None:
    data = place / "prefs.jsonl"
    for name in list(aliases(data)):
        for option in ("--out", "--decisions"):
            elsewhere = {"--out": "--decisions", "--decisions": "--out"}[option]
            refused(
                capsys, place, f"{option} {name} is the input itself", "filter", data, "--scores", place / "scores",
                *FILTER, option, name, elsewhere, place / "new.jsonl",
            )  # fmt: skip


def test_filter_spares_its_scores_and_everything_in_their_folder(capsys, place: Path) -> None:
    base = ("filter", place / "prefs.jsonl", "--scores", place / "scores", *FILTER)
    for name in ("texts.parquet", "scores/part-00000.parquet", "new.jsonl", "scores/new.csv"):
        option = "--out" if not name.endswith(".csv") else "--decisions"
        other = ("--decisions", place / "why.csv") if option == "--out" else ("--out", place / "kept.jsonl")
        refused(capsys, place, str(place / "scores"), *base, option, place / "scores" / name, *other)
    link = place / "page.jsonl"
    link.symlink_to(place / "scores" / "audit.json")
    refused(capsys, place, "is the input itself: a file of the scores", *base, "--out", link)


@pytest.mark.parametrize(
    ("out", "decisions", "message"),
    [
        ("a.jsonl", "a.jsonl", "the same as --out"),
        ("a.jsonl", "A.JSONL", "the same as --out"),
        ("a.csv.gz", "new/../a.csv.gz", "the same as --out"),
        ("kept.jsonl", "why.txt", "--decisions"),
        ("kept.jsonl", "why.parquet", "expected a name that ends in .csv or .jsonl"),
        ("kept.jsonl", "why.json", "expected a name that ends in .csv or .jsonl"),
        ("kept.xlsx", "why.csv", "--out"),
        ("kept.parquet.gz", "why.csv", "expected a name that ends in"),
        ("kept.parquet", "why.csv", "cannot be written as parquet"),
        ("kept.csv", "why.csv", "cannot be written as csv"),
    ],
)
def test_filter_refuses_two_of_one_name_and_wrong_endings_before_it_writes(
    capsys, place: Path, out: str, decisions: str, message: str
) -> None:
    base = ("filter", place / "prefs.jsonl", "--scores", place / "scores", *FILTER)
    refused(capsys, place, message, *base, "--out", place / out, "--decisions", place / decisions)


def test_a_file_that_would_be_read_as_data_is_not_put_there(capsys, place: Path) -> None:
    """A data folder takes no new data file; what is no data, and what lies deeper, it takes."""
    folder = place / "data"
    folder.mkdir()
    shutil.move(place / "prefs.jsonl", folder / "a.jsonl")
    base = ("filter", folder, "--scores", place / "scores", *FILTER)
    for name in ("b.jsonl", "a.jsonl", "B.CSV", "new/../b.json.gz"):
        refused(capsys, place, "data", *base, "--out", folder / name)
    refused(capsys, place, "would be read as a part of it", *base, "--out", place / "k.jsonl", "--decisions", folder / "why.csv")  # fmt: skip  # noqa: E501
    (folder / "deeper").mkdir()
    assert run(capsys, *base, "--out", folder / "deeper" / "b.jsonl")[0] == 0


def test_nothing_stays_when_the_decisions_cannot_be_written(capsys, place: Path) -> None:
    (place / "file").write_text("")
    base = ("filter", place / "prefs.jsonl", "--scores", place / "scores", *FILTER)
    refused(capsys, place, "cannot be written", *base, "--out", place / "k.jsonl", "--decisions", place / "file" / "why.csv")  # fmt: skip  # noqa: E501


def test_standard_input_is_an_input(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = place / "prefs.jsonl"
    with data.open("rb") as stream:
        monkeypatch.setattr("undertow.runs.targets.STANDARD_INPUT", f"/dev/fd/{stream.fileno()}")
        with pytest.raises(OptionError, match="is the input itself: standard input"):
            check_targets([Target("--out", data)], data_input("-"))


def test_audit_spares_what_it_reads(capsys, place: Path) -> None:
    data, model, scores = (place / name for name in ("prefs.jsonl", "model", "scores"))
    base = ("audit", "--model", model, "--level", "text")
    for own in ("texts.parquet", "scores/part-00000.parquet"):
        refused(capsys, place, "is inside it, and is still to be read", *base, scores / own, "--out", scores, "--overwrite")  # fmt: skip  # noqa: E501
    shutil.move(model, scores / "model")
    moved = ("audit", "--model", scores / "model", "--level", "text", data)
    refused(capsys, place, f"the model {scores / 'model'} is inside it", *moved, "--out", scores, "--overwrite")
    other = ("audit", "--model", model, "--ref", scores / "model", data)
    shutil.copytree(scores / "model", model)
    refused(capsys, place, "is inside it", *other, "--out", scores, "--overwrite")


def test_compare_spares_what_it_reads(capsys, place: Path) -> None:
    out, model = place / "moved", place / "model"
    base = ("compare", place / "prefs.jsonl", "--before", model, "--after", model, "--max-length", 400)
    code, _, err = run(capsys, *base, "--resamples", 10, "--generate", 0, "--out", out)
    assert code == 0, err
    shutil.copytree(model, out / "model")
    own = ("compare", place / "prefs.jsonl", "--before", model, "--after", out / "model", "--max-length", 400)
    refused(capsys, place, "is inside it", *own, "--out", out, "--overwrite")
    refused(capsys, place, "is inside it", "compare", out / "texts.parquet", *base[2:], "--out", out, "--overwrite")
    shards = place / "shards"
    shards.mkdir()
    shutil.move(place / "scores", shards / "one")
    refused(capsys, place, "would be read as a part of it", *base, "--scores", shards, "--out", shards / "moved")


def test_train_spares_what_it_reads(capsys, place: Path) -> None:
    out, data, model = place / "run", place / "prefs.jsonl", place / "model"
    tiny = ("--max-length", 400, "--max-steps", 1, "--device", "cpu")
    code, _, err = run(capsys, "train", data, "--model", model, *tiny, "--out", out)
    assert code == 0, err
    refused(capsys, place, "is inside it", "train", data, "--model", out / "model", *tiny, "--out", out, "--overwrite")
    for option, text in (("--config", "loss: dpo"), ("--sweep", "a: {loss: dpo}")):
        (out / "options.yaml").write_text(text)
        target = out if option == "--config" else out / "options.yaml"
        refused(
            capsys, place, f"the file of {option}", "train", data, "--model", model, option, out / "options.yaml",
            "--out", target,
        )  # fmt: skip
    refused(capsys, place, "is inside it", "train", out / "train.json", "--model", model, *tiny, "--out", out)


def test_a_sweep_may_stand_beside_its_arms(place: Path) -> None:
    from undertow.training.sweep import sweep_targets

    arms = place / "arms.yaml"
    arms.write_text("a: {}")
    check_targets(sweep_targets(place), [*data_input(place / "prefs.jsonl"), *file_input("--sweep", arms)])
    (place / "arms").mkdir()
    write_jsonl(place / "arms" / "a.jsonl", some_rows(2))
    with pytest.raises(OptionError, match="is inside it"):
        check_targets(sweep_targets(place), data_input(place / "arms" / "a.jsonl"))
    with pytest.raises(OptionError, match=r"sweep.json is the input itself"):
        shutil.move(place / "prefs.jsonl", place / "sweep.json")
        check_targets(sweep_targets(place), data_input(place / "sweep.json"))


def test_view_spares_the_run_that_it_shows(capsys, place: Path) -> None:
    scores = place / "scores"
    refused(capsys, place, "expected a name that ends in .html", "view", scores, "--html", scores / "audit.json")
    refused(capsys, place, "expected a name that ends in .html", "view", scores, "--html", place / "page.pdf", "--svg", place / "charts")  # fmt: skip  # noqa: E501
    link = place / "page.html"
    link.symlink_to(scores / "texts.parquet")
    refused(capsys, place, "is the input itself: a file of the run", "view", scores, "--html", link)
    refused(capsys, place, "is a file; name a folder", "view", scores, "--png", place / "prefs.jsonl")
    refused(capsys, place, "the same as", "view", scores, "--svg", place / "a.html", "--html", place / "a.html")
    assert run(capsys, "view", scores, "--html", scores / "report.html", "--svg", scores / "charts")[0] == 0
    assert json.loads((scores / "audit.json").read_text())


def test_the_demo_leaves_other_folders_alone(capsys, place: Path) -> None:
    refused(capsys, place, "is not empty", "demo", "--out", place)


def test_a_folder_of_a_whole_repository_takes_no_run(tmp_path: Path) -> None:
    """There, files are found at any depth."""
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "README.md").write_text("---\nconfigs:\n- config_name: a\n---\n")
    pq.write_table(pa.Table.from_pylist(some_rows(2)), folder / "a.parquet")
    for target in (Target("--out", folder / "scores", "run"), Target("--out", folder / "deep" / "b.jsonl")):
        with pytest.raises(OptionError, match="would be read as a part of it"):
            check_targets([target], data_input(folder))
    check_targets([Target("--out", folder / "why.txt")], data_input(folder))
