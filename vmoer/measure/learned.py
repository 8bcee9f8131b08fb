"""Has a posterior left its prior? Per layer: KL divergence, width over the prior's, and variation between tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vmoer.architectures import RouterSite
from vmoer.forward.decision import Decision
from vmoer.forward.frame import Frame
from vmoer.forward.modes import Batch, evaluation
from vmoer.handle import Handle

#: a posterior whose KL is below this in every layer counts as its prior, nats per token. By Pinsker's inequality no
#: event of one draw (say, which experts it chooses) then changes its probability by more than √(0.05 / 2) = 0.16.
KL_LIMIT = 0.05


@dataclass(frozen=True)
class LayerPosterior:
    """Means over real tokens of one layer; ``None`` where the method has no such quantity.

    ``kl`` is the KL divergence to the prior in nats per token, ``width`` the root mean variance of a logit over the
    prior's standard deviation, ``between`` the standard deviation over tokens of the summed logit variance over its
    mean: 0 when every token is given the same uncertainty.
    """

    layer: int
    kl: float | None
    width: float | None
    between: float | None


def layer_posteriors(handle: Handle, batches: Sequence[Batch]) -> list[LayerPosterior]:
    """Measure the posteriors of a handle's layers on tokenised texts, in one pass each, the handle's noise included."""
    seen: dict[tuple[int, str], list[Tensor]] = {}

    def collect(site: RouterSite, decision: Decision, frame: Frame) -> None:
        posterior = decision.posterior
        if posterior is None:
            return
        for name, values in (("kl", posterior.kl()), ("variance", posterior.variance())):
            if values is not None:
                real = frame.mask.reshape(-1).to(values.device)
                seen.setdefault((site.layer, name), []).append(values[real].double().cpu())

    with evaluation(handle.model), handle.tap.listening(collect), torch.inference_mode():
        for batch in batches:
            handle.model(**batch)
    rows = []
    for site in handle.sites:
        head: Any = handle.head(site.layer)
        kl, variance = (seen.get((site.layer, name)) for name in ("kl", "variance"))
        each = torch.cat(variance) if variance is not None else torch.zeros(0)
        mean = float(each.mean()) if len(each) else 0.0
        prior = float(head.logit_scale) * head.prior_std if head.spread_heads else None
        rows.append(
            LayerPosterior(
                site.layer,
                float(torch.cat(kl).mean()) if kl is not None else None,
                (mean / site.n_experts) ** 0.5 / prior if prior and len(each) else None,
                float(each.std(correction=0)) / mean if mean > 0 else None,
            )
        )
    return rows


def has_learned(rows: Sequence[LayerPosterior], kept_step: int | None) -> tuple[bool | None, str]:
    """Return whether training has moved a posterior off its prior, and why in words; ``None`` if nothing tells.

    ``kept_step`` is the training step whose weights were kept, where that is known.
    """
    if kept_step == 0:
        return False, "training kept the weights it began with"
    kls = [row.kl for row in rows if row.kl is not None]
    if kls and max(kls) < KL_LIMIT:
        return False, f"the posterior is its prior: at most {max(kls):.2g} nats of KL in any layer (limit {KL_LIMIT:g})"
    if kls:
        return True, f"up to {max(kls):.2g} nats of KL from the prior"
    if kept_step is None:
        return None, "no prior to compare with, and the training log is missing"
    return True, f"training kept step {kept_step}"
