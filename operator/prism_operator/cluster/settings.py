"""The operator's settings: environment variables, or flags of the entry point, which win."""

import argparse
import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from prism_api.base import CrossFieldError
from prism_api.errors import FieldProblem, SpecError
from prism_api.names import DNS_LABEL
from prism_api.patterns import IN_WORDS
from prism_operator.cluster.lease import LeaseTimes

_IMAGE = r"^[a-z0-9][A-Za-z0-9._:/@-]*$"
_SUBDOMAIN = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"
_FROM_POD = {"POD_NAME": "metadata.name", "POD_NAMESPACE": "metadata.namespace"}
"""Variables that a pod's `fieldRef` gives, by what it refers to."""


def _split(value: Any) -> Any:
    return tuple(filter(None, re.split(r"[,\s]+", value))) if isinstance(value, str) else value


def _absent_if_empty(value: Any) -> Any:
    return None if value == "" else value


Label = Annotated[str, Field(pattern=DNS_LABEL, max_length=63)]
Image = Annotated[str, Field(pattern=_IMAGE)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class OperatorSettings(BaseModel):
    """How one operator process works; nothing of it is read from anywhere else."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    namespaces: Annotated[tuple[Label, ...], BeforeValidator(_split)] = ()
    """Namespaces whose PrismRuns are served, with commas between; empty: all, which needs a
    ClusterRole."""
    pod_name: Annotated[str, Field(pattern=_SUBDOMAIN, max_length=253)]
    """Name of this pod: the identity under which it holds the Lease, of no other living process."""
    pod_namespace: Label
    """Namespace of this pod and of the Lease."""
    lease_name: Annotated[str, Field(pattern=_SUBDOMAIN, max_length=253)] = "prism-operator"
    """Name of the Lease; operators with the same Lease are replicas of each other."""
    lease_seconds: Annotated[Seconds, Field(ge=1)] = 15.0
    """Another replica takes over when the Lease has not changed for so long."""
    renew_deadline_seconds: Seconds = 10.0
    """A leader that could not renew the Lease for so long ends."""
    renew_seconds: Seconds = 2.0
    """Pause between renewals, and between looks of a standby replica."""
    trainer_image: Annotated[Image | None, BeforeValidator(_absent_if_empty)] = None
    """Image of trainer pods, for runs that name none."""
    rollout_image: Annotated[Image | None, BeforeValidator(_absent_if_empty)] = None
    """Image of rollout servers, for runs that name none."""
    poll_seconds: Seconds = 15.0
    """Pause between questions for the progress of a stage."""
    resync_seconds: Seconds = 300.0
    """Pause between full looks at all children, in case a watch missed something."""
    concurrency: Annotated[int, Field(ge=1, le=256)] = 16
    """Runs that are reconciled at the same time."""
    http_port: Annotated[int, Field(ge=1, le=65535)] = 8080
    """Port of /healthz, /readyz and /metrics."""
    log_format: Annotated[Literal["json", "text"] | None, BeforeValidator(_absent_if_empty)] = None
    """Form of the logs; absent: text at a terminal, JSON elsewhere."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least severity of the operator's own log records."""

    @property
    def lease_times(self) -> LeaseTimes:
        """What the election goes by."""
        return LeaseTimes(self.lease_seconds, self.renew_deadline_seconds, self.renew_seconds)

    @model_validator(mode="after")
    def _check_lease(self) -> Self:
        if self.renew_deadline_seconds * 1.5 > self.lease_seconds:
            raise CrossFieldError(
                "renew_deadline_seconds",
                f"{self.renew_deadline_seconds:g} is more than two thirds of the"
                f" {self.lease_seconds:g} s after which others take the Lease over",
                f"give at most {self.lease_seconds / 1.5:g}, or a longer lease",
            )
        if self.renew_seconds * 2 > self.renew_deadline_seconds:
            raise CrossFieldError(
                "renew_seconds",
                f"{self.renew_seconds:g} leaves no second try before the deadline of"
                f" {self.renew_deadline_seconds:g} s",
                f"give at most {self.renew_deadline_seconds / 2:g}, or a later deadline",
            )
        return self


def read_settings(arguments: Sequence[str], environment: Mapping[str, str]) -> OperatorSettings:
    """The settings of this process.

    Raises SpecError with every variable or flag that is wrong, what is wrong with it and what would
    be right. `--help` and unknown flags end the process, as argparse does.
    """
    flags = {k: v for k, v in vars(_parser().parse_args(arguments)).items() if v is not None}
    variables = {name: variable_of(name) for name in OperatorSettings.model_fields}
    given = {name: environment[v] for name, v in variables.items() if v in environment}
    sources = variables | {name: _flag_of(name) for name in flags}
    problems = _misspelt(environment, set(variables.values()))
    try:
        settings = OperatorSettings.model_validate(given | flags)
    except ValidationError as error:
        details = error.errors(include_url=False)
        problems += [_problem(detail, sources) for detail in details]
    if problems:
        raise SpecError(problems, "the operator's environment")
    return settings


def variable_of(name: str) -> str:
    """The environment variable of a setting."""
    variable = name.upper()
    return variable if variable in _FROM_POD else f"PRISM_{variable}"


def _flag_of(name: str) -> str:
    return "--" + name.replace("_", "-")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m prism_operator",
        description="The PRISM operator: runs the PrismRuns of a cluster.",
        allow_abbrev=False,
        epilog="A flag wins over its environment variable (in brackets).",
    )
    for name, field in OperatorSettings.model_fields.items():
        default = "required" if field.is_required() else f"default: {_shown(field.default)}"
        text = f"{field.description} [{variable_of(name)}; {default}]"
        parser.add_argument(_flag_of(name), metavar="VALUE", help=text.replace("%", "%%"))
    return parser


