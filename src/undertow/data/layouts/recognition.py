"""Which layout a row has, told by its columns and the types of their values."""

from __future__ import annotations

from collections.abc import Callable

from undertow.data.layouts.fields import Row
from undertow.data.layouts.shared_prefix import is_hh

Test = Callable[[Row], bool]


def recognise(row: Row) -> str | None:
    """The layout whose columns and types the row has; the first that fits, in the order documented for users."""
    return next((name for name, fits in _BY_TYPES.items() if fits(row)), None)


def recognise_by_columns(row: Row) -> str | None:
    """The layout whose columns the row has, whatever is in them: for data in which no row has the right types."""
    return next((name for name, sets in _BY_COLUMNS.items() if any(names <= row.keys() for names in sets)), None)


def _texts(*names: str) -> Test:
    return lambda row: all(isinstance(row.get(name), str) for name in names)


def _lists(*names: str) -> Test:
    return lambda row: all(isinstance(row.get(name), list | tuple) for name in names)


def _text_or_list(name: str) -> Test:
    return lambda row: isinstance(row.get(name), str | list | tuple)


def _all(*tests: Test) -> Test:
    return lambda row: all(test(row) for test in tests)


def _any(*tests: Test) -> Test:
    return lambda row: any(test(row) for test in tests)


def _no(*names: str) -> Test:
    return lambda row: not any(name in row for name in names)


def _is_input(row: Row) -> bool:
    return "input" in row and isinstance(row["input"], str | None)


def _turns(row: Row) -> bool:
    return isinstance(row.get("chosen"), dict) and isinstance(row.get("rejected"), dict)


_ANSWERS = _any(_texts("chosen_response", "rejected_response"), _texts("chosen", "rejected"))

_BY_TYPES: dict[str, Test] = {
    "alpacafarm": _all(_texts("instruction", "output_1", "output_2"), lambda row: "preference" in row),
    "sharegpt": _all(_lists("conversations"), _turns),
    "ultrafeedback": _all(_texts("prompt"), _lists("chosen", "rejected")),
    "conversational": _lists("prompt", "chosen", "rejected"),
    "standard": _texts("prompt", "chosen", "rejected"),
    "alpaca-ranking": _all(_texts("instruction", "chosen", "rejected"), _is_input),
    "argilla": _all(_any(_texts("instruction"), _texts("question")), _ANSWERS),
    "hh": _all(_no("prompt"), lambda row: is_hh(row.get("chosen")) and is_hh(row.get("rejected"))),
    "implicit": _all(_no("prompt"), _any(_texts("chosen", "rejected"), _lists("chosen", "rejected"))),
    "pool": _all(_text_or_list("prompt"), _lists("responses")),
    "unpaired": _all(
        _text_or_list("prompt"), _text_or_list("completion"), lambda row: isinstance(row.get("label"), bool)
    ),
}

_BY_COLUMNS: dict[str, tuple[set[str], ...]] = {
    "alpacafarm": ({"instruction", "output_1", "output_2", "preference"},),
    "sharegpt": ({"conversations", "chosen", "rejected"},),
    "standard": ({"prompt", "chosen", "rejected"},),
    "alpaca-ranking": ({"instruction", "input", "chosen", "rejected"},),
    "argilla": (
        {"instruction", "chosen_response", "rejected_response"},
        {"question", "chosen_response", "rejected_response"},
        {"instruction", "chosen", "rejected"},
        {"question", "chosen", "rejected"},
    ),
    "implicit": ({"chosen", "rejected"},),
    "pool": ({"prompt", "responses"},),
    "unpaired": ({"prompt", "completion", "label"},),
}
