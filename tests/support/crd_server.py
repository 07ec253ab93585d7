"""The API server's verdict on PrismRuns, and `prism validate`'s."""

from dataclasses import dataclass

from admin_client import AdminClient, ApiError, resource_path
from prism_api.base import parse
from prism_api.errors import SpecError
from prism_api.names import API_VERSION, PLURAL
from prism_api.run import PrismRun
from run_builders import Document

STRICT = {"dryRun": "All", "fieldValidation": "Strict"}


@dataclass(frozen=True)
class Verdict:
    """Whether a document is accepted, and what is said of one that is not."""

    accepted: bool
    message: str = ""


def server_verdict(admin: AdminClient, document: Document, namespace: str = "default") -> Verdict:
    """What the API server says where someone would create it; nothing is stored."""
    try:
        admin.request("POST", resource_path(API_VERSION, PLURAL, namespace), document, STRICT)
    except ApiError as error:
        if error.code not in (400, 422):
            raise
        return Verdict(False, str(error))
    return Verdict(True)


def validate_verdict(document: Document) -> Verdict:
    """What `prism validate` says."""
    try:
        parse(PrismRun, document)
    except SpecError as error:
        return Verdict(False, str(error))
    return Verdict(True)
