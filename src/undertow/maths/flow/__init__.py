"""Which way log-probabilities move, term by term, in the free-features model: Razin et al. 2024 (arXiv 2410.08847).

- :func:`inner_product`, :func:`response_rate`: the one formula behind all of them, for any responses and any pairs.
- :func:`chosen_token_rate`: Theorem 4, one pair of single tokens, the chosen token.
- :func:`other_token_rates`: Theorem 5, the same, every other token; :func:`most_gaining_tokens` orders them.
- :func:`chosen_rate`: Theorem 6, one pair of any length, the chosen response.
- :func:`other_rate`: Theorem 7, the same, another response.
- :func:`chosen_token_rates_many`: Theorem 8, many pairs of single tokens, the chosen tokens.
- :func:`other_token_rates_many`: Theorem 9, the same, every other token.
- :func:`sft_rate`, :func:`unequal_weights_rate`: Propositions 1 and 2, an SFT term and unequal weights.
"""

from undertow.maths.flow.many_pairs import (
    ChosenTokenRates,
    OtherTokenManyRates,
    chosen_token_rates_many,
    other_token_rates_many,
)
from undertow.maths.flow.regularised import SFTRate, UnequalWeightsRate, sft_rate, unequal_weights_rate
from undertow.maths.flow.responses import InnerProduct, Response, ResponseRate, inner_product, response_rate
from undertow.maths.flow.sequences import ChosenRate, OtherRate, chosen_rate, other_rate
from undertow.maths.flow.single_token import (
    ChosenTokenRate,
    GainingToken,
    OtherTokenRates,
    Projection,
    RejectedTokenRate,
    chosen_token_rate,
    most_gaining_tokens,
    other_token_rates,
    project,
    rejected_token_rate,
)

__all__ = [
    "ChosenRate",
    "ChosenTokenRate",
    "ChosenTokenRates",
    "GainingToken",
    "InnerProduct",
    "OtherRate",
    "OtherTokenManyRates",
    "OtherTokenRates",
    "Projection",
    "RejectedTokenRate",
    "Response",
    "ResponseRate",
    "SFTRate",
    "UnequalWeightsRate",
    "chosen_rate",
    "chosen_token_rate",
    "chosen_token_rates_many",
    "inner_product",
    "most_gaining_tokens",
    "other_rate",
    "other_token_rates",
    "other_token_rates_many",
    "project",
    "rejected_token_rate",
    "response_rate",
    "sft_rate",
    "unequal_weights_rate",
]
