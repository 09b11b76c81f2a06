"""Started on each of several processes by test_training_sharded.py: a sharded model against the same one, whole."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

import undertow as ut
from tiny import random_pairs, tiny_model
from undertow.training.dataset import collate
from undertow.training.forward import train_on_pairs, with_whole_weights
from undertow.training.tracking.gradients import GradientProbe
from undertow.training.tracking.look import look

PAIRS = random_pairs(4)
LOSS = ut.losses.DPO(beta=0.7)
PROBE = GradientProbe(LOSS)


def gradients(hf) -> dict[str, torch.Tensor]:
    inputs = collate([(pair, -3.0, -2.0) for pair in PAIRS])
    found = hf(input_ids=inputs["input_ids"], position_ids=inputs["position_ids"], trees=inputs["trees"])
    references = {name: torch.tensor(inputs[name], dtype=torch.float64) for name in ("ref_chosen", "ref_rejected")}
    LOSS(ut.Logps(**found, **references)).mean().backward()
    grads = {name: parameter.grad for name, parameter in hf.named_parameters()}
    return {name: grad.full_tensor() if isinstance(grad, DTensor) else grad for name, grad in grads.items()}


def main() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for family in ("llama", "gemma2"):
        whole, sharded = tiny_model(family, dtype=torch.float64), tiny_model(family, dtype=torch.float64)
        for model in (whole, sharded):
            train_on_pairs(model)
            model.hf.requires_grad_(True)
        for layer in sharded.backbone.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(sharded.hf, mesh=mesh)
        assert all(isinstance(parameter, DTensor) for parameter in sharded.hf.parameters())
        for _ in range(2):  # a look before and after a step: what it gathers must not be left to the step, nor kept
            theirs = look(whole, PAIRS, gradients=PROBE)
            ours = with_whole_weights(sharded, lambda model: look(model, PAIRS, gradients=PROBE))
            torch.testing.assert_close(ours.logps, theirs.logps, rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(ours.next_token, theirs.next_token, rtol=1e-5, atol=1e-7)
            for name, value in theirs.gradients.items():
                torch.testing.assert_close(ours.gradients[name], value, rtol=1e-8, atol=1e-8)
            expected, found = gradients(whole.hf), gradients(sharded.hf)
            for name, grad in expected.items():
                torch.testing.assert_close(found[name], grad, rtol=1e-8, atol=1e-10)
            for model in (whole, sharded):
                with torch.no_grad():
                    for parameter in model.hf.parameters():
                        parameter -= 1e-3 * parameter.grad
                model.hf.zero_grad()
    dist.barrier()
    print(f"process {dist.get_rank()} agrees")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
