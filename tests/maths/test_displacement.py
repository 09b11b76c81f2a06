"""Displacement, the largest decrease and the tokens that gain: theory 7."""

from __future__ import annotations

import doctest
import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from undertow.maths import displacement as d

NAN, INF = math.nan, math.inf

# Theory 7: not 0.95 → 0.70, which comes first and is smaller.
GOLDEN = [0.90, 0.95, 0.70, 0.80, 0.99, 0.72, 0.75]

# Sixteenths: their differences are exact, so equal decreases are equal in floating point too.
sixteenths = st.integers(-64, 64).map(lambda n: n / 16)
histories = st.lists(sixteenths | st.just(NAN), min_size=1, max_size=30)


def by_definition(values: list[float]) -> tuple[float, int, int]:
    """max over t ≤ t' of v_t − v_t', earliest t', then earliest t; every two indices are looked at."""
    best = (NAN, 0, 0)
    for end in range(len(values)):
        for start in range(end + 1):
            drop = values[start] - values[end]
            if drop > best[0] or (math.isnan(best[0]) and not math.isnan(drop)):
                best = (drop, start, end)
    return best


def same(one: tuple[float, int, int], two: tuple[float, int, int]) -> bool:
    return one[1:] == two[1:] and (one[0] == two[0] or (math.isnan(one[0]) and math.isnan(two[0])))


def test_the_examples_print_what_they_say() -> None:
    found = doctest.testmod(d, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert found.attempted >= 7
    assert found.failed == 0


def test_golden_decrease() -> None:
    drop, start, end = d.largest_decrease(torch.tensor(GOLDEN, dtype=torch.float64))
    assert drop == pytest.approx(0.27, abs=1e-15)
    assert (start, end) == (4, 5)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.1, 0.2, 0.3], (0.0, 0, 0)),
        ([7.0], (0.0, 0, 0)),
        ([3.0, 1.0, 4.0, 2.0], (2.0, 0, 1)),  # two equal drops: the earlier end
        ([3.0, 3.0, 1.0, 1.0], (2.0, 0, 2)),  # two equal maxima, two equal ends: the earliest of both
        ([NAN, 2.0, NAN, 1.0], (1.0, 1, 3)),
        ([NAN, NAN], (NAN, 0, 0)),
        ([0.0, -INF, -INF], (INF, 0, 1)),
        ([-INF, -INF, -1.0], (0.0, 0, 0)),
    ],
)
def test_decreases_by_hand(values: list[float], expected: tuple[float, int, int]) -> None:
    assert same(d.largest_decrease(values), expected)


@given(histories)
def test_one_pass_equals_the_definition_at_every_step(values: list[float]) -> None:
    running = d.RunningDecrease()
    for count, value in enumerate(values, 1):
        now = running.update(value)
        assert same(now, by_definition(values[:count]))
        assert same(now, running.largest)
        assert same(now, d.largest_decrease(values[:count]))


@given(st.lists(sixteenths, min_size=1, max_size=30), sixteenths)
def test_a_decrease_does_not_see_a_shift_and_never_shrinks(values: list[float], shift: float) -> None:
    plain = d.largest_decrease(values)
    assert d.largest_decrease([value + shift for value in values]) == plain
    assert d.largest_decrease([*values, shift]).drop >= plain.drop
    assert values[plain.start] - values[plain.end] == plain.drop >= 0


def test_a_decrease_needs_one_row_of_values() -> None:
    for wrong in ([], torch.zeros(2, 2), torch.tensor(1.0)):
        with pytest.raises(ValueError, match="one dimension of at least one value"):
            d.largest_decrease(wrong)


def test_displaced_is_strict_and_a_value_per_pair() -> None:
    initial, final = torch.tensor([-1.0, -1.0, -1.0, NAN]), torch.tensor([-1.5, -1.0, -0.5, -9.0])
    assert d.displaced(initial, final).tolist() == [True, False, False, False]
    assert d.displaced(initial.reshape(2, 2), final.reshape(2, 2)).shape == (2, 2)


@pytest.mark.parametrize(
    ("losses", "applicable"),
    [((0.7, 0.6), True), ((0.7, 0.7), False), ((0.7, 0.8), False), ((0.7, NAN), False), ((NAN, 0.7), False)],
)
def test_without_a_falling_loss_displacement_is_not_applicable(losses: tuple[float, float], applicable: bool) -> None:
    found = d.displacement(torch.tensor([-1.0, -2.0]), torch.tensor([-3.0, -2.5]), *losses)
    assert found.applicable is applicable
    assert found.displaced is (True if applicable else None)
    assert (found.mean_change, found.share) == (-1.25, 1.0), "what happened is told all the same"


def test_the_data_set_may_be_displaced_while_most_pairs_are_not() -> None:
    initial, final = torch.tensor([-1.0, -1.0, -1.0]), torch.tensor([-0.75, -0.75, -3.5])
    losses = torch.tensor([0.5, 0.75, 1.0]), torch.tensor([0.25, 0.25, 1.125])
    assert d.displacement(initial, final, *losses) == d.Displacement(True, True, -2 / 3, 1 / 3)
    assert d.displacement(initial, initial, *losses).displaced is False, "unchanged is not displaced"
    assert d.displacement(initial, final, *losses[::-1]).displaced is None, "the mean loss rose"


def test_an_unknown_log_probability_is_no_answer() -> None:
    found = d.displacement(torch.tensor([-1.0, NAN]), torch.tensor([-2.0, -1.0]), 0.7, 0.6)
    assert found.applicable and found.displaced is None and math.isnan(found.mean_change)


pairs = st.lists(st.tuples(sixteenths, sixteenths), min_size=1, max_size=16)


