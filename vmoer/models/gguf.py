"""Dense Llama-style models out of GGUF files: weights dequantised to float32, tokenizer rebuilt from the metadata.

Read directly instead of through ``from_pretrained(gguf_file=...)``: that path needs a further package, takes twice as
long, and its models refuse to be saved. The weights are the same to the last bit.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vmoer.confined import ConfinedError, confined
from vmoer.errors import ModelSourceError
from vmoer.models.weights_check import check_loading

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

#: memory for a header: a vocabulary of 300,000 entries takes about 300 MiB to read
_HEADER = 2**30
_CONTROL_TOKEN = 3  # GGUF token type of markers such as <|im_start|>

_BLOCK_NAME = re.compile(r"blk\.(\d+)\.(\w+)\.weight")
_GLOBAL_TENSORS = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_BLOCK_TENSORS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def read_gguf(path: Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """The dense model of a GGUF file, as ``(model, tokenizer)``: float32 weights on the CPU, in evaluation mode."""
    from gguf import GGUFReader
    from transformers import LlamaForCausalLM

    try:  # an array may claim to be longer than any memory
        confined("vmoer.models.gguf_header:count", b"", {"path": str(path)}, memory=_HEADER + path.stat().st_size)
    except ConfinedError as error:
        raise ModelSourceError(f"{path.name} is not a readable GGUF file (it {error.why}).") from None
    try:
        reader = GGUFReader(path)
    except (OSError, ValueError, IndexError) as error:
        raise ModelSourceError(f"{path.name} is not a readable GGUF file ({error}).") from error
    fields = {name: field for name, field in reader.fields.items() if not name.startswith("tokenizer.ggml.")}
    metadata = {name: field.contents() for name, field in fields.items()}
    architecture = metadata.get("general.architecture")
    if architecture != "llama":
        raise ModelSourceError(
            f"{path.name} holds a {architecture} model; only GGUF files of the llama architecture can be converted."
        )
    state = _state_dict(reader, metadata)
    tokenizer = _tokenizer(reader, metadata)
    config = _config(metadata, state, tokenizer)
    model, info = LlamaForCausalLM.from_pretrained(
        None, config=config, state_dict=state, dtype=torch.float32, output_loading_info=True
    )
    check_loading(path.name, info)
    return model.eval(), tokenizer


def _config(metadata: dict[str, Any], state: dict[str, torch.Tensor], tokenizer: PreTrainedTokenizerFast) -> Any:
    from transformers import LlamaConfig

    heads = metadata["llama.attention.head_count"]
    hidden = metadata["llama.embedding_length"]
    return LlamaConfig(
        vocab_size=len(state["model.embed_tokens.weight"]),
        hidden_size=hidden,
        intermediate_size=metadata["llama.feed_forward_length"],
        num_hidden_layers=metadata["llama.block_count"],
        num_attention_heads=heads,
        num_key_value_heads=metadata.get("llama.attention.head_count_kv", heads),
        head_dim=metadata.get("llama.rope.dimension_count", hidden // heads),
        max_position_embeddings=metadata["llama.context_length"],
        # The metadata holds a float32; rounding to six digits recovers the 1e-5 that was written.
        rms_norm_eps=float(f"{metadata['llama.attention.layer_norm_rms_epsilon']:.6g}"),
        rope_parameters={"rope_type": "default", "rope_theta": metadata.get("llama.rope.freq_base", 10000.0)},
        tie_word_embeddings="lm_head.weight" not in state,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _state_dict(reader: Any, metadata: dict[str, Any]) -> dict[str, torch.Tensor]:
    from gguf import dequantize

    heads = metadata["llama.attention.head_count"]
    rows_interleaved = {"attn_q": heads, "attn_k": metadata.get("llama.attention.head_count_kv", heads)}
    state = {}
    for tensor in reader.tensors:
        weight = torch.from_numpy(np.array(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32))
        if tensor.name in _GLOBAL_TENSORS:
            state[_GLOBAL_TENSORS[tensor.name]] = weight
            continue
        match = _BLOCK_NAME.fullmatch(tensor.name)
        block, part = match.groups() if match else ("", "")
        if part not in _BLOCK_TENSORS:
            raise ModelSourceError(f"The GGUF file has a tensor {tensor.name!r} that a Llama model has no place for.")
        if part in rows_interleaved:
            weight = _half_rotation_order(weight, rows_interleaved[part])
        state[f"model.layers.{block}.{_BLOCK_TENSORS[part]}.weight"] = weight
    return state


def _half_rotation_order(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of a query or key projection in half-rotation order; GGUF interleaves the two halves of each head."""
    rows, columns = weight.shape
    pairs = weight.reshape(heads, rows // heads // 2, 2, columns)
    return pairs.transpose(1, 2).reshape(rows, columns).contiguous()


def _tokenizer(reader: Any, metadata: dict[str, Any]) -> PreTrainedTokenizerFast:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    def read(name: str, default: Any = None) -> Any:
        field = reader.fields.get(f"tokenizer.ggml.{name}")
        return default if field is None else field.contents()

    if (read("model"), read("pre")) != ("gpt2", "smollm"):
        raise ModelSourceError(
            f"The GGUF file has a {read('model')}/{read('pre')} tokenizer; only gpt2/smollm can be rebuilt exactly."
        )
    tokens: list[str] = read("tokens")
    merges = [tuple(merge.split(" ")) for merge in read("merges")]
    backend = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, read("token_type"), strict=True) if kind == _CONTROL_TOKEN]
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=tokens[read("bos_token_id")],
        eos_token=tokens[read("eos_token_id")],
        unk_token=tokens[read("unknown_token_id", read("eos_token_id"))],
        pad_token=tokens[read("padding_token_id", read("eos_token_id"))],
        chat_template=metadata.get("tokenizer.chat_template"),
        model_max_length=metadata["llama.context_length"],
        clean_up_tokenization_spaces=False,
    )
