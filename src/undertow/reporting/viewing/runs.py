"""One run as ``undertow view`` shows it: its report, and its pairs from Parquet, made again when its files change."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from undertow.errors import OptionError
from undertow.filtering.what_if import best_predictor
from undertow.reporting.kinds import WITH_PAIRS, audit_folders, audit_html, kind_with_page, remedies_html, report_html
from undertow.reporting.page.explains import explains
from undertow.reporting.page.shell import render
from undertow.reporting.viewing.explaining import Explained
from undertow.reporting.viewing.table import LARGEST_PAGE, LONGEST_SEARCH, LONGEST_TEXT, PairTable, Query
from undertow.runs.names import COMPARE, FORECAST, PAIR_FORECAST, PAIRS, SIMULATED_ARMS, TRAIN
from undertow.runs.texts import BY, PAIR_TEXTS, TEXTS
from undertow.scoring.columns import PREDICTORS
from undertow.scoring.shards import part_path, read_summary
from undertow.wording.visible import shown, visible

T = TypeVar("T")
State = frozenset[tuple[Path, int, int]]

# What changes while a run goes on, or is made anew; nothing deeper, where checkpoints and weights lie.
_WATCHED = ("*.json", "*.jsonl", "*.parquet", "*/*.json", "*/*.jsonl", "*/*.parquet", "arms/*/*.*")
_WHOLE = re.compile(r"\d{1,15}")
_ORDERS = {"ascending": False, "descending": True}


class Fresh(Generic[T]):
    """Something made from the files of some folders, kept until one of them changes."""

    def __init__(self, folders: Sequence[Path], make: Callable[[], T]) -> None:
        self._folders, self._make = folders, make
        self._lock = threading.Lock()
        self._kept: tuple[State, T] | None = None

    def get(self) -> T:
        """The thing, made now or earlier. One thread makes it, the others wait."""
        with self._lock:
            now = _state(self._folders)
            if self._kept is None or self._kept[0] != now:
                self._kept = now, self._make()
            return self._kept[1]

    def kept(self) -> T | None:
        """What was made earlier, if anything was."""
        with self._lock:
            return self._kept[1] if self._kept else None


class ServedRun:
    """A run's folder and what is shown of it. Safe to use from several threads.

    Raises:
        DataError: the folder holds no run of Undertow, or one that must be finished first.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.kind = folder, kind_with_page(folder)
        self.has_pairs = self.kind in WITH_PAIRS
        self.has_audit = self.kind == FORECAST
        pairs_url = "pairs" if self.has_pairs else None
        self._report = Fresh([folder], self._made_report)
        self._audit = Fresh([folder], lambda: audit_html(folder, forecast_url="./", pairs_url=pairs_url))
        self._arms = Fresh([folder], lambda: remedies_html(folder))
        self._table = Fresh([folder], self._open)
        self._explained = Explained(folder)
        self._explains = explains(folder, served=True) if self.has_pairs else None

    def report(self) -> str:
        """The run's page."""
        return self._report.get()

    def _made_report(self) -> str:
        return report_html(
            self.folder,
            pairs_url="pairs" if self.has_pairs else None,
            audit_url="audit" if self.has_audit else None,
            arms_url="simulated" if self.has_arms else None,
        )

    def audit(self) -> str:
        """Of a forecast: the page of the audit that it went on from."""
        return self._audit.get()

    @property
    def has_arms(self) -> bool:
        """Whether arms were simulated on it, by now."""
        return self.kind == FORECAST and (self.folder / SIMULATED_ARMS).exists()

    def arms(self) -> str:
        """Of a forecast: the page of the arms that were simulated on it."""
        return self._arms.get()

    def pairs_page(self) -> str:
        """The page of the table of all pairs."""
        table = self._table.get()
        columns = [column.name for column in table.columns]
        sort, down = self._first_sort(columns)
        data = {
            "columns": [
                {"name": column.name, "label": shown(column.name), "number": column.number} for column in table.columns
            ],
            "sort": sort,
            "down": down,
            "texts": table.has_texts,
            "explains": self._explains and self._explains.record(),
            "limits": {"count": LARGEST_PAGE, "search": LONGEST_SEARCH},
        }
        return render(
            "pairs.html.j2",
            title=f"All pairs: {self.folder.resolve().name}",
            data=data,
            live=True,
            kind=self.kind,
            pairs=table.total,
            has_texts=table.has_texts,
            search_limit=LONGEST_SEARCH,
        )

    def page(self, given: Mapping[str, str]) -> dict[str, Any]:
        """``pairs.json``: some pairs of those that were asked for.

        Raises:
            OptionError: a parameter that makes no sense.
        """
        order = given.get("order", "ascending")
        if order not in _ORDERS:
            raise OptionError(f"order: expected {' or '.join(_ORDERS)}.")
        query = Query(
            sort=given.get("sort", "row"),
            descending=_ORDERS[order],
            search=given.get("search", ""),
            first=_whole(given, "first", "0"),
            count=_whole(given, "count", "50"),
        )
        found = self._table.get().page(query)
        return {"total": found.found, "rows": [_visible(row) for row in found.rows]}

    def pair(self, given: Mapping[str, str]) -> dict[str, Any]:
        """``pair.json``: one pair with its numbers and its texts.

        Raises:
            OptionError: there is no such row.
        """
        pair = self._table.get().pair(_whole(given, "row", ""))
        texts = {name: _whole_text(pair, name) for name in PAIR_TEXTS if pair.get(name) is not None}
        by = {shown(name): shown(str(value)) for name, value in pair.items() if name.startswith(BY)}
        return {"row": pair["row"], "numbers": _visible(pair["numbers"]), "by": by, "texts": texts}

    @property
    def has_explanations(self) -> bool:
        """Whether its pairs can be explained."""
        return self._explains is not None

    def explanation(self, given: Mapping[str, str]) -> str:
        """The page of one pair, or one that waits for it.

        Raises:
            OptionError: there is no such row.
        """
        return self._explained.page(self._row(given))

    def explaining(self, given: Mapping[str, str]) -> dict[str, Any]:
        """``explain.json``: how far that page is.

        Raises:
            OptionError: there is no such row.
        """
        return self._explained.state(self._row(given))

    def _row(self, given: Mapping[str, str]) -> int:
        row = _whole(given, "row", "")
        self._table.get().pair(row)  # refuses one that is not there
        return row

    def close(self) -> None:
        """Close the files."""
        table = self._table.kept()
        if table is not None:
            table.close()

    def _open(self) -> PairTable:
        """The table over what stands in the folder now."""
        if self.kind == COMPARE:
            return PairTable([self.folder / PAIRS], _existing([self.folder / TEXTS]))
        runs = audit_folders(self.folder)
        numbers = [part_path(run, part) for run in runs for part in range(len(read_summary(run)["parts"]))]
        beside = self.folder / PAIR_FORECAST if self.kind == FORECAST else None
        return PairTable(numbers, _existing([run / TEXTS for run in runs]), beside)

    def _first_sort(self, columns: Sequence[str]) -> tuple[str, bool]:
        """The column that the table is first sorted by, and whether its highest values come first: the worst pairs."""
        if self.kind == COMPARE:
            return "dlogp_chosen", False
        by = best_predictor(columns)
        return by, PREDICTORS[by] == "highest"


