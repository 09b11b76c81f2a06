"""Values and gradients equal TRL's own code, run on minimal trainers: never a copy of its formulas.

The trainers are made without their constructors and get only what the loss methods read; models are stubs that give
chosen log-probabilities or logits. Differences to expect are in docs/losses.md.
"""

from __future__ import annotations

import importlib.metadata
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from loss_batches import batch, f64
from undertow import losses
from undertow.losses import Logps, PairLoss

try:
    VERSION = importlib.metadata.version("trl")
except importlib.metadata.PackageNotFoundError:
    pytest.skip("needs TRL to compare with: pip install undertow[trl]", allow_module_level=True)
if not VERSION.startswith("1.16."):
    pytest.skip(f"written against the loss methods of TRL 1.16, found {VERSION}", allow_module_level=True)

CPU = SimpleNamespace(device=torch.device("cpu"), gather_for_metrics=lambda t: t, gather=lambda t: t)
TOLERANCE = {"rtol": 1e-6, "atol": 1e-6}


def minimal(kind: type, **attributes: object) -> Any:
    trainer = object.__new__(kind)
    common = {"accelerator": CPU, "model": SimpleNamespace(training=False), "aux_loss_enabled": False}
    vars(trainer).update(
        common, _metrics={"eval": defaultdict(list)}, _total_train_tokens=0, precompute_ref_logps=True, **attributes
    )
    return trainer


