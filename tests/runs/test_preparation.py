"""What a run says of its data before it starts, as users see it: the terminal, ``audit.json``, the columns."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import undertow as ut
from command import run, some_rows, write_jsonl
from run_folders import compared, trained
from tiny import VOCABULARY, tiny_folder, tiny_tokenizer
from undertow.files import write_json

OPPOSED = [
    {"prompt": "Is tea better than coffee?", "chosen": "Yes, by far.", "rejected": "No, it is not."},
    {"prompt": "Is tea better than coffee?", "chosen": "No, it is not.", "rejected": "Yes, by far."},
    {"prompt": "Name a colour.", "chosen": "Blue.", "rejected": "Seven."},
    {"prompt": "Name a colour.", "chosen": "Blue.", "rejected": "Seven."},
    {"prompt": "Name a fruit.", "chosen": "Pear.", "rejected": "Chair."},
]
ENDED = [
    {"prompt": "Two plus two?", "chosen": "Four.<|end|>", "rejected": "Five.<|end|>"},
    {"prompt": "Is snow white?", "chosen": "Yes.<|im_end|>", "rejected": "No.<|im_end|>"},
    {"prompt": "<|user|>Is ice hot?<|end|><|assistant|>", "chosen": "No.", "rejected": "Yes, " + 30 * "very "},
]
ROWS = [*OPPOSED, *ENDED]
OPTIONS = ("--level", "text", "--max-length", 100)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def prefs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("data") / "prefs.jsonl", ROWS)


def summary_of(folder: Path) -> dict:
    return json.loads((folder / "audit.json").read_text())


def test_duplicates_and_contradictions_are_columns_counted_and_listed(capsys, model, prefs, tmp_path) -> None:
    code, stdout, stderr = run(capsys, "audit", prefs, "--model", model, *OPTIONS, "--out", tmp_path / "out")
    assert code == 0, stderr
    table = ut.read_scores(tmp_path / "out")
    assert table["duplicate_of"].to_pylist() == [None, None, None, 2, None, None, None, None]
    assert table["contradicts"].to_pylist() == [1, 0, None, None, None, None, None, None]
    names = table.schema.names
    assert names[names.index("truncated") + 1 :][:3] == ["duplicate_of", "contradicts", "edit_distance"]
    summary = summary_of(tmp_path / "out")
    assert summary["duplicates"] == {"count": 1, "rows": [[3, 2]]}
    assert summary["contradictions"] == {"count": 2, "rows": [[0, 1], [1, 0]]}
    assert "duplicate_of" not in summary["quantiles"]
    said = ("1 pair with the prompt and both responses of an earlier one: row 3 is row 2 again",)
    said += ("2 pairs that another one contradicts, chosen and rejected exchanged: row 0 against row 1, row 1 against",)
    page = (tmp_path / "out" / "report.html").read_text()
    for sentence in said:
        assert sentence in stdout
        assert sentence in page


def test_only_the_first_ten_are_listed(capsys, model, tmp_path) -> None:
    rows = [OPPOSED[2]] * 13 + [OPPOSED[4]]
    data = write_jsonl(tmp_path / "prefs.jsonl", rows)
    _, stdout, _ = run(capsys, "audit", data, "--model", model, *OPTIONS, "--out", tmp_path / "out")
    assert summary_of(tmp_path / "out")["duplicates"] == {"count": 12, "rows": [[row, 0] for row in range(1, 11)]}
    assert "12 pairs with" in stdout
    assert "row 10 is row 0 again, …" in stdout
    assert "contradicts" not in stdout


def test_what_happened_on_the_way_to_tokens_is_said_and_kept(capsys, model, prefs, tmp_path) -> None:
    _, _, stderr = run(capsys, "audit", prefs, "--model", model, *OPTIONS, "--out", tmp_path / "out")
    tokens = summary_of(tmp_path / "out")["tokens"]
    assert tokens["pairs_already_templated"] == 1
    assert tokens["responses_with_end_token"] == {"<|end|>": 2}
    assert tokens["responses_with_foreign_end_token"] == {"<|im_end|>": 2}
    assert tokens["responses_truncated"] == 1
    assert tokens["tokens_truncated"] > 0
    assert tokens["layout"] == "chat"
    assert [f"note: {note}" for note in tokens["notes"]] == stderr.splitlines()
    assert len(tokens["notes"]) == 4
    _, _, again = run(capsys, "audit", prefs, "--model", model, *OPTIONS, "--out", tmp_path / "quiet", "--quiet")
    assert again == ""


def test_the_template_that_empties_a_pair_is_named_before_any_model_is_loaded(capsys, model, tmp_path) -> None:
    thinker = shutil.copytree(model, tmp_path / "thinker")
    template = "{% for m in messages %}<|{{ m.role }}|>{{ m.content.split('</think>') | last }}<|end|>{% endfor %}"
    template += "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    (thinker / "chat_template.jinja").write_text(template)
    thoughts = [
        {"prompt": "6 times 7?", "chosen": "<think>Easy.</think>42.", "rejected": "<think>Hm.</think>13."},
        {"prompt": "2 times 2?", "chosen": "<think>Easy.</think>4.", "rejected": "<think>Hm.</think>4."},
    ]
    data = write_jsonl(tmp_path / "prefs.jsonl", thoughts)
    code, _, stderr = run(capsys, "audit", data, "--model", thinker, "--max-length", 100, "--out", tmp_path / "out")
    assert code == 2
    assert "row 1" in stderr
    assert "identical as tokens once the chat template has removed the reasoning" in stderr
    assert "The chat template removed text of 4 of 4 responses (for example everything before </think>)." in stderr
    assert not (tmp_path / "out").exists()


def test_shards_agree_with_the_whole(capsys, model, prefs, tmp_path) -> None:
    run(capsys, "audit", prefs, "--model", model, *OPTIONS, "--out", tmp_path / "whole")
    for index in (1, 2, 3):
        out = tmp_path / "shards" / str(index)
        run(capsys, "audit", prefs, "--model", model, *OPTIONS, "--out", out, "--shard", f"{index}/3")
    assert ut.read_scores(tmp_path / "shards").equals(ut.read_scores(tmp_path / "whole"))
    parts = [summary_of(tmp_path / "shards" / str(index)) for index in (1, 2, 3)]
    whole = summary_of(tmp_path / "whole")
    for name in ("duplicates", "contradictions"):
        assert sum(part[name]["count"] for part in parts) == whole[name]["count"]
        assert sorted(row for part in parts for row in part[name]["rows"]) == whole[name]["rows"]
    for name in ("pairs_already_templated", "responses_truncated", "tokens_truncated"):
        assert sum(part["tokens"][name] for part in parts) == whole["tokens"][name]


def test_a_run_that_goes_on_says_the_same(capsys, model, prefs, tmp_path) -> None:
    arguments = ("audit", prefs, "--model", model, *OPTIONS, "--part-pairs", 3, "--out")
    run(capsys, *arguments, tmp_path / "whole")
    run(capsys, *arguments, tmp_path / "stopped")
    (tmp_path / "stopped" / "audit.json").unlink()
    (tmp_path / "stopped" / "scores" / "part-00001.parquet").unlink()
    code, _, stderr = run(capsys, *arguments, tmp_path / "stopped")
    assert code == 0, stderr
    one, two = summary_of(tmp_path / "whole"), summary_of(tmp_path / "stopped")
    assert one | {"scoring": None} == two | {"scoring": None}  # how long it took
    assert ut.read_scores(tmp_path / "whole").equals(ut.read_scores(tmp_path / "stopped"))


def test_rows_that_were_set_aside_count_for_repeats(capsys, model, tmp_path) -> None:
    """The first of three equal rows cannot be read as a pair: the second is the first of them."""
    data = tmp_path / "prefs.jsonl"
    line = json.dumps(OPPOSED[2]) + "\n"
    data.write_text("not JSON\n" + line + line, encoding="utf-8")
    run(capsys, "audit", data, "--model", model, *OPTIONS, "--out", tmp_path / "out", "--on-bad-row", "skip")
    table = ut.read_scores(tmp_path / "out")
    assert (table["row"].to_pylist(), table["duplicate_of"].to_pylist()) == ([1, 2], [None, 1])


def test_unpaired_rows_are_compared_as_the_pairs_they_make(capsys, model, tmp_path) -> None:
    rows = [
        {"prompt": "Tea?", "completion": text, "label": label}
        for text, label in (("Yes.", True), ("No.", False), ("No.", True), ("Yes.", False))
    ]
    data = write_jsonl(tmp_path / "prefs.jsonl", rows)
    code, _, stderr = run(capsys, "audit", data, "--model", model, *OPTIONS, "--out", tmp_path / "out")
    assert code == 0, stderr
    table = ut.read_scores(tmp_path / "out")
    rows_of = table["row"].to_pylist()
    assert table["contradicts"].to_pylist() == rows_of[::-1]


def test_python_has_the_same_columns(model, prefs) -> None:
    loaded = ut.load_model(str(model), dtype="float32")
    table = ut.audit(ut.read_pairs(prefs), loaded, level="text", tokens=ut.TokenSettings(max_length=100))
    assert table["duplicate_of"].to_pylist()[3] == 2
    assert table["contradicts"].to_pylist()[:2] == [1, 0]


def test_a_token_that_the_model_has_no_row_for_is_a_bad_row(capsys, model, tmp_path) -> None:
    large = shutil.copytree(model, tmp_path / "large")
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([f"<image {n}>" for n in range(VOCABULARY - len(tokenizer) + 1)])
    last = tokenizer.convert_ids_to_tokens(VOCABULARY)
    tokenizer.save_pretrained(large)
    data = write_jsonl(tmp_path / "prefs.jsonl", [{**OPPOSED[4], "prompt": f"What is in {last}?"}, OPPOSED[4]])
    arguments = ("audit", data, "--model", large, "--max-length", 100, "--level", "hidden", "--out", tmp_path / "out")
    code, _, stderr = run(capsys, *arguments)
    assert code == 2
    assert "row 0" in stderr
    assert f"uses the token '{last}' (id {VOCABULARY}), which the model has no row for: it has {VOCABULARY}" in stderr
    assert not (tmp_path / "out").exists()


def test_training_and_comparing_keep_and_tell_the_same(model, prefs, tmp_path) -> None:
    data = write_jsonl(tmp_path / "prefs.jsonl", [*some_rows(6), *ENDED])
    run_folder = trained(data, model, tmp_path / "run", max_steps=1)
    out = compared(data, model, run_folder / "model", tmp_path / "moved")
    found = [json.loads(path.read_text())["tokens"] for path in (run_folder / "train.json", out / "compare.json")]
    for tokens in found:
        assert tokens["responses_with_end_token"] == {"<|end|>": 2}
        assert len(tokens["notes"]) == 3
    assert found[0] == found[1]


# ---- Folders of version 1, which had neither column


@pytest.fixture
def older(capsys, model, tmp_path) -> tuple[Path, Path]:
    """Data, and its audit as version 1 wrote it."""
    data, out = write_jsonl(tmp_path / "prefs.jsonl", some_rows(12)), tmp_path / "older"
    run(capsys, "audit", data, "--model", model, "--max-length", 400, "--out", out)
    for part in (out / "scores").glob("*.parquet"):
        table = pq.read_table(part).drop_columns(["duplicate_of", "contradicts"])
        pq.write_table(table, part)
    summary, settings = summary_of(out), json.loads((out / "settings.json").read_text())
    for name in ("duplicates", "contradictions"):
        del summary[name]
    for name in list(summary["tokens"]):
        if name.startswith(("responses_", "tokens_", "pairs_", "notes")):
            del summary["tokens"][name]
    settings["identity"]["score version"] = summary["fingerprints"]["score version"] = "1"
    write_json(out / "audit.json", summary)
    write_json(out / "settings.json", settings)
    return data, out


def test_an_older_folder_is_read_by_the_page_the_filter_and_the_comparison(capsys, model, older, tmp_path) -> None:
    from undertow.reporting.audit.page import report

    data, scores = older
    assert "duplicate_of" not in ut.read_scores(scores).column_names
    assert "Duplicates" not in report(scores)
    arguments = ("--scores", scores, "--by", "dlogp_chosen", "--drop-lowest", "25%", "--out", tmp_path / "kept.jsonl")
    code, _, stderr = run(capsys, "filter", data, *arguments)
    assert code == 0, stderr
    assert len((tmp_path / "kept.jsonl").read_text().splitlines()) == 9
    compared(data, model, model, tmp_path / "moved", scores=str(scores))


def test_scores_of_two_versions_are_not_mixed(capsys, model, older) -> None:
    data, scores = older
    (scores / "audit.json").unlink()
    code, _, stderr = run(capsys, "audit", data, "--model", model, "--max-length", 400, "--out", scores)
    assert code == 2
    assert "score version: 1 there, 2 here" in stderr


def test_the_new_columns_can_be_sorted_and_filtered_by(capsys, model, prefs, tmp_path) -> None:
    from undertow.reporting.viewing.table import PairTable, Query

    out = tmp_path / "out"
    run(capsys, "audit", prefs, "--model", model, *OPTIONS, "--out", out)
    table = PairTable(sorted((out / "scores").glob("*.parquet")), [out / "texts.parquet"])
    rows = table.page(Query(sort="contradicts", descending=True)).rows
    assert [row["contradicts"] for row in rows] == [1, 0, *[None] * 6]
    table.close()
    arguments = ("--scores", out, "--by", "duplicate_of", "--drop-highest", "1", "--out", tmp_path / "kept.jsonl")
    code, _, stderr = run(capsys, "filter", prefs, *arguments)
    assert code == 0, stderr
    assert len((tmp_path / "kept.jsonl").read_text().splitlines()) == 7


def test_types_of_the_columns_are_whole_numbers(capsys, model, prefs, tmp_path) -> None:
    run(capsys, "audit", prefs, "--model", model, *OPTIONS, "--out", tmp_path / "out")
    schema = ut.read_scores(tmp_path / "out").schema
    assert schema.field("duplicate_of").type == schema.field("contradicts").type == pa.int64()
