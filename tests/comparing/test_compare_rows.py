"""The numbers of a comparison against a slow loop: full logits in float64, one sequence at a time, by definition.

Tolerances: families compute norms and rotations in float32 even in a float64 model, so packs and single sequences agree
to about 1e-5 nats a response.
"""

from __future__ import annotations

import copy
import math

import pytest
import torch

from tiny import random_pairs, tiny_model, tiny_tokenizer
from undertow.comparing.checkpoints import Checkpoints
from undertow.comparing.gains import Tally, gaining, losing, token_text
from undertow.comparing.pairs import SCHEMA, compare_rows, divergence_row
from undertow.data.tokens.encoder import TokenPair
from undertow.maths.divergences import divergences
from undertow.maths.residuals import residuals
from undertow.models.families import find_backbone, find_head
from undertow.models.model import Model
from undertow.runs.progress import Silent

PAIRS = [
    *random_pairs(9),
    TokenPair(9, "prefix", (5, 6), (7, 8), (7, 8, 9), False),  # the chosen response is the rejected one's beginning
    TokenPair(10, "prefixed", (5, 6), (7, 8, 9), (7, 8), False),
]


def moved(model: Model, *, by: float, seed: int = 0) -> Model:
    """The model after some training that was a random step."""
    hf = copy.deepcopy(model.hf)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in hf.parameters():
            parameter += by * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return Model(
        "after", hf, model.tokenizer, find_backbone(hf), find_head(hf), model.device, model.dtype, model.attention
    )


def checkpoints(
    family: str, *, by: float = 0.05, dtype: torch.dtype = torch.float64, packed: bool = True
) -> Checkpoints:
    before = tiny_model(family, dtype=dtype, packed=packed)
    before.tokenizer = tiny_tokenizer()
    return Checkpoints(before, moved(before, by=by))


def rows_of(models: Checkpoints, *, batch_tokens: int = 200) -> tuple[list[dict], Tally]:
    tally = Tally(len(models.before.head.weight))
    return list(compare_rows(PAIRS, models, tally, batch_tokens, Silent())), tally


@torch.no_grad()
def naive_distributions(model: Model, prompt, response) -> torch.Tensor:
    """``ln p`` after the prompt and after each response token, ``[n + 1, V]``."""
    model.hf.set_attn_implementation("eager")
    logits = model.hf(input_ids=torch.tensor([[*prompt, *response]]), use_cache=False).logits[0].double()
    return logits.log_softmax(-1)[len(prompt) - 1 :]


def naive_row(before: Model, after: Model, pair: TokenPair) -> dict:
    found: dict = {}
    for side, response in (("chosen", pair.chosen), ("rejected", pair.rejected)):
        old, new = (naive_distributions(model, pair.prompt, response) for model in (before, after))
        for name, logs in (("before", old), ("after", new)):
            found[f"{name}_logp_{side}"] = sum(logs[k, token].item() for k, token in enumerate(response))
        found[f"dlogp_{side}"] = found[f"after_logp_{side}"] - found[f"before_logp_{side}"]
        kls = [(new[k].exp() * (new[k] - old[k])).sum().item() for k in range(len(response))]
        found[f"kl_{side}"] = sum(kls) / len(kls)
        part = next((k for k in range(min(len(pair.chosen), len(pair.rejected))) if pair.chosen[k] != pair.rejected[k]),
                    min(len(pair.chosen), len(pair.rejected)))  # fmt: skip
        found["change"] = new[part].exp() - old[part].exp()
    found["dmargin"] = found["dlogp_chosen"] - found["dlogp_rejected"]
    return found


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("family", ["llama", "gemma2", "cohere", "gpt2"])
def test_rows_are_those_of_the_slow_loop(family: str, packed: bool) -> None:
    models = checkpoints(family, packed=packed)
    assert models.after.attention == ("tree" if packed else "sequence")
    rows, tally = rows_of(models)
    changes = []
    for pair, row in zip(PAIRS, rows, strict=True):
        expected = naive_row(models.before, models.after, pair)
        change = expected.pop("change")
        changes.append(change)
        for name, value in expected.items():
            assert row[name] == pytest.approx(value, rel=1e-5, abs=5e-5), name
        assert row["displaced"] == (expected["dlogp_chosen"] < 0)
        for time in ("before", "after"):
            assert row[f"{time}_correct"] == (expected[f"{time}_logp_chosen"] > expected[f"{time}_logp_rejected"])
        for name, order in (("gained", change.argsort(descending=True)), ("lost", change.argsort())):
            best = order[:3].tolist()
            assert row[f"{name}_tokens"] == [token_text(models.tokenizer, index) for index in best]
            assert row[name] == pytest.approx(change[best].tolist(), rel=1e-4, abs=1e-7)
        assert (min(row["gained"]) > 0) and (max(row["lost"]) < 0)
    total, tops = sum(changes), [change.topk(3).indices.tolist() for change in changes]
    first = tally.record(models.tokenizer)[0]
    assert first["id"] == int(total.argmax())
    assert first["mean_increase"] == pytest.approx(total.max().item() / len(PAIRS), rel=1e-4)
    assert first["pairs_in_top"] == sum(first["id"] in top for top in tops)