def spread(summed: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Per-token log-probabilities with the given sums, and the completion mask with one prompt token."""
    n = tokens.long()
    mask = (torch.arange(int(n.max())) < n[:, None]).long()
    return (summed / n)[:, None] * mask, torch.cat([torch.zeros_like(mask[:, :1]), mask], dim=1)


class ModelOf:
    """What TRL's fused head returns, for given log-probabilities of each token."""

    def __init__(self, log_probs: Tensor) -> None:
        self.outputs = SimpleNamespace(
            log_probs=log_probs,
            entropy=torch.zeros_like(log_probs),
            mean_logits=torch.zeros_like(log_probs),
            is_top1=torch.zeros_like(log_probs, dtype=torch.bool),
        )

    def __call__(self, **_: object) -> SimpleNamespace:
        return self.outputs


def trl_dpo(kinds: list[str], beta: float, *, weights: list[float] | None = None) -> Callable[[Logps], Tensor]:
    from trl import DPOTrainer

    trainer = minimal(
        DPOTrainer,
        ld_alpha=None,
        f_divergence_type="reverse_kl",
        use_weighting=False,
        label_smoothing=0.2,
        loss_types=kinds,
        loss_weights=weights or [1.0],
        beta=beta,
    )

    def loss(logps: Logps) -> Tensor:
        summed = torch.cat([logps.chosen, logps.rejected])
        tokens = torch.cat([logps.given("chosen_tokens"), logps.given("rejected_tokens")])
        log_probs, mask = spread(summed, tokens)
        inputs = {"completion_mask": mask, "input_ids": mask, "attention_mask": torch.ones_like(mask)}
        inputs |= {"ref_chosen_logps": logps.given("ref_chosen"), "ref_rejected_logps": logps.given("ref_rejected")}
        found: Tensor = trainer._compute_loss(ModelOf(log_probs), inputs, False)
        return found

    return loss


def trl_kto(loss: losses.KTOPair, kind: str = "kto") -> Callable[[Logps], Tensor]:
    from trl import KTOTrainer

    trainer = minimal(
        KTOTrainer,
        loss_type=kind,
        beta=loss.beta,
        calculate_KL=kind == "kto",
        desirable_weight=loss.lam_chosen,
        undesirable_weight=loss.lam_rejected,
        _compute_kl_logps=lambda model, batch: MISMATCHED[0],
    )

    def run(logps: Logps) -> Tensor:
        log_probs, mask = spread(
            torch.cat([logps.chosen, logps.rejected]),
            torch.cat([logps.given("chosen_tokens"), logps.given("rejected_tokens")]),
        )
        inputs = {"completion_mask": mask, "input_ids": mask, "attention_mask": torch.ones_like(mask)}
        inputs |= {"label": torch.arange(len(mask)) < len(logps.chosen), "ref_KL_logps": MISMATCHED[1]}
        inputs["ref_logps"] = torch.cat([logps.given("ref_chosen"), logps.given("ref_rejected")])
        found: Tensor = trainer._compute_loss(ModelOf(log_probs), inputs, False)
        return 2 * found  # TRL averages over responses, we over pairs

    return run


MISMATCHED = (f64([-30.0, -41.0, -7.5]), f64([-30.5, -42.5, -7.0]))
KTO = losses.KTOPair(beta=0.3, lam_chosen=1.2, lam_rejected=0.7, z=losses.kto_z(*MISMATCHED))


def trl_cpo(loss_type: str, beta: float, **attributes: object) -> Callable[[Logps], Tensor]:
    """The preference part alone, from log-probabilities."""
    from trl.experimental.cpo import CPOTrainer

    settings = {"alpha": 0.0, "label_smoothing": 0.0, "loss_type": loss_type, "beta": beta} | attributes
    trainer = minimal(CPOTrainer, **settings)

    def run(logps: Logps) -> Tensor:
        averaged = loss_type == "simpo"
        a = logps.chosen / logps.given("chosen_tokens") if averaged else logps.chosen
        b = logps.rejected / logps.given("rejected_tokens") if averaged else logps.rejected
        return trainer.cpo_loss(a, b)[0].mean()

    return run


def single_tokens(logps: Logps) -> Logps:
    return replace(logps, chosen_tokens=torch.ones(16), rejected_tokens=torch.ones(16))


def same(logps: Logps) -> Logps:
    return logps


def one_pair(logps: Logps) -> Logps:
    fields = [f for f in Logps.__dataclass_fields__ if getattr(logps, f) is not None]
    return Logps(**{f: getattr(logps, f)[:1] for f in fields})


Row = tuple[str, PairLoss, Callable[[], Callable[[Logps], Tensor]], float, Callable[[Logps], Logps]]
# Our loss, TRL's, by what ours is to be multiplied, on which batch.
ROWS: list[Row] = [
    ("sigmoid", losses.DPO(0.3), lambda: trl_dpo(["sigmoid"], 0.3), 1, same),
    ("sigmoid as gpo", losses.GPO(0.3, "logistic"), lambda: trl_dpo(["sigmoid"], 0.3), 1, same),
    ("hinge", losses.HingeRef(0.3), lambda: trl_dpo(["hinge"], 0.3), 1, same),
    ("hinge as gpo", losses.GPO(0.3, "hinge"), lambda: trl_dpo(["hinge"], 0.3), 1, same),
    ("ipo", losses.AveragedIPO(0.3), lambda: trl_dpo(["ipo"], 0.3), 1, same),
    # Responses of one token: the averaged loss is the summed one.
    ("ipo of single tokens", losses.IPO(0.3), lambda: trl_dpo(["ipo"], 0.3), 1, single_tokens),
    ("ipo as gpo", losses.GPO(0.6, "squared"), lambda: trl_dpo(["ipo"], 0.3), 1 / 0.36, single_tokens),
    ("sppo_hard", losses.SPPO(0.05), lambda: trl_dpo(["sppo_hard"], 0.05), 1, same),
    # Sorting one pair does nothing, and what is left of "aot" is conservative DPO.
    ("aot of one pair", losses.ConservativeDPO(0.3, 0.2), lambda: trl_dpo(["aot"], 0.3), 1, one_pair),
    (
        "sigmoid and sft of one pair",
        losses.RPO(0.3, 0.25, averaged=True),
        lambda: trl_dpo(["sigmoid", "sft"], 0.3, weights=[1.0, 0.25]),
        1,
        one_pair,
    ),
    (
        "sigmoid and sft of one-token pair",
        losses.RPO(0.3, 0.25),
        lambda: trl_dpo(["sigmoid", "sft"], 0.3, weights=[1.0, 0.25]),
        1,
        lambda logps: one_pair(single_tokens(logps)),
    ),
    ("apo_zero", losses.KTOPair(0.3), lambda: trl_dpo(["apo_zero"], 0.3), 1, same),
    ("kto", KTO, lambda: trl_kto(KTO), 1, same),
    ("kto at z = 0", replace(KTO, z=0.0), lambda: trl_kto(KTO, "apo_zero_unpaired"), 1, same),
    ("simpo", losses.SimPO(2.5, 0.4), lambda: trl_cpo("simpo", 2.5, simpo_gamma=0.4), 1, same),
    ("cpo without its nll", losses.CPO(0.3, 0.0), lambda: trl_cpo("sigmoid", 0.3), 1, same),
    ("cpo hinge", losses.SLiC(2.0), lambda: trl_cpo("hinge", 0.5), 0.5, same),
]


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
@pytest.mark.parametrize("seed", [0, 1])
def test_value_and_gradient_are_those_of_trl(row: Row, seed: int) -> None:
    _, loss, theirs, factor, made = row
    logps = made(batch(seed))
    a, b = logps.chosen.clone().requires_grad_(), logps.rejected.clone().requires_grad_()
    found = theirs()(replace(logps, chosen=a, rejected=b))
    torch.testing.assert_close(factor * loss(logps).mean(), found.detach(), **TOLERANCE)
    gradients = torch.autograd.grad(found, (a, b))
    d_w, d_l = (factor * w / len(a) for w in loss.weights(logps))
    torch.testing.assert_close((-d_w, d_l), gradients, **TOLERANCE)


# --- whole CPO and ORPO, with their supervised terms, through logits -----------------------------------------------

CHOSEN, REJECTED = torch.tensor([[1, 4, 2, 6, 3]]), torch.tensor([[1, 5, 0, 3]])  # one prompt token


def pair_batch(prompt: int = 1) -> dict[str, Tensor]:
    made: dict[str, Tensor] = {}
    for kind, ids in (("chosen", CHOSEN), ("rejected", REJECTED)):
        labels = ids.clone()
        labels[:, :prompt] = -100
        made |= {f"{kind}_input_ids": ids, f"{kind}_attention_mask": torch.ones_like(ids), f"{kind}_labels": labels}
    return made


def logps_of(table: Tensor, prompt: int = 1) -> Logps:
    """A bigram model: the next-token logits depend on the token alone."""
    sums, tokens = [], []
    for ids in (CHOSEN[0], REJECTED[0]):
        steps = range(prompt, len(ids))
        sums.append(torch.stack([table[ids[k - 1]].log_softmax(-1)[ids[k]] for k in steps]).sum()[None])
        tokens.append(torch.tensor([len(steps)]))
    return Logps(*sums, chosen_tokens=tokens[0], rejected_tokens=tokens[1])


def trl_whole(kind: str, table: Tensor, prompt: int = 1, **attributes: object) -> Tensor:
    from trl.experimental.cpo import CPOTrainer
    from trl.experimental.orpo import ORPOTrainer

    trainer = minimal(
        {"cpo": CPOTrainer, "orpo": ORPOTrainer}[kind],
        **{"is_encoder_decoder": False, "pad_token_id": 0, "padding_value": 0, "alpha": 0.0, "label_smoothing": 0.0}
        | attributes,
    )
    found: Tensor = trainer.get_batch_loss_metrics(
        lambda ids, **_: SimpleNamespace(logits=table[ids]), pair_batch(prompt)
    )[0]
    return found


WHOLE = [
    # One pair a batch: a mean over the chosen response's four tokens is λ/4 of our sum.
    (losses.CPO(0.3, 0.7 / 4), "cpo", {"loss_type": "sigmoid", "beta": 0.3, "cpo_alpha": 0.7}),
    (losses.SLiCHF(1.0, 0.7 / 4), "cpo", {"loss_type": "hinge", "beta": 1.0, "cpo_alpha": 0.7}),
    (losses.SimPO(2.5, 0.4), "cpo", {"loss_type": "simpo", "beta": 2.5, "simpo_gamma": 0.4, "cpo_alpha": 0.0}),
    # TRL's supervised term runs over the prompt as well; a prompt of one token adds nothing to it.
    (losses.ORPO(0.4), "orpo", {"beta": 0.4}),
]


@pytest.mark.parametrize(("loss", "kind", "attributes"), WHOLE, ids=[repr(row[0]) for row in WHOLE])
def test_whole_losses_through_logits(loss: PairLoss, kind: str, attributes: dict[str, object]) -> None:
    table = torch.randn(7, 7, generator=torch.Generator().manual_seed(2), dtype=torch.float64).requires_grad_()
    ours, theirs = loss(logps_of(table)).mean(), trl_whole(kind, table, **attributes)
    torch.testing.assert_close(ours, theirs.double(), **TOLERANCE)
    found, expected = (torch.autograd.grad(value, table, retain_graph=True)[0] for value in (ours, theirs))
    torch.testing.assert_close(found, expected, **TOLERANCE)


def test_the_documented_differences_are_there() -> None:
    """Not equal where docs/losses.md says so: else the exceptions above would hide a mistake."""
    table = torch.randn(7, 7, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    longer = logps_of(table, 2)
    gap = losses.ORPO(0.4)(longer).item() - trl_whole("orpo", table, 2, beta=0.4).item()
    prompt = table[CHOSEN[0, 0]].log_softmax(-1)[CHOSEN[0, 1]].item()
    # By hand: −a/n⁺ against −(a + the prompt token's)/(n⁺ + 1).
    a = longer.chosen.item()
    assert gap == pytest.approx(-a / 3 + (a + prompt) / 4, abs=1e-6) and abs(gap) > 0.01
    logps = batch(0)
    rpo = losses.RPO(0.3, 0.25, averaged=True)(logps).mean()
    sft = trl_dpo(["sigmoid", "sft"], 0.3, weights=[1.0, 0.25])(logps)
    means = logps.chosen.sum() / logps.given("chosen_tokens").sum() - logps.chosen_mean.mean()
    assert (rpo - sft).item() == pytest.approx(0.25 * means.item(), abs=1e-9) and abs(means) > 0.01