def several_page(runs: Sequence[ServedRun]) -> str:
    """The first page where several runs were named: training runs side by side; of others, or of both, a list."""
    from undertow.reporting.sweep.page import multi, names

    folders = [run.folder.resolve() for run in runs]
    if all(run.kind == TRAIN for run in runs):
        return multi(folders)
    listed = [
        {"name": name, "kind": run.kind, "link": f"run/{number}/"}
        for number, (name, run) in enumerate(zip(names(folders), runs, strict=True), start=1)
    ]
    return render("several.html.j2", title=f"{len(runs)} runs", listed=listed)


def _state(folders: Sequence[Path]) -> State:
    """Which files stand there, of what size, written when."""
    found = set()
    for path in (path for folder in folders for pattern in _WATCHED for path in folder.glob(pattern)):
        with contextlib.suppress(OSError):  # replaced or removed since it was listed
            known = path.stat()
            found.add((path, known.st_mtime_ns, known.st_size))
    return frozenset(found)


def _existing(paths: Sequence[Path]) -> list[Path]:
    """All of the files, or none: with the texts of some shards only, a search would say less than is there."""
    return list(paths) if all(path.exists() for path in paths) else []


def _whole(given: Mapping[str, str], name: str, default: str) -> int:
    text = given.get(name, default)
    if not _WHOLE.fullmatch(text):
        raise OptionError(f"{name}: expected a whole number.")
    return int(text)


def _visible(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record with the texts of data as people may see them."""
    return {name: shown(value) if isinstance(value, str) else value for name, value in record.items()}


def _whole_text(pair: Mapping[str, Any], name: str) -> str:
    text, length = visible(pair[name]), pair[f"{name}_length"]
    return text if length <= LONGEST_TEXT else f"{text}… ({length:,} characters)"
