"""``record``: collect every token × layer routing decision of a model, deterministic or Bayesian."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vmoer.architectures import Architecture, RouterSite
from vmoer.errors import VmoerError
from vmoer.forward.decision import Decision
from vmoer.forward.frame import Frame
from vmoer.forward.generated import Recorded, end_tokens, kept, prompt_of, watching
from vmoer.forward.hooks import tap_of
from vmoer.forward.trace import RoutingTrace


class Recorder:
    """Collects decisions until the ``with`` block ends; :attr:`trace` joins them."""

    def __init__(self, architecture: Architecture, layers: list[int]) -> None:
        self.architecture = architecture
        self.layers = layers
        self._calls: list[Recorded] = []
        self._frame: Frame | None = None
        self._open: dict[int, dict[str, Tensor]] = {}
        self._real = torch.empty(0, dtype=torch.long)
        self._streams: set[torch.device] = set()
        self._rows = 0

    def __call__(self, site: RouterSite, decision: Decision, frame: Frame) -> None:
        if frame is not self._frame:
            self._close()
            self._frame = frame
            self._real = frame.mask.reshape(-1).nonzero()[:, 0]  # waits for the device once a pass, not once a layer
        self._open[site.layer] = {
            name: self._to_host(value.index_select(0, self._real.to(value.device)))
            for name, value in _columns(self.architecture, site, decision).items()
        }

    def _to_host(self, value: Tensor) -> Tensor:
        """The values in host memory; from a GPU they arrive beside the computation, complete after :meth:`_wait`."""
        if not value.is_cuda:
            return value.cpu()
        self._streams.add(value.device)
        return torch.empty(value.shape, dtype=value.dtype, pin_memory=True).copy_(value, non_blocking=True)

    def _wait(self) -> None:
        for device in self._streams:
            torch.cuda.current_stream(device).synchronize()
        self._streams.clear()

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """A block of forward passes of which nothing is kept when it ends in an exception."""
        self._close()
        calls, rows = len(self._calls), self._rows
        try:
            yield
        except BaseException:
            self._frame, self._open, self._rows = None, {}, rows
            del self._calls[calls:]
            raise
        self._close()

    def _close(self) -> None:
        """Finish the forward pass in progress; one that ended before its last layer is dropped."""
        frame, self._frame = self._frame, None
        columns, self._open = self._open, {}
        if frame is None or sorted(columns) != self.layers:
            return
        self._wait()
        mask = frame.mask.cpu()
        row = torch.arange(mask.shape[0])[:, None].expand_as(mask)
        example, examples = _examples(frame)
        ids = frame.token_ids.cpu()[mask] if frame.token_ids is not None else torch.full_like(row[mask], -1)
        self._calls.append(
            Recorded(
                columns={
                    "example": example[mask] + self._rows,
                    "position": frame.position.cpu()[mask],
                    "token_id": ids,
                    "decode": torch.full_like(row[mask], int(frame.past), dtype=torch.bool),
                    **{
                        name: torch.stack([columns[layer][name] for layer in self.layers], dim=1)
                        for name in columns[self.layers[0]]
                    },
                },
                row=row[mask],
                slot=(torch.arange(mask.shape[1]) + frame.first_slot).expand_as(mask)[mask],
                key=frame.sums.cpu()[mask],
                rows=mask.shape[0],
            )
        )
        self._rows += examples

    @contextmanager
    def generation(self, model: Any, args: Sequence[Any], arguments: dict[str, Any]) -> Iterator[list[Any]]:
        """A call of ``generate()``, whose output the block appends: of its passes only what it returned is kept."""
        self._close()
        calls, rows, prompt = len(self._calls), self._rows, prompt_of(args, arguments)
        output: list[Any] = []
        yield output
        self._close()
        if len(self._calls) == calls:
            return
        sequences = output[0] if isinstance(output[0], Tensor) else output[0].sequences
        columns = kept(self._calls[calls:], prompt, sequences, end_tokens(model, arguments))
        columns["example"] += rows
        nothing = torch.empty(0, dtype=torch.long)
        self._calls[calls:] = [Recorded(columns, nothing, nothing, nothing, len(sequences))]
        self._rows = rows + len(sequences)

    @property
    def trace(self) -> RoutingTrace:
        """Everything recorded so far.

        Raises :class:`VmoerError` when no forward pass was seen, or router logits were not finite.
        """
        self._close()
        if not self._calls:
            raise VmoerError(
                "Nothing was recorded: run the model itself inside the `with vmoer.record(model)` block (one that was "
                "compiled or captured as a CUDA graph before does not call what records)."
            )
        joined = {
            name: torch.cat([call.columns[name] for call in self._calls]).numpy() for name in self._calls[0].columns
        }
        if not (sound := np.isfinite(joined["routing_entropy"]).all(axis=0)).all():
            layers = ", ".join(str(layer) for layer, good in zip(self.layers, sound, strict=True) if not good)
            raise VmoerError(
                f"Router logits of layer {layers} are not finite, so the recorded experts mean nothing: look for "
                "weights or inputs that are NaN or infinite."
            )
        small = np.uint16
        return RoutingTrace(
            layers=np.asarray(self.layers),
            **{
                **joined,
                "expert_index": joined["expert_index"].astype(small),
                "base_expert_index": joined["base_expert_index"].astype(small),
                "overlap": joined["overlap"].astype(small),
            },
        )


@contextmanager
def record(model: nn.Module) -> Iterator[Recorder]:
    """Record all routing decisions of ``model`` inside the block; works with and without Bayesian routers."""
    tap = tap_of(model)
    recorder = Recorder(tap.architecture, [site.layer for site in tap.sites])
    with tap.listening(recorder), watching(tap.model, recorder.generation):
        yield recorder


def _examples(frame: Frame) -> tuple[Tensor, int]:
    """``[batch, length]``: the number of each token's sequence in the pass, and how many sequences there are."""
    if frame.sequence is None:
        rows = torch.arange(frame.mask.shape[0])
        return rows[:, None].expand(frame.mask.shape), len(rows)
    sequence = frame.sequence.cpu()
    counts = sequence[:, -1] + 1
    return sequence + (counts.cumsum(0) - counts)[:, None], int(counts.sum())


