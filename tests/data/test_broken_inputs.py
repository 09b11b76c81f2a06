"""Broken input of every sort: it is named with its place and reason, and costs no good row beside it."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from undertow.data.pairs import Pair
from undertow.data.reading import open_pairs, read_pairs
from undertow.errors import BadRowsError, DataError

Row = dict[str, Any]


def user(content: Any) -> Row:
    return {"role": "user", "content": content}


def said(content: Any) -> Row:
    return {"role": "assistant", "content": content}


def human(value: Any) -> Row:
    return {"from": "human", "value": value}


def gpt(value: Any) -> Row:
    return {"from": "gpt", "value": value}


GOOD: dict[str, Row] = {
    "standard": {"prompt": "What is N?", "chosen": "Good N.", "rejected": "Bad N."},
    "conversational": {"prompt": [user("What is N?")], "chosen": [said("Good N.")], "rejected": [said("Bad N.")]},
    "implicit": {"chosen": "What is N?\n### Response:\nGood N.", "rejected": "What is N?\n### Response:\nBad N."},
    "ultrafeedback": {
        "prompt": "What is N?",
        "chosen": [user("What is N?"), said("Good N.")],
        "rejected": [user("What is N?"), said("Bad N.")],
    },
    "hh": {
        "chosen": "\n\nHuman: What is N?\n\nAssistant: Good N.",
        "rejected": "\n\nHuman: What is N?\n\nAssistant: Bad N.",
    },
    "alpacafarm": {
        "instruction": "What is N?",
        "input": "",
        "output_1": "Bad N.",
        "output_2": "Good N.",
        "preference": 2,
    },
    "sharegpt": {"conversations": [human("What is N?")], "chosen": gpt("Good N."), "rejected": gpt("Bad N.")},
    "alpaca-ranking": {"instruction": "What is N?", "input": "", "chosen": "Good N.", "rejected": "Bad N."},
    "argilla": {"instruction": "What is N?", "chosen_response": "Good N.", "rejected_response": "Bad N."},
    "pool": {"prompt": "What is N?", "responses": ["So so.", "Good N.", "Bad N."], "scores": [0.5, 0.9, 0.1]},
}
STANDARD = GOOD["standard"]


def good(format: str, number: int) -> Row:
    """A good row, different for each number."""
    row: Row = json.loads(json.dumps(GOOD[format]).replace("N", str(number)))
    return row


def jsonl(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def write(folder: Path, name: str, content: bytes) -> Path:
    (folder / name).write_bytes(content)
    return folder / name


def check(path: Path, good_numbers: list[int], bad: list[tuple[int, str]], **options: Any) -> None:
    """All good rows come, each bad one with its reason, nothing twice; and ``stop`` says the same."""
    pairs = open_pairs(path, on_bad_row="skip", **options)
    entries = list(pairs.entries())
    found = [entry for entry in entries if isinstance(entry, Pair)]
    refused = [entry for entry in entries if not isinstance(entry, Pair)]
    assert [pair.chosen.strip() for pair in found] == [f"Good {number}." for number in good_numbers]
    assert [pair.rejected.strip() for pair in found] == [f"Bad {number}." for number in good_numbers]
    assert list(pairs) == found
    assert pairs.bad_count == len(bad)
    assert sorted(entry.row for entry in entries) == list(range(len(good_numbers) + len(bad))), "every row, once"
    for entry, (line, words) in zip(refused, bad, strict=True):
        assert entry.line == line, entry
        assert words in entry.reason, entry.reason
        assert entry.reason.isprintable(), "no control characters in messages"
    if bad:
        with pytest.raises(BadRowsError) as caught:
            read_pairs(path, **options)
        assert caught.value.count == len(bad)
        assert f"{refused[0].file}, line {bad[0][0]} " in str(caught.value)
        assert bad[0][1] in str(caught.value)
        assert caught.value.exit_code == 2


# -- one row among good ones ------------------------------------------------------------------------------------------


class _Drop:
    def __repr__(self) -> str:
        return "dropped"  # the same in every process: it is in a test's name


DROP = _Drop()
# (layout, what is changed in a good row, words of the reason)
ROWS: list[tuple[str, Row, str]] = [
    ("standard", {"chosen": DROP}, "`chosen` is missing"),
    ("standard", {"prompt": DROP}, "`prompt` is missing"),
    ("standard", {"prompt": DROP, "chosen": DROP, "rejected": DROP}, "columns: none"),
    ("standard", {"chosen": None}, "`chosen` is null, expected a string"),
    ("standard", {"rejected": 3}, "`rejected` is a number (3), expected a string"),
    ("standard", {"rejected": True}, "`rejected` is a truth value (true)"),
    ("standard", {"rejected": {"a": 1}}, "`rejected` is an object with `a`"),
    ("standard", {"chosen": ["x"]}, "recognised as `standard` from the first row; here `chosen` is a list of 1"),
    ("standard", {"prompt": ""}, "`prompt` is empty"),
    ("standard", {"chosen": " \n\t"}, "`chosen` holds only white space"),
    ("standard", {"rejected": "Good 9."}, "identical"),
    ("standard", {"chosen": "half a \ud83d face"}, "`chosen` holds invalid UTF-8 (a lone surrogate, \\ud83d)"),
    ("standard", {"chosen": 7, "prompt": "\x1b[31m\x00"}, "`chosen` is a number"),
    ("standard", {"rejected": ["\x1b[31m", "\u202e"]}, "`rejected` is a list of 2"),
    ("standard", {"system": 5}, "`system` is a number (5)"),
    ("standard", GOOD["conversational"], "recognised as `standard` from the first row; here `prompt` is a list of 1"),
    ("conversational", {"prompt": []}, "`prompt` is an empty list"),
    ("conversational", {"prompt": "What?"}, "`prompt` is a string ('What?'), expected a list"),
    ("conversational", {"prompt": [said("Hello.")]}, "`prompt` ends with the role a string ('assistant')"),
    ("conversational", {"prompt": [user("a"), {"role": "system", "content": "b"}]}, "only the first can be one"),
    ("conversational", {"prompt": [user("a"), "b"]}, "`prompt[1]` is a string ('b'), expected an object"),
    ("conversational", {"prompt": [{"content": "a"}]}, "`prompt[0]` has no `role`"),
    ("conversational", {"prompt": [{"role": 1, "content": "a"}]}, "`prompt[0]` has a number (1) `role`"),
    ("conversational", {"chosen": [said(None)]}, "`chosen[0]` `content` is null"),
    ("conversational", {"chosen": [said("")]}, "`chosen[0]` `content` is empty"),
    ("conversational", {"chosen": [user("Good 9.")]}, "expected assistant"),
    ("conversational", {"chosen": [said("a"), said("b")]}, "`chosen` is 2 messages (assistant, assistant)"),
    ("conversational", {"chosen": [{"role": "assistant", "content": "a", "tool_calls": [{}]}]}, "tool calls"),
    ("conversational", {"prompt": [user([{"type": "image", "image": "x"}])]}, "a part of the type a string ('image')"),
    ("conversational", {"prompt": [user([{"type": "text"}])]}, "`content`[0] has as `text` null"),
    (
        "conversational",
        {"system": "Be nice.", "prompt": [{"role": "system", "content": "Be bad."}, user("a")]},
        "`system` and the prompt's own system message differ",
    ),
    ("implicit", {"chosen": "Quite another thing."}, "share no beginning"),
    ("implicit", {"prompt": "What?"}, "there is a `prompt` column"),
    ("implicit", {"chosen": [user("a"), said("b")]}, "`rejected` is a string"),
    ("ultrafeedback", {"prompt": "Who?"}, "`prompt` (a string ('Who?')) is none of the user's turns"),
    ("ultrafeedback", {"chosen": [user("Else?"), said("b")]}, "share no leading message"),
    ("ultrafeedback", {"chosen": [user("What is 9?"), said("a"), user("b")]}, "`chosen` is 2 messages"),
    ("hh", {"chosen": "Good 9."}, "`chosen` does not begin with a turn"),
    ("hh", {"rejected": "\n\nHuman: Else?\n\nAssistant: b"}, "differ before the last assistant turn"),
    ("hh", {"chosen": "\n\nHuman: What is 9?\n\nAssistant:"}, "turn 2 of `chosen` (assistant) is empty"),
    ("hh", {"chosen": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c"}, "the last turn of `chosen` is Human's"),
    ("alpacafarm", {"preference": 3}, "`preference` is a number (3), expected 1 or 2"),
    ("alpacafarm", {"preference": True}, "`preference` is a truth value"),
    ("alpacafarm", {"preference": "both good"}, "`preference` is a string ('both good'), expected 1 or 2"),
    ("alpacafarm", {"output_1": None}, "`output_1` is null"),
    ("alpacafarm", {"input": 4}, "`input` is a number (4)"),
    ("sharegpt", {"chosen": human("Good 9.")}, "`chosen` is a message of the role a string ('user')"),
    ("sharegpt", {"conversations": [gpt("a")]}, "`conversations` ends with the role"),
    ("sharegpt", {"conversations": [{"from": "alien", "value": "a"}]}, "comes from a string ('alien')"),
    ("sharegpt", {"conversations": [human(None)]}, "`conversations[0]` `value` is null"),
    ("sharegpt", {"rejected": "Bad 9."}, "`rejected` is a string"),
    ("alpaca-ranking", {"history": [["a"]]}, "`history[0]` is a list of 1"),
    ("alpaca-ranking", {"history": [["a", ""]]}, "`history[0]` is empty"),
    ("alpaca-ranking", {"history": "a"}, "`history` is a string ('a'), expected a list"),
    ("argilla", {"rejected_response": ""}, "`rejected_response` is empty"),
    ("argilla", {"chosen_response": DROP}, "`chosen` is missing"),
    ("pool", {"scores": None}, "`scores` is missing"),
    ("pool", {"scores": [0.5, 0.5, 0.5]}, "all 3 `scores` are 0.5"),
    ("pool", {"scores": [0.5, 0.9]}, "`scores` has 2 elements, `responses` 3"),
    ("pool", {"scores": [0.5, "0.9", 0.1]}, "`scores[1]` is a string ('0.9')"),
    ("pool", {"scores": [0.5, float("nan"), 0.1]}, "`scores[1]` is a number (nan), expected a finite number"),
    ("pool", {"responses": ["one"]}, "`responses` is a list of 1, expected at least 2"),
    ("pool", {"responses": ["a", "", "b"]}, "`responses[1]` is empty"),
    ("pool", {"responses": "a"}, "`responses` is a string ('a'), expected a list"),
    ("pool", {"responses": ["a", "b", "b"], "scores": [0.5, 0.9, 0.1]}, "identical"),
]


@pytest.mark.parametrize(("format", "change", "words"), ROWS, ids=lambda value: str(value)[:40])
def test_one_row_among_good_ones(tmp_path: Path, format: str, change: Row, words: str) -> None:
    broken = {key: value for key, value in {**good(format, 9), **change}.items() if value is not DROP}
    rows = [good(format, 0), good(format, 1), broken, good(format, 3)]
    check(write(tmp_path, "a.jsonl", jsonl(rows)), [0, 1, 3], [(3, words)])


@pytest.mark.parametrize("format", GOOD)
def test_a_good_row_of_each_layout_is_good(tmp_path: Path, format: str) -> None:
    """The other half of the test above: it is the change that makes the row bad."""
    path = write(tmp_path, "a.jsonl", jsonl([good(format, number) for number in range(4)]))
    check(path, [0, 1, 2, 3], [])
    assert open_pairs(path).format == format


def test_a_bad_first_row_does_not_decide_the_layout(tmp_path: Path) -> None:
    rows = [{"prompt": None, "chosen": 1, "rejected": 2}, good("standard", 1), good("standard", 2)]
    words = "recognised as `standard` from row 1; here `prompt` is null"
    check(write(tmp_path, "a.jsonl", jsonl(rows)), [1, 2], [(1, words)])


def test_rows_that_are_all_of_the_wrong_type_are_told_apart_by_their_columns(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", jsonl([{"prompt": "a", "chosen": 1, "rejected": 2}] * 12))
    with pytest.raises(
        BadRowsError, match=r"12 rows cannot be used[\s\S]*by the columns; `chosen` is a number"
    ) as caught:
        read_pairs(path)
    assert len(caught.value.first) == 10
    assert "… and 2 more" in str(caught.value)


def test_unpaired_rows_without_a_counterpart(tmp_path: Path) -> None:
    def one(prompt: str, completion: Any, label: Any) -> Row:
        return {"prompt": prompt, "completion": completion, "label": label}

    rows = [
        one("a", "Good 0.", True),
        one("b", "alone", True),
        one("a", "Bad 0.", False),
        one("c", "x", "so so"),
        one("d", "same", True),
        one("d", "same", False),
        one("e", None, True),
        one("f", "left", False),
        one("a", "Bad 1.", False),
        one("a", "Good 1.", True),
    ]
    pairs = open_pairs(write(tmp_path, "a.jsonl", jsonl(rows)), on_bad_row="skip")
    entries = list(pairs.entries())
    found = [entry for entry in entries if isinstance(entry, Pair)]
    assert [(pair.chosen, pair.rejected, pair.row, pair.rows) for pair in found] == [
        ("Good 0.", "Bad 0.", 2, (0, 2)),
        ("Good 1.", "Bad 1.", 9, (8, 9)),
    ]
    reasons = {entry.row: entry.reason for entry in entries if not isinstance(entry, Pair)}
    assert reasons.keys() == {1, 3, 4, 5, 6, 7}, "good and bad rows together are all rows"
    assert "no completion with the opposite label for this prompt" in reasons[1]
    assert "no completion with the opposite label for this prompt" in reasons[7]
    assert "`label` is a string ('so so'), expected true or false" in reasons[3]
    assert "identical" in reasons[4]
    assert "(row 4)" in reasons[5]
    assert "`completion` is null" in reasons[6]


# -- bytes ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Broken:
    name: str
    content: bytes
    good: list[int]
    bad: list[tuple[int, str]]


def line(number: int) -> bytes:
    return jsonl([good("standard", number)])


def around(broken: bytes, number: int = 2) -> bytes:
    """A broken line as the third of four."""
    return b"".join([line(0), line(1), broken, line(number + 1)])


def element(number: int) -> bytes:
    return line(number).strip()


HEADER = b"prompt,chosen,rejected\n"


def csv_line(number: int) -> bytes:
    return f"What is {number}?,Good {number}.,Bad {number}.\n".encode()


def csv_around(broken: bytes) -> bytes:
    return b"".join([HEADER, csv_line(0), csv_line(1), broken, csv_line(3)])


def cut(packed: bytes) -> bytes:
    return packed[:-5]


def flushed(pack: Callable[[], Any], parts: list[bytes], flush: int) -> bytes:
    """Packed data in which each part ends at a place that can be unpacked to."""
    packer = pack()
    return b"".join(packer.compress(part) + packer.flush(flush) for part in parts)


def gzip_flushed(parts: list[bytes]) -> bytes:
    import zlib

    return flushed(lambda: zlib.compressobj(wbits=31), parts, zlib.Z_SYNC_FLUSH)


def zstd_flushed(parts: list[bytes]) -> bytes:
    return flushed(lambda: zstandard.ZstdCompressor().compressobj(), parts, zstandard.COMPRESSOBJ_FLUSH_BLOCK)


LONG = json.dumps({**STANDARD, "prompt": "x" * 10_000_000, "chosen": "Good 2.", "rejected": "Bad 2."}).encode() + b"\n"
DEEP = b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}\n"

FILES: dict[str, Broken] = {
    "not JSON": Broken("a.jsonl", around(b"{oops}\n"), [0, 1, 3], [(3, "not JSON: Expecting property name")]),
    "a truncated line": Broken(
        "a.jsonl", around(line(2)[:20] + b"\n"), [0, 1, 3], [(3, "not JSON: Invalid control character at column 21")]
    ),
    "a line that is a list": Broken("a.jsonl", around(b"[1, 2]\n"), [0, 1, 3], [(3, "the row is a list of 2")]),
    "a line that is a number": Broken("a.jsonl", around(b"7\n"), [0, 1, 3], [(3, "the row is a number (7)")]),
    "a line that is null": Broken("a.jsonl", around(b"null\n"), [0, 1, 3], [(3, "the row is null")]),
    "an empty object": Broken("a.jsonl", around(b"{}\n"), [0, 1, 3], [(3, "`prompt` is missing")]),
    "a key twice": Broken(
        "a.jsonl",
        around(b'{"prompt": "a", "chosen": "b", "rejected": "c", "chosen": "d"}\n'),
        [0, 1, 3],
        [(3, "the key `chosen` stands twice")],
    ),
    "invalid UTF-8": Broken("a.jsonl", around(line(2).replace(b"Good", b"G\xff")), [0, 1, 3], [(3, "byte 0xff")]),
    "Latin-1": Broken("a.jsonl", around(line(2).replace(b"Good", b"caf\xe9")), [0, 1, 3], [(3, "invalid UTF-8")]),
    "null bytes": Broken("a.jsonl", around(b"\0" * 40 + b"\n"), [0, 1, 3], [(3, "not JSON")]),
    "nested too deeply": Broken("a.jsonl", around(DEEP), [0, 1, 3], [(3, "nested too deeply")]),
    "two objects in a line": Broken("a.jsonl", around(element(2) * 2 + b"\n"), [0, 1, 3], [(3, "Extra data")]),
    "a long good line": Broken("a.jsonl", around(LONG), [0, 1, 2, 3], []),
    "a long bad line": Broken("a.jsonl", around(LONG[:-20] + b"\n"), [0, 1, 3], [(3, "not JSON")]),
    "blank lines are no rows": Broken("a.jsonl", around(b"\n  \n\t\n" + line(2)), [0, 1, 2, 3], []),
    "no newline at the end": Broken("a.jsonl", around(line(2)).rstrip(), [0, 1, 2, 3], []),
    "Windows line ends": Broken("a.jsonl", around(line(2)).replace(b"\n", b"\r\n"), [0, 1, 2, 3], []),
    "byte order mark": Broken("a.jsonl", b"\xef\xbb\xbf" + around(line(2)), [0, 1, 2, 3], []),
    "NaN where nobody looks": Broken(
        "a.jsonl", around(line(2).replace(b"}", b', "a": NaN, "b": -Infinity}')), [0, 1, 2, 3], []
    ),
    "a number with 5000 digits": Broken(
        "a.jsonl", around(line(2).replace(b"}", b', "a": ' + b"9" * 5000 + b"}")), [0, 1, 2, 3], []
    ),
    "many kinds at once": Broken(
        "a.jsonl",
        b"{\n" + around(b"[]\n") + b"\xff\n",
        [0, 1, 3],
        [(1, "not JSON"), (4, "an empty list"), (6, "UTF-8")],
    ),
    "truncated gzip": Broken(
        "a.jsonl.gz", gzip_flushed([line(0), line(1)]), [0, 1], [(3, "the gzip data are cut off here")]
    ),
    "truncated gzip, in a line": Broken(
        "a.jsonl.gz", gzip_flushed([line(0), line(1), line(2)[:9]]), [0, 1], [(3, "the gzip data are cut off here")]
    ),
    "gzip without its checksum": Broken(
        "a.jsonl.gz", cut(gzip.compress(line(0) + line(1))), [0, 1], [(3, "the gzip data are cut off here")]
    ),
    "damaged gzip": Broken(
        "a.jsonl.gz", gzip_flushed([line(0), line(1)]) + b"\xff" * 60, [0, 1], [(3, "the gzip data are damaged")]
    ),
    "rubbish after gzip": Broken(
        "a.jsonl.gz", gzip.compress(line(0) + line(1)) + b"rubbish", [0, 1], [(3, "the gzip data are damaged")]
    ),
    "zero bytes after gzip": Broken("a.jsonl.gz", gzip.compress(line(0) + line(1)) + b"\0" * 512, [0, 1], []),
    "truncated zstd": Broken(
        "a.jsonl.zst", zstd_flushed([line(0), line(1)]), [0, 1], [(3, "the zstd data are cut off here")]
    ),
    "damaged zstd": Broken(
        "a.jsonl.zst", zstd_flushed([line(0), line(1)]) + b"\xff" * 60, [0, 1], [(3, "the zstd data are damaged")]
    ),
    "plain text called gz": Broken("a.jsonl.gz", around(line(2)), [0, 1, 2, 3], []),
    "gzip not called gz": Broken("a.jsonl", gzip.compress(around(line(2))), [0, 1, 2, 3], []),
    "truncated gzip of a list": Broken(
        "a.json.gz", gzip_flushed([b"[" + line(0) + b","]), [0], [(2, "the gzip data are cut off here")]
    ),
    "truncated gzip of CSV": Broken(
        "a.csv.gz", gzip_flushed([HEADER, csv_line(0)]), [0], [(3, "the gzip data are cut off here")]
    ),
    "a list never closed": Broken(
        "a.json", b"[" + element(0) + b",\n" + element(1), [0, 1], [(2, "the list is never closed")]
    ),
    "a list cut in a row": Broken(
        "a.json", b"[" + element(0) + b",\n" + element(1)[:30], [0], [(2, "not JSON: Unterminated string")]
    ),
    "a list cut after a comma": Broken("a.json", b"[" + element(0) + b",\n", [0], [(2, "the list is never closed")]),
    "an element that is no row": Broken(
        "a.json",
        b"[" + element(0) + b",\n7,\n" + element(2) + b"]",
        [0, 2],
        [(2, "the row is a number (7), expected an object")],
    ),
    "a list with a key twice": Broken(
        "a.json", b"[" + element(0) + b',\n{"prompt": 1, "prompt": 2}]', [0], [(2, "the key `prompt` stands twice")]
    ),
    "a list with invalid UTF-8": Broken(
        "a.json",
        b"[" + b",\n".join([element(0), element(1).replace(b"Good", b"\xe9"), element(2)]) + b"]",
        [0, 2],
        [(2, "invalid UTF-8")],
    ),
    "a list with a lone surrogate": Broken(
        "a.json",
        b"[" + b",\n".join([element(0), element(1).replace(b"Good", rb"\ud800"), element(2)]) + b"]",
        [0, 2],
        [(2, "`chosen` holds invalid UTF-8")],
    ),
    "a syntax error in a list": Broken(
        "a.json",
        b"[" + element(0) + b",\n" + element(1) + b',\n{"prompt" "a"},\n' + line(3) * 99 + b"]",
        [0, 1],
        [(3, "Expecting ':' delimiter in line 3; the rest of the file cannot be read")],
    ),
    "rubbish after a list": Broken(
        "a.json", b"[" + element(0) + b"]\n7", [0], [(2, "there is more after the end of the list")]
    ),
    "JSON lines called json": Broken("a.json", around(b"{oops}\n"), [0, 1, 3], [(3, "not JSON")]),
    "too few fields": Broken("a.csv", csv_around(b"What?,Good 2.\n"), [0, 1, 3], [(4, "2 fields, expected 3")]),
    "too many fields": Broken("a.csv", csv_around(b"a,b,c,d\n"), [0, 1, 3], [(4, "4 fields, expected 3")]),
    "an empty field": Broken("a.csv", csv_around(b"a,,c\n"), [0, 1, 3], [(4, "`chosen` is empty")]),
    "CSV with invalid UTF-8": Broken(
        "a.csv", csv_around(b"a,caf\xe9,c\n"), [0, 1, 3], [(4, "invalid UTF-8 in `chosen`")]
    ),
    "a quote never closed": Broken(
        "a.csv", csv_around(b'"What?,Good 2.,Bad 2.\n'), [0, 1, 3], [(4, "a quote that opens in this line")]
    ),
    "a quote closed by the next row": Broken(
        "a.csv",
        csv_around(b'"What?,Good 2.,Bad 2.\n"What is 3?",Good 3.,Bad 3.\n'),
        [0, 1, 3, 3],
        [(4, "not CSV")],
    ),
    "text after a quoted field": Broken("a.csv", csv_around(b'"a"b,c,d\n'), [0, 1, 3], [(4, "not CSV")]),
    "CSV with blank lines and \\r\\n": Broken("a.csv", csv_around(b"\n").replace(b"\n", b"\r\n"), [0, 1, 3], []),
    "CSV with a byte order mark": Broken("a.csv", b"\xef\xbb\xbf" + csv_around(b""), [0, 1, 3], []),
    "a field of 10 MB": Broken("a.csv", csv_around(b"x" * 10_000_000 + b",Good 2.,Bad 2.\n"), [0, 1, 2, 3], []),
}


@pytest.mark.parametrize("case", FILES.values(), ids=FILES)
def test_broken_files(tmp_path: Path, case: Broken) -> None:
    check(write(tmp_path, case.name, case.content), case.good, case.bad)


# -- tables -----------------------------------------------------------------------------------------------------------


def table(rows: list[Row]) -> pa.Table:
    return pa.Table.from_pylist(rows)


def test_parquet_with_nulls(tmp_path: Path) -> None:
    rows = [good("conversational", number) for number in range(4)]
    rows[1]["chosen"] = [said(None)]
    rows[2]["prompt"] = None
    pq.write_table(table(rows), tmp_path / "a.parquet")
    check(tmp_path / "a.parquet", [0, 3], [(2, "`chosen[0]` `content` is null"), (3, "`prompt` is null")])


def broken_text() -> pa.Table:
    """Three rows, the second with bytes that are no UTF-8: Arrow does not look."""
    texts = pa.array([b"Good 0.", b"caf\xe9", b"Good 2."], pa.binary())
    raw = pa.StringArray.from_buffers(3, *texts.buffers()[1:])
    whole = table([good("standard", number) for number in range(3)])
    return whole.set_column(whole.schema.get_field_index("chosen"), "chosen", raw)


def test_tables_with_invalid_utf8(tmp_path: Path) -> None:
    pq.write_table(broken_text(), tmp_path / "a.parquet")
    check(tmp_path / "a.parquet", [0, 2], [(2, "invalid UTF-8 in `chosen`")])
    with pa.ipc.new_stream(tmp_path / "a.arrow", broken_text().schema) as writer:
        writer.write_table(broken_text())
    check(tmp_path / "a.arrow", [0, 2], [(2, "invalid UTF-8 in `chosen`")])


def test_a_damaged_row_group_costs_its_own_rows(tmp_path: Path) -> None:
    rows = [good("standard", number) for number in range(6)]
    path = tmp_path / "a.parquet"
    pq.write_table(table(rows), path, row_group_size=2, compression="zstd", use_dictionary=False)
    column = pq.read_metadata(path).row_group(1).column(1)
    content = bytearray(path.read_bytes())
    end = column.data_page_offset + column.total_compressed_size
    content[end - 12 : end] = b"\xff" * 12
    path.write_bytes(content)
    check(path, [0, 1, 4, 5], [(3, "row group 1 of the file is damaged"), (4, "row group 1 of the file is damaged")])


def test_an_arrow_stream_that_breaks_off(tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    whole = table([good("standard", number) for number in range(4)])
    with pa.ipc.new_stream(path, whole.schema) as writer:
        writer.write_table(whole, max_chunksize=2)
    path.write_bytes(path.read_bytes()[:-200])
    check(path, [0, 1], [(3, "the Arrow data break off here")])


def test_a_bad_row_in_the_second_file_of_a_folder(tmp_path: Path) -> None:
    write(tmp_path, "1.jsonl", line(0) + b"{\n")
    write(tmp_path, "2.csv", csv_around(b"x\n"))
    entries = list(open_pairs(tmp_path, on_bad_row="skip").entries())
    assert [(Path(entry.file).name, entry.row, entry.line, isinstance(entry, Pair)) for entry in entries] == [
        ("1.jsonl", 0, 1, True),
        ("1.jsonl", 1, 2, False),
        ("2.csv", 2, 2, True),
        ("2.csv", 3, 3, True),
        ("2.csv", 4, 4, False),
        ("2.csv", 5, 5, True),
    ]


# -- nothing to be had ------------------------------------------------------------------------------------------------

PARQUET_START = b"PAR1" + b"\0" * 40
REFUSED: dict[str, tuple[str, bytes, str]] = {
    "empty file": ("a.jsonl", b"", "holds no rows"),
    "only blank lines": ("a.jsonl", b"\n\n \n", "holds no rows"),
    "empty list": ("a.json", b"[]", "holds no rows"),
    "empty json": ("a.json", b"", "holds no rows"),
    "header alone": ("a.csv", HEADER, "holds no rows"),
    "UTF-16": ("a.jsonl", line(0).decode().encode("utf-16"), "iconv -f UTF-16 -t UTF-8"),
    "UTF-16 without a mark": ("a.jsonl", line(0).decode().encode("utf-16-be"), "is UTF-16 text, expected UTF-8"),
    "UTF-16 CSV": ("a.csv", csv_around(b"").decode().encode("utf-16"), "iconv -f UTF-16"),
    "UTF-32": ("a.jsonl", line(0).decode().encode("utf-32"), "iconv -f UTF-32"),
    "UTF-32 without a mark": ("a.jsonl", line(0).decode().encode("utf-32-le"), "is UTF-32 text"),
    "UTF-16 in gzip": ("a.jsonl.gz", gzip.compress(line(0).decode().encode("utf-16")), "is UTF-16 text"),
    "JSON scalar": ("a.json", b'"hello"', "neither a list nor an object"),
    "JSON number": ("a.json", b"42\n", "expected a list of rows"),
    "one object around the rows": ("a.json", json.dumps({"n": 1, "train": [STANDARD]}).encode(), "jq -c '.train[]'"),
    "an indented object": ("a.json", json.dumps({"train": [STANDARD]}, indent=1).encode(), "jq -c"),
    "a list called jsonl": ("a.jsonl", json.dumps([STANDARD], indent=1).encode(), "ends in .json"),
    "a list in one line called jsonl": ("a.jsonl", json.dumps([STANDARD]).encode(), "ends in .json"),
    "Parquet called jsonl": ("a.jsonl", PARQUET_START, "a Parquet file; give it a name that ends in .parquet"),
    "zip called csv": ("a.csv", b"PK\x03\x04....", "a zip archive; unpack it"),
    "JSON lines called parquet": ("a.parquet", line(0) * 9, "cannot be read as Parquet"),
    "corrupt Parquet": ("a.parquet", PARQUET_START, "cannot be read as Parquet"),
    "empty Parquet": ("a.parquet", b"", "cannot be read as Parquet"),
    "JSON lines called arrow": ("a.arrow", line(0) * 9, "cannot be read as Arrow"),
    "empty Arrow": ("a.arrow", b"", "is empty"),
    "an unknown ending": ("a.txt", line(0), ".txt is of no kind that can be read by its name"),
    "Parquet in gzip": ("a.parquet.gz", gzip.compress(PARQUET_START), "Unpack it first: gunzip"),
    "unknown columns": ("a.jsonl", jsonl([{"question": "a", "good": "b", "bad": "c"}]), "columns question, good, bad"),
    "semicolons": ("a.csv", csv_around(b"").replace(b",", b";"), "not to be separated by commas"),
    "a column twice": ("a.csv", b"prompt,chosen,chosen\na,b,c\n", "has the column `chosen` twice"),
    "no header": ("a.csv", csv_line(0) + csv_line(1), "Say which are which with --columns"),
    "a header with an open quote": ("a.csv", b'"prompt,chosen,rejected\na,b,c\n', "no header that can be read"),
}


@pytest.mark.parametrize(("name", "content", "words"), REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("on_bad_row", ["stop", "skip"])
def test_refused_files(tmp_path: Path, name: str, content: bytes, words: str, on_bad_row: Any) -> None:
    path = write(tmp_path, name, content)
    with pytest.raises(DataError) as caught:
        list(read_pairs(path, on_bad_row=on_bad_row))
    assert words in str(caught.value)
    assert str(path) in str(caught.value), "the message names the file"
    assert not isinstance(caught.value, BadRowsError)


def test_refused_places(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "deep" / "data").mkdir(parents=True)
    write(tmp_path / "deep" / "data", "a.jsonl", line(0))
    (tmp_path / "called.jsonl").mkdir()
    write(tmp_path, "prefs.jsonl", line(0))
    for path, words in (
        (tmp_path / "empty", "holds no data files"),
        (tmp_path / "called.jsonl", "holds no data files"),
        (tmp_path / "deep", f"its folder data does: give {tmp_path / 'deep' / 'data'}"),
        (tmp_path / "pref.jsonl", f"does not exist. Did you mean {tmp_path / 'prefs.jsonl'}"),
        (tmp_path / "no" / "a.jsonl", "nor does the folder"),
    ):
        with pytest.raises(DataError) as caught:
            open_pairs(path)
        assert words in str(caught.value)


def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", line(0))
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(DataError, match="cannot be opened: Permission denied"):
        read_pairs(path)


def test_a_table_with_a_column_twice(tmp_path: Path) -> None:
    twice = pa.table([["a"], ["b"], ["c"]], names=["prompt", "chosen", "chosen"])
    pq.write_table(twice, tmp_path / "a.parquet")
    with pytest.raises(DataError, match="has the column `chosen` twice"):
        read_pairs(tmp_path / "a.parquet")
