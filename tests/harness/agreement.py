"""Option scores of six kinds of tokenizers on three families against a plain loop over whole texts.

Run it by ``python -m tests.harness.agreement``.

The loop knows nothing of VMoER: it tokenises prompt and option as one text, runs transformers on it, and adds up what
follows the tokens that the text has in common with its prompt. Every difference is printed; they are 0 up to rounding.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from vmoer.scoring.options import score_options
from vmoer.testing import tiny_model

VOCABULARY = 400
FAMILIES = ("GraniteMoeForCausalLM", "MixtralForCausalLM", "JambaForCausalLM")
#: most nats that rounding may add to a sum over an option's tokens
TOLERANCE = 2e-3
CORPUS = [
    "Question: Lyon is a city in which country?\nAnswer: France",
    "Question: Oslo is a city in which country?\nAnswer: Norway",
    "Question: Which port is new? Newport, Newfoundland and New York.\nAnswer: South Africa",
    "Which of these is older than 1066: the abbey, the bridge or the castle? It's the abbey, they say.",
    "Kyōto, São Paulo, Zürich and Łódź are cities; 12 + 30 = 42. Answer: A",
] * 8
PROMPTS = [
    "Question: Lyon is a city in which country?\nAnswer:",
    "Question: Which port is new?\nAnswer: New",
    "It's the",
    "Zürich is 日本 ",
]
OPTIONS = [
    [" France", " Norway", " South Africa", " São Paulo", " 日本"],
    ["port", "foundland", " York", "\nYork", "."],  # joined to the prompt's last word by some tokenizers
    [" abbey", " bridge", "  castle", ", they"],
    ["city", " city", "42", "ź", "!"],
]


def byte_level() -> PreTrainedTokenizerFast:
    """Byte-level BPE, as of GPT-2, OLMoE, Qwen and the bundled models; no special token opens a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    return _trained(tokenizer, trainer)


def prepended() -> PreTrainedTokenizerFast:
    """A normaliser puts a mark before any text, even one that begins with a space, as of Llama-2 and Mixtral."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))  # noqa: S106
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return _trained(tokenizer, _bpe_trainer(), opens=True)


def marked() -> PreTrainedTokenizerFast:
    """A unigram model whose words carry a mark, the first of a text too."""
    return _unigram("always")


def unmarked() -> PreTrainedTokenizerFast:
    """A unigram model whose words carry a mark, the first of a text none."""
    return _unigram("never")


def byte_fallback() -> PreTrainedTokenizerFast:
    """What the vocabulary lacks falls into bytes, and a token may hold the end of one word and part of the next."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))  # noqa: S106
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return _trained(tokenizer, _bpe_trainer([f"<0x{byte:02X}>" for byte in range(256)]), opens=True)


def word_pieces() -> PreTrainedTokenizerFast:
    """Words are split at spaces and signs, spaces are lost, and ``[CLS]`` opens as ``[SEP]`` closes a text."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # noqa: S106
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    specials = ["[UNK]", "[CLS]", "[SEP]"]
    trainer = trainers.WordPieceTrainer(vocab_size=VOCABULARY, special_tokens=specials, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, cls_token="[CLS]", sep_token="[SEP]")  # noqa: S106


KINDS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "byte-level": byte_level,
    "prepended": prepended,
    "marked": marked,
    "unmarked": unmarked,
    "byte-fallback": byte_fallback,
    "word-pieces": word_pieces,
}


def plain_scores(model: Any, tokenizer: Any, prompt: str, options: list[str]) -> list[tuple[float, int]]:
    """Log-likelihood and number of tokens of each option, one plain pass of transformers over each whole text."""
    found = []
    start = _open_ended(tokenizer, prompt)
    for option in options:
        whole = _open_ended(tokenizer, prompt + option)
        first = 0
        while first < min(len(start), len(whole)) and start[first] == whole[first]:
            first += 1
        with torch.no_grad():
            log_p = model(input_ids=torch.tensor([whole])).logits[0].float().log_softmax(-1)
        found.append((sum(float(log_p[at - 1, whole[at]]) for at in range(first, len(whole))), len(whole) - first))
    return found


def differences(kind: str, family: str) -> tuple[float, int, int]:
    """Largest difference in nats over all options, how many differ in number of tokens, and how many were compared."""
    tokenizer = KINDS[kind]()
    model = tiny_model(family, vocab_size=len(tokenizer))
    scored = score_options(model, tokenizer, PROMPTS, OPTIONS)
    worst, other_tokens, compared = 0.0, 0, 0
    for prompt, options, scores in zip(PROMPTS, OPTIONS, scored, strict=True):
        expected = plain_scores(model, tokenizer, prompt, options)
        worst = max(worst, float(np.abs(scores.log_likelihood[0] - [value for value, _ in expected]).max()))
        other_tokens += int((scores.n_tokens != [count for _, count in expected]).sum())
        compared += len(options)
    return worst, other_tokens, compared


def main() -> int:
    """Print every pair of tokenizer and family; 1 when one differs by more than rounding."""
    wrong = 0
    for kind in KINDS:
        for family in FAMILIES:
            worst, other_tokens, compared = differences(kind, family)
            wrong += worst > TOLERANCE or other_tokens > 0
            print(
                f"{kind:14} {family:24} {compared} options: {worst:.1e} nats at most, {other_tokens} with other tokens"
            )
    return int(wrong > 0)


def _open_ended(tokenizer: Any, text: str) -> list[int]:
    """The tokens of a text without the one that closes it."""
    ids = list(tokenizer(text)["input_ids"])
    return ids[:-1] if tokenizer.sep_token_id is not None and ids[-1] == tokenizer.sep_token_id else ids


def _bpe_trainer(bytes_: Sequence[str] = ()) -> trainers.BpeTrainer:
    specials = ["<unk>", "<s>", "</s>", *bytes_]
    return trainers.BpeTrainer(
        vocab_size=VOCABULARY + len(bytes_), special_tokens=specials, max_token_length=8, show_progress=False
    )


def _unigram(scheme: str) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme)
    trainer = trainers.UnigramTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<unk>", "<s>", "</s>"],
        unk_token="<unk>",  # noqa: S106
        show_progress=False,
    )
    return _trained(tokenizer, trainer, opens=True)


def _trained(tokenizer: Tokenizer, trainer: Any, opens: bool = False) -> PreTrainedTokenizerFast:
    """The tokenizer trained on the corpus; with ``opens`` ``<s>`` stands before every text."""
    tokenizer.train_from_iterator(CORPUS, trainer)
    if opens:
        opening = [("<s>", tokenizer.token_to_id("<s>"))]
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=opening)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")  # noqa: S106


if __name__ == "__main__":
    sys.exit(main())
