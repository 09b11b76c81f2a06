"""Inner products of sums of outer products: against the matrices themselves."""

from __future__ import annotations

import pytest
import torch

from undertow.maths import outer

LENGTHS = [3, 1, 5]


def test_every_way_gives_the_products_of_the_matrices_themselves() -> None:
    torch.manual_seed(0)
    left, shared = torch.randn(9, 4, dtype=torch.float64), torch.randn(6, 7, dtype=torch.float64)
    places = torch.tensor([0, 1, 2, 5, 0, 1, 2, 3, 4])
    right = shared[places]
    whole = outer.formed(left, right, LENGTHS).flatten(1)
    expected = whole @ whole.T
    for found in (
        outer.gram_of_outer_products(left, right, LENGTHS),
        outer.gram_with_shared_rows(left, shared, places, LENGTHS),
        outer.flat_gram(whole),
    ):
        torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)


def test_rows_that_repeat_add_up_and_products_are_weighted() -> None:
    torch.manual_seed(1)
    ids, values = torch.tensor([4, 4, 0, 2, 4, 0, 0, 1, 2]), torch.randn(9, 3, dtype=torch.float64)
    scale = torch.rand(6, 3, dtype=torch.float64)
    whole = torch.zeros(3, 6, 3, dtype=torch.float64)
    begin = 0
    for number, length in enumerate(LENGTHS):
        whole[number].index_add_(0, ids[begin : begin + length], values[begin : begin + length])
        begin += length
    expected = torch.einsum("iab,ab,jab->ij", whole, scale, whole)
    torch.testing.assert_close(outer.gram_of_rows(ids, values, LENGTHS, scale), expected, rtol=1e-13, atol=1e-13)
    plain = torch.einsum("iab,jab->ij", whole, whole)
    torch.testing.assert_close(outer.gram_of_rows(ids, values, LENGTHS), plain, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("slab", [1, 8, 4096])
def test_sums_do_not_depend_on_how_much_is_taken_at_a_time(slab: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(2)
    left, right = torch.randn(9, 4), torch.randn(9, 7)
    expected = outer.gram_of_outer_products(left, right, LENGTHS)
    monkeypatch.setattr(outer, "SLAB", slab)
    torch.testing.assert_close(outer.gram_of_outer_products(left, right, LENGTHS), expected, rtol=1e-6, atol=1e-6)
    whole = outer.formed(left, right, LENGTHS).flatten(1)
    torch.testing.assert_close(outer.flat_gram(whole), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        outer.gram_with_shared_rows(left, right, torch.arange(9), LENGTHS), expected, rtol=1e-5, atol=1e-5
    )
    assert outer.gram_of_outer_products(left, right, LENGTHS).dtype == torch.float64
