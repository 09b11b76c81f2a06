"""How the data are read, on the real command line: refused before a model is loaded, named where it is not used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from command import run, write_jsonl
from tiny import tiny_folder
from undertow.runs.recipes import read_recipe
from undertow.training.settings import from_options

PIRATES = [
    {"chosen": f"The tide {n} be high, me hearties.", "rejected": f"The tide {n} is high.", "x": [1.50]}
    for n in range(12)
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"prompt": "a?", "chosen": "b c", "rejected": "c d", "passage": "Once upon a time."}, "`passage` holds text"),
        ({"chosen": "My rum be gone.", "rejected": "My drink is finished."}, "--format implicit"),
        ({"prompt": "a?", "chosen": "b c", "rejected": "c d", "image": "a.png"}, "this row has an image"),
    ],
)
def test_what_would_be_lost_is_refused_before_a_model_is_loaded(
    capsys, monkeypatch, model, tmp_path, row, words
) -> None:
    monkeypatch.setattr("undertow.auditing.audit.load_model", lambda *_, **__: pytest.fail("a model was loaded"))
    data = write_jsonl(tmp_path / "a.jsonl", [row])
    code, _, err = run(capsys, "audit", data, "--model", model, "--max-length", 400, "--out", tmp_path / "out")
    assert code == 2
    assert words in err.replace("\n", " ")
    assert not (tmp_path / "out").exists()


def test_an_empty_prompt_through_audit_and_filter(capsys, model, tmp_path) -> None:
    data, scores = write_jsonl(tmp_path / "a.jsonl", PIRATES), tmp_path / "scores"
    arguments = ("audit", data, "--model", model, "--level", "text", "--out", scores, "--empty-prompt", "--json")
    code, out, err = run(capsys, *arguments)
    assert code == 0, err
    summary = json.loads(out.splitlines()[-1])
    assert summary["data"]["format"] == "no-prompt"
    assert summary["data"]["unused_columns"] == ["x"]
    assert summary["data"]["notes"] == ["Columns of the data that are not used: `x`."]
    assert "Columns of the data that are not used: `x`." in err
    assert summary["arguments"]["reading"]["empty_prompt"] is True
    picked = ("filter", data, "--scores", scores, "--by", "edit_distance", "--drop-highest", 3)
    assert run(capsys, *picked, "--out", tmp_path / "no.jsonl")[0] == 2
    code, _, err = run(capsys, *picked, "--out", tmp_path / "kept.jsonl", "--empty-prompt")
    assert code == 0, err
    kept = (tmp_path / "kept.jsonl").read_bytes().splitlines()
    assert len(kept) == 9
    assert set(kept) <= set(data.read_bytes().splitlines()), "lines as they were"


def test_rows_of_a_viewer_are_filtered_as_rows(capsys, model, tmp_path) -> None:
    rows = [{"prompt": f"{n}?", "chosen": f"Good {n} it is.", "rejected": f"Bad {n}."} for n in range(4)]
    (tmp_path / "a.json").write_text(json.dumps({"features": [], "rows": [{"row_idx": 0, "row": row} for row in rows]}))
    assert (
        run(capsys, "audit", tmp_path / "a.json", "--model", model, "--level", "text", "--out", tmp_path / "s")[0] == 0
    )
    picked = (
        "filter",
        tmp_path / "a.json",
        "--scores",
        tmp_path / "s",
        "--by",
        "prompt_tokens",
        "--keep-lowest",
        "100%",
    )
    for name in ("kept.json", "kept.jsonl"):
        code, _, err = run(capsys, *picked, "--out", tmp_path / name)
        assert code == 0, err
        kept = (tmp_path / name).read_text()
        found = json.loads(kept) if name.endswith(".json") else [json.loads(line) for line in kept.splitlines()]
        assert found == rows


def test_a_recipe_can_ask_for_an_empty_prompt(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("model: m\nempty_prompt: true\n")
    words = "format columns split name limit beta loss_args watch guard filter held_out scores"
    base = dict.fromkeys(words.split())
    options = {
        **base,
        "model": "",
        "loss": "dpo",
        "calibrated": False,
        "token_weights": None,
        "on_bad_row": "stop",
        "max_length": 99,
        "eot": True,
    }
    _, settings = from_options({**options, "template": "auto", "empty_prompt": False}, (), read_recipe(recipe))
    assert settings.data.empty_prompt is True