@given(pairs)
def test_both_directions_of_time(rows: list[tuple[float, float]]) -> None:
    initial, final = torch.tensor(rows, dtype=torch.float64).T
    there, back = d.displacement(initial, final, 1.0, 0.5), d.displacement(final, initial, 1.0, 0.5)
    assert there.mean_change == -back.mean_change
    assert not (there.displaced and back.displaced)
    assert there.share + back.share == pytest.approx(1 - (initial == final).double().mean().item())
    assert there.displaced is bool(final.mean() < initial.mean())


def test_small_changes_of_long_float32_responses_are_summed_in_float64() -> None:
    """A float32 running sum of a hundred thousand such numbers is off by more than the change."""
    initial = torch.full((100_000,), -3000.0)
    final = initial - 2**-12
    assert d.displacement(initial, final, 1.0, 0.5) == d.Displacement(True, True, -(2**-12), 1.0)


def test_top_gains_by_hand() -> None:
    before = torch.tensor([[0.5, 0.25, 0.125, 0.125], [0.25, 0.25, 0.25, 0.25]])
    after = torch.tensor([[0.25, 0.25, 0.375, 0.125], [0.25, 0.25, 0.25, 0.25]])
    ids, gains = d.top_gains(before, after)
    assert ids.tolist() == [[2, 1, 3], [0, 1, 2]], "of equal gains the lower id first"
    assert gains.tolist() == [[0.25, 0.0, 0.0], [0.0, 0.0, 0.0]]


def test_top_gains_are_of_probabilities_not_of_their_logarithms() -> None:
    """Token 2 grows a thousandfold and gains less than token 1, which does not even double."""
    before, after = torch.tensor([0.699999, 0.3, 0.000001]), torch.tensor([0.499, 0.5, 0.001])
    assert d.top_gains(before, after, k=1).ids.tolist() == [1]
    with pytest.raises(ValueError, match="before has the negative value .* expected probabilities, not logs"):
        d.top_gains(before.log(), after.log())


def distributions(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    first, second = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    return first.softmax(-1), second.softmax(-1)


def test_all_gains_in_order_are_the_sorted_differences_and_add_up_to_nothing() -> None:
    before, after = distributions(2, 3, 20)
    ids, gains = d.top_gains(before, after, k=20)
    assert torch.equal(gains, (after - before).sort(-1, descending=True).values)
    assert torch.equal((after - before).gather(-1, ids), gains)
    assert gains.sum(-1).abs().max() < 1e-15
    assert torch.equal(d.top_gains(before, after, k=4).ids, ids[..., :4])


def test_a_group_and_the_rest_gain_opposite_amounts() -> None:
    before, after = distributions(4, 12)
    group = [3, 0, 7, 3]
    rest = torch.tensor([token for token in range(12) if token not in group])
    gained = d.group_gains(before, after, group)
    assert gained.shape == (4,)
    assert torch.allclose(gained, -d.group_gains(before, after, rest), atol=1e-15)
    assert torch.equal(gained, d.group_gains(before, after, [0, 3, 7])), "named twice counts once"
    assert torch.equal(gained, -d.group_gains(after, before, group))
    assert d.group_gains(before, after, []).tolist() == [0.0] * 4


def test_errors_name_what_came() -> None:
    before, after = distributions(5)
    with pytest.raises(ValueError, match=r"before has shape \(5,\), after has \(4,\)"):
        d.top_gains(before, after[:4])
    for k in (0, 6):
        with pytest.raises(ValueError, match=f"k is {k}; expected 1 to the size of the vocabulary, 5"):
            d.top_gains(before, after, k)
    for outside in (-1, 5):
        with pytest.raises(ValueError, match=f"token id {outside} is outside the vocabulary, 0 to 4"):
            d.group_gains(before, after, [0, outside])
    with pytest.raises(ValueError, match=r"initial_logps has shape \(2,\), final_logps has \(2, 1\)"):
        d.displaced(torch.zeros(2), torch.zeros(2, 1))
    with pytest.raises(ValueError, match="there are no pairs"):
        d.displacement(torch.zeros(0), torch.zeros(0), 1.0, 0.5)


@pytest.mark.parametrize("word", ["yes", "no", "maybe", "absolutely"])
def test_marks_punctuation_and_case_do_not_matter(word: str) -> None:
    plain = d.token_class(word)
    assert plain is not None
    for before, after in itertools.product(["", " ", "Ġ", "▁", "Ċ", "\n", '"', "Ġ**", "¡"], ["", ".", ",", "!\n", "▁"]):
        for text in (word, word.upper(), word.title()):
            assert d.token_class(f"{before}{text}{after}") == plain


@pytest.mark.parametrize("text", ["", "Ġ", "...", "nope", "not", "yesterday", "no-one", "Ye", "n o"])
def test_likeness_of_strings_makes_no_class(text: str) -> None:
    assert d.token_class(text) is None
    assert d.harm(text, chosen="Yes") == d.harm("Yes", chosen=text) == "other"


def test_classes_are_a_parameter() -> None:
    groups = {"refusal": ["Sorry", "can't"], "compliance": {"Sure"}}
    assert d.token_class(" sorry,", groups) == "refusal"
    assert d.token_class("Ġcan't", groups) == "refusal"
    assert d.token_class("no", groups) is None
    assert d.harm("▁sure", "Sorry", groups) == "catastrophic"
    assert d.harm("can't", "Sorry", groups) == "benign"


def test_harm_is_the_same_from_both_sides_and_benign_to_itself() -> None:
    words = sorted(set().union(*d.YES_AND_NO.values()))
    for one, two in itertools.product(words, words):
        assert d.harm(one, two) == d.harm(two, one) != "other"
        assert d.harm(one, one) == "benign"
    assert d.harm("never", "No") == "benign"
    assert d.harm("never", "Yes") == "catastrophic"
