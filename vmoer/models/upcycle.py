"""Dense Llama-style models split into mixture-of-experts models, without training.

Every feed-forward block ``down(act(gate x) * up x)`` is a sum over neurons, so it can be cut along them. The neurons
that contribute most on calibration text stay always on (the *shared* expert); the others are grouped by how they
fire together into equal experts, and a linear router learns which experts will be large for a token.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from vmoer.errors import UnsupportedModelError
from vmoer.models.weights_check import check_loading

if TYPE_CHECKING:
    from transformers import GraniteMoeSharedForCausalLM, PreTrainedModel

Progress = Callable[[str, int, int], None]

_KMEANS_ROUNDS = 12
_RIDGE = 1e-2  # of the mean squared feature; the calibration text has only some ten tokens per neuron
_CONVERTIBLE = ("llama", "mistral")
_SAME_IN_BOTH = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "max_position_embeddings",
    "initializer_range",
    "rms_norm_eps",
    "rope_parameters",
    "tie_word_embeddings",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)


@dataclass(frozen=True)
class Split:
    """Where every neuron of a model goes, and the routers: all that a conversion decides.

    ``shared [layers, shared_size]`` and ``experts [layers, experts, expert_size]`` are neuron indices (int32),
    ``router [layers, experts, hidden]`` is bfloat16. Applying a stored split is exact on every machine, while
    *finding* one depends on the last bits of matrix products; so routers trained for a split stay valid.
    """

    top_k: int
    shared: Tensor
    experts: Tensor
    router: Tensor

    def save(self, path: Path) -> None:
        """Nothing; writes the split as safetensors."""
        tensors = {"shared": self.shared, "experts": self.experts, "router": self.router}
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, {"top_k": str(self.top_k)})

    @classmethod
    def load(cls, path: Path) -> Split:
        """The split written by :meth:`save`."""
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in ("shared", "experts", "router")}
            return cls(top_k=int(file.metadata()["top_k"]), **tensors)


def upcycle(
    model: PreTrainedModel,
    calibration: Tensor,
    *,
    n_experts: int = 16,
    top_k: int = 8,
    shared_size: int = 768,
    router_scale: float = 0.03,
    seed: int = 0,
    progress: Progress | None = None,
) -> GraniteMoeSharedForCausalLM:
    """A ``GraniteMoeSharedForCausalLM`` that approximates the dense ``model``: :func:`find_split`, then applied."""
    split = find_split(
        model,
        calibration,
        n_experts=n_experts,
        top_k=top_k,
        shared_size=shared_size,
        router_scale=router_scale,
        seed=seed,
        progress=progress,
    )
    return apply_split(model, split)


@torch.no_grad()
def find_split(
    model: PreTrainedModel,
    calibration: Tensor,
    *,
    n_experts: int = 16,
    top_k: int = 8,
    shared_size: int = 768,
    router_scale: float = 0.03,
    seed: int = 0,
    progress: Progress | None = None,
) -> Split:
    """The split of ``model`` for calibration token ids ``[sequences, length]`` (no padding).

    ``router_scale`` is the standard deviation of the router logits on that text: small keeps the gate weights near 1/k,
    the weight that the experts are cut for. Neurons are grouped by balanced k-means on ``|h| * ||down||``; each router
    is fitted on the activations that the blocks converted before it produce. Deterministic in ``seed``; the global
    random state is not touched.
    """
    _check_convertible(model, n_experts=n_experts, top_k=top_k, shared_size=shared_size)
    blocks = model.model.layers
    generator = torch.Generator().manual_seed(seed)
    found: list[tuple[Tensor, Tensor, Tensor]] = []

    def split_block(mlp: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        hidden = inputs[0].flatten(0, 1)
        neurons = mlp.act_fn(mlp.gate_proj(hidden)) * mlp.up_proj(hidden)  # [tokens, neurons]
        down = mlp.down_proj.weight
        contribution = neurons.abs() * down.norm(dim=0)
        order = contribution.mean(0).argsort(descending=True, stable=True)
        shared, rest = order[:shared_size].sort().values, order[shared_size:].sort().values
        experts = rest[balanced_kmeans(contribution[:, rest].T, n_experts, generator)]
        router = fit_router(hidden, expert_norms(neurons, down, experts), router_scale).bfloat16()
        found.append((shared.int().cpu(), experts.int().cpu(), router.cpu()))
        if progress is not None:
            progress("convert", len(found), len(blocks))
        gates = _gates(hidden @ router.to(hidden.dtype).T, top_k)
        neurons[:, experts.flatten()] *= gates.repeat_interleave(experts.shape[1], dim=1)
        return (neurons @ down.T).view_as(output)

    with ExitStack() as stack:
        for block in blocks:
            stack.callback(block.mlp.register_forward_hook(split_block).remove)
        model.model(calibration.to(model.device), use_cache=False)
    shared, experts, router = (torch.stack(parts) for parts in zip(*found, strict=True))
    return Split(top_k, shared, experts, router)


def _gates(logits: Tensor, top_k: int) -> Tensor:
    """``k`` × the gate weight of every expert ``[tokens, experts]``, 0 where it is not chosen."""
    top_logits, top_index = logits.topk(top_k, dim=-1)
    return torch.zeros_like(logits).scatter_(1, top_index, top_logits.softmax(-1) * top_k)


def _check_convertible(model: PreTrainedModel, *, n_experts: int, top_k: int, shared_size: int) -> None:
    """Nothing; raises ``UnsupportedModelError`` when the model or the layout cannot be converted exactly."""
    config = model.config
    if config.model_type not in _CONVERTIBLE:
        raise UnsupportedModelError(
            f"A {config.model_type} model cannot be converted; {' and '.join(_CONVERTIBLE)} models can."
        )
    if getattr(config, "attention_bias", False) or getattr(config, "mlp_bias", False):
        raise UnsupportedModelError("A model with biases cannot be converted: the mixture-of-experts class has none.")
    if getattr(config, "sliding_window", None):
        raise UnsupportedModelError("A model with sliding-window attention cannot be converted exactly.")
    routed = config.intermediate_size - shared_size
    if shared_size < 0 or routed <= 0 or routed % n_experts:
        raise UnsupportedModelError(
            f"{config.intermediate_size} neurons less {shared_size} shared ones leave {routed}, "
            f"which {n_experts} equal experts cannot share; choose shared_size so that they can."
        )
    if not 1 <= top_k <= n_experts:
        raise UnsupportedModelError(f"top_k must lie between 1 and n_experts = {n_experts}, not {top_k}.")


def balanced_kmeans(points: Tensor, n_clusters: int, generator: torch.Generator) -> Tensor:
    """Indices ``[clusters, points / clusters]`` of equal clusters of ``points [points, features]``, by cosine.

    Spherical k-means whose assignment step is a stable matching: every point proposes to clusters in its own order of
    preference and a cluster with ``points / clusters`` seats keeps the most similar proposers.
    """
    unit = torch.nn.functional.normalize(points, dim=1)
    start = torch.randperm(len(unit), generator=generator)[:n_clusters].to(unit.device)
    centres = unit[start]
    seats = len(unit) // n_clusters
    assignment = torch.full((len(unit),), -1, device=unit.device)
    for _ in range(_KMEANS_ROUNDS):
        previous, assignment = assignment, _stable_matching(unit @ centres.T, seats)
        if torch.equal(previous, assignment):
            break
        members = torch.nn.functional.one_hot(assignment, n_clusters).to(unit.dtype)
        centres = torch.nn.functional.normalize(members.T @ unit, dim=1)
    return assignment.argsort(stable=True).view(n_clusters, seats)


def _stable_matching(similarity: Tensor, seats: int) -> Tensor:
    """Cluster of each point ``[points]``, ``seats`` points per cluster, for ``similarity [points, clusters]``."""
    wish = similarity.clone()
    while True:
        proposal = wish.argmax(1)
        proposed = torch.nn.functional.one_hot(proposal, similarity.shape[1]).bool()
        if int(proposed.sum(0).max()) <= seats:
            return proposal
        ranked = similarity.masked_fill(~proposed, -torch.inf).argsort(dim=0, descending=True, stable=True)
        kept = torch.zeros_like(proposed).scatter_(0, ranked[:seats], True)
        wish = wish.masked_fill(proposed & ~kept, -torch.inf)


def expert_norms(neurons: Tensor, down: Tensor, experts: Tensor) -> Tensor:
    """Length of each expert's output ``[tokens, experts]``, for activations ``[tokens, neurons]``."""
    squares = []
    for members in experts:
        part, columns = neurons[:, members], down[:, members]
        squares.append(
            ((part @ (columns.T @ columns)) * part).sum(1)
        )  # through the Gram matrix: size² not size × hidden
    return torch.stack(squares, 1).clamp_min(0).sqrt()


