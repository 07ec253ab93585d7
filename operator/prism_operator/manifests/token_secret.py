"""The Secret with the bearer token of a run's rollout servers."""

import base64

from prism_operator.manifests.context import ChildContext, Manifest, metadata, run_labels
from prism_operator.manifests.layout import TOKEN_KEY
from prism_operator.planning.naming import token_name


def build_token_secret(context: ChildContext, token: str) -> Manifest:
    """Created once and never written again; the operator may create Secrets and not read them."""
    name = token_name(context.run)
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata(context.run, name, run_labels(context.run)),
        "type": "Opaque",
        "immutable": True,
        "data": {TOKEN_KEY: base64.b64encode(token.encode()).decode()},
    }
