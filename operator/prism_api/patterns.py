"""The patterns that texts of the contract must match, and how to say so to people."""

from collections.abc import Mapping

from prism_api.names import DNS_LABEL, DNS_SUBDOMAIN

_FILE_NAME = r"\.?[A-Za-z0-9_-][A-Za-z0-9._-]*"
_REST = "://[A-Za-z0-9._~/=%-]+$"

MODEL_URI = f"^(hf|s3|pvc|file|builtin){_REST}"
DATA_URI = f"^(s3|pvc|file|builtin){_REST}"
STORE_URI = f"^(s3|file){_REST}"
HTTP_URL = "^https?://[!-~]+$"
UID = "^[0-9a-f-]{8,64}$"
SHA256 = "^[0-9a-f]{64}$"
OBJECT_PATH = rf"^{_FILE_NAME}(/{_FILE_NAME})*$"

_CHARACTERS = "of letters, digits and . _ ~ / = - only (anything else as %XX, a space as %20)"

IN_WORDS: Mapping[str, str] = {
    DNS_LABEL: "lower-case letters, digits and dashes only, with a letter or digit at both ends",
    DNS_SUBDOMAIN: "lower-case letters, digits, dashes and dots only, with a letter or digit at "
    "both ends and beside each dot",
    MODEL_URI: "hf://ORG/NAME, file://FOLDER, builtin://SET/NAME, s3://BUCKET/PREFIX or "
    f"pvc://CLAIM/FOLDER, {_CHARACTERS}",
    DATA_URI: "file://FILE, builtin://SET/FILE, s3://BUCKET/FILE or pvc://CLAIM/FILE, "
    f"{_CHARACTERS}",
    STORE_URI: f"s3://BUCKET/PREFIX or file://FOLDER, {_CHARACTERS}",
    HTTP_URL: "a URL that starts with http:// or https://, of visible ASCII characters",
    UID: "8 to 64 characters: digits, a to f, dashes",
    SHA256: "a SHA-256 as 64 hexadecimal digits in lower case",
    OBJECT_PATH: "a relative path of letters, digits and . _ - with / between names, without ..",
}
"""What to give, after "give"."""
