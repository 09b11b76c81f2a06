"""Training in which tokens count by weights: what is minimised, where the weights come from, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

import undertow as ut
from command import run, some_rows, write_jsonl
from run_folders import TOKENS, made, train_settings
from undertow.data.tokens.encoder import PairEncoder, TokenPair
from undertow.maths.token_weights import entangled_weights, shared_weights
from undertow.runs.settings import LossSettings
from undertow.training.run import train_to_folder

BASE = ["--max-length", 400, "--lr", 1e-2, "--max-steps", 3, "--batch-size", 4, "--dtype", "float32", "--device", "cpu"]


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return made(tmp_path_factory.mktemp("weighted"), some_rows(12))


def encoded(data: Path, model: ut.Model) -> list[TokenPair]:
    encoder = PairEncoder(model.tokenizer, TOKENS)
    found = [encoder.encode(pair) for pair in ut.read_pairs(data)]
    return [pair for pair in found if isinstance(pair, TokenPair)]


def token_logps(model: ut.Model, pair: TokenPair) -> list[torch.Tensor]:
    """By the model's own forward pass, a sequence at a time, from its full logits."""
    model.hf.set_attn_implementation("eager")
    found = []
    for tokens in (pair.chosen, pair.rejected):
        ids = torch.tensor([pair.prompt + tokens])
        logps = model.hf(input_ids=ids).logits[0].double().log_softmax(-1)
        at = torch.arange(len(pair.prompt) - 1, ids.shape[1] - 1)
        found.append(logps[at, ids[0, len(pair.prompt) :]])
    return found


@pytest.mark.parametrize("by", ["shared", "entangled"])
def test_the_steps_are_those_of_the_weighted_loss(by: str, there: tuple[Path, Path], tmp_path: Path) -> None:
    """SGD on ``−ln σ(β Σ ω (…))``, against autograd through the model's own full logits."""
    data, folder = there
    loss = LossSettings("dpo", 0.5, token_weights=by)
    out = tmp_path / "run"
    settings = train_settings(
        loss=loss, optimiser="sgd", lr=0.05, max_steps=2, batch_size=12, schedule="constant", max_grad_norm=1e9
    )
    train_to_folder(data, str(folder), out, settings)
    table = pq.read_table(out / "token-weights.parquet").to_pylist()
    model = ut.load_model(str(folder), dtype="float32", device="cpu")
    pairs = encoded(data, model)
    model.hf.requires_grad_(True)
    with torch.no_grad():
        reference = [[values.clone() for values in token_logps(model, pair)] for pair in pairs]
    omega = [[torch.tensor(row[name]).double() for name in ("chosen_weights", "rejected_weights")] for row in table]
    if by == "shared":
        assert [[w.tolist() for w in both] for both in omega] == [
            [*shared_weights(p.chosen, p.rejected)] for p in pairs
        ]
    assert any(0 <= float(w.min()) < 1 for both in omega for w in both)
    for _ in range(2):
        model.hf.zero_grad()
        total = torch.zeros((), dtype=torch.float64)
        for pair, refs, weights in zip(pairs, reference, omega, strict=True):
            sums = [
                ((now - ref) * w).sum() for now, ref, w in zip(token_logps(model, pair), refs, weights, strict=True)
            ]
            total = total - torch.nn.functional.logsigmoid(0.5 * (sums[0] - sums[1])) / len(pairs)
        total.backward()
        with torch.no_grad():
            for parameter in model.hf.parameters():
                parameter -= 0.05 * parameter.grad
    after = ut.load_model(str(out / "model"), dtype="float32", device="cpu")
    start = ut.load_model(str(folder), dtype="float32", device="cpu")
    for (name, one), (_, two), (_, was) in zip(
        after.hf.named_parameters(), model.hf.named_parameters(), start.hf.named_parameters(), strict=True
    ):
        # Steps of two float32 ways of summing: a thousandth of the largest of a tensor.
        assert (one - two).abs().max() <= 1e-3 * (one - was).abs().max() + 1e-7, name
    assert any(
        (one - was).abs().max() > 1e-5 for one, was in zip(after.hf.parameters(), start.hf.parameters(), strict=True)
    )