def _columns(architecture: Architecture, site: RouterSite, decision: Decision) -> dict[str, Tensor]:
    """Per token ``[tokens, …]``: what :class:`RoutingTrace` stores of one decision."""
    scores = architecture.selection_scores(site, decision.scores.detach().float())
    log_p = architecture.log_distribution(decision.logits.detach().float())
    tokens = scores.shape[0]
    missing = scores.new_full((tokens,), float("nan"))
    chosen = scores.gather(-1, decision.index)
    order = chosen.argsort(dim=-1, descending=True, stable=True)
    index = decision.index.gather(-1, order)
    selection = {"selection_score": chosen.gather(-1, order)} if architecture.separate_scores else {}
    shared = (decision.index[:, :, None] == decision.base_index[:, None, :]).any(-1).sum(-1)
    posterior = decision.posterior
    variance = posterior.variance() if posterior is not None else None
    temperature = posterior.temperature if posterior is not None else None
    return {
        "expert_index": index,
        "gate_weight": decision.weight.detach().float().gather(-1, order),
        **selection,
        "base_expert_index": decision.base_index,
        "overlap": shared,
        "top_k_margin": margin(scores, site.top_k),
        "routing_entropy": -(log_p.exp() * log_p).sum(-1),
        "logit_variance": missing if variance is None else variance.detach(),
        "logit_variance_mc": missing if decision.variance_mc is None else decision.variance_mc.detach(),
        "temperature": missing if temperature is None else temperature.detach().clone(),
    }


def margin(scores: Tensor, k: int) -> Tensor:
    """k-th largest score minus the (k+1)-th ``[tokens]``; 0 when every expert that can be chosen is chosen."""
    if k >= scores.shape[-1]:
        return scores.new_zeros(scores.shape[0])
    top = scores.topk(k + 1, dim=-1).values
    return torch.where(top[:, k].isinf(), 0.0, top[:, k - 1] - top[:, k])
