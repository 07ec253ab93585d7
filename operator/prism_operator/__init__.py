"""Planning, the local runner and the `prism` command."""