def fit_router(hidden: Tensor, norms: Tensor, scale: float) -> Tensor:
    """Router weight ``[experts, hidden]`` by ridge regression; its logits have standard deviation ``scale``.

    The targets are relative to each token's mean: a constant over the experts changes no choice, and the few tokens
    with enormous activations (the first of a sequence, above all) would otherwise decide the fit.
    """
    weight = ridge(hidden, norms / norms.mean(1, keepdim=True).clamp_min(1e-30) - 1).T
    spread = (hidden @ weight.T).std()
    return weight * (scale / spread.clamp_min(torch.finfo(spread.dtype).tiny))


def ridge(features: Tensor, targets: Tensor) -> Tensor:
    """Coefficients ``[features, targets]`` of the ridge regression without intercept."""
    gram = features.T @ features
    gram.diagonal().add_(_RIDGE * gram.diagonal().mean().clamp_min(torch.finfo(gram.dtype).tiny))
    return torch.cholesky_solve(features.T @ targets, torch.linalg.cholesky(gram))


def apply_split(
    model: PreTrainedModel, split: Split, *, dtype: torch.dtype = torch.float32
) -> GraniteMoeSharedForCausalLM:
    """The mixture-of-experts model of ``model`` cut as ``split`` says: same device, evaluation mode.

    Exact: weights are only gathered, and the down projections of experts multiplied by ``top_k``, because the gate
    weights of a token sum to 1. With ``top_k`` = number of experts and equal gates it computes what ``model`` computes.
    """
    from transformers import GraniteMoeSharedConfig, GraniteMoeSharedForCausalLM

    n_experts, expert_size = split.experts.shape[1:]
    shared_size = split.shared.shape[1]
    _check_convertible(model, n_experts=n_experts, top_k=split.top_k, shared_size=shared_size)
    dense = model.config
    if split.router.shape != (dense.num_hidden_layers, n_experts, dense.hidden_size) or (
        n_experts * expert_size + shared_size != dense.intermediate_size
    ):
        raise UnsupportedModelError(
            f"The split was made for another model: it has {split.router.shape[0]} layers of "
            f"{n_experts * expert_size + shared_size} neurons and hidden size {split.router.shape[2]}, the model "
            f"{dense.num_hidden_layers} of {dense.intermediate_size} and {dense.hidden_size}."
        )
    head_dim = getattr(dense, "head_dim", None) or dense.hidden_size // dense.num_attention_heads
    same = {name: getattr(dense, name) for name in _SAME_IN_BOTH}
    config = GraniteMoeSharedConfig(
        **same,
        intermediate_size=expert_size,
        shared_intermediate_size=shared_size,
        num_local_experts=n_experts,
        num_experts_per_tok=split.top_k,
        head_dim=head_dim,
        attention_multiplier=head_dim**-0.5,
        embedding_multiplier=1.0,
        residual_multiplier=1.0,
        logits_scaling=1.0,
    )
    state = {name: weight for name, weight in model.state_dict().items() if ".mlp." not in name}
    if dense.tie_word_embeddings:
        state.pop("lm_head.weight", None)
    for layer, block in enumerate(model.model.layers):
        state |= _block_state(f"model.layers.{layer}", block.mlp, split, layer)
    converted, info = GraniteMoeSharedForCausalLM.from_pretrained(
        None, config=config, state_dict=state, dtype=dtype, output_loading_info=True
    )
    check_loading("the converted model", info)
    return converted.to(model.device).eval()


def _block_state(prefix: str, mlp: Any, split: Split, layer: int) -> dict[str, Tensor]:
    gate, up, down = (projection.weight.detach() for projection in (mlp.gate_proj, mlp.up_proj, mlp.down_proj))
    experts, shared = split.experts[layer].long(), split.shared[layer].long()
    state = {
        "block_sparse_moe.router.weight": split.router[layer].float(),
        "block_sparse_moe.experts.gate_up_proj": torch.cat([gate[experts], up[experts]], dim=1),
        "block_sparse_moe.experts.down_proj": (down[:, experts] * split.top_k).permute(1, 0, 2).contiguous(),
    }
    if len(shared):
        state["shared_mlp.input_linear.weight"] = torch.cat([gate[shared], up[shared]])
        state["shared_mlp.output_linear.weight"] = down[:, shared].contiguous()
    return {f"{prefix}.{name}": weight for name, weight in state.items()}