def test_rows_of_float32_are_near_and_do_not_depend_on_the_packs() -> None:
    models = checkpoints("llama", dtype=torch.float32)
    one, _ = rows_of(models, batch_tokens=50)
    other, _ = rows_of(models, batch_tokens=5000)
    exact, _ = rows_of(Checkpoints(*(_in_float64(m) for m in (models.before, models.after))))
    for a, b, c in zip(one, other, exact, strict=True):
        for name in ("dlogp_chosen", "dmargin", "kl_chosen", "kl_rejected"):
            assert a[name] == pytest.approx(b[name], rel=1e-3, abs=1e-4)
            assert a[name] == pytest.approx(c[name], rel=1e-3, abs=1e-4)


def _in_float64(model: Model) -> Model:
    hf = copy.deepcopy(model.hf).double()
    return Model(
        "", hf, model.tokenizer, find_backbone(hf), find_head(hf), model.device, torch.float64, model.attention
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_against_itself_moves_nothing(dtype: torch.dtype) -> None:
    rows, tally = rows_of(checkpoints("llama", by=0.0, dtype=dtype))
    for row in rows:
        zeros = ("dlogp_chosen", "dlogp_rejected", "dmargin", "kl_chosen", "kl_rejected")
        assert [row[name] for name in zeros] == [0.0] * 5
        assert row["displaced"] is False
        assert row["before_correct"] == row["after_correct"]
        assert row["gained"] == row["lost"] == row["gained_tokens"] == []
    assert tally.record(tiny_tokenizer()) == []


def test_the_other_way_round_negates_the_changes_and_swaps_gain_and_loss() -> None:
    models = checkpoints("llama")
    there, _ = rows_of(models)
    back, _ = rows_of(Checkpoints(models.after, models.before))
    for a, b in zip(there, back, strict=True):
        for name in ("dlogp_chosen", "dlogp_rejected", "dmargin"):
            assert a[name] == -b[name]
        assert a["gained_tokens"] == b["lost_tokens"]
        assert a["kl_chosen"] != b["kl_chosen"]  # a divergence is no distance


def test_nearly_equal_models_keep_the_digits_of_their_divergence() -> None:
    """``KL ≈ ½ Var_p(δ)``: 10⁻⁸ here, far below float32's rounding of a single ``ln p``; and never below 0."""
    draw = torch.Generator().manual_seed(0)
    states, weights = torch.randn(6, 32, generator=draw), torch.randn(5000, 32, generator=draw)
    nudged = states + 1e-4 * torch.randn(6, 32, generator=draw)
    tokens = torch.arange(6)
    kl, _ = divergences(residuals(states, weights, tokens), residuals(nudged, weights, tokens), 0)
    old, new = ((h.double() @ weights.double().T).log_softmax(-1) for h in (states, nudged))
    exact = (new.exp() * (new - old)).sum(1)
    assert exact.max() < 1e-6
    assert (kl >= 0).all()
    assert torch.allclose(kl, exact, rtol=0.02, atol=0)


def test_divergence_far_apart_does_not_overflow() -> None:
    """Certain of one token against certain of another: δ = ∓1000 nats, at which a plain expm1 is infinite."""
    weights, tokens = torch.tensor([[1.0], [-1.0], [0.0]]), torch.tensor([0])
    before, after = (residuals(torch.tensor([[h]]), weights, tokens) for h in (500.0, -500.0))
    kl, change = divergences(before, after, 0)
    assert kl.tolist() == pytest.approx([1000.0])
    assert change.tolist() == pytest.approx([-1.0, 1.0, 0.0])


def test_divergences_do_not_depend_on_how_the_vocabulary_is_cut() -> None:
    draw = torch.Generator().manual_seed(1)
    states, weights = torch.randn(5, 8, generator=draw).double(), torch.randn(77, 8, generator=draw).double()
    ids = torch.arange(5)
    whole = divergences(residuals(states, weights, ids), residuals(states.flip(0), weights, ids), 3)
    cut = divergences(residuals(states, weights, ids, chunk=7), residuals(states.flip(0), weights, ids, chunk=7), 3)
    for a, b in zip(whole, cut, strict=True):
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-15)
    assert abs(whole[1].sum()) < 1e-12
    with pytest.raises(ValueError, match="77 and 76 tokens"):
        divergences(residuals(states, weights, ids), residuals(states, weights[:76], ids), 0)


