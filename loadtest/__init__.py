"""Load, comparison with peers, traffic: everything that runs against a node and is no part of it."""
