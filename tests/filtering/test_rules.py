"""Rules of ``train --filter``: a column that no pairs can be left out by is refused when the rule is read."""

from __future__ import annotations

import pytest

from undertow.errors import OptionError
from undertow.filtering.rules import Rule


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("pair_id drop-highest 10%", "pair_id holds no numbers; scores: row, prompt_tokens"),
        ("truncated drop-lowest 3", "truncated holds no numbers"),
        ("pull drop-lowest 10%", "pull takes a pass over all data: use `undertow audit … --pull`"),
        ("pull_own drop-lowest 10%", "pull_own takes a pass over all data"),
        ("nonsense drop-highest 1", "there is no score nonsense; scores: row, "),
        ("ln_ches drop-duplicates 1", "expected 'SCORE SELECTOR AMOUNT'"),
        ("ln_ches drop-highest 110%", "--drop-highest 110%: expected a share"),
        ("ln_ches drop-case 7", "--drop-case 7: expected a case"),
        ("ln_ches drop-highest", "expected 'SCORE SELECTOR AMOUNT'"),
    ],
)
def test_a_rule_that_cannot_be_is_refused_when_it_is_read(rule: str, message: str) -> None:
    with pytest.raises(OptionError) as refused:
        Rule.parse(rule)
    assert message in str(refused.value)


def test_a_rule_of_any_number_is_read() -> None:
    for by, level in (("row", "text"), ("chosen_tokens", "text"), ("ches", "hidden"), ("case", "unembedding")):
        rule = Rule.parse(f"{by} drop-lowest 29%")
        assert (rule.by, rule.level, rule.selector.count(100)) == (by, level, 29)
