"""What to track while a model is trained: displacement, the largest decrease, and the tokens that gain (theory 7).

Likelihood displacement (Razin et al. 2024, arXiv 2410.08847, Definition 1) is a *falling* log-probability of the chosen
response under a *falling* loss. Where the loss did not fall the question has no answer: "not applicable", never "no".
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from undertow.maths.precision import in_float64

__all__ = [
    "YES_AND_NO",
    "Decrease",
    "Displacement",
    "RunningDecrease",
    "TopGains",
    "displaced",
    "displacement",
    "group_gains",
    "harm",
    "largest_decrease",
    "largest_gains",
    "token_class",
    "top_gains",
]

YES_AND_NO: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "yes": frozenset({"yes", "yeah", "sure", "certainly", "absolutely"}),
        "no": frozenset({"no", "never", "maybe", "perhaps"}),
    }
)
"""The Yes-like and No-like tokens of Razin et al., Section 4."""

_SPACE_MARKS = frozenset("ĠĊĉč▁")
"""How tokenizers write a space, a line break, a tab and a carriage return in a token's name."""


@dataclass(frozen=True, slots=True)
class Displacement:
    """Displacement of a data set (Razin et al., Definition 1).

    Attributes:
        applicable: the mean loss fell, strictly; without that nothing is called displaced.
        displaced: the mean log-probability of the chosen responses fell, strictly; None where the question has no
            answer: not applicable, or a log-probability is NaN.
        mean_change: how much it changed, in nats.
        share: the share of pairs whose own chosen log-probability fell, in [0, 1], applicable or not.
    """

    applicable: bool
    displaced: bool | None
    mean_change: float
    share: float


def displaced(initial_logps: Tensor, final_logps: Tensor, *, by: float = 0.0) -> Tensor:
    """Whose chosen response became less likely, strictly (Definition 1, for a sample, the loss having fallen).

    Args:
        initial_logps: ``[pairs]``: ``ln π_init(y⁺|x)``, in nats, any leading dimensions.
        final_logps: ``[pairs]``: ``ln π_fin(y⁺|x)``, of the same precision: rounding of one side alone would count.
        by: only a fall by more than so many nats counts; 0 or more.

    Returns:
        ``[pairs]``, bool. A NaN on either side is False: look at the log-probabilities before you trust it.

    Raises:
        ValueError: when the shapes differ, or ``by`` is negative or not finite.

    >>> displaced(torch.tensor([-2.0, -1.0, -3.0]), torch.tensor([-2.5, -1.0, -2.0])).tolist()
    [True, False, False]
    >>> displaced(torch.tensor([-2.0, -1.0, -3.0]), torch.tensor([-2.5, -2.5, -2.0]), by=1.0).tolist()
    [False, True, False]
    """
    _same_shape(initial_logps=initial_logps, final_logps=final_logps)
    if not 0 <= by < math.inf:
        raise ValueError(f"by is {by}: expected a number of nats, 0 or more")
    return initial_logps - final_logps > by


def displacement(
    initial_logps: Tensor, final_logps: Tensor, initial_loss: Tensor | float, final_loss: Tensor | float
) -> Displacement:
    """Displacement of a data set, its size and how many pairs share it (Definition 1).

    Args:
        initial_logps: ``[pairs]``: ``ln π_init(y⁺|x)``, in nats.
        final_logps: ``[pairs]``, likewise.
        initial_loss: the loss before: its mean, or ``[pairs]``, of which the mean is taken.
        final_loss: the loss after, likewise; a NaN has not fallen.

    Raises:
        ValueError: when the shapes differ or there are no pairs.

    >>> displacement(torch.tensor([-2.0, -1.0]), torch.tensor([-3.0, -0.5]), 0.69, 0.5)
    Displacement(applicable=True, displaced=True, mean_change=-0.25, share=0.5)
    """
    fell = displaced(initial_logps, final_logps)
    if not fell.numel():
        raise ValueError("displacement: there are no pairs")
    applicable = _mean(final_loss) < _mean(initial_loss)
    change = (in_float64(final_logps) - in_float64(initial_logps)).mean().item()
    answer = change < 0 if applicable and not math.isnan(change) else None
    return Displacement(applicable, answer, change, in_float64(fell).mean().item())


