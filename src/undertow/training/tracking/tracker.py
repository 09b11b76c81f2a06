"""Where the probability goes during training: the history of a fixed probe set, look by look."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from undertow.data.tokens.encoder import TokenPair
from undertow.errors import OptionError
from undertow.files import write_atomically
from undertow.maths import displacement
from undertow.runs.names import TRACKING
from undertow.training.guards.language import FORETOLD
from undertow.training.tracking.look import Look

__all__ = ["PROBE", "RECORD", "START", "Foretold", "Tracker", "tracked_values", "words_to_ids"]

Foretold = Callable[[int], Mapping[str, float]]
"""Of a step: what a forecast says of tracked values there, by their names."""
TOP = 3
START, PROBE = "tracking-start.npz", "probe.parquet"
RECORD = "tracking.json"
"""What was asked for, where another library's trainer is tracked; a run of ours has its ``train.json``."""
_NOT_TRACKED = frozenset({"displaced_by"})
"""Columns of numbers that say how something was counted; no guard and no logger gets them."""


def words_to_ids(
    groups: Mapping[str, Sequence[str]], tokenizer: PreTrainedTokenizerBase, vocabulary: int
) -> dict[str, list[int]]:
    """The first tokens of a group's words, with and without a space before them.

    Raises:
        OptionError: one is a token that the tokenizer knows and the model, with rows for ``vocabulary`` ids, does not.
    """
    found: dict[str, list[int]] = {}
    for name, words in groups.items():
        texts = [text for word in words for text in (word, f" {word}")]
        ids = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts)
        found[name] = sorted({tokens[0] for tokens in ids if tokens})
        unknown = [index for index in found[name] if index >= vocabulary]
        if unknown:
            raise OptionError(
                f"--watch {name}: the model has no row for the token {tokenizer.decode(unknown[:1])!r}, so it never "
                "gains probability; leave that word out."
            )
    return found


def tracked_values(row: Mapping[str, Any]) -> dict[str, float]:
    """Of a row of the history the values that are tracked: what guards watch and loggers get."""
    return {name: value for name, value in row.items() if isinstance(value, float) and name not in _NOT_TRACKED}


