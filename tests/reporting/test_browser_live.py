"""The page of a forecast simulates other runs by itself: as Python does, within what 16 bits hold."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from browser import opened
from command import run
from run_folders import forecast, held_out, made
from undertow.forecasting.live import FILTERS, LOSSES, SHARES, live_data
from undertow.forecasting.simulation import simulated
from undertow.forecasting.stored import planned, read_stored
from undertow.maths.losses import Logps, by_name, parameters
from undertow.reporting import write_report
from undertow.runs.settings import LossSettings

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

SIMULATE = """
(run) => undertow.linearised.simulate(undertow.linearised.unpacked(undertow.data.live), run).at(-1)
"""
WEIGHTS = "([loss, parameters, pairs]) => pairs.map((pair) => undertow.linearised.WEIGHTS[loss](parameters, pair))"
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "rmsprop": ({"epochs": 2.0}, {}),
    "adamw": ({"optimiser": "adamw", "schedule": "cosine", "warmup_steps": 2, "lr": 1e-3}, {}),
    "sgd": ({"optimiser": "sgd", "lr": 0.05, "accumulate": 2}, {"look": False}),
    "sample": ({}, {"sample": 9}),
    "sampled-adamw": ({"optimiser": "adamw", "lr": 1e-3}, {"sample": 9}),
    "unknown": ({}, {"order": "unknown", "orders": 3, "world_size": 2}),
}


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    beside = tmp_path_factory.mktemp(request.param)
    train, options = KINDS[request.param]
    return forecast(*made(beside), beside / "out", run=train, held_out=str(held_out(beside)), **options)


@pytest.fixture
def live(folder: Path, page: Page) -> Page:
    return opened(page, write_report(folder))


def told(folder: Path, options: dict[str, Any], rules: list[str]) -> dict[str, dict[str, float]]:
    """What Python simulates: means over all pairs, and over the held-out ones."""
    stored = read_stored(folder)
    settings, kept = planned(stored, folder, options, rules)
    study = stored.study_of(settings.train, kept, order=settings.order, world_size=settings.world_size)
    found = simulated(
        study, settings.train, kept, order=settings.order, orders=settings.orders, world_size=settings.world_size,
        counted=np.arange(study.pairs),
    )  # fmt: skip
    end, names = found.curve[-1], ("chosen", "rejected", "displaced", "accuracy")
    return {
        "all": {name: getattr(end, name) for name in names},
        "held_out": {name: end.held_out[name] for name in names},
    }


def close(found: dict[str, Any], wanted: dict[str, dict[str, float]]) -> None:
    """An entry of K is off by 1.5e-5 of two norms; over a run's steps that adds up to some 1e-4 of what moves."""
    largest = max(abs(value) for numbers in wanted.values() for value in numbers.values())
    for group, numbers in wanted.items():
        for name, value in numbers.items():
            assert found[group][name] == pytest.approx(value, rel=1e-3, abs=3e-4 * max(largest, 5.0)), (group, name)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_page_simulates_what_python_does(live: Page, folder: Path, loss: str) -> None:
    data = live_data(folder)
    assert data is not None
    changed = {} if loss == "dpo" else {"loss": loss}
    asked = {"loss": loss, "parameters": data["losses"][loss], "lr": data["lr"], "filter": 0}
    own = data["epochs"].index(data["own"]["epochs"])
    close(live.evaluate(SIMULATE, {**asked, "epochs": own}), told(folder, changed, []))
    longer = data["epochs"].index(3.0)
    close(
        live.evaluate(SIMULATE, {**asked, "epochs": longer, "lr": data["lr"] / 4}),
        told(folder, {**changed, "epochs": 3.0, "lr": data["lr"] / 4}, []),
    )


def test_a_filter_is_simulated_on_its_own_batches(live: Page, folder: Path) -> None:
    data = live_data(folder)
    assert data is not None
    own = data["epochs"].index(data["own"]["epochs"])
    assert {(one["by"], one["percent"]) for one in data["filters"]} == {(None, 0)} | {
        (by, share) for by in FILTERS for share in SHARES
    }
    for number, one in enumerate(data["filters"]):
        if one["percent"] == 20:
            asked = {"loss": "dpo", "parameters": data["losses"]["dpo"], "lr": data["lr"], "epochs": own}
            rule = f"{one['by']} drop-lowest 20%"
            close(live.evaluate(SIMULATE, {**asked, "filter": number}), told(folder, {}, [rule]))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("folder", ["rmsprop"], indirect=True)
