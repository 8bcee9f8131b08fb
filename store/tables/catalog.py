"""What there is: one row per model, data set and run, read from the run manifests."""

from __future__ import annotations

from store.tables.table import DATASET, RUN, Table, columns

CATALOG: tuple[Table, ...] = (
    Table(
        "models",
        "catalog",
        "one model at one revision",
        ("model",),
        columns(
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
        columns(
            ("experiment", "VARCHAR", "hash of the spec that used it"),
            DATASET,
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
        columns(
            RUN,
            ("experiment", "VARCHAR", "hash of the spec; runs of one experiment share their examples"),
            ("name", "VARCHAR", "experiment name from the spec"),
            ("model", "VARCHAR", "model name, as in `models.model`"),
            ("method", "VARCHAR", "registry name: deterministic, temperature, mfvr, fcvr, …"),
            ("estimator", "VARCHAR", "none (deterministic), in-router, closed-form or predictive"),
            (
                "control",
                "VARCHAR",
                "none, untrained (heads as initialised), beta-zero (trained without KL), own-mean (noise 0), "
                "prior-covariance (around the trained mean), non-routing-noise, moe-noise; "
                "deterministic baselines: unadapted, pretrained-routers, map-routers",
            ),
            ("layers", "USMALLINT[]", "layers that carry a Bayesian router; empty when deterministic"),
            ("samples", "USMALLINT", "Monte-Carlo samples; 1 when deterministic or in closed form"),
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
)
