"""The power-cut proof: what a shard writes is recorded, cut anywhere, rebuilt, and replayed."""
