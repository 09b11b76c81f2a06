"""What is found at which address of ``undertow view``: an answer to a path and a query, made from the runs' folders.

/                 the report of the run; of several training runs their common page; of other runs a list of them
/pairs            the table of all pairs; its data: /pairs.json?sort=&order=&search=&first=&count=
/pair.json?row=   one pair with its texts
/explain?row=     the page of one pair, made on demand; how far it is: /explain.json?row=
/audit            of a forecast, the report of the audit that it went on from
/simulated        of a forecast, the page of the arms that were simulated on it
/run/2/…          the same of the second run, where several were named
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from urllib.parse import parse_qsl

from undertow.errors import InputError, OptionError
from undertow.reporting.viewing.runs import ServedRun, several_page

LONGEST_QUERY = 4096
HTML, TEXT, DATA = "text/html; charset=utf-8", "text/plain; charset=utf-8", "application/json"
_RUN = re.compile(r"/run/([1-9]\d{0,3})(/.*)")

Given = Mapping[str, str]
Page = tuple[Callable[[Given], object], frozenset[str]]
"""What makes a page from its parameters, text or a value for JSON, and which parameters it takes."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A status, a body and what kind of body it is."""

    status: int
    body: bytes
    kind: str


def problem(status: int, text: str) -> Answer:
    """A refusal in words, as plain text: whatever it quotes is not read as a page."""
    return Answer(status, f"{text}\n".encode("utf-8", "backslashreplace"), TEXT)


class Site:
    """The pages of one or several runs. Safe to use from several threads; :meth:`close` it.

    Raises:
        DataError: a folder holds no run of Undertow.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._runs = [ServedRun(folder) for folder in folders]

    def answer(self, path: str, query: str = "") -> Answer:
        """The answer to ``GET path?query``."""
        if path == "/favicon.ico":  # browsers ask for it by themselves
            return Answer(HTTPStatus.NO_CONTENT, b"", TEXT)
        page = self._find(path)
        if page is None:
            return problem(HTTPStatus.NOT_FOUND, "There is no such page. The first page is at /.")
        make, parameters = page
        try:
            return _found(make(_parsed(query, parameters)))
        except OptionError as error:
            return problem(HTTPStatus.BAD_REQUEST, str(error))
        except InputError as error:
            return problem(HTTPStatus.INTERNAL_SERVER_ERROR, str(error))

    def close(self) -> None:
        """Close all files."""
        for run in self._runs:
            run.close()

    def _find(self, path: str) -> Page | None:
        """The page at a path."""
        if len(self._runs) == 1:
            return _of_run(self._runs[0], path)
        if path == "/":
            return lambda _: several_page(self._runs), frozenset()
        below = _RUN.fullmatch(path)
        if below is None or int(below[1]) > len(self._runs):
            return None
        return _of_run(self._runs[int(below[1]) - 1], below[2])


def _of_run(run: ServedRun, path: str) -> Page | None:
    """What a run has at a path."""
    pages: dict[str, Page] = {"/": (lambda _: run.report(), frozenset())}
    if run.has_pairs:
        pages |= {
            "/pairs": (lambda _: run.pairs_page(), frozenset()),
            "/pairs.json": (run.page, frozenset({"sort", "order", "search", "first", "count"})),
            "/pair.json": (run.pair, frozenset({"row"})),
        }
    if run.has_explanations:
        pages |= {
            "/explain": (run.explanation, frozenset({"row"})),
            "/explain.json": (run.explaining, frozenset({"row"})),
        }
    if run.has_audit:
        pages["/audit"] = (lambda _: run.audit(), frozenset())
    if run.has_arms:
        pages["/simulated"] = (lambda _: run.arms(), frozenset())
    return pages.get(path)


def _found(made: object) -> Answer:
    if isinstance(made, str):
        return Answer(HTTPStatus.OK, made.encode("utf-8", "backslashreplace"), HTML)
    # ASCII only: a lone surrogate cannot be encoded, and is none of JSON's concern as an escape.
    return Answer(HTTPStatus.OK, json.dumps(made, ensure_ascii=True, allow_nan=False).encode(), DATA)


def _parsed(query: str, parameters: frozenset[str]) -> dict[str, str]:
    """The parameters, each at most once and each one that the page takes.

    Raises:
        OptionError: they are not.
    """
    if len(query) > LONGEST_QUERY:
        raise OptionError(f"The query is {len(query)} characters long; at most {LONGEST_QUERY} are read.")
    try:
        given = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query), errors="strict")
    except ValueError as error:
        raise OptionError("The query cannot be read: expected name=value&name=value in UTF-8.") from error
    found: dict[str, str] = {}
    for name, value in given:
        if name not in parameters or name in found:
            raise OptionError(f"Expected {', '.join(sorted(parameters)) or 'no parameters'}, each at most once.")
        found[name] = value
    return found