class Tracker:
    """The history of a probe set: each look against the first, kept in memory and as ``tracking.parquet``.

    ``probe.parquet`` tells of each pair what the last look found.

    Args:
        probe: the pairs looked at.
        tokenizer: for the text of the tokens that gain.
        folder: where the history stands, so that a run that goes on has no gaps; None keeps it in memory only.
        groups: token ids of watched groups of words.
        held_out: pairs that are looked at and not trained on.
        foretold: what a forecast says of the tracked values at a step, if there is one.
        displaced_by: a chosen response counts as displaced when it fell by more than so many nats.
        writes: whether this process writes it; of several that train together, one does.
    """

    def __init__(
        self,
        probe: Sequence[TokenPair],
        tokenizer: PreTrainedTokenizerBase,
        folder: Path | None = None,
        groups: Mapping[str, Sequence[int]] | None = None,
        *,
        held_out: Sequence[TokenPair] = (),
        foretold: Foretold | None = None,
        displaced_by: float = 0.0,
        writes: bool = True,
    ) -> None:
        self.probe, self._tokenizer, self.folder = probe, tokenizer, folder
        self.held_out, self._foretold = held_out, foretold
        self.displaced_by, self._writes = displaced_by, writes
        self.groups = dict(groups or {})
        self.rows: list[dict[str, Any]] = []
        self.first: Look | None = None

    def resume(self, step: int) -> None:
        """Go on at a step: later rows belong to work that was lost and will be done again."""
        if self.folder is None or not (self.folder / TRACKING).exists():
            return
        with np.load(self.folder / START, allow_pickle=False) as start:
            held_out = torch.from_numpy(start["held_out"]) if "held_out" in start else torch.zeros(0, 2).double()
            self.first = Look(
                torch.from_numpy(start["logps"]), torch.from_numpy(start["next_token"]), held_out=held_out
            )
        table = pq.read_table(self.folder / TRACKING).to_pylist()
        self.rows = [row for row in table if row["step"] <= step]

    def add(self, step: int, now: Look) -> dict[str, float]:
        """Take a look into the history; the tracked values of this step."""
        if self.first is None:
            self.first = now
            self._write_start(now)
        if self.rows and self.rows[-1]["step"] >= step:
            return tracked_values(self.rows[-1])
        self._append(step, now)
        self._write_pairs(step, now)
        self._write()
        return tracked_values(self.rows[-1])

    def go_back(self, step: int, now: Look) -> None:
        """The weights of an earlier step were put back: what is known of the pairs is now ``now``, a look at these.

        The table on disk keeps the looks that were undone, since they did happen.
        """
        self.rows = [row for row in self.rows if row["step"] < step]
        self._append(step, now)
        self._write_pairs(step, now)

    def _append(self, step: int, now: Look) -> None:
        texts, gains = self._tokens(now)
        how = {"step": step, "displaced_by": self.displaced_by}
        foretold = {f"{FORETOLD}{name}": float(value) for name, value in self._foretell(step).items()}
        self.rows.append({**how, **self._values(now), **foretold, "gaining_tokens": texts, "gaining": gains})

    def _values(self, now: Look) -> dict[str, float]:
        assert self.first is not None
        before, after = self.first.logps, now.logps
        change = after - before
        chosen_history = [row["chosen_logp"] for row in self.rows] + [after[:, 0].mean().item()]
        values = {
            "chosen_logp": after[:, 0].mean().item(),
            "rejected_logp": after[:, 1].mean().item(),
            "chosen_change": change[:, 0].mean().item(),
            "rejected_change": change[:, 1].mean().item(),
            "margin": (after[:, 0] - after[:, 1]).mean().item(),
            "margin_change": (change[:, 0] - change[:, 1]).mean().item(),
            "reward_accuracy": (change[:, 0] > change[:, 1]).double().mean().item(),
            "likelihood_accuracy": (after[:, 0] > after[:, 1]).double().mean().item(),
            "displaced": self._displaced(now).double().mean().item(),
            "largest_decrease": displacement.largest_decrease(torch.tensor(chosen_history, dtype=torch.float64))[0],
        }
        if len(now.held_out):
            unseen = now.held_out - self.first.held_out
            values |= {
                "held_out/chosen_change": unseen[:, 0].mean().item(),
                "held_out/rejected_change": unseen[:, 1].mean().item(),
                "held_out/margin_change": (unseen[:, 0] - unseen[:, 1]).mean().item(),
                "held_out/reward_accuracy": (unseen[:, 0] > unseen[:, 1]).double().mean().item(),
                "held_out/displaced": displacement.displaced(
                    self.first.held_out[:, 0], now.held_out[:, 0], by=self.displaced_by
                )
                .double()
                .mean()
                .item(),
            }
        for name, ids in self.groups.items():
            gained = displacement.group_gains(self.first.next_token, now.next_token, ids)
            values[f"watch/{name}"] = gained.mean().item()
        return {name: float(value) for name, value in {**values, **now.gradients}.items()}

    def _foretell(self, step: int) -> Mapping[str, float]:
        return self._foretold(step) if self._foretold is not None else {}

    def _displaced(self, now: Look) -> Tensor:
        """Which pairs' chosen responses fell by more than ``displaced_by`` since the first look."""
        assert self.first is not None
        return displacement.displaced(self.first.logps[:, 0], now.logps[:, 0], by=self.displaced_by)

    def _tokens(self, now: Look) -> tuple[list[str], list[float]]:
        """The tokens that gained most probability where the responses part, on average over the pairs."""
        assert self.first is not None
        top = displacement.top_gains(self.first.next_token.mean(0), now.next_token.mean(0), TOP)
        ids, gains = top.ids.tolist(), top.gains.tolist()
        return [self._tokenizer.decode([i]) if gain > 0 else "" for i, gain in zip(ids, gains, strict=True)], gains

    def _write_start(self, start: Look) -> None:
        if self.folder is not None and self._writes:
            with write_atomically(self.folder / START) as file:
                np.savez(
                    file,
                    logps=start.logps.numpy(),
                    next_token=start.next_token.numpy(),
                    held_out=start.held_out.numpy(),
                )

    def _write_pairs(self, step: int, now: Look) -> None:
        """What the look found of each pair, with its texts as the model reads them: cut where the tokens were."""
        if self.folder is None or not self._writes:
            return
        assert self.first is not None
        change = (now.logps - self.first.logps).tolist()
        each = zip(self.probe, now.logps.tolist(), change, self._displaced(now).tolist(), strict=True)
        rows = [
            {
                "row": pair.row,
                "pair_id": pair.pair_id,
                "step": step,
                "chosen_logp": logps[0],
                "rejected_logp": logps[1],
                "chosen_change": changes[0],
                "rejected_change": changes[1],
                "displaced": displaced,
                "chosen_tokens": pair.chosen_tokens,
                "rejected_tokens": pair.rejected_tokens,
                **{name: self._text(getattr(pair, name)) for name in ("prompt", "chosen", "rejected")},
            }
            for pair, logps, changes, displaced in each
        ]
        with write_atomically(self.folder / PROBE) as file:
            pq.write_table(pa.Table.from_pylist(rows), file)

    def _text(self, tokens: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(list(tokens), skip_special_tokens=True)
        return text

    def _write(self) -> None:
        if self.folder is not None and self._writes:
            with write_atomically(self.folder / TRACKING) as file:
                # A run that goes on may track more than the run before it did: the table has the columns of all.
                names = dict.fromkeys(name for row in self.rows for name in row)
                pq.write_table(pa.table({name: [row.get(name) for row in self.rows] for name in names}), file)
