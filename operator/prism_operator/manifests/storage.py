"""How a pod reaches the store: variables and volumes. The operator itself never does."""

from prism_api.names import ADDRESSING_STYLE_VARIABLE
from prism_api.resources import Storage
from prism_operator.manifests.context import Manifest
from prism_operator.manifests.layout import CA_FOLDER, CA_KEY
from prism_operator.manifests.pods import variable, variable_from
from prism_operator.manifests.volumes import Volume, authorities

_KEYS = {"AWS_ACCESS_KEY_ID": False, "AWS_SECRET_ACCESS_KEY": False, "AWS_SESSION_TOKEN": True}
"""Keys of the credentials' Secret, and variables that boto3 reads; whether they may be absent. A
key that is missing keeps the pod from starting, and the kubelet names it."""


def storage_environment(storage: Storage) -> list[Manifest]:
    """Variables by boto3's own names, and one that boto3 has none for."""
    bundle = f"{CA_FOLDER}/{CA_KEY}" if storage.ca_bundle else None
    style = storage.addressing_style if storage.addressing_style != "auto" else None
    settings = {
        "AWS_ENDPOINT_URL_S3": storage.endpoint,
        "AWS_DEFAULT_REGION": storage.region,
        "AWS_CA_BUNDLE": bundle,
        ADDRESSING_STYLE_VARIABLE: style,
    }
    given = [variable(name, value) for name, value in settings.items() if value is not None]
    return [*given, *_credentials(storage.credentials_secret)]


def _credentials(secret: str | None) -> list[Manifest]:
    """By reference: no credential is ever in a manifest."""
    if secret is None:
        return []
    return [
        variable_from(
            key,
            {
                "secretKeyRef": {
                    "name": secret,
                    "key": key,
                    **({"optional": True} if may_lack else {}),
                }
            },
        )
        for key, may_lack in _KEYS.items()
    ]


def storage_volumes(storage: Storage) -> list[Volume]:
    """The endpoint's certificate authorities, if it has its own."""
    return [] if storage.ca_bundle is None else [authorities(storage.ca_bundle)]
