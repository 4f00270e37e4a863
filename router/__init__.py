"""The HTTP face of a node: checks a request, splits it by shard, answers when all have it on disk."""
