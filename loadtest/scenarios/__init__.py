"""Load by locust: what is sent, at what pace, what came of it, and whether that is enough."""
