"""A device: keeps a copy of its user's box in a local folder."""
