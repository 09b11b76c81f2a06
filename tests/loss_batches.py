"""Batches of pairs for tests of the losses, and each loss with parameters that are not its defaults."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from undertow import losses
from undertow.losses import Logps, PairLoss


def f64(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# Theory 1.5: pair A, then pair B; the scores and z of the rows for REBEL and KTO.
GOLDEN = Logps(
    chosen=f64([-12.0, -9.2]),
    rejected=f64([-9.0, -12.0]),
    ref_chosen=f64([-11.0, -10.0]),
    ref_rejected=f64([-8.5, -11.0]),
    chosen_tokens=torch.tensor([5, 5]),
    rejected_tokens=torch.tensor([4, 4]),
    chosen_scores=f64([1.2, 1.2]),
    rejected_scores=f64([0.4, 0.4]),
)

ALL: dict[str, PairLoss] = {
    "dpo": losses.DPO(beta=0.3),
    "conservative-dpo": losses.ConservativeDPO(beta=0.3, epsilon=0.2),
    "r-dpo": losses.RDPO(beta=0.2, alpha=0.05),
    "ipo": losses.IPO(tau=0.2),
    "averaged-ipo": losses.AveragedIPO(tau=0.3),
    "slic": losses.SLiC(delta=2.0),
    "slic-hf": losses.SLiCHF(delta=2.0, lam=0.3),
    "hinge-ref": losses.HingeRef(beta=0.7),
    "rebel": losses.REBEL(eta=0.5),
    **{f"gpo {f}": losses.GPO(beta=0.3, f=f) for f in losses.GPO_FUNCTIONS},
    "simpo": losses.SimPO(beta=2.5, gamma=0.4),
    "cpo": losses.CPO(beta=0.2, lam=0.7),
    "rpo": losses.RPO(beta=0.2, lam=0.3),
    "rpo averaged": losses.RPO(beta=0.2, lam=0.3, averaged=True),
    "bonbon": losses.BoNBoN(n=4, alpha=0.05),
    "dpop": losses.DPOP(beta=0.2, lam=5.0),
    "rrhf": losses.RRHF(lam=0.4),
    "kto-pair": losses.KTOPair(beta=0.3, lam_chosen=1.2, lam_rejected=0.7, z=0.3),
    "sppo": losses.SPPO(beta=0.05),
    "orpo": losses.ORPO(lam=0.4),
    "dpo-shift": losses.DPOShift(beta=0.2, f=0.6),
    "dpo-shift linear": losses.DPOShift(beta=0.2, f=0.6, f_end=0.9, steps=10, step=4),
    "cal-dpo": losses.CalDPO(beta=0.1, kappa=0.3),
}


def batch(seed: int, *, pairs: int = 16, dtype: torch.dtype = torch.float64) -> Logps:
    """Random pairs; the policy is near the reference, so that both sides of every kink occur."""
    g = torch.Generator().manual_seed(seed)
    n_w, n_l = torch.randint(1, 30, (2, pairs), generator=g)
    per_token = -0.05 - torch.rand(2, pairs, generator=g, dtype=torch.float64) * 1.5
    a, b = per_token * torch.stack([n_w, n_l])
    moved = 2 * torch.randn(2, pairs, generator=g, dtype=torch.float64)
    scores = torch.randn(2, pairs, generator=g, dtype=torch.float64)
    norms = torch.rand(2, pairs, generator=g, dtype=torch.float64) + 0.1
    values = [v.to(dtype) for v in (a, b, a - moved[0], b - moved[1])]
    return Logps(*values, n_w, n_l, *scores.to(dtype), *norms.to(dtype))


def by_autograd(loss: PairLoss, logps: Logps) -> tuple[Tensor, Tensor]:
    """``d_w = −∂ℓ/∂a`` and ``d_l = ∂ℓ/∂b`` through the value alone."""
    a, b = (t.clone().requires_grad_() for t in (logps.chosen, logps.rejected))
    value = loss(replace(logps, chosen=a, rejected=b)).sum()
    found = torch.autograd.grad(value, (a, b), materialize_grads=True)
    return -found[0], found[1]