class Decrease(NamedTuple):
    """How far a tracked value fell, in its own units, from which index to which."""

    drop: float
    start: int
    end: int


_NOTHING_YET = Decrease(math.nan, 0, 0)


@dataclass(slots=True)
class RunningDecrease:
    """The largest decrease of a value that is still being tracked; :func:`largest_decrease` says what that is.

    ``largest`` is the decrease so far; before the first value its drop is NaN.
    """

    largest: Decrease = _NOTHING_YET
    _highest: float = field(default=math.nan, repr=False)
    _highest_at: int = field(default=0, repr=False)
    _count: int = field(default=0, repr=False)

    def update(self, value: float) -> Decrease:
        """Take the next value; the largest decrease up to and with it."""
        at = self._count
        self._count += 1
        if math.isnan(value):
            return self.largest
        # Only the earliest of equal maxima is kept, and only a larger drop replaces one: the ties of theory 7. Written
        # with "not ≤", both hold for the first value, which meets NaN.
        if not value <= self._highest:
            self._highest, self._highest_at = value, at
        drop = self._highest - value if value < self._highest else 0.0  # where both are −∞, nothing fell
        if not drop <= self.largest.drop:
            self.largest = Decrease(drop, self._highest_at, at)
        return self.largest


def largest_decrease(values: Tensor | Sequence[float]) -> Decrease:
    """The largest decrease ``max_{t≤t'} v_t − v_{t'}`` of a tracked value, in one pass (Razin et al., Tables 1 to 3).

    Of equal decreases that with the earliest ``t'`` counts, then the earliest ``t``; a value that never falls has 0 at
    ``(0, 0)``. A NaN is passed over as if it had not been looked at; indices count it.

    Args:
        values: ``[T + 1]``: ``v_0`` (before the first step) to ``v_T``; a probability or a log-probability.

    Returns:
        ``(drop, start, end)`` with the indices ``t`` and ``t'``; the drop is NaN where all values are.

    Raises:
        ValueError: when there is no value, or more than one dimension.

    >>> largest_decrease([0.90, 0.95, 0.70, 0.80, 0.99, 0.72, 0.75])  # theory 7
    Decrease(drop=0.27, start=4, end=5)
    """
    numbers = torch.as_tensor(values, dtype=torch.float64, device="cpu")
    if numbers.ndim != 1 or not len(numbers):
        raise ValueError(f"largest_decrease: expected one dimension of at least one value, got {tuple(numbers.shape)}")
    running = RunningDecrease()
    for value in numbers.tolist():
        running.update(value)
    return running.largest


class TopGains(NamedTuple):
    """The tokens that gained most: ``ids`` and ``gains``, both ``[..., k]``, the largest gain first."""

    ids: Tensor
    gains: Tensor


def top_gains(before: Tensor, after: Tensor, k: int = 3) -> TopGains:
    """The ``k`` tokens whose probability grew most, ``π_t(v|x) − π_0(v|x)`` over the whole vocabulary.

    Probabilities, not log-probabilities: a rare token gains much in logarithm and nothing that anyone would see. Where
    fewer than ``k`` tokens gained, the last gains are 0 or negative. Of equal gains the lower id comes first.

    Args:
        before: ``[..., V]``: probabilities at step 0.
        after: ``[..., V]``: probabilities at step ``t``.
        k: how many tokens; Razin et al. report three.

    Returns:
        ids ``[..., k]`` (int64) and gains ``[..., k]`` (float64).

    Raises:
        ValueError: when shapes differ, ``k`` is not in 1..V, or values are negative, as log-probabilities are.

    >>> top_gains(torch.tensor([0.5, 0.25, 0.25]), torch.tensor([0.125, 0.375, 0.5]), k=2)
    TopGains(ids=tensor([2, 1]), gains=tensor([0.2500, 0.1250], dtype=torch.float64))
    """
    return largest_gains(_gains(before, after), k)


