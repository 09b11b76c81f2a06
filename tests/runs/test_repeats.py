"""Laws of repeats: which rows say again, or the opposite of, what another row says, as a slow loop over texts finds."""

from __future__ import annotations

import random

import numpy as np
import pytest

from undertow.data.pairs import Message, Pair
from undertow.runs.repeats import Links, PairHashes, exchanged


def found(pairs: list[Pair]) -> dict[int, tuple[int | None, int | None]]:
    """By row: what it repeats, and what it contradicts."""
    hashes = PairHashes()
    for pair in pairs:
        hashes.add(pair, pair.pair_id)
    repeats, rows = hashes.repeats(), np.array([pair.row for pair in pairs], np.int64)
    links = zip(repeats.duplicate_of.of(rows), repeats.contradicts.of(rows), strict=True)
    return dict(zip(rows.tolist(), links, strict=True))


def said(pair: Pair) -> tuple:
    return (pair.prompt, pair.tools), (pair.chosen, pair.chosen_extra), (pair.rejected, pair.rejected_extra)


def slow(pairs: list[Pair]) -> dict[int, tuple[int | None, int | None]]:
    """Every pair against every other."""
    result = {}
    for one in pairs:
        prompt, chosen, rejected = said(one)
        earlier = [other.row for other in pairs if other.row < one.row and said(other) == said(one)]
        opposed = [other.row for other in pairs if said(other) == (prompt, rejected, chosen) and chosen != rejected]
        result[one.row] = (min(earlier, default=None), min(opposed, default=None))
    return result


def drawn(count: int, seed: int) -> list[Pair]:
    """Pairs of so few texts that many repeat and contradict each other; rows have gaps."""
    draw = random.Random(seed)
    prompts = ["Tea?", "Coffee?", (Message("user", "Tea?"),), (Message("user", "Tea?", '{"name":"a"}'),)]
    return [
        Pair(
            row=3 * n + 1,
            prompt=draw.choice(prompts),
            chosen=draw.choice("ab"),
            rejected=draw.choice("ab"),
            chosen_extra=draw.choice(["", "", '{"reasoning":"r"}']),
            tools=draw.choice(["", "", "[]"]),
        )
        for n in range(count)
    ]


@pytest.mark.parametrize("count", [0, 1, 2, 7, 60, 300])
def test_repeats_are_those_of_the_slow_loop(count) -> None:
    pairs = drawn(count, seed=count)
    assert found(pairs) == slow(pairs)
    shuffled = random.Random(1).sample(pairs, count)
    assert found(shuffled) == slow(pairs)


def test_the_rows_of_people() -> None:
    """``cases/contradictions.jsonl``."""
    texts = [
        ("Is tea better than coffee?", "Yes, by far.", "No, it is not."),
        ("Is tea better than coffee?", "No, it is not.", "Yes, by far."),
        ("Name a colour.", "Blue.", "Seven."),
        ("Name a colour.", "Blue.", "Seven."),
        ("Name a fruit.", "Pear.", "Chair."),
    ]
    pairs = [Pair(row, *text) for row, text in enumerate(texts)]
    assert found(pairs) == {0: (None, 1), 1: (None, 0), 2: (None, None), 3: (2, None), 4: (None, None)}


def test_equal_responses_contradict_nobody() -> None:
    assert found([Pair(0, "p", "a", "a"), Pair(1, "p", "a", "a")]) == {0: (None, None), 1: (0, None)}


def test_exchanging_twice_changes_nothing() -> None:
    pair = Pair(0, "p", "a", "b", chosen_extra='{"x":1}', tools="[]")
    assert exchanged(pair) != pair
    assert exchanged(exchanged(pair)) == pair


def test_nothing_points_anywhere_without_links() -> None:
    assert Links().of(np.arange(3)) == [None, None, None]