def test_entangled_weights_are_those_of_the_tokens_gradients(there: tuple[Path, Path], tmp_path: Path) -> None:
    """In the unembedding matrix, by autograd, one backward pass a token."""
    data, folder = there
    settings = train_settings(loss=LossSettings(token_weights="entangled"), max_steps=1)
    train_to_folder(data, str(folder), tmp_path / "run", settings)
    model = ut.load_model(str(folder), dtype="float32", device="cpu")
    pair, row = encoded(data, model)[3], pq.read_table(tmp_path / "run" / "token-weights.parquet").to_pylist()[3]
    head = model.hf.get_output_embeddings().weight.requires_grad_(True)
    rows = []
    model.hf.set_attn_implementation("eager")
    for tokens in (pair.chosen, pair.rejected):
        ids = torch.tensor([pair.prompt + tokens])
        with torch.no_grad():
            hidden = model.hf.model(input_ids=ids).last_hidden_state[0]
        for k, token in enumerate(tokens):
            logp = (hidden[len(pair.prompt) - 1 + k] @ head.T).log_softmax(-1)[token]
            rows.append(torch.autograd.grad(logp, head)[0].flatten().double())
    g = torch.stack(rows)
    expected = entangled_weights(g @ g.T, pair.chosen_tokens)
    found = torch.tensor(row["chosen_weights"] + row["rejected_weights"], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_weights_of_ones_are_no_weights(there: tuple[Path, Path], tmp_path: Path) -> None:
    """A file may name some pairs only; its content, not its name alone, decides whether a run goes on."""
    data, folder = there
    model = ut.load_model(str(folder), dtype="float32", device="cpu")
    ones = [
        {"row": p.row, "chosen_weights": [1] * p.chosen_tokens, "rejected_weights": [1.0] * p.rejected_tokens}
        for p in encoded(data, model)[:5]
    ]
    file = write_jsonl(tmp_path / "weights.jsonl", ones)
    plain, weighted = tmp_path / "plain", tmp_path / "weighted"
    for out, by in ((plain, None), (weighted, str(file))):
        train_to_folder(data, str(folder), out, train_settings(loss=LossSettings(token_weights=by), max_steps=2))
    one, two = (ut.load_model(str(out / "model"), dtype="float32", device="cpu") for out in (plain, weighted))
    assert all(torch.equal(a, b) for a, b in zip(one.hf.parameters(), two.hf.parameters(), strict=True))
    ones[0]["chosen_weights"][0] = 0.5
    write_jsonl(file, ones)
    with pytest.raises(ut.UndertowError, match="token weights"):
        changed = train_settings(loss=LossSettings(token_weights=str(file)), max_steps=2)
        train_to_folder(data, str(folder), weighted, changed)


def test_a_runs_own_weights_can_be_given_again(capsys, there: tuple[Path, Path], tmp_path: Path) -> None:
    data, folder = there
    one = ["train", data, "--model", folder, *BASE]
    code, _, err = run(capsys, *one, "--token-weights", "entangled", "--out", tmp_path / "one")
    assert code == 0, err
    again = tmp_path / "one" / "token-weights.parquet"
    code, _, err = run(capsys, *one, "--token-weights", again, "--out", tmp_path / "two")
    assert code == 0, err
    logs = [pq.read_table(tmp_path / name / "tracking.parquet")["chosen_logp"].to_pylist() for name in ("one", "two")]
    assert logs[0] == logs[1]
    assert "by='entangled'" in json.loads((tmp_path / "one" / "train.json").read_text())["arguments"]["loss"]
    code, _, err = run(capsys, "train", data, "--config", tmp_path / "one", "--out", tmp_path / "three")
    assert code == 0, err
    assert (tmp_path / "three" / "token-weights.parquet").read_bytes() == again.read_bytes()


@pytest.mark.parametrize(
    "options, said",
    [
        (["--token-weights", "shard"], "--token-weights shard: expected shared, entangled or a file"),
        (["--token-weights", "shared", "--calibrated"], "--token-weights: with --calibrated"),
        (["--token-weights", "shared", "--track-gradients"], "--track-gradients: it does not know --token-weights"),
        (["--token-weights", "shared", "--guard", "displaced>0.5 -> drop"], "drop does not know --token-weights"),
    ],
)
def test_what_does_not_go_together_is_refused(options: list[str], said: str, capsys, there, tmp_path: Path) -> None:
    code, _, err = run(capsys, "train", there[0], "--model", there[1], *BASE, *options, "--out", tmp_path / "run")
    assert (code, said in err) == (2, True), err


@pytest.mark.parametrize(
    "row, said",
    [
        ({"chosen_weights": [1]}, "names no pair"),
        ({"row": 0, "chosen_weights": [1]}, "has 1 weights, and the response has"),
        ({"row": 0, "chosen_weights": "1, 1"}, "expected a list of numbers"),
        ({"row": 0, "chosen_weights": [-1]}, "expected a list of numbers"),
        ({"row": 4711, "chosen_weights": [1]}, "names none of the 12 pairs"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(row: dict, said: str, capsys, there, tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "weights.jsonl", [row])
    command = ["train", there[0], "--model", there[1], *BASE, "--token-weights", file, "--out", tmp_path / "run"]
    code, _, err = run(capsys, *command)
    assert (code, said in err) == (2, True), err
    assert not (tmp_path / "run" / "train.json").exists()