def _shown(default: Any) -> str:
    if isinstance(default, float):
        return f"{default:g}"
    return "none" if default in (None, ()) else str(default)


_REMEDIES = {
    "int_parsing": "give a whole number",
    "float_parsing": "give a number",
    "finite_number": "give a finite number",
    "greater_than": "give more than {gt:g}",
    "greater_than_equal": "give at least {ge:g}",
    "less_than_equal": "give at most {le:g}",
    "string_too_long": "give at most {max_length} characters",
    "literal_error": "give one of {expected}",
}
_PATTERNS = {
    DNS_LABEL: IN_WORDS[DNS_LABEL],
    _SUBDOMAIN: "lower-case letters, digits, dashes and dots, with a letter or digit at both ends",
    _IMAGE: "an image as REGISTRY/NAME:TAG or REGISTRY/NAME@DIGEST",
}


def _problem(detail: ErrorDetails, sources: Mapping[str, str]) -> FieldProblem:
    context = detail.get("ctx", {})
    cause = context.get("error")
    if isinstance(cause, CrossFieldError):
        return FieldProblem(sources[cause.member], cause.problem, cause.remedy)
    source = sources[str(detail["loc"][0])]
    if detail["type"] == "missing":
        reference = _FROM_POD[source]
        return FieldProblem(source, "is missing", f"set it; in a pod from fieldRef {reference}")
    if detail["type"] == "string_pattern_mismatch":
        remedy = f"give {_PATTERNS[context['pattern']]}"
    else:
        remedy = _REMEDIES.get(detail["type"], detail["msg"]).format(**context)
    return FieldProblem(source, f"{detail['input']!r} is not valid", remedy)


def _misspelt(environment: Mapping[str, str], known: set[str]) -> list[FieldProblem]:
    """Variables that are nearly one of ours; others with our prefix are of other programs."""
    strangers = sorted(name for name in environment if name.startswith("PRISM_"))
    near = {
        name: difflib.get_close_matches(name, known, n=1, cutoff=0.9)
        for name in strangers
        if name not in known
    }
    return [
        FieldProblem(name, "is no setting of the operator", f"did you mean {match[0]}?")
        for name, match in near.items()
        if match
    ]
