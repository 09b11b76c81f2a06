"""Laws of the layouts: each is recognised by itself, gives the pair it means, and loses no row."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from undertow.data.pairs import BadRow, Message, Pair
from undertow.data.reading import FORMATS, open_pairs, parse_columns, read_pairs
from undertow.errors import DataError, OptionError

Row = dict[str, Any]
DOCS = Path(__file__).parents[2] / "docs" / "data.md"


def user(text: str) -> Row:
    return {"role": "user", "content": text}


def assistant(text: str) -> Row:
    return {"role": "assistant", "content": text}


ASKED = (Message("user", "Is snow white?"),)
LATER = (Message("user", "Hi"), Message("assistant", "Hello."), *ASKED)
HH = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Is snow white?\n\nAssistant:"
ALPACA = {"instruction": "Translate.", "input": "Schnee"}

# name, row, expected layout, prompt, chosen, rejected
EXAMPLES: dict[str, tuple[Row, str, Any, str, str]] = {
    "standard": (
        {"prompt": " Is snow\n white?", "chosen": " Yes.\n", "rejected": "No.", "score": 0.5},
        *("standard", " Is snow\n white?", " Yes.\n", "No."),
    ),
    "standard with a system column": (
        {"prompt": "Is snow white?", "chosen": "Yes.", "rejected": "No.", "system": "Be brief."},
        *("standard", (Message("system", "Be brief."), *ASKED), "Yes.", "No."),
    ),
    "standard with a blank system column": (
        {"prompt": "Is snow white?", "chosen": "Yes.", "rejected": "No.", "system": " "},
        *("standard", "Is snow white?", "Yes.", "No."),
    ),
    "conversational": (
        {"prompt": [user("Is snow white?")], "chosen": [assistant("Yes.")], "rejected": [assistant("No.")]},
        *("conversational", ASKED, "Yes.", "No."),
    ),
    "conversational with a system prompt of the same words twice": (
        {
            "prompt": [{"role": "system", "content": "Be brief."}, user("Is snow white?")],
            "chosen": [assistant("Yes.")],
            "rejected": [assistant("No.")],
            "system_prompt": "Be brief.",
        },
        *("conversational", (Message("system", "Be brief."), *ASKED), "Yes.", "No."),
    ),
    "conversational in parts": (
        {
            "prompt": [
                {"role": "user", "content": [{"type": "text", "text": "Is "}, {"type": "text", "text": "snow white?"}]}
            ],
            "chosen": [{"role": "assistant", "content": [{"type": "text", "text": "Yes."}]}],
            "rejected": [assistant("No.")],
        },
        *("conversational", ASKED, "Yes.", "No."),
    ),
    "implicit text": (
        {
            side: f"Question: white?\n\n### Response:\n{said}"
            for side, said in (("chosen", "Yes."), ("rejected", "No."))
        },
        *("implicit", "Question: white?\n\n### Response:\n", "Yes.", "No."),
    ),
    "implicit text whose responses begin alike": (
        {
            side: f"<|im_start|>user\nWhite?<|im_end|>\n<|im_start|>assistant\nIt is {said}"
            for side, said in (("chosen", "white."), ("rejected", "black."))
        },
        "implicit",
        "<|im_start|>user\nWhite?<|im_end|>\n<|im_start|>assistant\n",
        *("It is white.", "It is black."),
    ),
    "implicit text where one goes on": (
        {"chosen": "[INST] Say it: [/INST] yes and more", "rejected": "[INST] Say it: [/INST] yes"},
        *("implicit", "[INST] Say it: [/INST]", " yes and more", " yes"),
    ),
    "implicit messages": (
        {"chosen": [user("Is snow white?"), assistant("Yes.")], "rejected": [user("Is snow white?"), assistant("No.")]},
        *("implicit", ASKED, "Yes.", "No."),
    ),
    "implicit messages of many turns": (
        {
            side: [user("Hi"), assistant("Hello."), user("Is snow white?"), assistant(said)]
            for side, said in (("chosen", "Yes."), ("rejected", "No."))
        },
        *("implicit", LATER, "Yes.", "No."),
    ),
    "ultrafeedback": (
        {
            "prompt": "Is snow white?",
            "prompt_id": "7",
            "chosen": [user("Is snow white?"), assistant("Yes.")],
            "rejected": [user("Is snow white?"), assistant("No.")],
            "messages": [user("Is snow white?"), assistant("Yes.")],
        },
        *("ultrafeedback", ASKED, "Yes.", "No."),
    ),
    "hh": ({"chosen": f"{HH} Yes.", "rejected": f"{HH} No."}, *("hh", LATER, "Yes.", "No.")),
    "hh of one turn": (
        {
            "chosen": "\n\nHuman: Is snow white?\n\nAssistant: Yes.\n\nVery.",
            "rejected": "\n\nHuman: Is snow white?\n\nAssistant: No.",
        },
        *("hh", ASKED, "Yes.\n\nVery.", "No."),
    ),
    "alpacafarm": (
        {**ALPACA, "output_1": "snow", "output_2": "ice", "preference": 1},
        *("alpacafarm", "Translate.\n\nSchnee", "snow", "ice"),
    ),
    "alpacafarm that prefers the second": (
        {"instruction": "Translate.", "input": "", "output_1": "ice", "output_2": "snow", "preference": 2},
        *("alpacafarm", "Translate.", "snow", "ice"),
    ),
    "sharegpt": (
        {
            "conversations": [{"from": "human", "value": "Is snow white?"}],
            "chosen": {"from": "gpt", "value": "Yes."},
            "rejected": {"from": "gpt", "value": "No."},
        },
        *("sharegpt", ASKED, "Yes.", "No."),
    ),
    "sharegpt of many turns, its system apart": (
        {
            "conversations": [
                {"from": "human", "value": "Hi"},
                {"from": "gpt", "value": "Hello."},
                {"from": "human", "value": "Is snow white?"},
            ],
            "chosen": {"from": "gpt", "value": "Yes."},
            "rejected": {"from": "gpt", "value": "No."},
            "system": "Be brief.",
        },
        *("sharegpt", (Message("system", "Be brief."), *LATER), "Yes.", "No."),
    ),
    "alpaca-ranking": (
        {**ALPACA, "chosen": "snow", "rejected": "ice"},
        *("alpaca-ranking", "Translate.\n\nSchnee", "snow", "ice"),
    ),
    "alpaca-ranking with all it can have": (
        {
            "instruction": "Is snow white?",
            "input": "",
            "chosen": "Yes.",
            "rejected": "No.",
            "system": "Be brief.",
            "history": [["Hi", "Hello."]],
        },
        *("alpaca-ranking", (Message("system", "Be brief."), *LATER), "Yes.", "No."),
    ),
    "argilla": (
        {"instruction": "Is snow white?", "chosen_response": "Yes.", "rejected_response": "No."},
        *("argilla", "Is snow white?", "Yes.", "No."),
    ),
    "argilla with a question": (
        {"system": "Be brief.", "question": "Is snow white?", "chosen": "Yes.", "rejected": "No."},
        *("argilla", (Message("system", "Be brief."), *ASKED), "Yes.", "No."),
    ),
    "openai": (
        {
            "input": {"messages": [user("Is snow white?")], "tools": [], "parallel_tool_calls": True},
            "preferred_output": [assistant("Yes.")],
            "non_preferred_output": [assistant("No.")],
        },
        *("openai", ASKED, "Yes.", "No."),
    ),
    "messages": (
        {"messages": [user("Is snow white?")], "chosen": assistant("Yes."), "rejected": assistant("No.")},
        *("messages", ASKED, "Yes.", "No."),
    ),
    "messages and strings": (
        {"conversations": [{"from": "human", "value": "Is snow white?"}], "chosen": "Yes.", "rejected": "No."},
        *("messages", ASKED, "Yes.", "No."),
    ),
    "messages that both repeat": (
        {
            "prompt": [user("Is snow white?")],
            "chosen": [user("Is snow white?"), assistant("Yes.")],
            "rejected": [user("Is snow white?"), assistant("No.")],
        },
        *("conversational", ASKED, "Yes.", "No."),
    ),
    "question-answers": (
        {"system": "", "query": "Is snow white?", "response_chosen": "Yes.", "response_rejected": "No."},
        *("question-answers", "Is snow white?", "Yes.", "No."),
    ),
    "question-answers with a history": (
        {"history": [["Hi", "Hello."]], "input": "Is snow white?", "chosen": assistant("Yes."), "rejected": "No."},
        *("question-answers", LATER, "Yes.", "No."),
    ),
    "ms-swift": (
        {"messages": [user("Is snow white?"), assistant("Yes.")], "rejected_response": "No."},
        *("ms-swift", ASKED, "Yes.", "No."),
    ),
    "ms-swift with whole conversations": (
        {
            "messages": [user("Is snow white?"), assistant("Yes.")],
            "rejected_messages": [user("Is snow white?"), assistant("No.")],
        },
        *("ms-swift", ASKED, "Yes.", "No."),
    ),
    "two-responses": (
        {"question": "Is snow white?", "answer_a": "No.", "answer_b": "Yes.", "winner": "answer_b"},
        *("two-responses", "Is snow white?", "Yes.", "No."),
    ),
    "two-responses counted from 0": (
        {"prompt": "Is snow white?", "response_0": "No.", "response_1": "Yes.", "better_response_id": 1},
        *("two-responses", "Is snow white?", "Yes.", "No."),
    ),
    "two-responses of SHP": (
        {"history": "Is snow white?", "human_ref_A": "Yes.", "human_ref_B": "No.", "labels": 1, "score_A": 9},
        *("two-responses", "Is snow white?", "Yes.", "No."),
    ),
    "two-responses of HelpSteer": (
        {"context": [user("Is snow white?")], "response1": "No.", "response2": "Yes.", "overall_preference": 2},
        *("two-responses", ASKED, "Yes.", "No."),
    ),
    "arena": (
        {
            "model_a": "x-1",
            "conversation_a": [user("Is snow white?"), assistant("No.")],
            "conversation_b": [user("Is snow white?"), assistant("Yes.")],
            "winner": "model_b",
        },
        *("arena", ASKED, "Yes.", "No."),
    ),
    "ranked": (
        {"instruction": "Is snow white?", "input": "", "output": ["Yes.", "No."]},
        *("ranked", "Is snow white?", "Yes.", "No."),
    ),
    "ranked by ranks": (
        {
            "prompt": "Is snow white?",
            "answers": [{"answer": said, "rank": rank} for said, rank in (("Perhaps.", 2), ("No.", 3), ("Yes.", 1))],
        },
        *("ranked", "Is snow white?", "Yes.", "No."),
    ),
    "pool of objects": (
        {
            "instruction": "Is snow white?",
            "completions": [{"response": said, "overall_score": score} for said, score in (("No.", 1), ("Yes.", 7.5))],
        },
        *("pool", "Is snow white?", "Yes.", "No."),
    ),
    "pool": (
        {"prompt": "Is snow white?", "responses": ["Maybe.", "Yes.", "No."], "scores": [0.5, 2, -1]},
        *("pool", "Is snow white?", "Yes.", "No."),
    ),
    "pool with ties": (
        {"prompt": [user("Is snow white?")], "responses": ["No.", "Yes.", "Nope.", "Sure."], "scores": [0, 1, 0, 1]},
        *("pool", ASKED, "Yes.", "No."),
    ),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_row_is_recognised_and_means_this_pair(name: str) -> None:
    row, layout, prompt, chosen, rejected = EXAMPLES[name]
    pairs = read_pairs([row])
    assert pairs.format == layout
    (pair,) = pairs
    assert (pair.prompt, pair.chosen, pair.rejected) == (prompt, chosen, rejected)
    (named,) = read_pairs([row], format=layout)
    assert named == pair, "naming the layout changes nothing"


def test_every_layout_has_an_example() -> None:
    others = {"columns", "unpaired", "no-prompt"}
    assert {layout for _, layout, *_ in EXAMPLES.values()} | others == set(FORMATS)


@pytest.mark.parametrize(
    ("row", "layout"),
    [
        ({"prompt": "a", "chosen": "b", "rejected": "c", "responses": ["b", "c"], "scores": [1, 0]}, "standard"),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "instruction": "a", "input": ""}, "standard"),
        ({"prompt": "a", "chosen": f"{HH} b", "rejected": f"{HH} c"}, "standard"),
        ({"instruction": "a", "input": None, "chosen": "b", "rejected": "c"}, "alpaca-ranking"),
        ({"instruction": "a", "chosen": "b", "rejected": "c"}, "argilla"),
        ({"chosen": "Human: a\n\nAI: b", "rejected": "Human: a\n\nAI: c"}, "implicit"),
        ({"prompt": "a", "responses": ["b", "c"], "completion": "b", "label": True}, "pool"),
        ({"prompt": "a", "completion": "b", "label": True}, "unpaired"),
        (
            {"instruction": "a", "output_1": "b", "output_2": "c", "preference": 1, "chosen": "b", "rejected": "c"},
            "alpacafarm",
        ),
    ],
)
def test_which_layout_comes_first(row: Row, layout: str) -> None:
    assert open_pairs([row]).format == layout


def test_recognition_looks_past_rows_that_fit_nothing() -> None:
    good = {"prompt": "a", "chosen": "b", "rejected": "c"}
    pairs = open_pairs([{"prompt": None, "chosen": "b", "rejected": "c"}, {"x": 1}, good], on_bad_row="skip")
    assert pairs.format == "standard"
    assert [entry.row for entry in pairs.entries() if isinstance(entry, BadRow)] == [0, 1]


def test_rows_of_no_known_layout_are_named_with_the_way_out() -> None:
    with pytest.raises(DataError, match=r"question, answer.*--columns prompt=….*--format"):
        read_pairs([{"question": "a", "answer": "b"}])


def test_format_overrides_what_would_be_recognised() -> None:
    (pair,) = read_pairs([{"chosen": f"{HH} Yes.", "rejected": f"{HH} No."}], format="implicit")
    assert (pair.prompt, pair.chosen) == (HH, " Yes.")
    row = {"prompt": "a", "chosen": "b", "rejected": "c", "responses": ["d", "e"], "scores": [0, 1]}
    (pair,) = read_pairs([row], format="pool")
    assert (pair.chosen, pair.rejected) == ("e", "d")


@pytest.mark.parametrize("words", [("yes", "no"), ("yes, of course", "never"), ("a\n\nb", "c")])
@pytest.mark.parametrize("prompt", ["Is snow white?", "One.\nTwo. Three:", "Line\n", "Tab\t"])
def test_an_implicit_prompt_is_the_one_trl_takes(prompt: str, words: tuple[str, str]) -> None:
    trl = pytest.importorskip("trl.data_utils", reason="needs the extra undertow[trl]")
    row = {side: f"{prompt} {said}" for side, said in zip(("chosen", "rejected"), words, strict=True)}
    (pair,) = read_pairs([row], format="implicit")
    assert {"prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected} == trl.extract_prompt(row)


WORDS = st.lists(st.sampled_from(["snow", "white", "is", "black", "blue", "bl", "\n", "é"]), min_size=1, max_size=6)


@given(WORDS, WORDS, WORDS)
def test_an_implicit_prompt_tears_no_word_and_loses_no_letter(
    start: list[str], one: list[str], other: list[str]
) -> None:
    row = {"chosen": " ".join(["Q", *start, *one, "yes"]), "rejected": " ".join(["Q", *start, *other, "no"])}
    (entry,) = open_pairs([row], format="implicit", on_bad_row="skip").entries()
    assert isinstance(entry, Pair)
    assert entry.prompt + entry.chosen == row["chosen"]  # type: ignore[operator]
    assert entry.prompt + entry.rejected == row["rejected"]  # type: ignore[operator]
    words = row["chosen"].split()
    assert str(entry.prompt).split() == words[: len(str(entry.prompt).split())]
    assert entry.chosen.strip() and entry.rejected.strip()


TEXT = st.sampled_from(["", " ", "a", "b", "Human: a\n\nAssistant: b", "user", "assistant", "\ud800"])
SCALAR = st.one_of(TEXT, st.sampled_from([None, 1, 2, True, float("nan"), 10**400]))
TURN = st.one_of(
    st.fixed_dictionaries({"role": SCALAR, "content": SCALAR | st.lists(SCALAR, max_size=1)}),
    st.fixed_dictionaries({"from": SCALAR | st.lists(SCALAR, max_size=1), "value": SCALAR}),
)
VALUE = st.one_of(SCALAR, TURN, st.lists(st.one_of(SCALAR, TURN, st.lists(SCALAR, max_size=2)), max_size=3))
ROW_OF = {layout: row for row, layout, *_ in EXAMPLES.values()}
ROW_OF["no-prompt"] = {"chosen": "a", "rejected": "b"}
ROW_OF["unpaired"] = {"prompt": "p", "completion": "a", "label": True}


@st.composite
def nearly_good_rows(draw: st.DrawFn) -> tuple[str, list[Row]]:
    """Rows of one layout, in each of which a value or two is another, or missing."""
    layout = draw(st.sampled_from(sorted(ROW_OF)))
    names = [*ROW_OF[layout], "system", "history"]
    rows = []
    for _ in range(draw(st.integers(1, 4))):
        row = dict(ROW_OF[layout])
        for name in draw(st.lists(st.sampled_from(names), max_size=2)):
            row[name] = draw(VALUE)
        for name in draw(st.sets(st.sampled_from(names), max_size=1)):
            row.pop(name, None)
        rows.append(row)
    return layout, rows


@given(nearly_good_rows())
@settings(max_examples=300)
def test_every_row_is_a_pair_or_a_bad_row_with_a_reason(given_rows: tuple[str, list[Row]]) -> None:
    layout, rows = given_rows
    entries = list(open_pairs(rows, format=layout, on_bad_row="skip").entries())
    accounted = [n for entry in entries for n in (entry.source_rows if isinstance(entry, Pair) else (entry.row,))]
    assert sorted(accounted) == list(range(len(rows)))
    for entry in entries:
        if isinstance(entry, Pair):
            assert entry.chosen != entry.rejected
            assert entry.chosen.strip() and entry.rejected.strip()
            assert len(entry.pair_id) == 16
        else:
            assert entry.reason.isprintable()


TURNS = {"chosen": {"from": "gpt", "value": "Yes."}, "rejected": {"from": "gpt", "value": "No."}}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"conversations": [{"from": ["human"], "value": "a"}], **TURNS}, "`conversations[0]` comes from a list of 1"),
        ({"prompt": "a", "responses": ["b", "c"], "scores": [10**400, 1]}, "expected a finite number"),
        ({**ALPACA, "chosen": "b", "rejected": "c", "history": 5}, "`history` is a number (5), expected a list"),
        (
            {
                "prompt": [{"role": "us\ud800er", "content": "a"}, user("b")],
                "chosen": [assistant("c")],
                "rejected": [assistant("d")],
            },
            "`prompt[0]` `role` holds invalid UTF-8",
        ),
    ],
)
def test_values_that_no_one_expects_are_bad_rows(row: Row, said: str) -> None:
    (entry,) = open_pairs([row], on_bad_row="skip").entries()
    assert isinstance(entry, BadRow)
    assert said in entry.reason


def labelled(*rows: tuple[str, str, bool]) -> list[Row]:
    return [{"prompt": prompt, "completion": said, "label": label} for prompt, said, label in rows]


def test_unpaired_rows_match_in_order_within_their_prompt() -> None:
    rows = labelled(("p", "g1", True), ("q", "b1", False), ("p", "g2", True), ("p", "x1", False), ("q", "g1", True))
    pairs = open_pairs([*rows, *labelled(("p", "x2", False), ("p", "g3", True), ("r", "b1", False))], on_bad_row="skip")
    assert pairs.format == "unpaired"
    entries = list(pairs.entries())
    found = [(p.prompt, p.chosen, p.rejected, p.rows, p.row) for p in entries if isinstance(p, Pair)]
    assert found == [("p", "g1", "x1", (0, 3), 3), ("q", "g1", "b1", (1, 4), 4), ("p", "g2", "x2", (2, 5), 5)]
    left = [(bad.row, bad.reason) for bad in entries if isinstance(bad, BadRow)]
    assert [row for row, _ in left] == [6, 7]
    assert "`label` is true" in left[0][1]
    assert "`label` is false" in left[1][1]


def test_two_equal_responses_with_both_labels_are_two_bad_rows() -> None:
    rows = labelled(("p", "same", True), ("p", "same", False), ("p", "good", True), ("p", "bad", False))
    entries = list(open_pairs(rows, on_bad_row="skip").entries())
    assert [(entry.row, type(entry)) for entry in entries] == [(0, BadRow), (1, BadRow), (3, Pair)]
    assert "identical" in entries[0].reason  # type: ignore[union-attr]
    assert "row 0" in entries[1].reason  # type: ignore[union-attr]


@given(st.lists(st.tuples(st.sampled_from("pq"), st.sampled_from("ab"), st.booleans()), min_size=1, max_size=12))
def test_every_unpaired_row_is_in_one_pair_or_is_one_bad_row(rows: list[tuple[str, str, bool]]) -> None:
    used: list[int] = []
    for entry in open_pairs(labelled(*rows), on_bad_row="skip").entries():
        if isinstance(entry, Pair):
            prompt = str(entry.prompt)
            halves = {(prompt, entry.chosen, True), (prompt, entry.rejected, False)}
            assert {rows[n] for n in entry.source_rows} == halves
        used += entry.source_rows if isinstance(entry, Pair) else (entry.row,)
    assert sorted(used) == list(range(len(rows)))


def test_columns_of_any_name() -> None:
    row = {"q": "Is snow white?", "good": "Yes.", "bad": "No.", "sys": "Be brief.", "prompt": "not this"}
    columns = parse_columns("prompt=q, chosen = good,rejected=bad")
    pairs = read_pairs([row], columns=columns)
    assert pairs.format == "columns"
    assert [(p.prompt, p.chosen, p.rejected) for p in pairs] == [("Is snow white?", "Yes.", "No.")]
    (pair,) = read_pairs([row], columns={**columns, "system": "sys"})
    assert pair.prompt == (Message("system", "Be brief."), *ASKED)
    lists = {"q": [user("Is snow white?")], "good": [assistant("Yes.")], "bad": [assistant("No.")]}
    assert next(iter(read_pairs([lists], columns=columns))).prompt == ASKED


@pytest.mark.parametrize(
    ("given_text", "said"),
    [
        ("prompt=a,chosen=b", "rejected not given"),
        ("prompt=a,chosen=b,rejected=", "'rejected=' is not of the form"),
        ("a,b,c", "'a' is not of the form"),
        ("", "not of the form"),
        ("prompt=a,chosen=b,rejected=c,prompt=d", "prompt is given twice"),
        ("prompt=a,chosen=b,rejected=c,reward=d", "no part 'reward'"),
        ("prompt=a,chosen=b,rejected=b", "same column"),
    ],
)
def test_columns_that_cannot_be_meant(given_text: str, said: str) -> None:
    with pytest.raises(OptionError, match=re.escape(said)) as caught:
        parse_columns(given_text)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"format": "standart"}, "Did you mean standard"),
        ({"format": "columns"}, "needs the names"),
        ({"format": "hh", "columns": {"prompt": "a", "chosen": "b", "rejected": "c"}}, "exclude each other"),
        ({"on_bad_row": "ignore"}, "stop or skip"),
        ({"limit": 0}, "at least 1"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        open_pairs([{"prompt": "a", "chosen": "b", "rejected": "c"}], **options)


def test_pair_id_is_a_hash_of_the_text_alone(tmp_path: Path) -> None:
    row = {"prompt": "Où?", "chosen": "Là", "rejected": "Ici"}
    (pair,) = read_pairs([row])
    assert pair.pair_id == hashlib.sha256('["Où?","Là","Ici"]'.encode()).hexdigest()[:16]
    (tmp_path / "a.jsonl").write_text("\n" + json.dumps({"extra": 1, **row}))
    (elsewhere,) = read_pairs(tmp_path / "a.jsonl")
    assert (elsewhere.file, elsewhere.pair_id) == (str(tmp_path / "a.jsonl"), pair.pair_id)
    swapped, asked_by_role = (
        {"prompt": "Où?", "chosen": "Ici", "rejected": "Là"},
        {"prompt": [user("Où?")], "chosen": [assistant("Là")], "rejected": [assistant("Ici")]},
    )
    ids = {next(iter(read_pairs([other]))).pair_id for other in (row, swapped, asked_by_role)}
    assert len(ids) == 3


@pytest.mark.parametrize(
    ("name", "options", "layout", "count"),
    [
        ("alpaca_eval_pairs.jsonl", {}, "standard", 300),
        ("alpaca_eval_pools.jsonl", {}, "pool", 300),
        (
            "persona_ends_justify_means.jsonl",
            {
                "columns": parse_columns(
                    "prompt=question,chosen=answer_matching_behavior,rejected=answer_not_matching_behavior"
                )
            },
            "columns",
            1000,
        ),
    ],
)
def test_real_data(shared_data: Path, name: str, options: dict[str, Any], layout: str, count: int) -> None:
    pairs = open_pairs(shared_data / name, on_bad_row="skip", **options)
    found = list(pairs)
    assert pairs.format == layout
    assert len(found) + pairs.bad_count == count
    assert len(found) == count, pairs.first_bad
    assert [pair.line for pair in found] == list(range(1, count + 1))


def test_the_documentation_shows_rows_that_are_what_it_says() -> None:
    shown = re.findall(r"^### `([\w-]+)`.*?```json\n(.*?)```", DOCS.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert {name for name, _ in shown} == set(FORMATS)
    for name, text in shown:
        rows = [json.loads(line) for line in text.splitlines()]
        columns = parse_columns("prompt=question,chosen=better,rejected=worse") if name == "columns" else None
        pairs = read_pairs(rows, columns=columns, empty_prompt=name == "no-prompt")
        assert pairs.format == name
        assert len(list(pairs)) == 1
