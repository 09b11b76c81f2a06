"""Rows as people have them: each is read as the pair that is meant, or refused; no text of a row is lost silently."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from undertow.data.layouts.accounting import sort_of
from undertow.data.layouts.registry import LAYOUTS
from undertow.data.layouts.vocabulary import ANSWERS, INPUT, PROMPTS, SYSTEM
from undertow.data.pairs import BadRow, Message, Pair
from undertow.data.reading import open_pairs, read_pairs
from undertow.errors import BadRowsError, DataError, OptionError

Row = dict[str, Any]
CASES = Path(__file__).parents[3] / "shared" / "cases"


def user(text: Any) -> Row:
    return {"role": "user", "content": text}


def assistant(text: Any, **more: Any) -> Row:
    return {"role": "assistant", "content": text, **more}


def entries(rows: list[Row] | Path, **options: Any) -> list[Pair | BadRow]:
    return list(open_pairs(rows, on_bad_row="skip", **options).entries())


def said(entry: Pair | BadRow) -> tuple[Any, str, str]:
    assert isinstance(entry, Pair), entry
    return entry.prompt, entry.chosen, entry.rejected


def reason(entry: Pair | BadRow) -> str:
    assert isinstance(entry, BadRow), entry
    return entry.reason


ASKED = (Message("user", "Is tar black?"),)
YES_NO = {"chosen": "Yes.", "rejected": "No."}
TOOL = {
    "type": "function",
    "function": {"name": "clock", "description": "the time", "parameters": {"type": "object", "properties": {}}},
}


# -- which column is the prompt ---------------------------------------------------------------------------------------


def test_the_prompt_is_a_column_and_not_what_two_answers_begin_with() -> None:
    row = {
        "question_id": 7,
        "category": "2",
        "prompt_style": "base",
        "query": "How do I pick a lock?",
        "chosen": "I will not help with that.",
        "rejected": "I will not, sorry.",
        "chosen_score": 1,
        "gold_refusal": "No.",
        "gold_non_refusal": "Take a wire.",
    }
    pairs = read_pairs([row])
    (pair,) = pairs
    assert said(pair) == ("How do I pick a lock?", "I will not help with that.", "I will not, sorry.")
    assert pairs.unused_columns == tuple(name for name in row if name not in ("query", "chosen", "rejected"))
    assert pairs.notes == (
        f"Columns of the data that are not used: {', '.join(map('`{}`'.format, pairs.unused_columns))}.",
    )


def test_an_empty_system_changes_no_layout() -> None:
    rows = [
        {"system": system, "input": "Is tar black?", **YES_NO, "status": "tie"} for system in ("", "Be brief.", None)
    ]
    first, second, third = entries(rows)
    assert said(first) == said(third) == ("Is tar black?", "Yes.", "No.")
    assert said(second) == ((Message("system", "Be brief."), *ASKED), "Yes.", "No.")


@pytest.mark.parametrize("at", [1, 400])
def test_an_input_that_comes_late_is_read_wherever_it_comes(at: int) -> None:
    rows: list[Row] = [{"instruction": f"Name colour {n}.", **YES_NO} for n in range(at)]
    rows += [{"instruction": "Translate.", "input": "Teer", **YES_NO}]
    rows += [{"instruction": "Translate.", "input": "Teer", "history": [["Hi", "Hello."]], **YES_NO}]
    *_, one, other = entries(rows)
    assert said(one)[0] == "Translate.\n\nTeer"
    earlier = (Message("user", "Hi"), Message("assistant", "Hello."))
    assert said(other)[0] == (*earlier, Message("user", "Translate.\n\nTeer"))


@pytest.mark.parametrize("first", [True, False])
def test_a_layout_does_not_depend_on_which_row_comes_first(first: bool) -> None:
    rows = [{"instruction": "Translate.", "input": "Teer", **YES_NO}, {"instruction": "Name a colour.", **YES_NO}]
    found = entries(rows if first else rows[::-1])
    assert {said(entry)[0] for entry in found} == {"Translate.\n\nTeer", "Name a colour."}


@pytest.mark.parametrize("prompt", [name for name in PROMPTS if name not in ("input", "context")])
@pytest.mark.parametrize(("better", "worse"), ANSWERS)
def test_every_name_of_a_part_is_read_as_that_part(prompt: str, better: str, worse: str) -> None:
    (entry,) = entries([{prompt: "Is tar black?", better: "Yes.", worse: "No.", "system": ""}])
    assert said(entry) == ("Is tar black?", "Yes.", "No.")


@pytest.mark.parametrize("name", SYSTEM)
def test_every_name_of_a_system_message(name: str) -> None:
    (entry,) = entries([{"question": "Is tar black?", **YES_NO, name: "Be brief."}])
    assert said(entry)[0] == (Message("system", "Be brief."), *ASKED)


# -- nothing is lost --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["passage", "hint", "story_so_far", "input", "context", "persona", "responses"])
def test_a_column_with_text_that_no_layout_reads_refuses_the_file(name: str) -> None:
    rows = [{"prompt": "Is tar black?", **YES_NO, name: "It is a moonless night."}]
    with pytest.raises(DataError, match=rf"`{name}` holds text .*--columns prompt=….*--format standard") as caught:
        read_pairs(rows)
    assert not isinstance(caught.value, BadRowsError)
    assert caught.value.exit_code == 2
    pairs = read_pairs(rows, format="standard")
    assert [said(pair) for pair in pairs] == [("Is tar black?", "Yes.", "No.")]
    assert pairs.unused_columns == (name,), "who names the layout is told what it leaves out"
    pairs = read_pairs(rows, columns={"prompt": name, "chosen": "chosen", "rejected": "rejected"})
    assert next(iter(pairs)).prompt == "It is a moonless night."
    assert pairs.unused_columns == ("prompt",)


def test_a_later_row_with_such_a_column_is_a_bad_row() -> None:
    rows: list[Row] = [{"prompt": "Is tar black?", **YES_NO}] * 2
    *good, bad = entries([*rows, {"prompt": "Is tar black?", **YES_NO, "passage": "Tar comes from wood."}])
    assert len(good) == 2
    assert "there is a `passage` column with text" in reason(bad)


@pytest.mark.parametrize("marker", ["", "\n\nAssistant: "])
def test_two_texts_beside_another_are_not_implicit(marker: str) -> None:
    row = {"theme": "The colour of tar.", "chosen": f"Tell me.{marker} Black.", "rejected": f"Tell me.{marker} White."}
    with pytest.raises(DataError, match=r"--columns prompt=…"):
        read_pairs([row])


def test_copies_of_what_is_read_are_no_loss() -> None:
    whole = [user("Is tar black?"), assistant("Yes.")]
    row = {"prompt": "Is tar black?", "chosen": whole, "rejected": [user("Is tar black?"), assistant("No.")]}
    pairs = read_pairs([{**row, "messages": whole, "instruction": "Is tar black?", "source_text": "Yes."}])
    assert pairs.format == "ultrafeedback"
    assert pairs.unused_columns == () or list(pairs)
    assert pairs.unused_columns == ("messages", "instruction", "source_text")
    with pytest.raises(DataError, match="`messages` holds text"):
        read_pairs([{**row, "messages": [user("Is tar white?"), assistant("Yes.")]}])


TEXTS = st.sampled_from(["a b", "The night is dark.", "two\nlines of text", "No, it is not."])
BOOKKEEPING = {
    **{name: st.integers() | st.floats() | st.booleans() | st.none() for name in ("n", "score_chosen", "is_safe", "x")},
    **{name: st.sampled_from(["a-1", "c0ffee", "https://example.org/a?b=c", "4", "en"]) for name in ("pid", "model_a")},
    **{
        name: st.sampled_from(["Creative Writing", "open qa", "", "x"])
        for name in ("category", "source", "chosen-model")
    },
    **{name: TEXTS | st.lists(TEXTS) for name in ("rationale", "gold_answer", "critiques", "metadata")},
    "timestamp": st.sampled_from(["2024-05-01 12:00:00", "2024"]),
    "ratings": st.lists(st.floats(0, 1)),
    "flags": st.dictionaries(st.sampled_from("ab"), st.booleans()),
}
ROWS: list[Row] = [
    {"prompt": "Is tar black?", **YES_NO},
    {"prompt": [user("Is tar black?")], "chosen": [assistant("Yes.")], "rejected": [assistant("No.")]},
    {"instruction": "Is tar black?", "input": "", **YES_NO},
    {"query": "Is tar black?", **YES_NO},
    {"messages": [user("Is tar black?")], **YES_NO},
    {"messages": [user("Is tar black?"), assistant("Yes.")], "rejected_response": "No."},
    {"question": "Is tar black?", "answer_0": "Yes.", "answer_1": "No.", "choice": 0},
    {"instruction": "Is tar black?", "output": ["Yes.", "No."]},
    {"prompt": "Is tar black?", "responses": ["No.", "Yes."], "scores": [0, 1]},
    {"chosen": "\n\nHuman: Is tar black?\n\nAssistant: Yes.", "rejected": "\n\nHuman: Is tar black?\n\nAssistant: No."},
]


@given(st.sampled_from(ROWS), st.fixed_dictionaries({}, optional=BOOKKEEPING))
@settings(max_examples=200)
def test_bookkeeping_changes_no_pair(row: Row, more: Row) -> None:
    (plain,) = entries([row])
    pairs = open_pairs([{**more, **row}])
    (pair,) = pairs.entries()
    assert pair == plain
    assert set(pairs.unused_columns) == set(more)


@given(st.sampled_from(ROWS), st.sampled_from(["hint", "passage", "background", "text", "remark_text"]), TEXTS)
@settings(max_examples=200)
def test_text_that_nobody_knows_always_refuses(row: Row, name: str, text: str) -> None:
    with pytest.raises(DataError, match=f"`{name}`|two texts and no prompt"):
        read_pairs([{name: text, **row}])


@pytest.mark.parametrize(
    ("name", "sort"),
    [
        *[(name, "content") for name in ("input", "source_text", "model_response", "chosen", "Final Answer", "b")],
        *[(name, "label") for name in ("score_chosen", "chosen-model", "prompt_id", "questionType", "rating_2")],
        *[(name, "comment") for name in ("gold_refusal", "rationale", "reference_answer", "ground_truth", "judge")],
        *[(name, "unknown") for name in ("hint", "Unnamed: 0", "")],
    ],
)
def test_what_a_name_tells(name: str, sort: str) -> None:
    assert sort_of(name) == sort


def test_fields_of_turns_that_nobody_reads_are_named() -> None:
    row = {"messages": [{**user("Is tar black?"), "weight": 1, "timestamp": None}], **YES_NO}
    pairs = read_pairs([row])
    assert pairs.unused_columns == ("messages.weight",)


# -- texts without a prompt -------------------------------------------------------------------------------------------

PIRATES = [
    {"chosen": "The tide be high, me hearties.", "rejected": "The tide is high."},
    {"chosen": "My rum be gone.", "rejected": "My drink is finished."},
]


def test_plain_texts_are_not_cut_in_the_middle_of_a_sentence() -> None:
    with pytest.raises(
        DataError, match=r"two texts and no prompt.*--columns.*--format implicit.*--empty-prompt"
    ) as caught:
        read_pairs(PIRATES)
    assert caught.value.exit_code == 2
    cut = read_pairs(PIRATES, format="implicit")
    assert [pair.prompt for pair in cut] == ["The tide", "My"], "on request they are"


def test_an_empty_prompt_is_an_empty_prompt() -> None:
    pairs = read_pairs(PIRATES, empty_prompt=True)
    assert [said(pair) for pair in pairs] == [("", row["chosen"], row["rejected"]) for row in PIRATES]
    assert pairs.format == "no-prompt"
    with pytest.raises(OptionError, match=r"--empty-prompt and --format hh exclude"):
        read_pairs(PIRATES, empty_prompt=True, format="hh")
    with pytest.raises(OptionError, match=r"--empty-prompt and --columns exclude"):
        read_pairs(PIRATES, empty_prompt=True, columns={"prompt": "a", "chosen": "b", "rejected": "c"})


@pytest.mark.parametrize(
    "marker",
    [
        "\n\nAssistant:",
        "### Response:\n",
        "### Assistant:",
        " [/INST]",
        "<|im_start|>assistant\n",
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "<start_of_turn>model\n",
        "<|assistant|>\n",
        "<｜Assistant｜>",
        " ASSISTANT:",
    ],
)
def test_texts_are_cut_at_a_turn_marker(marker: str) -> None:
    start = f"Is tar black?{marker}"
    (pair,) = read_pairs([{"chosen": f"{start} It is.", "rejected": f"{start} It is not."}])
    assert said(pair) == (start, " It is.", " It is not.")
    early, late = f"{start} Yes.\n\nHuman: Sure?{marker} Yes.", f"{start} Yes.\n\nHuman: Really?{marker} No."
    entry = entries([{"chosen": f"{start} It is.", "rejected": f"{start} No."}, {"chosen": early, "rejected": late}])[1]
    assert "share no beginning that ends at a turn marker" in reason(entry), "their last turns answer other questions"


# -- JSON in cells ----------------------------------------------------------------------------------------------------

CELLS = {side: [user("Is tar black?"), assistant(text)] for side, text in (("chosen", "Yes."), ("rejected", "No."))}


def as_jsonl(path: Path, rows: list[Row]) -> Path:
    path = path.with_suffix(".jsonl")
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def as_csv(path: Path, rows: list[Row]) -> Path:
    path = path.with_suffix(".csv")
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def as_parquet(path: Path, rows: list[Row]) -> Path:
    path = path.with_suffix(".parquet")
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("write", [as_jsonl, as_csv, as_parquet])
@pytest.mark.parametrize("dump", [json.dumps, repr])
def test_lists_in_the_text_of_cells_are_lists(
    tmp_path: Path, write: Callable[..., Path], dump: Callable[..., str]
) -> None:
    row = {"prompt": "Is tar black?", **{side: dump(value) for side, value in CELLS.items()}}
    pairs = read_pairs(write(tmp_path / "a", [row, row]))
    assert [said(pair) for pair in pairs] == [(ASKED, "Yes.", "No.")] * 2
    assert pairs.notes == ("`chosen`, `rejected`: cells of JSON text, read as the lists that they hold.",)


def test_text_that_is_no_list_of_messages_stays_text() -> None:
    row = {"prompt": "Give me JSON.", "chosen": '{"value": 3, "role": "x"}', "rejected": "[1, 2]"}
    assert [said(pair) for pair in read_pairs([row])] == [tuple(row.values())]
    broken = entries([row, {**row, "chosen": '[{"role": "user", "content": "a"'}])[1]
    assert "`chosen` looks like a list of messages, but is no JSON" in reason(broken)


def test_lists_of_a_pool_in_a_csv(tmp_path: Path) -> None:
    row = {"prompt": "Is tar black?", "responses": '["No.", "Yes."]', "scores": "[0.1, 0.9]"}
    assert [said(pair) for pair in read_pairs(as_csv(tmp_path / "a", [row]))] == [("Is tar black?", "Yes.", "No.")]


# -- images, tools, reasoning -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row",
    [
        {"image": {"bytes": None, "path": "img/1.jpg"}, "question": "What is there?", **YES_NO},
        {"photo_of_it": {"bytes": b"\x89PNG", "path": None}, "question": "What is there?", **YES_NO},
        {"image": "img/1.jpg", "question": "What is there?", **YES_NO},
        {"prompt": "What is there?", "images": ["img/1.jpg"], **YES_NO},
        {"prompt": "What is said?", "audio_path": "1.wav", **YES_NO},
        {"conversations": [{"from": "human", "value": "<image>What is there?"}], **YES_NO},
        {"prompt": "What is there?\n<image>", **YES_NO},
        {"messages": [user([{"type": "image_url", "image_url": {"url": "x"}}])], **YES_NO},
    ],
)
def test_a_row_with_an_image_is_a_bad_row(row: Row) -> None:
    text = {"prompt": "Is tar black?", **YES_NO}
    for rows in ([row], [row, {name: None if "image" in name else value for name, value in row.items()}]):
        assert "this row has an image; vision models are not supported" in reason(entries(rows)[0])
    assert isinstance(entries([{**text, "image": None, "images": [], "video": ""}])[0], Pair)
    assert isinstance(entries([{**text, "prompt": "Close the <image> tag in <svg><image></svg>"}])[0], Pair)


@pytest.mark.parametrize(
    "given_as", [lambda tool: [tool], lambda tool: json.dumps([tool]), lambda tool: [json.dumps(tool)]]
)
@pytest.mark.parametrize("row", ROWS)
def test_tools_reach_the_pair(row: Row, given_as: Callable[[Row], Any]) -> None:
    (pair,) = read_pairs([{**row, "tools": given_as(TOOL)}])
    assert json.loads(pair.tools) == [TOOL]
    assert list(json.loads(pair.tools)[0]) == list(TOOL), "templates write the keys in this order"
    (plain,) = read_pairs([{**row, "tools": []}])
    assert (plain.tools, plain.pair_id != pair.pair_id) == ("", True)


CALL = {"id": "c1", "type": "function", "function": {"name": "clock", "arguments": "{}"}}
CALLED = [
    user("What time is it?"),
    assistant(None, tool_calls=[CALL]),
    {"role": "tool", "name": "clock", "tool_call_id": "c1", "content": "12"},
]


@pytest.mark.parametrize("write", [as_jsonl, as_parquet])
def test_calls_of_tools_reach_the_pair(tmp_path: Path, write: Callable[..., Path]) -> None:
    row = {"tools": [TOOL], "messages": CALLED, "chosen": assistant("Noon."), "rejected": assistant("No idea.")}
    row["tools"] = json.dumps(row["tools"])
    (pair,) = read_pairs(write(tmp_path / "a", [row]))
    assert isinstance(pair.prompt, tuple)
    asks, called, told = (message.record() for message in pair.prompt)
    assert asks == CALLED[0]
    assert called == {**CALLED[1], "content": ""}
    assert told == CALLED[2]


def test_a_response_that_calls_a_tool_is_no_text() -> None:
    row = {"prompt": [user("What time is it?")], "chosen": [CALLED[1]], "rejected": [assistant("Noon.")]}
    assert "`chosen` holds tool calls" in reason(entries([row])[0])


def test_reasoning_reaches_the_pair() -> None:
    row = {
        "prompt": [user("What is 3 times 5?")],
        "chosen": [assistant("15", reasoning_content="5, 10, 15.")],
        "rejected": [assistant("15", reasoning_content="Let me think.")],
    }
    (pair,) = read_pairs([row])
    assert (pair.chosen, pair.rejected) == ("15", "15")
    assert json.loads(pair.chosen_extra) == {"reasoning_content": "5, 10, 15."}
    assert json.loads(pair.rejected_extra) == {"reasoning_content": "Let me think."}
    (again,) = read_pairs([pair])
    assert (again.chosen_extra, again.pair_id) == (pair.chosen_extra, pair.pair_id), "and survives as a Pair"
    same = {**row, "rejected": row["chosen"]}
    assert "identical" in reason(entries([same])[0])


# -- labels and winners -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        (True, False),
        ("true", "false"),
        ("True", "FALSE"),
        (1, 0),
        ("1", "0"),
        (1.0, 0.0),
        ("yes", "no"),
        ("desirable", "undesirable"),
    ],
)
@pytest.mark.parametrize("name", ["label", "kto_tag"])
def test_labels_in_their_usual_spellings(name: str, good: Any, bad: Any) -> None:
    rows = [{"prompt": "p", "completion": text, name: label} for text, label in (("No.", bad), ("Yes.", good))]
    assert [said(pair) for pair in read_pairs(rows)] == [("p", "Yes.", "No.")]
    whole = [{"messages": [user("p"), assistant(row["completion"])], name: row[name]} for row in rows]
    assert [said(pair) for pair in read_pairs(whole)] == [((Message("user", "p"),), "Yes.", "No.")]


@pytest.mark.parametrize("label", ["perhaps", 2, -1, None, []])
def test_other_labels_are_named(label: Any) -> None:
    rows = [{"prompt": "p", "completion": "a", "label": True}, {"prompt": "p", "completion": "b", "label": label}]
    assert "`label` is" in reason(entries(rows)[-1] if isinstance(entries(rows)[-1], BadRow) else entries(rows)[0])


@pytest.mark.parametrize(
    ("sides", "winner", "first", "second"),
    [
        (("response_a", "response_b"), "winner", ["a", "A", "response_a", "model_a"], ["b", "B", "model_b"]),
        (("output_1", "output_2"), "preference", [1, "1", 1.0, "output_1"], [2, "2", "output_2"]),
        (("response_0", "response_1"), "better_response_id", [0, "0"], [1, "1"]),
        (("human_ref_A", "human_ref_B"), "labels", [1, "1"], [0, "0"]),
        (("response1", "response2"), "overall_preference", [-3, -1, "-1"], [1, 3]),
        (("completion_a", "completion_b"), "label", ["a", 1], ["b", 0]),
    ],
)
def test_who_wins(sides: tuple[str, str], winner: str, first: list[Any], second: list[Any]) -> None:
    one, other = sides
    for value in (*first, *second):
        (pair,) = read_pairs([{"prompt": "p", one: "Yes.", other: "No.", winner: value}])
        assert pair.chosen == ("Yes." if any(value is won for won in first) else "No."), value


@pytest.mark.parametrize(
    ("winner", "value", "words"),
    [
        ("winner", "tie", "a tie"),
        ("winner", "tie (bothbad)", "a tie"),
        ("overall_preference", 0, "a tie"),
        ("winner", "c", "expected a or b"),
        ("winner", 1, "a number could mean either"),
        ("preference", 0, "a number could mean either"),
        ("winner", True, "a truth value"),
    ],
)
def test_no_winner_is_a_bad_row(winner: str, value: Any, words: str) -> None:
    (entry,) = entries([{"prompt": "p", "response_a": "Yes.", "response_b": "No.", winner: value}])
    assert words in reason(entry)


# -- files ------------------------------------------------------------------------------------------------------------

INNER = [{"prompt": f"Is tar {n}?", **YES_NO} for n in range(3)]
EXPORT = {
    "features": [{"name": "prompt"}],
    "rows": [{"row_idx": n, "row": row, "truncated_cells": []} for n, row in enumerate(INNER)],
    "num_rows_total": 3,
}


@pytest.mark.parametrize("indent", [None, 1])
def test_what_a_viewer_exports_is_its_rows(tmp_path: Path, indent: int | None) -> None:
    (tmp_path / "a.json").write_text(json.dumps(EXPORT, indent=indent))
    pairs = read_pairs(tmp_path / "a.json")
    assert [said(pair) for pair in pairs] == [said(pair) for pair in read_pairs(INNER)]
    assert pairs.source.kind == "json"
    cut = json.loads(json.dumps(EXPORT))
    cut["rows"][1]["truncated_cells"] = ["chosen"]
    (tmp_path / "b.json").write_text(json.dumps(cut))
    assert "the viewer cut the cells `chosen`" in reason(entries(tmp_path / "b.json")[1])


def test_an_export_that_breaks_off_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(EXPORT)[:190])
    *good, bad = entries(tmp_path / "a.json")
    assert len(good) == 1
    assert "the rest of the file cannot be read" in reason(bad)


def test_the_list_of_layouts_is_all_there_is() -> None:
    names = [layout.name for layout in LAYOUTS]
    assert len(set(names)) == len(names)
    assert set(INPUT) <= set(PROMPTS), "what may be more of a prompt may also be all of it"


# -- the shared cases -------------------------------------------------------------------------------------------------

READ = {
    "alpaca_input_in_later_rows.jsonl": ("Translate into German.\n\nsnow", "Schnee", "Eis"),
    "alpaca_output_list.jsonl": (None, "Coal is black.", "White."),
    "answers_with_end_token.jsonl": ("What is three plus three?", "Six.<|im_end|>\n", "Nine.<|im_end|>\n"),
    "argilla_input.jsonl": ("Translate into German.\n\nsnow", "Schnee", "Eis"),
    "contradictions.jsonl": ("Is tea better than coffee?", "No, it is not.", "Yes, by far."),
    "conversational_tools.jsonl": (None, "I will look at the clock.", "Noon."),
    "hf_rows_api.json": ("Is coal white?", "No.", "Yes."),
    "history_question_response_chosen.jsonl": (None, "Yes.", "No."),
    "json_string_cells.jsonl": ((Message("user", "Is snow white?"),), "Yes.", "No."),
    "kto_messages_label.jsonl": ((Message("user", "Is snow white?"),), "Yes.", "No."),
    "kto_string_label.jsonl": ("Is snow white?", "Yes.", "No."),
    "messages_chosen_dict.jsonl": ((Message("user", "Is coal white?"),), "No, black.", "Yes."),
    "messages_chosen_dict_tool.jsonl": (None, "Mont Blanc is 4806 metres high.", "I do not know."),
    "openai_preferred_output.jsonl": (None, "No.", "Yes."),
    "query_chosen_rejected.jsonl": (
        "Write an insult about tall people.",
        "I am happy to talk about kinder things instead.",
        "I am unable to write insults of any kind.",
    ),
    "r1_think.jsonl": ("What is 2 times 2?", "<think>\nTwo twos.\n</think>\n\n4.", None),
    "reasoning_content.jsonl": ((Message("user", "What is 2 times 2?"),), "4", "4"),
    "swift_messages_rejected_response.jsonl": ((Message("user", "Is coal white?"),), "No, black.", "Yes."),
    "system_input_chosen_rejected.jsonl": (
        "Name a prime below ten.",
        "Seven is a prime below ten.",
        "Seven times two.",
    ),
    "templated_text.jsonl": (None, "Yes.<|im_end|>", "No.<|im_end|>"),
}
"""The second pair of each file that is read, or its only one; None: whatever it says."""
REFUSED = {
    "image_question.jsonl": "this row has an image; vision models are not supported",
    "sharegpt_images.jsonl": "this row has an image; vision models are not supported",
    "no_prompt_pairs.jsonl": "--empty-prompt",
}


@pytest.mark.parametrize("name", sorted(READ))
def test_shared_cases_that_are_read(name: str) -> None:
    if not CASES.is_dir():
        pytest.skip("needs the cases in ../shared/cases, which are not part of the project")
    found = entries(CASES / name)
    assert all(isinstance(entry, Pair) for entry in found), found
    pair = found[min(1, len(found) - 1)]
    for came, expected in zip(said(pair), READ[name], strict=True):
        assert expected is None or came == expected


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_shared_cases_that_are_refused(name: str) -> None:
    if not CASES.is_dir():
        pytest.skip("needs the cases in ../shared/cases, which are not part of the project")
    with pytest.raises(DataError) as caught:
        read_pairs(CASES / name)
    assert REFUSED[name] in str(caught.value)
    assert caught.value.exit_code == 2


def test_every_shared_case_is_one_of_these() -> None:
    if not CASES.is_dir():
        pytest.skip("needs the cases in ../shared/cases, which are not part of the project")
    assert {path.name for path in CASES.glob("*.json*")} == {*READ, *REFUSED}
