"""Selection and gate rules that several families share, operation for operation as the native routers do them."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor
from torch.nn import functional as F

from vmoer.architectures.base import Architecture, RouterSite


def top_k_indices(scores: Tensor, k: int) -> Tensor:
    """The ``k`` largest entries of each row, largest first."""
    return scores.topk(k, dim=-1).indices


def softmax_over_selected(logits: Tensor, index: Tensor) -> Tensor:
    """Softmax over the chosen experts' logits only (Granite, GPT-OSS)."""
    return torch.softmax(logits.gather(-1, index), dim=-1)


def normalised(weight: Tensor) -> Tensor:
    """Rows ``[tokens, k]`` scaled to sum to 1."""
    return weight / weight.sum(dim=-1, keepdim=True)


def outside_best_groups(group_scores: Tensor, kept: int, experts: int) -> Tensor:
    """Mask ``[tokens, experts]``, True for experts outside the ``kept`` best groups of ``[tokens, groups]``."""
    best = group_scores.topk(kept, dim=-1, sorted=False).indices
    inside = torch.zeros_like(group_scores, dtype=torch.bool).scatter_(1, best, True)
    return ~inside.repeat_interleave(experts // group_scores.shape[-1], dim=-1)


class SoftmaxOverAll(Architecture):
    """Softmax over all experts, then the k most probable: OLMoE, Mixtral, Qwen-MoE, Jamba."""

    def select(self, site: RouterSite, logits: Tensor) -> Tensor:
        # of the probabilities, as the native routers do: two logits may share one probability
        return top_k_indices(torch.softmax(logits.float(), dim=-1), site.top_k)

    def gates(self, site: RouterSite, logits: Tensor, index: Tensor) -> Tensor:
        weight = torch.softmax(logits.float(), dim=-1).gather(-1, index)
        return normalised(weight) if self.renormalised(site) else weight

    @abstractmethod
    def renormalised(self, site: RouterSite) -> bool:
        """Whether the k probabilities are scaled to sum to 1."""


class SigmoidArchitecture(Architecture):
    """One sigmoid per expert: probabilities do not sum to 1, and the routing distribution is their normalisation."""

    softmax = False
    separate_scores = True

    def probabilities(self, logits: Tensor) -> Tensor:
        return torch.sigmoid(logits)

    def logits_of(self, probabilities: Tensor) -> Tensor:
        return torch.logit(probabilities, eps=torch.finfo(torch.float32).eps)

    def log_distribution(self, logits: Tensor) -> Tensor:
        return torch.log_softmax(F.logsigmoid(logits), dim=-1)


class CorrectedSigmoid(SigmoidArchitecture):
    """DeepSeek-V3's rule, also GLM-4's: sigmoid scores plus a correction bias select within the best expert groups.

    The bias selects only: gates are the plain sigmoids of the chosen, renormalised if ``norm_topk_prob``, times
    ``routed_scaling_factor``. A group scores the sum of its two best experts.
    """

    rule = "sigmoid + correction bias → best groups → top-k; gates: sigmoid, renormalised, scaled"

    def selection_scores(self, site: RouterSite, logits: Tensor) -> Tensor:
        router = site.router
        scores = logits.sigmoid() + router.e_score_correction_bias
        groups = scores.view(-1, router.num_group, site.n_experts // router.num_group).topk(2, dim=-1)[0].sum(-1)
        return scores.masked_fill(outside_best_groups(groups, router.topk_group, site.n_experts), float("-inf"))

    def select(self, site: RouterSite, logits: Tensor) -> Tensor:
        return self.selection_scores(site, logits).topk(site.top_k, dim=-1, sorted=False).indices

    def gates(self, site: RouterSite, logits: Tensor, index: Tensor) -> Tensor:
        router = site.router
        weight = logits.sigmoid().gather(1, index)
        if router.norm_topk_prob:
            weight = weight / (weight.sum(dim=-1, keepdim=True) + 1e-20)
        return weight * router.routed_scaling_factor
