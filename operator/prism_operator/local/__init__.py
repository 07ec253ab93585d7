"""The local runner: the same plan, executed by subprocesses on this machine."""
