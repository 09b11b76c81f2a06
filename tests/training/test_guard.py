"""The guards' language, their counting, and going on from a checkpoint."""

from __future__ import annotations

import doctest
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from undertow.errors import OptionError
from undertow.training.guards import language as guards_module
from undertow.training.guards.language import Action, Condition, Firing, Guard, Guards, GuardState

NAN, INF = math.nan, math.inf

names = st.text("abzAZ059_./:=", min_size=1, max_size=8).filter(lambda name: name not in ("and", "for", "after"))
numbers = st.floats(allow_nan=False, allow_infinity=False)
actions = (
    st.sampled_from(["warn", "stop", "rollback"]).map(Action)
    | st.floats(0, exclude_min=True, allow_infinity=False).map(lambda weight: Action("sft", weight))
    | st.floats(0, 1, exclude_min=True, exclude_max=True).map(lambda share: Action("drop", share))
)
conditions = st.builds(Condition, names, st.sampled_from([">", ">=", "<", "<="]), numbers)
guards = st.builds(
    Guard,
    st.lists(conditions, min_size=1, max_size=3).map(tuple),
    actions,
    st.integers(1, 10**6),
    st.integers(0, 3) | st.integers(0, 10**6),
)

# A history of one value, 1 where a guard "a>0" holds; NaN never does.
histories = st.lists(st.sampled_from([1.0, -1.0, NAN]), max_size=40)


def fired(text: str, history: list[float]) -> list[int]:
    """The steps at which a guard over the value ``a`` fires."""
    state = GuardState(Guard.parse(text))
    return [step for step, value in enumerate(history) if state.observe(step, {"a": value})]


def test_the_examples_print_what_they_say() -> None:
    found = doctest.testmod(guards_module)
    assert (found.attempted > 0, found.failed) == (True, 0)


@pytest.mark.parametrize(
    ("text", "guard"),
    [
        ("displaced>0.5 for 2 -> stop", Guard((Condition("displaced", ">", 0.5),), Action("stop"), 2)),
        (
            "displaced>0.5 for 2 after 3 looks -> stop",
            Guard((Condition("displaced", ">", 0.5),), Action("stop"), 2, 3),
        ),
        ("a>0 after  1  look->warn", Guard((Condition("a", ">", 0.0),), Action("warn"), 1, 1)),
        ("displaced>0.5->warn", Guard((Condition("displaced", ">", 0.5),), Action("warn"))),
        ("  a  <=  -1e-3  ->  rollback  ", Guard((Condition("a", "<=", -0.001),), Action("rollback"))),
        ("watch/refusal<-.1 -> sft=0.05", Guard((Condition("watch/refusal", "<", -0.1),), Action("sft", 0.05))),
        ("a:b=c.d_1>=+2. -> drop", Guard((Condition("a:b=c.d_1", ">=", 2.0),), Action("drop", 0.05))),
        ("a>0 -> drop = 12.3 %", Guard((Condition("a", ">", 0.0),), Action("drop", 0.123))),
        (
            "andy>1 and forest<2 and c>=3 for 10 -> sft = 1",
            Guard(
                (Condition("andy", ">", 1), Condition("forest", "<", 2), Condition("c", ">=", 3)), Action("sft", 1), 10
            ),
        ),
    ],
)
def test_what_is_typed(text: str, guard: Guard) -> None:
    assert Guard.parse(text) == guard


@given(guards)
def test_a_guard_reads_its_own_text(guard: Guard) -> None:
    again = Guard.parse(str(guard))
    assert str(again) == str(guard)
    assert again == guard


