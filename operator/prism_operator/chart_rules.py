"""`python -m prism_operator.chart_rules` prints charts/prism/rbac.yaml: the rules of the roles that
the chart gives the operator."""

import sys

from prism_operator.documents import to_yaml
from prism_operator.manifests.rbac import OWN_PERMISSIONS, PERMISSIONS, rules

_HEAD = """\
# Written by `make rbac` from operator/prism_operator/manifests/rbac.py; not to be edited.
# runs: in every namespace with runs (Role, or one ClusterRole). lease: in the operator's own.
"""


def chart_rules() -> str:
    """The file, as YAML."""
    return _HEAD + to_yaml({"runs": rules(PERMISSIONS), "lease": rules(OWN_PERMISSIONS)})


if __name__ == "__main__":
    sys.stdout.write(chart_rules())
