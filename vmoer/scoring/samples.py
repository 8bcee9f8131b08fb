"""Many routing samples of one prompt, carried through the whole model: experts chosen, next-token distribution."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vmoer.architectures import RouterSite
from vmoer.errors import VmoerError
from vmoer.forward.decision import Decision
from vmoer.forward.frame import Frame
from vmoer.forward.hooks import tap_of
from vmoer.forward.modes import evaluation
from vmoer.handle import Handle

#: most logits held at once, in numbers: bounds memory at 4 × 4 bytes × this
LOGIT_BUDGET = 16_000_000


@dataclass(frozen=True)
class SampledRouting:
    """S routing samples of T tokens, M MoE layers with E experts, and what P positions predict over V token ids.

    ``chosen [T, M, E]`` counts the samples in which an expert was among the k chosen. ``probability [P, V]`` is the
    predictive average of the next-token distribution; ``predictive_entropy [P]`` its entropy, ``expected_entropy [P]``
    the mean entropy of the samples, both in nats. ``first [S, V]`` holds the samples themselves at the first position.
    """

    samples: int
    chosen: NDArray[np.uint16]
    probability: NDArray[np.float32]
    predictive_entropy: NDArray[np.float64]
    expected_entropy: NDArray[np.float64]
    first: NDArray[np.float32]

    @property
    def mutual_information(self) -> NDArray[np.float64]:
        """``[P]``, nats: what the routing sample tells about the next token (0 when all samples agree)."""
        return np.maximum(self.predictive_entropy - self.expected_entropy, 0.0)


def sample_routing(
    model: nn.Module,
    input_ids: Tensor,
    *,
    handle: Handle | None = None,
    samples: int = 1,
    last: int = 1,
    batch_tokens: int = 4096,
    check: Callable[[], None] | None = None,
) -> SampledRouting:
    """Run one prompt ``input_ids [T]`` (no padding) under routing samples 0 … ``samples`` − 1 of ``handle``.

    Without a handle the model routes as it does by itself, once. The last ``last`` positions are asked for their next
    token. Forward passes hold about ``batch_tokens`` tokens; ``check`` is called before each and may raise to stop.
    """
    if handle is None and samples != 1:
        raise VmoerError("More than one sample needs Bayesian routers (a handle).")
    length = len(input_ids)
    if not 1 <= last <= length:
        raise VmoerError(f"The last {last} of {length} tokens were asked for their next token.")
    tap = tap_of(model)
    experts = max(site.n_experts for site in tap.sites)
    counts = {site.layer: torch.zeros(length, experts) for site in tap.sites}

    def count(site: RouterSite, decision: Decision, _frame: Frame) -> None:
        index = decision.index.reshape(-1, length, decision.index.shape[-1])
        hits = torch.zeros(*index.shape[:2], experts, device=index.device).scatter_(-1, index, 1.0)
        counts[site.layer] += hits.sum(0).cpu()

    config: Any = tap.model.config
    rows = max(min(batch_tokens // length, LOGIT_BUDGET // (last * config.get_text_config().vocab_size)), 1)
    totals: list[tuple[Tensor, Tensor]] = []
    first = []
    with evaluation(model), torch.inference_mode(), tap.listening(count):
        for start in range(0, samples, rows):
            if check is not None:
                check()
            ids = torch.arange(start, min(start + rows, samples), device=input_ids.device)
            drawn: AbstractContextManager[None] = handle.one_draw(ids) if handle is not None else nullcontext()
            prompt = input_ids.expand(len(ids), length)
            with drawn:
                output = model(input_ids=prompt, attention_mask=torch.ones_like(prompt), logits_to_keep=last)
            log_p = output.logits[:, -last:].float().log_softmax(-1)  # some models return all positions
            p = log_p.exp()
            totals.append((p.sum(0).double().cpu(), -(p * log_p).sum(-1).sum(0).double().cpu()))
            first.append(p[:, 0].cpu())
    mean = torch.stack([total for total, _ in totals]).sum(0) / samples
    expected = torch.stack([entropy for _, entropy in totals]).sum(0) / samples
    return SampledRouting(
        samples=samples,
        chosen=torch.stack([counts[site.layer] for site in tap.sites], dim=1).numpy().astype(np.uint16),
        probability=mean.float().numpy(),
        predictive_entropy=torch.special.entr(mean).sum(-1).numpy(),
        expected_entropy=expected.numpy(),
        first=torch.cat(first).numpy(),
    )