@pytest.mark.parametrize(
    ("text", "place", "expected", "got"),
    [
        ("", 1, "the name of a tracked value", "the end"),
        ("> 0.5 -> stop", 1, "the name of a tracked value", "'> 0.5 -> stop'"),
        ("displaced", 10, "one of >= <= > <", "the end"),
        ("displaced == 1 -> stop", 11, "one of >= <= > <", "'== 1 -> stop'"),
        ("displaced > high -> stop", 13, "a finite number", "'high -> stop'"),
        ("displaced > nan -> stop", 13, "a finite number", "'nan -> stop'"),
        ("displaced > 1e999 -> stop", 13, "a finite number", "'1e999 -> stop'"),
        ("displaced > 50% -> stop", 13, "a finite number", "'50% -> stop'"),
        ("displaced > 0.5", 16, "'and', 'for', 'after' or -> and an action", "the end"),
        ("displaced > 0.5 or b > 1 -> stop", 17, "'and', 'for', 'after' or -> and an action", "'or b > 1 -> stop'"),
        ("displaced > 0.5 and -> stop", 21, "the name of a tracked value", "'-> stop'"),
        ("displaced > 0.5 and for 2 -> stop", 21, "the name of a tracked value", "'for 2 -> stop'"),
        ("a>1 for 0 -> stop", 9, "a whole number of looks, 1 or more", "'0 -> stop'"),
        ("a>1 for 1.5 -> stop", 9, "a whole number of looks, 1 or more", "'1.5 -> stop'"),
        ("a>1 for ever -> stop", 9, "a whole number of looks, 1 or more", "'ever -> stop'"),
        ("a>1 for 2 and b>1 -> stop", 11, "'after' or -> and an action", "'and b>1 -> stop'"),
        ("a>1 and after 2 looks -> stop", 9, "the name of a tracked value", "'after 2 looks -> stop'"),
        ("a>1 after 0 looks -> stop", 11, "a whole number of looks, 1 or more", "'0 looks -> stop'"),
        ("a>1 after 2 -> stop", 13, "the word looks", "'-> stop'"),
        ("a>1 after 2 steps -> stop", 13, "the word looks", "'steps -> stop'"),
        ("a>1 after 2 looks for 3 -> stop", 19, "-> and an action", "'for 3 -> stop'"),
        ("a>1 -> ", 8, "an action: warn, stop, rollback, sft=NUMBER, drop or drop=PERCENT", "the end"),
        ("a>1 -> halt", 8, "an action: warn, stop", "'halt'"),
        ("a>1 -> stopped", 8, "an action: warn, stop", "'stopped'"),
        ("a>1 -> sft", 11, "= and a weight", "the end"),
        ("a>1 -> sft=0", 12, "a weight above 0", "'0'"),
        ("a>1 -> sft=-1", 12, "a weight above 0", "'-1'"),
        ("a>1 -> drop=5", 13, "a share of the pairs above 0% and below 100%", "'5'"),
        ("a>1 -> drop=0%", 13, "a share of the pairs above 0% and below 100%", "'0%'"),
        ("a>1 -> drop=100%", 13, "a share of the pairs above 0% and below 100%", "'100%'"),
        ("a>1 -> warn=3", 12, "nothing more", "'=3'"),
        ("a>1 -> stop now", 13, "nothing more", "'now'"),
    ],
)
def test_what_is_mistyped(text: str, place: int, expected: str, got: str) -> None:
    with pytest.raises(OptionError) as raised:
        Guard.parse(text)
    message = str(raised.value)
    assert message.startswith(f"--guard {text!r}: at character {place} expected {expected}")
    assert f", got {got}. " in message
    assert raised.value.exit_code == 2


@given(st.text("ab>=<0.5%- andforstpwelk", max_size=20))
def test_any_text_is_a_guard_or_an_error_about_it(text: str) -> None:
    try:
        guard = Guard.parse(text)
    except OptionError as error:
        assert repr(text) in str(error)
    else:
        assert Guard.parse(str(guard)) == guard


@pytest.mark.parametrize(
    "make",
    [
        lambda: Condition("a b", ">", 1),
        lambda: Condition("a", "==", 1),
        lambda: Condition("a", ">", NAN),
        lambda: Action("halt"),
        lambda: Action("sft"),
        lambda: Action("sft", INF),
        lambda: Action("drop", 1.0),
        lambda: Action("stop", 1.0),
        lambda: Guard((), Action("stop")),
        lambda: Guard((Condition("a", ">", 1),), Action("stop"), 0),
        lambda: Guard((Condition("a", ">", 1),), Action("stop"), 1, -1),
    ],
)
def test_a_guard_made_by_hand_is_checked_too(make: object) -> None:
    with pytest.raises(OptionError, match="--guard: "):
        make()


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("a>1", [False, False, True]),
        ("a>=1", [False, True, True]),
        ("a<1", [True, False, False]),
        ("a<=1", [True, True, False]),
    ],
)
def test_operators(text: str, holds: list[bool]) -> None:
    guard = Guard.parse(f"{text} -> warn")
    assert [guard.holds({"a": value}) for value in (0.5, 1.0, 1.5)] == holds
    assert not guard.holds({"a": NAN})


def test_all_conditions_have_to_hold() -> None:
    guard = Guard.parse("a>0 and b<0 -> warn")
    assert [guard.holds({"a": a, "b": b}) for a in (1, -1) for b in (1, -1)] == [False, True, False, False]
    assert not guard.holds({"a": 1, "b": NAN})


def test_counting_by_hand() -> None:
    assert fired("a>0 for 2 -> warn", [1, -1, 1, 1, 1, 1, -1, 1]) == [3, 5]
    assert fired("a>0 -> warn", [1, -1, 1, 1]) == [0, 2, 3]
    assert fired("a>0 for 2 -> stop", [1, -1, 1, 1, 1, 1, -1, 1, 1]) == [3], "a run stops once"
    assert fired("a>0 for 2 -> warn", [1, NAN, 1, NAN, NAN]) == [], "NaN breaks the row"


