"""Recipes and sweeps: words stay words, numbers are numbers, and what is wrong is said with its line."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from undertow.errors import OptionError
from undertow.runs.option_names import ELSEWHERE, SAME, nearest
from undertow.runs.recipes import Entry, read_arms, read_recipe


def recipe(tmp_path: Path, text: str) -> dict[str, Entry]:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return read_recipe(path)


def values(tmp_path: Path, text: str) -> dict[str, object]:
    return {name: entry.value for name, entry in recipe(tmp_path, text).items()}


@pytest.mark.parametrize("word", ["Yes", "yes", "No", "NO", "on", "Off", "y", "n", "Y", "2020-01-01", "1_000", "0x10"])
def test_words_stay_words(tmp_path: Path, word: str) -> None:
    assert values(tmp_path, f"watch: {{{word}: [{word}, a]}}") == {"watch": {word: [word, "a"]}}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-6", 1e-6),
        ("1E-6", 1e-6),
        ("5e-6", 5e-6),
        ("+.5", 0.5),
        ("1.", 1.0),
        ("-3", -3),
        ("010", 10),
        (".inf", math.inf),
        ("true", True),
        ("false", False),
        ("~", None),
        ("", None),
        ("'1e-6'", "1e-6"),
        ("'true'", "true"),
    ],
)
def test_numbers_are_numbers_and_only_true_and_false_are_truth_values(tmp_path: Path, text: str, value) -> None:
    found = values(tmp_path, f"lr: {text}")["lr"]
    assert (found, type(found)) == (value, type(value))


def test_every_option_knows_its_line(tmp_path: Path) -> None:
    found = recipe(tmp_path, "# a comment\nlr: 1\n\nbatch-size: 2\noptimizer: adamw\n")
    path = tmp_path / "recipe.yaml"
    assert {name: entry.place for name, entry in found.items()} == {
        "lr": f"--config {path}, line 2",
        "batch_size": f"--config {path}, line 4",
        "optimiser": f"--config {path}, line 5",
    }


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("lr: 1\nlr: 2", 2, "'lr' is given a second time"),
        ("batch-size: 1\nbatch_size: 2", 2, "'batch_size' is given a second time"),
        ("watch:\n  a: [x]\n  a: [y]", 3, "'a' is given a second time"),
        ("a: 1\nlr: !!python/object/apply:os.system ['true']", 2, "the tag !!python/object/apply:os.system has no"),
        ("lr: !secret x", 1, "the tag !secret has no meaning here"),
        ("lr: !!int x", 1, "'x' is no int"),
        ("lr: 1\n\tepochs: 2", 2, "it is not YAML"),
        ("lr: [1", 1, "it is not YAML"),
        ("a: 1\n---\nb: 2", 2, "it is not YAML"),
        ("[a]: 1", 1, "expected a name before the colon"),
        ("a: &a [*a]", 1, "it contains itself"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, text: str, line: int, message: str) -> None:
    with pytest.raises(OptionError) as raised:
        recipe(tmp_path, text)
    assert f"--config {tmp_path / 'recipe.yaml'}, line {line}: {message}" in str(raised.value)


@pytest.mark.parametrize("text", ["", "- a", "text", "3"])
def test_a_file_that_holds_no_options_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(OptionError, match="expected options and their values"):
        recipe(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected arms by name"),
        ("- a", "expected arms by name"),
        ("a: 3", "line 1: the arm 'a' is not of the form"),
        ("a: {}\n..: {}", "line 2: the arm '..' needs a name that can be a folder's"),
        ("a/b: {}", "line 1: the arm 'a/b' needs a name that can be a folder's"),
        ("dpo: {}\nDPO: {}", "line 2: the arms 'dpo' and 'DPO' differ in capitals only"),
        ("dpo: {}\ndpo: {}", "line 2: 'dpo' is given a second time"),
    ],
)
def test_arms_that_cannot_be_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "arms.yaml"
    path.write_text(text)
    with pytest.raises(OptionError) as raised:
        read_arms(path)
    assert message in str(raised.value)
    assert str(raised.value).startswith(f"--sweep {path}")


def test_arms_are_named_by_text(tmp_path: Path) -> None:
    path = tmp_path / "arms.yaml"
    path.write_text("no:\n0.5: {beta: 0.5}\n")
    arms = read_arms(path)
    assert list(arms) == ["no", "0.5"]
    assert arms["0.5"] == {"beta": Entry(0.5, f"--sweep {path}, line 2")}


def test_the_names_of_other_libraries_lead_to_options_there_are() -> None:
    from typer.main import get_command

    from undertow.cli.app import app
    from undertow.cli.commands import train  # noqa: F401

    known = {param.name for param in get_command(app).commands["train"].params}
    for name in (*ELSEWHERE, *SAME):
        assert nearest(name, known) == {**ELSEWHERE, **SAME}[name] != name
        assert name not in known
    assert nearest("learning-rate", known) == "lr"
    assert nearest("quite-something-else", known) is None