def test_where_responses_part() -> None:
    def at(chosen, rejected):
        return divergence_row(TokenPair(0, "", (1,), chosen, rejected, False))

    assert at((3, 4), (5, 4)) == 0
    assert at((3, 4, 5), (3, 4, 6)) == 2
    assert at((3, 4, 5), (3, 4)) == 2
    assert at((3, 4), (3, 4, 5)) == 4  # rows of the chosen response end at 2: the rejected one's third


def test_a_number_that_is_not_finite_is_kept_and_left_out_of_the_tally() -> None:
    models = checkpoints("llama", dtype=torch.float32)
    poison = PAIRS[4].prompt[0]
    with torch.no_grad():
        models.after.hf.get_input_embeddings().weight[poison] = float("nan")
    rows, tally = rows_of(models)
    hit = {pair.row for pair in PAIRS if poison in pair.prompt + pair.chosen + pair.rejected}
    assert {row["row"] for row in rows if row["displaced"] is None} == hit
    assert 0 < len(hit) < len(PAIRS)
    assert all(math.isfinite(token["mean_increase"]) for token in tally.record(models.tokenizer))


def test_moves_list_no_token_that_did_not_move() -> None:
    change = torch.tensor([0.25, -0.5, 0.0, 0.25])
    assert set(gaining(change).ids) == {0, 3}
    assert losing(change).ids == (1,)
    assert losing(change).changes == (-0.5,)


def test_tokens_as_text() -> None:
    tokenizer = tiny_tokenizer()
    space, half = tokenizer.convert_tokens_to_ids("Ġ"), tokenizer.convert_tokens_to_ids("Ã")
    assert token_text(tokenizer, space) == " "
    assert token_text(tokenizer, half) == "Ã"  # a byte that is no character of its own
    assert token_text(tokenizer, tokenizer.convert_tokens_to_ids("<|end|>")) == "<|end|>"
    assert token_text(tokenizer, len(tokenizer)) == f"<{len(tokenizer)}>"


def test_schema_has_the_columns_of_a_row() -> None:
    rows, _ = rows_of(checkpoints("llama"))
    assert list(rows[0]) == SCHEMA.names