def test_the_first_looks_are_not_counted_by_hand() -> None:
    assert fired("a>0 after 3 looks -> warn", [1, 1, 1, 1, 1, -1, 1]) == [3, 4, 6]
    assert fired("a>0 for 2 after 3 looks -> warn", [1, 1, 1, 1, 1, -1, 1]) == [4], (
        "a row begins behind the first looks"
    )
    assert fired("a>0 for 2 after 1 look -> stop", [1, -1, 1, 1, 1, 1]) == [3]


@given(histories, st.integers(1, 3), st.integers(0, 6))
def test_a_guard_that_counts_later_is_one_that_was_set_later(history: list[float], count: int, after: int) -> None:
    later = f" after {after} looks" if after else ""
    alone = fired(f"a>0 for {count} -> warn", history[after:])
    assert fired(f"a>0 for {count}{later} -> warn", history) == [step + after for step in alone]


@given(histories, st.integers(1, 5))
def test_a_warning_comes_once_for_every_full_count_in_a_row(history: list[float], count: int) -> None:
    expected, row = [], 0
    for step, value in enumerate(history):
        row = row + 1 if value > 0 else 0
        if row and row % count == 0:
            expected.append(step)
    assert fired(f"a>0 for {count} -> warn", history) == expected
    assert fired(f"a>0 for {count} -> stop", history) == expected[:1]


texts = st.lists(
    st.sampled_from(
        [
            "a>0 for 3 -> warn",
            "a>0 for 2 -> stop",
            "a<0 -> sft=0.1",
            "a<=-1 and a>-2 for 2 -> drop=5%",
            "a>0 after 4 looks -> warn",
            "a>0 for 2 after 1 look -> stop",
        ]
    ),
    max_size=4,
)


@given(texts, histories, st.data())
def test_a_run_that_goes_on_fires_as_one_that_never_stopped(
    typed: list[str], history: list[float], data: st.DataObject
) -> None:
    """Cut anywhere, saved as JSON; the tracking of the step it goes on from is done again."""
    cut = data.draw(st.integers(0, len(history)))
    whole, first = Guards.parse(typed), Guards.parse(typed)
    looks = list(enumerate(history))
    expected = [whole.observe(step, {"a": value}) for step, value in looks]
    found = [first.observe(step, {"a": value}) for step, value in looks[:cut]]
    second = Guards.from_json(json.loads(json.dumps(first.to_json(), allow_nan=False)))
    if cut:
        assert second.observe(cut - 1, {"a": history[cut - 1]}) == []
    found += [second.observe(step, {"a": value}) for step, value in looks[cut:]]
    assert found == expected
    assert second.to_json() == whole.to_json()


def test_going_back_counts_anew_but_stops_once_all_the_same() -> None:
    guards = Guards.parse(["a>0 for 2 -> rollback", "a>0 for 3 -> warn", "b>0 -> stop"])
    assert [firing.action.kind for firing in guards.observe(10, {"a": 1, "b": 1})] == ["stop"]
    assert [firing.action.kind for firing in guards.observe(20, {"a": 1, "b": 1})] == ["rollback"]
    guards.rewind()
    assert guards.observe(20, {"a": 1, "b": 1}) == [], "the same step, of another attempt: counted, as the first"
    assert [firing.step for firing in guards.observe(30, {"a": 1, "b": 1})] == [30]


def test_several_guards_fire_in_their_order() -> None:
    typed = ["a>0 -> warn", "b>0 -> stop", "a>0 and b>0 -> drop"]
    for order in (typed, typed[::-1]):
        firings = Guards.parse(order).observe(5, {"a": 1.0, "b": 2.0, "c": 3.0})
        assert [firing.guard for firing in firings] == [str(Guard.parse(text)) for text in order]
    assert Guards.parse([]).observe(5, {}) == []


def test_a_firing_tells_what_it_saw() -> None:
    (firing,) = Guards.parse(["a>=0.5 and  b<0 -> sft=0.1"]).observe(7, {"a": 0.5, "b": -INF, "c": 3.0})
    assert firing == Firing(7, "a>=0.5 and b<0 -> sft=0.1", {"a": 0.5, "b": -INF}, Action("sft", 0.1))
    assert json.loads(json.dumps(firing.record(), allow_nan=False)) == {
        "step": 7,
        "guard": "a>=0.5 and b<0 -> sft=0.1",
        "action": "sft",
        "action_value": 0.1,
        "values": {"a": 0.5, "b": None},
    }


def test_a_name_that_is_not_tracked_is_an_error_at_the_first_look() -> None:
    guards = Guards.parse(["a>0 -> warn", "displacd>0.5 -> stop"])
    with pytest.raises(OptionError) as raised:
        guards.observe(0, {"displaced": 0.0, "a": 1.0})
    assert str(raised.value) == (
        "--guard 'displacd>0.5 -> stop': displacd is not tracked. Did you mean displaced? Tracked are: a, displaced."
    )
    assert [state.hits for state in guards.states] == [0, 0]
    assert guards.states[0].step is None, "no guard has counted"
    with pytest.raises(OptionError, match="a is not tracked. Tracked are: nothing."):
        guards.observe(0, {})
