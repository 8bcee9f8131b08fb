"""Every table of the store, as data: DDL, Arrow schemas, docs and tests come from here.

Three kinds of table:

* ``fact``: immutable Parquet shards below ``facts/table=<name>/run_id=<id>/``; a generation holds a *view* over them.
* ``result``: small per-run tables, also written as shards, *copied* into each generation.
* ``derived``: additive summaries that the publisher computes from facts (they merge across shards by SUM).
* ``catalog``: one row per run, model or data set, read from the run manifests in ``runs/<id>.json``.

Conventions: fractions, never percent; nats; ``layer`` is the absolute 0-based block index; ``position`` is the token's
index without padding; NULL means *not applicable*; NaN is refused by the writer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

SCHEMA_VERSION = 1

Kind = Literal["fact", "result", "derived", "catalog"]


@dataclass(frozen=True)
class Column:
    """One column: its DuckDB type, what it means, and whether NULL (not applicable) is allowed."""

    name: str
    type: str
    meaning: str
    nullable: bool = False


@dataclass(frozen=True)
class Table:
    """One table: what one row is, and the columns that identify it."""

    name: str
    kind: Kind
    row: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]

    def column(self, name: str) -> Column:
        """The column called ``name``; raises ``KeyError`` listing the columns there are."""
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(f"table {self.name} has no column {name!r}; it has {', '.join(self.column_names)}")

    @property
    def column_names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)


def _columns(*rows: tuple[str, str, str] | tuple[str, str, str, bool]) -> tuple[Column, ...]:
    return tuple(Column(*row) for row in rows)


_RUN = ("run_id", "VARCHAR", "run that produced the row")
_DATASET = ("dataset", "VARCHAR", "data set name, as in `datasets.dataset`")
_EXAMPLE = ("example_id", "VARCHAR", "example id, unique in its data set")
_LAYER = ("layer", "USMALLINT", "absolute 0-based block index")
_INTERVAL = (
    ("ci_low", "DOUBLE", "lower end of the 95 % interval", True),
    ("ci_high", "DOUBLE", "upper end of the 95 % interval", True),
)

TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        Table(
            "models",
            "catalog",
            "one model at one revision",
            ("model",),
            _columns(
                ("model", "VARCHAR", "name used in specs: bundled recipe, folder name or hub id"),
                ("architecture", "VARCHAR", "transformers class, e.g. GraniteMoeForCausalLM"),
                ("source", "VARCHAR", "bundled, built, folder or hub id with revision"),
                ("n_layers", "USMALLINT", "decoder blocks, dense ones included"),
                ("moe_layers", "USMALLINT[]", "absolute indices of the blocks with a router"),
                ("n_experts", "USMALLINT", "routed experts per MoE layer"),
                ("top_k", "USMALLINT", "experts chosen per token"),
                ("n_parameters", "UBIGINT", "parameters, all experts counted"),
                ("weights_sha256", "VARCHAR", "fingerprint of the router and embedding weights"),
                ("synthetic", "BOOLEAN", "true when the weights are random or the model is a toy trained here"),
            ),
        ),
        Table(
            "datasets",
            "catalog",
            "one question set as used by an experiment",
            ("experiment", "dataset"),
            _columns(
                ("experiment", "VARCHAR", "hash of the spec that used it"),
                _DATASET,
                ("role", "VARCHAR", "in-distribution, near-ood, far-ood or validation"),
                ("source", "VARCHAR", "file or built-in split"),
                ("n", "UINTEGER", "questions used"),
                ("content_sha256", "VARCHAR", "hash over ids, questions, options and answers used"),
            ),
        ),
        Table(
            "runs",
            "catalog",
            "one model × method × estimator × control over an experiment's data sets",
            ("run_id",),
            _columns(
                _RUN,
                ("experiment", "VARCHAR", "hash of the spec; runs of one experiment share their examples"),
                ("name", "VARCHAR", "experiment name from the spec"),
                ("model", "VARCHAR", "model name, as in `models.model`"),
                ("method", "VARCHAR", "registry name: deterministic, temperature, mfvr, fcvr, …"),
                ("estimator", "VARCHAR", "none (deterministic), in-router or predictive"),
                ("control", "VARCHAR", "none, untrained (router heads as initialised) or non-routing-noise"),
                ("layers", "USMALLINT[]", "layers that carry a Bayesian router; empty when deterministic"),
                ("samples", "USMALLINT", "Monte-Carlo samples; 1 when deterministic"),
                ("seed", "BIGINT", "sampling seed"),
                ("dtype", "VARCHAR", "dtype of the model's weights; routing is always float32"),
                ("device", "VARCHAR", "device the run was computed on"),
                ("scoring", "VARCHAR", "likelihood or letter"),
                ("routers", "VARCHAR", "where the router weights came from", True),
                ("status", "VARCHAR", "queued, running, finished, failed or cancelled"),
                ("error", "VARCHAR", "one sentence, when failed", True),
                ("datasets", "VARCHAR[]", "data sets evaluated"),
                ("n_tokens", "UBIGINT", "real tokens traced", True),
                ("started_at", "TIMESTAMP", "UTC"),
                ("ended_at", "TIMESTAMP", "UTC", True),
                ("synthetic", "BOOLEAN", "true when the model is synthetic; every page says so"),
                ("manifest", "VARCHAR", "JSON: spec, versions, commit, hashes (the reproducibility card)"),
            ),
        ),
        Table(
            "examples",
            "fact",
            "one question in a run",
            ("run_id", "dataset", "example_id"),
            _columns(
                _RUN,
                _DATASET,
                _EXAMPLE,
                ("role", "VARCHAR", "role of the data set in this experiment"),
                ("text_sha256", "VARCHAR", "hash of the prompt"),
                ("prompt", "VARCHAR", "the prompt, only if the spec stores text", True),
                ("choices", "VARCHAR[]", "the options, only if the spec stores text", True),
                ("answer_index", "UTINYINT", "0-based index of the right option"),
                ("n_tokens", "UINTEGER", "real prompt tokens"),
            ),
        ),
        Table(
            "tokens",
            "fact",
            "one real prompt token",
            ("run_id", "dataset", "example_id", "position"),
            _columns(
                _RUN,
                _DATASET,
                _EXAMPLE,
                ("position", "UINTEGER", "token index without padding"),
                ("token_id", "UINTEGER", "vocabulary index"),
                ("token", "VARCHAR", "token text, only if the spec stores text", True),
                ("phase", "VARCHAR", "prefill or decode"),
            ),
        ),
        Table(
            "routing",
            "fact",
            "one real token at one MoE layer",
            ("run_id", "dataset", "example_id", "position", "layer"),
            _columns(
                _RUN,
                _DATASET,
                _EXAMPLE,
                ("position", "UINTEGER", "token index without padding"),
                _LAYER,
                ("expert_index", "USMALLINT[]", "experts applied, by falling selection score"),
                ("gate_weight", "FLOAT[]", "what multiplies each expert's output, same order"),
                ("base_expert_index", "USMALLINT[]", "what the native router chooses for the same input"),
                ("overlap", "USMALLINT", "experts shared by the two sets"),
                ("top_k_margin", "FLOAT", "selection score of the last expert in minus the first one out"),
                ("routing_entropy", "FLOAT", "entropy of the routing distribution over all experts, nats"),
                ("logit_variance", "FLOAT", "trace of the posterior covariance of the logits", True),
                ("logit_variance_mc", "FLOAT", "the same from the samples", True),
                ("temperature", "FLOAT", "selection temperature", True),
            ),
        ),
        Table(
            "predictions",
            "result",
            "one answered question",
            ("run_id", "dataset", "example_id"),
            _columns(
                _RUN,
                _DATASET,
                _EXAMPLE,
                ("role", "VARCHAR", "role of the data set in this experiment"),
                ("probs", "DOUBLE[]", "probability of each option"),
                ("answer_index", "UTINYINT", "0-based index of the right option"),
                ("predicted", "UTINYINT", "0-based index of the most probable option"),
                ("correct", "BOOLEAN", "predicted = answer_index"),
                ("confidence", "DOUBLE", "largest probability"),
                ("nll", "DOUBLE", "−log probability of the right option, nats"),
                ("predictive_entropy", "DOUBLE", "entropy of probs, nats"),
                ("mutual_information", "DOUBLE", "entropy minus mean per-sample entropy; predictive only", True),
                ("variation_ratio", "DOUBLE", "share of samples that disagree with the mode; predictive only", True),
                ("option_scores", "DOUBLE[]", "what the softmax was taken of (see runs.scoring)"),
                ("option_tokens", "USMALLINT[]", "tokens in each option"),
            ),
        ),
        Table(
            "ood_scores",
            "result",
            "one uncertainty score of one question",
            ("run_id", "dataset", "example_id", "score", "position_rule", "aggregation"),
            _columns(
                _RUN,
                _DATASET,
                _EXAMPLE,
                ("role", "VARCHAR", "role of the data set in this experiment"),
                ("score", "VARCHAR", "answer_entropy, one_minus_max_prob, gate_entropy, logit_variance, …"),
                ("position_rule", "VARCHAR", "answer, final_prompt_token or prompt_mean"),
                ("aggregation", "VARCHAR", "over layers: none or mean over the run's layers"),
                ("value", "DOUBLE", "higher = more out-of-distribution, declared beforehand"),
            ),
        ),
        Table(
            "metrics",
            "result",
            "one number with its interval",
            ("run_id", "dataset", "metric", "score", "position_rule", "aggregation"),
            _columns(
                _RUN,
                _DATASET,
                ("metric", "VARCHAR", "accuracy, ece, ece_adaptive, mce, nll, brier, auroc, auprc, fpr95, …"),
                ("score", "VARCHAR", "OoD score the metric ranks; empty for the others"),
                ("position_rule", "VARCHAR", "answer, final_prompt_token, prompt_mean or all_tokens"),
                ("aggregation", "VARCHAR", "none or mean_layers"),
                ("value", "DOUBLE", "the number", True),
                *_INTERVAL,
                ("n", "UINTEGER", "examples it was computed on (for OoD: both sets)"),
                ("direction", "VARCHAR", "higher (is better), lower or none"),
                ("n_bootstrap", "UINTEGER", "resamples behind the interval"),
                ("note", "VARCHAR", "e.g. 'inverted: below 0.5'", True),
            ),
        ),
        Table(
            "comparisons",
            "result",
            "paired difference of one metric, run minus its baseline, on the same examples",
            ("run_id", "baseline_run_id", "dataset", "metric", "score"),
            _columns(
                _RUN,
                ("baseline_run_id", "VARCHAR", "run subtracted"),
                _DATASET,
                ("metric", "VARCHAR", "as in `metrics`"),
                ("score", "VARCHAR", "as in `metrics`"),
                ("difference", "DOUBLE", "run minus baseline"),
                *_INTERVAL,
                ("n", "UINTEGER", "shared examples"),
                ("direction", "VARCHAR", "higher (is better), lower or none"),
            ),
        ),
        Table(
            "reliability_bins",
            "result",
            "one bin of a reliability diagram",
            ("run_id", "dataset", "calibration", "scheme", "bin"),
            _columns(
                _RUN,
                _DATASET,
                ("calibration", "VARCHAR", "raw or temperature-scaled"),
                ("scheme", "VARCHAR", "equal-width or adaptive (equal-mass)"),
                ("bin", "USMALLINT", "0-based bin index"),
                ("lower", "DOUBLE", "lower edge, exclusive (inclusive in bin 0)"),
                ("upper", "DOUBLE", "upper edge, inclusive"),
                ("n", "UINTEGER", "examples in the bin; 0 is an empty bin"),
                ("mean_confidence", "DOUBLE", "mean confidence in the bin", True),
                ("accuracy", "DOUBLE", "accuracy in the bin", True),
                ("ci_low", "DOUBLE", "Wilson 95 % interval of the accuracy", True),
                ("ci_high", "DOUBLE", "Wilson 95 % interval of the accuracy", True),
            ),
        ),
        Table(
            "layer_susceptibility",
            "result",
            "stability of one layer's routing at one noise level",
            ("run_id", "mode", "gamma", "layer"),
            _columns(
                _RUN,
                ("mode", "VARCHAR", "router (only this router re-run) or propagated"),
                ("gamma", "DOUBLE", "noise level: σ per coordinate = γ × RMS norm of the layer's own router input"),
                _LAYER,
                ("jaccard", "DOUBLE", "mean Jaccard index of clean and noisy top-k sets"),
                *_INTERVAL,
                ("chance", "DOUBLE", "Jaccard index expected of two random top-k sets"),
                ("threshold", "DOUBLE", "chance-corrected threshold below which the layer counts as susceptible"),
                ("susceptible", "BOOLEAN", "jaccard < threshold"),
                ("n", "UBIGINT", "real tokens"),
                ("quantiles", "DOUBLE[]", "0, 5, 25, 50, 75, 95, 100 % quantiles over tokens"),
            ),
        ),
        Table(
            "layer_leverage",
            "result",
            "what uniformly random routing costs in one layer, or in several at once",
            ("run_id", "intervention", "scope", "layer"),
            _columns(
                _RUN,
                ("intervention", "VARCHAR", "random-routing or zero-block (the block's output removed)"),
                ("scope", "VARCHAR", "layer, chosen (all layers that carry Bayesian routers) or all"),
                ("layer", "SMALLINT", "absolute block index; −1 when scope is not layer"),
                ("accuracy", "DOUBLE", "accuracy under the intervention, mean over draws"),
                ("accuracy_change", "DOUBLE", "minus the native router's; negative = routing matters"),
                ("accuracy_ci_low", "DOUBLE", "paired 95 % interval"),
                ("accuracy_ci_high", "DOUBLE", "paired 95 % interval"),
                ("nll_change", "DOUBLE", "rise of the answer NLL, nats"),
                ("nll_ci_low", "DOUBLE", "paired 95 % interval"),
                ("nll_ci_high", "DOUBLE", "paired 95 % interval"),
                ("draws", "USMALLINT", "independent random routings averaged"),
                ("n", "UINTEGER", "questions"),
            ),
        ),
        Table(
            "training_log",
            "result",
            "one logged training step of a router",
            ("run_id", "step", "layer", "quantity"),
            _columns(
                _RUN,
                ("step", "UINTEGER", "optimiser step"),
                ("layer", "SMALLINT", "absolute block index; −1 for whole-model values"),
                ("quantity", "VARCHAR", "loss, task_loss, validation_nll, kl, posterior_std, prior_std, beta"),
                ("value", "DOUBLE", "value at that step"),
            ),
        ),
        Table(
            "efficiency",
            "result",
            "one cost of a run beside the deterministic model",
            ("run_id", "quantity"),
            _columns(
                _RUN,
                ("quantity", "VARCHAR", "wall_seconds, tokens_per_second, router_macs_per_token, extra_mac_share, …"),
                ("value", "DOUBLE", "measured or counted value"),
                ("baseline", "DOUBLE", "the deterministic run's value", True),
                ("unit", "VARCHAR", "unit of both"),
            ),
        ),
        Table(
            "layer_stats",
            "derived",
            "routing statistics of one layer on one data set; sums, so that shards merge",
            ("run_id", "dataset", "layer"),
            _columns(
                _RUN,
                _DATASET,
                _LAYER,
                ("n", "UBIGINT", "real tokens"),
                ("top_k", "USMALLINT", "experts per token"),
                ("sum_overlap", "UBIGINT", "experts shared with the native choice"),
                ("n_changed", "UBIGINT", "tokens whose expert set differs from the native one"),
                ("sum_jaccard", "DOUBLE", "Jaccard index with the native choice"),
                ("sum_margin", "DOUBLE", "top_k_margin"),
                ("sum_entropy", "DOUBLE", "routing_entropy"),
                ("sum_entropy_sq", "DOUBLE", "routing_entropy²"),
                ("n_variance", "UBIGINT", "tokens with a logit variance"),
                ("sum_variance", "DOUBLE", "logit_variance"),
                ("sum_variance_sq", "DOUBLE", "logit_variance²"),
            ),
        ),
        Table(
            "expert_load",
            "derived",
            "how often one expert was applied in one layer",
            ("run_id", "dataset", "layer", "expert_index"),
            _columns(
                _RUN,
                _DATASET,
                _LAYER,
                ("expert_index", "USMALLINT", "0-based expert"),
                ("n_selected", "UBIGINT", "tokens that used it"),
                ("n_tokens", "UBIGINT", "real tokens; share = n_selected / (n_tokens × top_k), balanced = 1/E"),
                ("gate_mass", "DOUBLE", "sum of its gate weights"),
            ),
        ),
    )
}


def tables(*kinds: Kind) -> Iterator[Table]:
    """The tables of the given kinds (all when none is given), in dependency order."""
    for table in TABLES.values():
        if not kinds or table.kind in kinds:
            yield table


def table(name: str) -> Table:
    """The table called ``name``; raises ``KeyError`` naming the tables there are."""
    try:
        return TABLES[name]
    except KeyError:
        raise KeyError(f"no table {name!r}; there are {', '.join(TABLES)}") from None
