"""Numbers, verdicts and the text of data, in words: the same for terminal and page."""

from __future__ import annotations

import math

import pytest

from undertow.wording.numbers import number, of_all, typed
from undertow.wording.verdicts import audit_verdict
from undertow.wording.visible import one_line, visible


@pytest.mark.parametrize(
    ("value", "on_a_page", "on_a_terminal"),
    [
        (-1234.56, "−1,235", "-1235"),
        (0.5, "0.5000", "0.5000"),
        (-2.2231, "−2.223", "-2.223"),
        (0.00001234, "1.234e-05".replace("-", "−"), "1.234e-05"),
        (12345678.0, "1.235e+07", "1.235e+07"),
        (math.nan, "–", "–"),
        (None, "–", "–"),
        (1024, "1,024", "1024"),
        (True, "yes", "yes"),
    ],
)
def test_a_number_is_written_once_and_can_be_typed_again_from_the_terminal(
    value: object, on_a_page: str, on_a_terminal: str
) -> None:
    assert number(value, digits=4) == on_a_page
    assert typed(value) == on_a_terminal
    if isinstance(value, float) and math.isfinite(value):
        assert float(typed(value)) == pytest.approx(value, rel=1e-3)


def test_a_count_is_said_with_all_there_are() -> None:
    assert of_all(31, 60, "pair") == "31 of 60 pairs (52%)"
    assert of_all(0, 60, "pair") == "none of 60 pairs"
    assert of_all(60, 60, "pair") == "all 60 pairs"
    assert of_all(1, 1, "pair") == "1 of 1 pair (100%)"
    assert of_all(0, 0, "pair") == "no pair"


def test_a_verdict_is_a_function_of_numbers() -> None:
    found = audit_verdict(40, by="dlogp_chosen", loss="DPO(beta=0.1)", falling={"own": 4, "free": 10})
    assert found.headline == "Under DPO (β = 0.1), 4 of 40 pairs (10%) will pull their own chosen response down."
    assert found.tone == "bad"
    assert "10 of 40 pairs" in found.sentences[0]
    assert "--pull" in found.sentences[-1]
    losses = {"ipo": 0.05, "slic": 0.5, "cpo": 0.1}
    found = audit_verdict(40, by="ln_ches", loss="DPO(beta=0.1)", falling={"own": 4, "free": 10}, other_losses=losses)
    assert "1 would pull down fewer, ipo fewest (5%), and 1 more, slic most (50%)" in found.sentences[-1]
    found = audit_verdict(40, by="ln_ches", loss="None", falling={})
    assert found.headline == "40 pairs ranked by length-normalised CHES."
    assert found.tone == ""


def test_control_characters_are_pictures_on_a_terminal_too() -> None:
    assert visible("\x1b[31mred\u202e\x9b\x7f") == "␛[31mred[U+202E][U+009B]␡"
    assert one_line("a\x1bb\nc\td", 20) == "a␛b c d"
    assert one_line("x" * 30, 10) == "x" * 9 + "…"