def test_weights_are_those_of_the_losses(live: Page, loss: str) -> None:
    draw = np.random.default_rng(0)
    numbers = -np.abs(draw.normal(40, 15, (6, 4)))
    tokens = draw.integers(3, 60, (6, 2))
    keys = ("a", "b", "refA", "refB", "n", "m")
    pairs = [dict(zip(keys, [*row, *map(int, sizes)], strict=True)) for row, sizes in zip(numbers, tokens, strict=True)]
    given = parameters(loss) | ({"averaged": True} if loss == "rpo" else {})
    found = live.evaluate(WEIGHTS, [loss, given, pairs])
    import torch

    chosen, rejected, ref_chosen, ref_rejected = torch.from_numpy(numbers.T.copy())
    lengths = torch.from_numpy(tokens.T.copy()).double()
    logps = Logps(chosen, rejected, ref_chosen, ref_rejected, *lengths)
    wanted = torch.stack(by_name(loss, **given).weights(logps), dim=1)
    assert np.asarray(found) == pytest.approx(wanted.numpy(), rel=1e-12)


@pytest.mark.parametrize("folder", ["rmsprop"], indirect=True)
def test_sliders_move_the_numbers_and_the_command_gives_them(live: Page, folder: Path, capsys: Any) -> None:
    before = {name: live.inner_text(f"#live-{name}") for name in ("displaced", "chosen", "held-chosen")}
    assert live.inner_text("#live-command") == shlex.join(["undertow", "simulate", str(folder)])
    live.select_option("#live-loss", "rpo")
    assert live.is_visible("#live-weight")
    live.select_option("#live-by", "forecast_chosen")
    for name, moves in (("strength", "ArrowRight"), ("weight", "ArrowLeft"), ("lr", "ArrowLeft"), ("share", "End")):
        live.focus(f"#live-{name}")
        live.keyboard.press(moves)
    live.wait_for_function("!document.getElementById('live-chosen').textContent.includes('NaN')")
    live.wait_for_timeout(100)
    command = shlex.split(live.inner_text("#live-command"))
    assert command[3:] == [
        "--loss", "rpo", "--beta", "0.15", "--loss-args", "lam=0.03", "--loss-args", "averaged=false",
        "--lr", command[command.index("--lr") + 1], "--filter", "forecast_chosen drop-lowest 20%",
    ]  # fmt: skip
    code, printed, err = run(capsys, *command[1:], "--json", "--quiet")
    assert code == 0, err
    found = json.loads(printed.splitlines()[-1])
    shown = {name: live.inner_text(f"#live-{name}") for name in before}
    assert shown != before
    for group, card in (("all", "chosen"), ("held_out", "held-chosen")):
        number = float(shown[card].replace("−", "-"))
        assert number == pytest.approx(found[group]["chosen"], rel=6e-3, abs=2e-3)  # three digits are shown
    assert live.inner_text("#live-chosen-note") == f"as forecast {before['chosen']}"
    live.click("#live-reset")
    assert {name: live.inner_text(f"#live-{name}") for name in before} == before


@pytest.mark.parametrize("folder", ["sgd"], indirect=True)
def test_without_a_look_nothing_is_counted(live: Page) -> None:
    assert live.locator("#live-displaced").count() == 0
    assert live.is_visible("#live-chosen")


def test_what_the_page_cannot_simulate_is_not_offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = made(tmp_path)
    other = forecast(*inputs, tmp_path / "other", run={"loss": LossSettings("slic")})
    assert live_data(other) is None
    assert 'id="what-if"' not in write_report(other).read_text()
    many = forecast(*inputs, tmp_path / "many")
    assert live_data(many) is not None
    monkeypatch.setattr("undertow.forecasting.live.MOST_PAIRS", 5)
    assert live_data(many) is None
