"""Total masses on the listed responses: by hand, against enumeration, and the laws that they keep."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import undertow as ut
from command import some_rows
from tiny import tiny_folder, tiny_hf, tiny_tokenizer
from undertow.comparing.compare import compare
from undertow.comparing.masses import masses, prompt_masses
from undertow.comparing.responses import ListedResponses, list_responses
from undertow.data.tokens.encoder import TokenPair
from undertow.runs.token_file import TokenFile

Tokens = tuple[int, ...]
Probabilities = dict[Tokens, float]
X: Tokens = (7, 8)


def spool_of(path: Path, pairs: Sequence[tuple[Tokens, Tokens, Tokens]]) -> TokenFile:
    spool = TokenFile(path)
    for row, (prompt, chosen, rejected) in enumerate(pairs):
        spool.add(TokenPair(row, f"{row:016x}", prompt, chosen, rejected, truncated=False))
    spool.close()
    return spool


def found(
    path: Path,
    pairs: Sequence[tuple[Tokens, Tokens, Tokens]],
    before: Probabilities,
    after: Probabilities,
    *,
    finite: Sequence[bool] | None = None,
    resamples: int = 20,
) -> dict[str, Any]:
    """The masses of a comparison with these probabilities of the responses."""
    columns = {
        f"{name}_logp_{side}": [math.log(p[pair[1 + at]]) for pair in pairs]
        for name, p in (("before", before), ("after", after))
        for at, side in enumerate(("chosen", "rejected"))
    }
    usable = np.ones(len(pairs), np.bool_) if finite is None else np.array(finite)
    return masses(pa.table(columns), list_responses(spool_of(path, pairs)), usable, resamples=resamples, seed=0)


def value(record: dict[str, Any], name: str, when: str = "change") -> float:
    return record[name][when]["value"]


def test_by_hand(tmp_path: Path) -> None:
    """Two good responses and a bad one: 0.2 + 0.1 against 0.4 becomes 0.3 + 0.3 against 0.2."""
    one, two, bad = (1,), (2, 3), (4,)
    before, after = {one: 0.2, two: 0.1, bad: 0.4}, {one: 0.3, two: 0.3, bad: 0.2}
    record = found(tmp_path / "t", [(X, one, bad), (X, two, bad)], before, after)
    assert (record["prompts"], record["responses"], record["contested"], record["nested"]) == (1, 3, 0, 0)
    for name, start, end in (("good", 0.3, 0.6), ("bad", 0.4, 0.2), ("share", 3 / 7, 3 / 4)):
        assert value(record, name, "before") == pytest.approx(start, rel=1e-12)
        assert value(record, name, "after") == pytest.approx(end, rel=1e-12)
        assert value(record, name) == pytest.approx(end - start, rel=1e-12)
    assert value(record, "ln_good") == pytest.approx(math.log(2), rel=1e-12)
    assert value(record, "ln_bad") == pytest.approx(-math.log(2), rel=1e-12)
    assert value(record, "logit_share") == pytest.approx(math.log(4), rel=1e-12)  # E_A = 2, E_U = 1/2
    assert record["share_fell"]["value"] == record["good_fell"]["value"] == 0


def test_a_response_that_wins_and_loses_is_a_mixture(tmp_path: Path) -> None:
    """Memberships 1/7, 8/9 and 1/4 are those of p_A = (0.1, 0.8, 0.1) and p_U = (0.6, 0.1, 0.3) at α = 1/2.

    Tilted by e^{r/β}, r = (0, 2, 3), β = 0.5, the aligned mass falls to 0.3982835006: the counterexample to Huang's
    Theorem 2, its numbers from exact arithmetic at 50 digits.
    """
    zero, one, two = (10,), (11,), (12,)
    pairs = [(X, one, zero)] * 6 + [(X, one, two)] * 2 + [(X, two, one), (X, zero, two)]
    before = {zero: 0.35, one: 0.45, two: 0.2}
    z = sum(p * math.exp(2 * r) for p, r in zip(before.values(), (0, 2, 3), strict=True))
    after = {y: p * math.exp(2 * r) / z for (y, p), r in zip(before.items(), (0, 2, 3), strict=True)}
    record = found(tmp_path / "t", pairs, before, after)
    assert record["contested"] == 3
    assert value(record, "share", "before") == pytest.approx(0.5, abs=1e-12)
    assert value(record, "share", "after") == pytest.approx(0.3982835006, abs=1e-10)
    assert value(record, "good", "after") == pytest.approx(0.3982835006, abs=1e-10)  # all responses are listed
    assert value(record, "logit_share") == pytest.approx(math.log(84.1213993758 / 127.0884530511), abs=1e-9)
    assert record["share_fell"]["value"] == 1


def chains(draw: np.random.Generator) -> Probabilities:
    """A model of three tokens, of which 0 ends: every response of at most two tokens, and its probability."""
    tables = draw.dirichlet(np.ones(3), size=4)
    responses: Probabilities = {(0,): tables[3][0]}
    for first in (1, 2):
        for second in (0, 1, 2):
            responses[first, second] = tables[3][first] * tables[first][second]
    return responses


@pytest.mark.parametrize("seed", range(5))
def test_everything_listed_is_enumeration(tmp_path: Path, seed: int) -> None:
    """With every response of a tiny vocabulary listed, the masses are those of the whole classes and sum to 1."""
    draw = np.random.default_rng(seed)
    before, after = chains(draw), chains(draw)
    responses = list(before)
    good = [y for y in responses if draw.random() < 0.5] or responses[:1]
    bad = [y for y in responses if y not in good] or [good.pop()]
    pairs = [(X, y, z) for y, z in itertools.product(good, bad)]
    record = found(tmp_path / "t", [pairs[i] for i in draw.permutation(len(pairs))], before, after)
    for when, p in (("before", before), ("after", after)):
        expected = sum(p[y] for y in good)
        assert value(record, "good", when) == pytest.approx(expected, rel=1e-12)
        assert value(record, "share", when) == pytest.approx(expected, rel=1e-12)
        assert value(record, "good", when) + value(record, "bad", when) == pytest.approx(1, rel=1e-12)
    assert record["share_fell"]["value"] == (value(record, "share") < 0) == record["good_fell"]["value"]


logps = st.floats(-20_000, 0)


@given(
    st.integers(2, 6).flatmap(lambda n: st.tuples(*[st.lists(logps, min_size=n, max_size=n)] * 2, st.integers(1, n)))
)
def test_the_tilt_moves_the_share_as_the_two_masses_say(case: tuple[list[float], list[float], int]) -> None:
    before, after = (torch.tensor([values], dtype=torch.float64) for values in case[:2])
    membership = torch.full_like(before, 0.5)
    membership[0, : case[2] - 1] = 1.0
    got = prompt_masses(before, after, membership)
    moved = (got.ln_good_after - got.ln_bad_after) - (got.ln_good_before - got.ln_bad_before)
    assert got.shift.item() == pytest.approx(moved.item(), rel=1e-9, abs=1e-9)
    still = prompt_masses(before, before, membership)
    assert not still.fell.item()
    assert still.shift.item() == pytest.approx(0, abs=1e-12)


def test_where_pairs_stand_and_how_often_does_not_matter(tmp_path: Path) -> None:
    """Pairs of two prompts, in this order or that, once or twice over; no prompt speaks for another."""
    draw = np.random.default_rng(3)
    y, z, w = (1,), (2,), (3, 4)
    other = (8, 7)
    before, after = ({r: float(p) for r, p in zip((y, z, w), draw.dirichlet(np.ones(4)), strict=False)} for _ in "ab")
    pairs = [(X, y, z), (other, z, w), (X, w, z), (other, y, w)]
    once = found(tmp_path / "a", pairs, before, after)
    assert (once["prompts"], once["responses"]) == (2, 6)
    for name, again in (("b", pairs[::-1]), ("c", pairs * 2)):
        record = found(tmp_path / name, again, before, after)
        assert record["responses"] == 6
        for key in ("good", "bad", "share", "ln_good", "ln_bad", "logit_share"):
            assert value(record, key) == pytest.approx(value(once, key), rel=1e-12)
    alone = [found(tmp_path / str(i), [p for p in pairs if p[0] == x], before, after) for i, x in enumerate((X, other))]
    assert value(once, "share") == pytest.approx(np.mean([value(record, "share") for record in alone]), rel=1e-12)


def test_intervals_are_of_prompts_not_of_pairs(tmp_path: Path) -> None:
    """A hundred pairs of one prompt are one observation: there is no interval to give."""
    p: Probabilities = {(i,): 0.009 for i in range(1, 102)}
    record = found(tmp_path / "t", [(X, (i,), (101,)) for i in range(1, 101)], p, {**p, (1,): 0.1})
    assert record["good"]["change"] == {"value": pytest.approx(0.091), "low": None, "high": None}


def test_a_response_that_begins_with_another_sets_its_prompt_aside(tmp_path: Path) -> None:
    """Their probabilities are not of different events; the other prompt stays, and equal lengths are no reason."""
    short, long, other = (1, 2), (1, 2, 3), (4, 5)
    p = {short: 0.4, long: 0.3, other: 0.2}
    second = (9,)
    pairs = [(X, short, other), (second, short, other), (X, other, long)]
    spool = spool_of(tmp_path / "s", pairs)
    listed = list_responses(spool)
    assert listed.nested[listed.prompt].tolist() == [True, False, True]
    record = found(tmp_path / "t", pairs, p, p)
    assert (record["nested"], record["prompts"], record["responses"]) == (1, 1, 2)
    assert value(record, "good", "before") == pytest.approx(0.4)


def test_pairs_that_are_not_finite_are_left_out_and_nothing_left_is_none(tmp_path: Path) -> None:
    p: Probabilities = {(1,): 0.4, (2,): 0.3, (3,): 0.2}
    pairs = [(X, (1,), (2,)), (X, (3,), (2,))]
    record = found(tmp_path / "a", pairs, p, p, finite=[False, True])
    assert value(record, "good", "after") == pytest.approx(0.2)
    record = found(tmp_path / "b", pairs, p, p, finite=[False, False])
    assert record["prompts"] == record["responses"] == 0
    assert record["share"]["after"] == {"value": None, "low": None, "high": None}


def test_numbering_is_by_tokens(tmp_path: Path) -> None:
    spool = TokenFile(tmp_path / "s")
    rows = [((1, 2), (3,), (4,)), ((1,), (2, 3), (4,)), ((1, 2), (4,), (5,))]
    for row, (prompt, chosen, rejected) in enumerate(rows):
        spool.add(TokenPair(row, "", prompt, chosen, rejected, truncated=row == 1))
    spool.close()
    listed: ListedResponses = list_responses(spool)
    assert listed.prompt[0] == listed.prompt[2] != listed.prompt[1]
    assert listed.rejected[0] == listed.chosen[2]
    assert listed.rejected[1] != listed.rejected[0]  # the same tokens under another prompt
    assert len({*listed.chosen.tolist(), *listed.rejected.tolist()}) == 5
    assert listed.cut.tolist() == [False, True, False]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[ut.Model]:
    """The tiny model, and one a small random step away."""
    before = tiny_folder(tmp_path_factory.mktemp("before"))
    after = tmp_path_factory.mktemp("after")
    hf = tiny_hf("llama")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in hf.parameters():
            parameter += 0.03 * torch.randn(parameter.shape, generator=generator)
    hf.save_pretrained(after)
    tiny_tokenizer().save_pretrained(after)
    return [ut.load_model(str(folder), dtype="float32") for folder in (before, after)]


def test_letters_against_digits_is_the_next_tokens_distribution(models: list[ut.Model]) -> None:
    """Responses of one token: the mass of a class is a sum over the model's own distribution of the next token."""
    good, bad = "abcdefghijklmnopqrstuvwxyz", "0123456789"
    pairs = [
        ut.Pair(row, f"Say {x}: ", one, other) for row, (x, one, other) in enumerate(itertools.product("?!", good, bad))
    ]
    tokens = ut.TokenSettings(eot=False, template="plain")
    record = compare(pairs, *models, tokens=tokens, resamples=10).summary["masses"]
    assert (record["prompts"], record["responses"]) == (2, 2 * 36)
    tokenizer = tiny_tokenizer()
    for when, model in zip(("before", "after"), models, strict=True):
        hf = tiny_hf("llama")  # with transformers' own attention
        hf.load_state_dict(model.hf.state_dict())
        sums = []
        for x in "?!":
            ids = torch.tensor([tokenizer(f"Say {x}: ", add_special_tokens=False)["input_ids"]])
            p = hf(input_ids=ids).logits[0, -1].double().softmax(-1)
            sums.append([p[tokenizer.convert_tokens_to_ids(list(group))].sum().item() for group in (good, bad)])
        expected = np.array(sums)
        assert value(record, "good", when) == pytest.approx(expected[:, 0].mean(), rel=1e-4)
        assert value(record, "bad", when) == pytest.approx(expected[:, 1].mean(), rel=1e-4)
        share = expected[:, 0] / expected.sum(1)
        assert value(record, "share", when) == pytest.approx(share.mean(), rel=1e-4)


def test_with_one_pair_a_prompt_the_logit_moves_by_the_margin(models: list[ut.Model]) -> None:
    summary = compare(
        ut.read_pairs(some_rows(6)), *models, tokens=ut.TokenSettings(max_length=400), resamples=10
    ).summary
    record = summary["masses"]
    assert (record["prompts"], record["responses"], record["cut"], record["nested"]) == (6, 12, 0, 0)
    assert value(record, "logit_share") == pytest.approx(summary["means"]["dmargin"]["value"], rel=1e-9)
    assert value(record, "ln_good") == pytest.approx(summary["means"]["dlogp_chosen"]["value"], rel=1e-9)
    assert record["good_fell"]["value"] == pytest.approx(summary["means"]["displaced"]["value"])


def test_responses_that_were_cut_are_counted(models: list[ut.Model]) -> None:
    found = compare(ut.read_pairs(some_rows(6)), *models, tokens=ut.TokenSettings(max_length=60), resamples=10)
    assert found.summary["masses"]["cut"] > 0
