"""One module per stage of a run: each batch is an idempotent step that writes one shard."""
