"""One page about a rule or a meta-training run, which asks nothing of any other file or server."""
