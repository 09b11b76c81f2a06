"""What the gradient-entanglement paper claims of three settings, beside what a real model's gradients are.

Yuan et al. 2024 (arXiv 2410.13828), section 4: responses of one token (Theorem 1), responses that differ in their last
token (Corollary 2), and in one in the middle (Theorem 3). The paper trains the unembedding alone, or one logit row a
position; here the same products are measured at the unembedding and over all parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from undertow.data.tokens.encoder import TokenPair
from undertow.data.tokens.packing import pack
from undertow.errors import OptionError
from undertow.maths.entanglement import last_token_gap, position_gaps, single_token_products
from undertow.maths.precision import in_float64
from undertow.maths.residuals import Residuals, shared_contexts
from undertow.maths.unembedding import heatmap, products_of, sum_products
from undertow.models.forward import pair_states
from undertow.models.model import Model
from undertow.models.token_gram import token_gram
from undertow.scoring.gradient import FullProducts
from undertow.scoring.unembedding import residual_rows

__all__ = ["SettingName", "SettingProducts", "three_settings"]

SettingName = Literal["single token", "last token", "middle token"]


@dataclass(frozen=True, slots=True, eq=False)
class SettingProducts:
    """One setting, as the theorem has it and as it is.

    Attributes:
        name: of the setting.
        chosen, rejected: the responses, as tokens in writing.
        theorem: the theorem's values. Single token: ``gg_chosen``, ``gg_cross``, ``gg_rejected``. Last token:
            ``own``, what the paper has, ``cross``, what it leaves out, and ``gap``, their sum, of
            ``⟨g_w, g_w − g_l⟩``. Middle token: ``gap`` of one logit row a position.
        unembedding: the three products and ``gap`` in the unembedding matrix.
        full: the same over all parameters.
        positions: of the last two settings, ``⟨g_{w,i}, g_{w,i} − g_{l,i}⟩`` by position ``[L]``, float64: of the
            theorem's logit rows (``theorem``), of the ``unembedding`` and over all parameters (``full``).
        claims: whether what the paper concludes holds for the measured products, by level: with one token that
            ``⟨g_w,g_l⟩ ≤ 0``, else that ``⟨g_w,g_l⟩ ≤ ‖g_w‖²`` (the chosen response does not fall).
    """

    name: SettingName
    chosen: tuple[str, ...]
    rejected: tuple[str, ...]
    theorem: Mapping[str, float]
    unembedding: Mapping[str, float]
    full: Mapping[str, float]
    positions: Mapping[str, Tensor]
    claims: Mapping[str, bool]


def three_settings(
    model: Model, prompt: str, chosen: str, rejected: str, *, before: str = "", after: str = ""
) -> list[SettingProducts]:
    """The three settings from a prompt and two words.

    Args:
        model: what ``undertow.load_model`` returns.
        prompt: as it is, without a chat template.
        chosen: a word, of which the first token is taken.
        rejected: likewise; its first token must be another.
        before: what both responses begin with, in the settings of the last and the middle token.
        after: what both end with, in the setting of the middle token. Without one of the two, the settings that need
            it are left out.

    Raises:
        OptionError: the two words begin with the same token, or the prompt has none.
    """

    def ids(text: str) -> tuple[int, ...]:
        return tuple(model.tokenizer.encode(text, add_special_tokens=False))

    said = ids(prompt)
    if not said:
        raise OptionError("prompt: it has no tokens; give some words.")
    words = [ids(word)[:1] for word in (chosen, rejected)]
    if not all(words) or words[0] == words[1]:
        raise OptionError(f"{chosen!r} and {rejected!r} begin with the same token: give two words that differ there.")
    full = FullProducts.of(model)
    found = [_setting("single token", model, full, said, words, (), ())]
    if before:
        found.append(_setting("last token", model, full, said, words, ids(before), ()))
    if before and after:
        found.append(_setting("middle token", model, full, said, words, ids(before), ids(after)))
    return found


def _setting(
    name: SettingName,
    model: Model,
    full: FullProducts,
    prompt: tuple[int, ...],
    words: list[tuple[int, ...]],
    before: tuple[int, ...],
    after: tuple[int, ...],
) -> SettingProducts:
    (w,), (l,) = words  # noqa: E741
    pair = TokenPair(0, "", prompt, (*before, w, *after), (*before, l, *after), False)
    (batch,) = pack([pair], pair.total)
    with torch.no_grad():
        (states,) = pair_states(model, batch)
        rows = residual_rows(states, model.head)
        n = pair.chosen_tokens
        shared = shared_contexts(torch.tensor(pair.chosen), torch.tensor(pair.rejected))
        tokens = products_of(rows, n, shared)
        products = sum_products(tokens)
        p = _distributions(rows)
    unembedding = _with_gap(*(getattr(products, f"gg_{part}").item() for part in ("chosen", "cross", "rejected")))
    gram = token_gram(model, pair, full.parameters, packed=full.packed)
    blocks = (gram.values[:n, :n], gram.cross, gram.values[n:, n:])
    whole = _with_gap(*(block.sum().item() for block in blocks))
    h, m = in_float64(rows.states), len(before)
    positions: dict[str, Tensor] = {}
    if name == "single token":
        theorem = single_token_products(p[0], h[0], chosen=w, rejected=l)
        values = {part: getattr(theorem, part).item() for part in ("gg_chosen", "gg_cross", "gg_rejected")}
    else:
        positions = {
            "theorem": position_gaps(p[:n], p[n:], torch.tensor(pair.chosen), torch.tensor(pair.rejected)),
            "unembedding": _own(tokens.alpha, tokens.gram, n) - heatmap(tokens).diagonal(),
            "full": gram.values.diagonal()[:n] - gram.cross.diagonal(),
        }
        positions = {key: value.cpu() for key, value in positions.items()}
        if name == "last token":
            gap = last_token_gap(p[: m + 1], h[: m + 1], torch.tensor(before), chosen=w, rejected=l)
            values = {"own": gap.own.item(), "cross": gap.cross.item(), "gap": gap.total.item()}
        else:
            values = {"gap": positions["theorem"].sum().item()}
    claims = {
        level: (found["gg_cross"] <= 0) if name == "single token" else (found["gg_cross"] <= found["gg_chosen"])
        for level, found in (("unembedding", unembedding), ("full", whole))
    }
    written = [tuple(model.tokenizer.decode([token]) for token in side) for side in (pair.chosen, pair.rejected)]
    return SettingProducts(name, written[0], written[1], values, unembedding, whole, positions, claims)


def _with_gap(chosen: float, cross: float, rejected: float) -> dict[str, float]:
    return {"gg_chosen": chosen, "gg_cross": cross, "gg_rejected": rejected, "gap": chosen - cross}


def _own(alpha: Tensor, gram: Tensor, n: int) -> Tensor:
    """``‖g_{w,i}‖²`` by position."""
    return (in_float64(alpha.diagonal()) * in_float64(gram.diagonal()))[:n]


def _distributions(rows: Residuals) -> Tensor:
    """``p_k``, ``[N, V]``: of the few tokens of such a setting."""
    return torch.cat([in_float64(logps).exp() for _, logps in rows.log_probabilities()], dim=1)