def largest_gains(change: Tensor, k: int) -> TopGains:
    """:func:`top_gains` from the changes ``[..., V]`` themselves.

    Raises:
        ValueError: when ``k`` is not in 1..V.
    """
    if not 1 <= k <= change.shape[-1]:
        raise ValueError(f"k is {k}; expected 1 to the size of the vocabulary, {change.shape[-1]}")
    found: list[tuple[Tensor, Tensor]] = []
    # argmax returns the first of equal maxima; topk any of them, and not the same on every device.
    for _ in range(k):
        best = change.argmax(-1, keepdim=True)
        found.append((best, change.gather(-1, best)))
        change = change.scatter(-1, best, -math.inf)
    ids, gains = zip(*found, strict=True)
    return TopGains(torch.cat(ids, -1), torch.cat(gains, -1))


def group_gains(before: Tensor, after: Tensor, ids: Sequence[int] | Tensor) -> Tensor:
    """How much probability a set of tokens gained together: ``Σ_{v∈ids} π_t(v|x) − π_0(v|x)``.

    Args:
        before: ``[..., V]``: probabilities at step 0.
        after: ``[..., V]``: probabilities at step ``t``.
        ids: token ids of the set; one that is named twice counts once.

    Returns:
        ``[...]``, float64, in [−1, 1]; negative where the set lost.

    Raises:
        ValueError: when shapes differ, an id is outside the vocabulary, or values are negative.

    >>> group_gains(torch.tensor([0.5, 0.25, 0.25]), torch.tensor([0.125, 0.375, 0.5]), [1, 2]).item()
    0.375
    """
    change = _gains(before, after)
    members = sorted(set(ids.tolist() if isinstance(ids, Tensor) else ids))
    outside = [token for token in members if not 0 <= token < change.shape[-1]]
    if outside:
        raise ValueError(f"token id {outside[0]} is outside the vocabulary, 0 to {change.shape[-1] - 1}")
    return change[..., torch.tensor(members, dtype=torch.long, device=change.device)].sum(-1)


def token_class(text: str, groups: Mapping[str, Collection[str]] = YES_AND_NO) -> str | None:
    """The group a token's text belongs to, or None.

    By class, not by likeness of strings: space marks (``Ġ``, ``▁``), punctuation and case do not matter, all else does.

    >>> token_class("ĠYeah,"), token_class("▁no"), token_class("nope")
    ('yes', 'no', None)
    """
    word = _normalised(text)
    return next((name for name, words in groups.items() if word in map(_normalised, words)), None) if word else None


def harm(
    text: str, chosen: str, groups: Mapping[str, Collection[str]] = YES_AND_NO
) -> Literal["benign", "catastrophic", "other"]:
    """What it means that a token gains where another was chosen (Razin et al., Section 4).

    ``benign``: it is of the chosen token's class. ``catastrophic``: it is of another class. ``other``: it is of no
    class, or the chosen token is of none, and nothing can be said.

    >>> harm(" Sure", chosen="Yes"), harm(" Never", chosen="Yes"), harm(" the", chosen="Yes")
    ('benign', 'catastrophic', 'other')
    """
    gaining, wanted = token_class(text, groups), token_class(chosen, groups)
    if gaining is None or wanted is None:
        return "other"
    return "benign" if gaining == wanted else "catastrophic"


def _normalised(text: str) -> str:
    """The word without what stands around it; an apostrophe or hyphen inside belongs to the word."""
    first, last = 0, len(text)
    while first < last and _is_around(text[first]):
        first += 1
    while last > first and _is_around(text[last - 1]):
        last -= 1
    return text[first:last].casefold()


def _is_around(character: str) -> bool:
    """Space marks, punctuation, symbols, separators and controls: nothing of a word."""
    return character in _SPACE_MARKS or unicodedata.category(character)[0] in "PSZC"


def _gains(before: Tensor, after: Tensor) -> Tensor:
    _same_shape(before=before, after=after)
    for name, values in (("before", before), ("after", after)):
        if bool((values < 0).any()):
            raise ValueError(f"{name} has the negative value {values.min().item():g}: expected probabilities, not logs")
    return in_float64(after) - in_float64(before)


def _mean(loss: Tensor | float) -> float:
    return float(in_float64(loss).mean().item()) if isinstance(loss, Tensor) else float(loss)


def _same_shape(**tensors: Tensor) -> None:
    (a, first), (b, second) = tensors.items()
    if first.shape != second.shape:
        raise ValueError(f"{a} has shape {tuple(first.shape)}, {b} has {tuple(second.shape)}; they must be equal")
