"""Changes that a stranger makes, made in a copy of the sources as CONTRIBUTING says: each touches one obvious place."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import undertow
from command import some_rows, write_jsonl
from tiny import tiny_folder

SOURCES = Path(undertow.__file__).parent


class Copy:
    """A copy of the package, and which of its files were edited."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.edited: set[str] = set()
        shutil.copytree(SOURCES, folder / "undertow", ignore=shutil.ignore_patterns("__pycache__"))

    def edit(self, name: str, old: str, new: str) -> None:
        """Put ``new`` in the place of the one ``old`` of a file."""
        path = self.folder / "undertow" / name
        text = path.read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{name} holds {text.count(old)} times: {old}"
        path.write_text(text.replace(old, new), encoding="utf-8")
        self.edited.add(name)

    def python(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Python with this copy of the package, whatever it exits with."""
        environment = {**os.environ, "PYTHONPATH": str(self.folder)}
        command = [sys.executable, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)

    def run(self, *arguments: object) -> str:
        """The standard output of ``undertow ARGUMENTS``, which must succeed."""
        done = self.python("-m", "undertow", *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    return Copy(tmp_path / "copy")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("changes") / "model")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("changes") / "prefs.jsonl", some_rows(12))


LOSS = '''

@dataclass(frozen=True, slots=True)
class Tempered(PairLoss):
    """``(1 − σ(βΔ))^power``: bounded, so that no pair pulls for ever."""

    beta: float = 0.1
    power: float = 1.0

    name = "tempered"
    needs_reference = True

    def value(self, logps: Logps) -> Tensor:
        """``σ(−βΔ)^power``."""
        return torch.sigmoid(-self.beta * logps.corrected_margin) ** self.power
'''


def test_a_loss_is_one_class(copy: Copy, model: Path, data: Path, tmp_path: Path) -> None:
    file = "maths/losses/logistic.py"
    text = (copy.folder / "undertow" / file).read_text(encoding="utf-8")
    copy.edit(file, '"ConservativeDPO"]', '"ConservativeDPO", "Tempered"]')
    last = text.rstrip().splitlines()[-1]
    copy.edit(file, last, last + LOSS)
    assert copy.edited == {file}
    said = copy.python("-c", "import undertow as ut; print(ut.losses.Tempered(power=2.0), ut.losses.names())").stdout
    assert "Tempered(beta=0.1, power=2.0)" in said
    assert "'tempered'" in said
    out = tmp_path / "scores"
    options = ("--loss", "tempered", "--loss-args", "power=2", "--max-length", 400)
    printed = copy.run("audit", data, "--model", model, "--out", out, *options)
    assert "Under Tempered (β = 0.1, power = 2)" in " ".join(printed.split())
    assert json.loads((out / "audit.json").read_text())["arguments"]["loss"] == "Tempered(beta=0.1, power=2.0)"
    refused = copy.python("-m", "undertow", "train", data, "--model", model, "--loss", "temperd", "--out", tmp_path)
    assert refused.returncode == 2
    assert "did you mean tempered" in refused.stderr


DECLARED = """    Column(
        "length_ratio",
        _FLOAT,
        "text",
        "Tokens of the chosen response over those of the rejected one.",
        label="ratio of lengths",
        heading="n⁺/n⁻",
        displaces="highest",
        rank=70,
        shown=_EVERYWHERE,
    ),
    Column(
        "ches",
"""
VALUE = """        "length_ratio": pair.chosen_tokens / pair.rejected_tokens,
        "edit_distance": """


def test_a_column_is_declared_once_and_its_value_returned_by_its_level(
    copy: Copy, model: Path, data: Path, tmp_path: Path
) -> None:
    copy.edit("scoring/columns.py", '    Column(\n        "ches",\n', DECLARED)
    audit = ("audit", data, "--model", model, "--level", "text")
    forgotten = copy.python("-m", "undertow", *audit, "--out", tmp_path / "forgotten")
    assert forgotten.returncode != 0
    assert "without a value: length_ratio" in forgotten.stderr
    copy.edit("scoring/levels.py", '        "edit_distance": ', VALUE)
    assert copy.edited == {"scoring/columns.py", "scoring/levels.py"}

    out = tmp_path / "scores"
    printed = copy.run(*audit, "--out", out)
    table = pq.read_table(out / "scores")
    lengths = zip(table["chosen_tokens"].to_pylist(), table["rejected_tokens"].to_pylist(), strict=True)
    assert table["length_ratio"].to_pylist() == pytest.approx([chosen / rejected for chosen, rejected in lengths])
    assert [line for line in printed.splitlines() if line.strip().startswith("length_ratio")], "not in the quantiles"
    assert "length_ratio" in json.loads((out / "audit.json").read_text())["quantiles"]
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "n⁺/n⁻" in page, "not in the page's table of pairs"
    assert "length_ratio: ratio of lengths" in page, "not in the page's choice of scores"
    filtered = tmp_path / "filtered.jsonl"
    copy.run("filter", data, "--scores", out, "--by", "length_ratio", "--drop-highest", "25%", "--out", filtered)
    assert len(filtered.read_text().splitlines()) == 9
    docs = copy.python("-c", "from undertow.wording.names import column_table; print(column_table())").stdout
    assert "| `length_ratio` | float64 | text | Tokens of the chosen response over those of the rejected one. |" in docs


LAYOUT = """DEBATE = Layout(
    "debate", _parts(("motion",), TEXT, ("winning_speech",), ("losing_speech",), TEXT), read_pair
)
QUESTION_ANSWERS = """


def test_a_layout_is_one_object_in_the_list_of_layouts(copy: Copy, model: Path, tmp_path: Path) -> None:
    rows = [
        {"motion": row["prompt"], "winning_speech": row["chosen"], "losing_speech": row["rejected"]}
        for row in some_rows(6)
    ]
    data = write_jsonl(tmp_path / "debates.jsonl", rows)
    audit = ("audit", data, "--model", model, "--level", "text")
    before = copy.python("-m", "undertow", *audit, "--out", tmp_path / "before")
    assert before.returncode == 2
    assert "winning_speech" in before.stderr
    copy.edit("data/layouts/answers.py", "QUESTION_ANSWERS = ", LAYOUT)
    copy.edit(
        "data/layouts/registry.py",
        "    CONVERSATIONAL,\n    MESSAGES,\n",
        "    CONVERSATIONAL,\n    DEBATE,\n    MESSAGES,\n",
    )
    copy.edit("data/layouts/registry.py", "    NO_PROMPT,\n)\n", "    NO_PROMPT,\n    DEBATE,\n)\n")
    assert {Path(name).parent.as_posix() for name in copy.edited} == {"data/layouts"}
    for options in ((), ("--format", "debate")):
        out = tmp_path / f"scores{len(options)}"
        copy.run(*audit, *options, "--out", out)
        assert json.loads((out / "audit.json").read_text())["data"]["format"] == "debate"
        texts = pq.read_table(out / "texts.parquet").to_pylist()
        assert [text["chosen"] for text in texts] == [row["winning_speech"] for row in rows]
    filtered = tmp_path / "filtered.jsonl"
    copy.run("filter", data, "--scores", out, "--by", "edit_distance", "--drop-lowest", 2, "--out", filtered)
    assert set(filtered.read_text().splitlines()) < set(data.read_text().splitlines())
