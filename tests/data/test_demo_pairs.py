"""The shipped pairs of the demo are what its page says they are."""

from __future__ import annotations

import json
from collections import Counter
from importlib.resources import files

import pytest
from rapidfuzz.distance import Levenshtein

import undertow as ut

CATEGORIES = {"near-duplicate", "two-refusals", "refusal-vs-answer", "long-vs-short", "yes-no-synonyms", "plain"}
COLUMNS = ["prompt", "chosen", "rejected", "category"]


def words(text: str) -> list[str]:
    return text.split()


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    text = (files("undertow.demo") / "pairs.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def of(rows: list[dict[str, str]], category: str) -> list[dict[str, str]]:
    return [row for row in rows if row["category"] == category]


def test_sixty_pairs_ten_of_each_category(rows):
    assert len(rows) == 60
    assert Counter(row["category"] for row in rows) == dict.fromkeys(CATEGORIES, 10)


def test_the_short_ones_are_thirty_of_them(rows):
    text = (files("undertow.demo") / "short.jsonl").read_text(encoding="utf-8")
    short = [json.loads(line) for line in text.splitlines()]
    assert len(short) == 30
    assert [row for row in rows if row in short] == short
    assert max(len(words(row[side])) for row in short for side in ("chosen", "rejected")) < 50
    assert [pair.prompt_text for pair in ut.read_pairs("demo-short")] == [row["prompt"] for row in short]


def test_each_row_is_whole_and_tidy(rows):
    for row in rows:
        assert list(row) == COLUMNS
        for name in COLUMNS:
            assert isinstance(row[name], str)
            assert row[name] == row[name].strip() != ""
        assert row["chosen"] != row["rejected"]
        assert 1 <= len(words(row["chosen"])) <= 90
        assert 1 <= len(words(row["rejected"])) <= 90


def test_no_prompt_comes_twice(rows):
    assert len({row["prompt"].lower() for row in rows}) == 60


def test_near_duplicates_are_long_and_differ_by_a_word_or_two(rows):
    for row in of(rows, "near-duplicate"):
        chosen, rejected = words(row["chosen"]), words(row["rejected"])
        assert min(len(chosen), len(rejected)) >= 50
        assert 1 <= Levenshtein.distance(chosen, rejected) <= 2


def test_only_near_duplicates_and_very_short_answers_are_alike(rows):
    for row in rows:
        if row["category"] not in ("near-duplicate", "yes-no-synonyms"):
            assert Levenshtein.normalized_distance(words(row["chosen"]), words(row["rejected"])) > 0.5


def test_half_of_the_lengths_go_each_way(rows):
    lengths = [(len(words(row["chosen"])), len(words(row["rejected"]))) for row in of(rows, "long-vs-short")]
    assert sum(chosen >= 4 * rejected for chosen, rejected in lengths) == 5
    assert sum(rejected >= 4 * chosen for chosen, rejected in lengths) == 5


def test_yes_and_no_answers_are_very_short(rows):
    assert all(len(words(row[name])) <= 2 for row in of(rows, "yes-no-synonyms") for name in ("chosen", "rejected"))


REFUSING = ("can't", "cannot", "won't", "not able", "unable", "rather not", "no,", "don't feel", "not in a position")


def refuses(text: str) -> bool:
    return any(word in text.lower() for word in REFUSING)


def test_refusals_stand_where_the_category_says(rows):
    assert all(refuses(row["chosen"]) and refuses(row["rejected"]) for row in of(rows, "two-refusals"))
    sides = Counter((refuses(row["chosen"]), refuses(row["rejected"])) for row in of(rows, "refusal-vs-answer"))
    assert sides == {(True, False): 5, (False, True): 5}
