"""Routing facts and statistics: Parquet shards as the source of truth, DuckDB generations to query them."""
