"""What a finished run shows: report.json, report.html and the comparison of several runs.

The local runner and `prism compare` call it. It reads what stages left behind and never trains,
plans or talks to a cluster. Import the modules that need matplotlib (html, compare) where they are
used, so that `prism validate` starts without it.
"""
