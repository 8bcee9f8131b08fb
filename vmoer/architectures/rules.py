"""Selection and gate rules that several families share, operation for operation as the native routers do them."""

from __future__ import annotations

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

    rule = "softmax over all → top-k (renormalised only if norm_topk_prob)"

    def select(self, site: RouterSite, logits: Tensor) -> Tensor:
        # of the probabilities, as the native routers do: two logits may share one probability
        return top_k_indices(torch.softmax(logits.float(), dim=-1), site.top_k)

    def gates(self, site: RouterSite, logits: Tensor, index: Tensor) -> Tensor:
        weight = torch.softmax(logits.float(), dim=-1).gather(-1, index)
        return normalised(weight) if self.renormalised(site) else weight

    def renormalised(self, site: RouterSite) -> bool:
        """Return whether the k probabilities are scaled to sum to 1."""
        return bool(site.router.norm_topk_prob)


class AlwaysRenormalised(SoftmaxOverAll):
    """The rule of Mixtral: the k probabilities always sum to 1."""

    rule = "softmax over all → top-k → renormalised"

    def renormalised(self, site: RouterSite) -> bool:
        return True


class SoftmaxOverSelected(Architecture):
    """Top-k of the logits, then softmax over the k chosen: Granite, GPT-OSS, Aria."""

    rule = "top-k of the logits → softmax over the k"

    def select(self, site: RouterSite, logits: Tensor) -> Tensor:
        return top_k_indices(logits, site.top_k)

    def gates(self, site: RouterSite, logits: Tensor, index: Tensor) -> Tensor:
        return softmax_over_selected(logits, index)


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


class BiasedSigmoid(SigmoidArchitecture):
    """Sigmoid scores plus a correction bias select; gates are the plain sigmoids of the chosen: MiniMax-M2, LFM2.

    The families differ in what is added to the sum that the gates are divided by, and in a factor at the end.
    """

    rule = "sigmoid + correction bias → top-k; gates: sigmoid, renormalised"
    #: where the bias is: an attribute of the router, or of the MoE block that hands it to the router
    bias_name: str = "e_score_correction_bias"
    #: attribute of the router with a factor on the gates; empty where there is none
    scale_name: str = ""
    epsilon: float = 0.0
    #: whether the native router returns the chosen experts best first
    best_first: bool = False

    def scores(self, logits: Tensor) -> Tensor:
        """Return one score per expert, before any bias."""
        return logits.float().sigmoid()

    def selection_scores(self, site: RouterSite, logits: Tensor) -> Tensor:
        bias = getattr(site.block if self.argument_name else site.router, self.bias_name, None)
        return self.scores(logits) if bias is None else self.scores(logits) + bias

    def select(self, site: RouterSite, logits: Tensor) -> Tensor:
        return self.selection_scores(site, logits).topk(site.top_k, dim=-1, sorted=self.best_first).indices

    def gates(self, site: RouterSite, logits: Tensor, index: Tensor) -> Tensor:
        weight = self.scores(logits).gather(1, index)
        if getattr(site.router, "norm_topk_prob", True):
            weight = weight / (weight.sum(dim=-1, keepdim=True) + self.epsilon)
        return weight * getattr(site.router, self.scale_name) if self.scale_name else weight


class CorrectedSigmoid(SigmoidArchitecture):
    """DeepSeek-V3's rule, also GLM-4's: sigmoid scores plus a correction bias select within the best expert groups.

    The bias selects only: gates are the plain sigmoids of the chosen, renormalised if ``norm_topk_prob``, times
    ``routed_scaling_factor``. A group scores the sum of its two best experts.
    """

    rule = "sigmoid + correction bias → best groups → top-k; gates: sigmoid, renormalised, scaled"
    #: whether the native router returns the chosen experts best first
    best_first: bool = False

    def selection_scores(self, site: RouterSite, logits: Tensor) -> Tensor:
        router = site.router
        scores = logits.sigmoid() + router.e_score_correction_bias
        groups = scores.view(-1, router.num_group, site.n_experts // router.num_group).topk(2, dim=-1)[0].sum(-1)
        return scores.masked_fill(outside_best_groups(groups, router.topk_group, site.n_experts), float("-inf"))

    def select(self, site: RouterSite, logits: Tensor) -> Tensor:
        return self.selection_scores(site, logits).topk(site.top_k, dim=-1, sorted=self.best_first).indices

    def gates(self, site: RouterSite, logits: Tensor, index: Tensor) -> Tensor:
        router = site.router
        weight = logits.sigmoid().gather(1, index)
        if router.norm_topk_prob:
            weight = weight / (weight.sum(dim=-1, keepdim=True) + 1e-20)
        return self.scale(site, weight)

    def scale(self, site: RouterSite, weight: Tensor) -> Tensor:
        """Return the gates ``[tokens, k]`` times the factor that the native router multiplies them by."""
        return weight * site.router.routed_scaling_factor
