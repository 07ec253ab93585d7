"""The children of a run as Kubernetes objects: pure functions of the plan, one file per kind.

What is emitted is what the API server returns, so that drift (drift.py) is never imagined: fields
whose value is the server's default are left out, numbers and texts are in the server's form.
"""
