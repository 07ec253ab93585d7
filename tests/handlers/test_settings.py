"""The operator's settings come from variables and flags; what is wrong is named with a remedy."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prism_api.errors import SpecError
from prism_operator.cluster.lease import LeaseTimes
from prism_operator.cluster.settings import OperatorSettings, read_settings, variable_of

POD = {"POD_NAME": "prism-operator-5d4-x7", "POD_NAMESPACE": "prism-system"}


def problems_of(environment: dict[str, str], *arguments: str) -> list[str]:
    """What is wrong with it."""
    with pytest.raises(SpecError) as refusal:
        read_settings(arguments, POD | environment)
    return [str(problem) for problem in refusal.value.problems]


def test_a_pod_s_name_and_namespace_are_all_that_must_be_said() -> None:
    settings = read_settings([], POD)
    assert settings == OperatorSettings(
        pod_name="prism-operator-5d4-x7", pod_namespace="prism-system"
    )
    assert settings.namespaces == ()
    assert settings.lease_times == LeaseTimes(15.0, 10.0, 2.0)
    assert (settings.poll_seconds, settings.resync_seconds) == (15.0, 300.0)
    assert (settings.concurrency, settings.http_port) == (16, 8080)


def test_every_setting_has_a_variable() -> None:
    settings = read_settings(
        [],
        POD
        | {
            "PRISM_NAMESPACES": "team-a, team-b",
            "PRISM_LEASE_NAME": "prism-operator.two",
            "PRISM_LEASE_SECONDS": "3",
            "PRISM_RENEW_DEADLINE_SECONDS": "2",
            "PRISM_RENEW_SECONDS": "0.5",
            "PRISM_TRAINER_IMAGE": "registry.example/prism/trainer:0.1.0",
            "PRISM_ROLLOUT_IMAGE": "",
            "PRISM_POLL_SECONDS": "1.5",
            "PRISM_RESYNC_SECONDS": "60",
            "PRISM_CONCURRENCY": "4",
            "PRISM_HTTP_PORT": "9090",
            "PRISM_LOG_FORMAT": "text",
            "PRISM_LOG_LEVEL": "DEBUG",
            "PRISM_OPERATOR_SERVICE_HOST": "10.0.0.1",
        },
    )
    assert settings.model_dump() == {
        "namespaces": ("team-a", "team-b"),
        "pod_name": POD["POD_NAME"],
        "pod_namespace": POD["POD_NAMESPACE"],
        "lease_name": "prism-operator.two",
        "lease_seconds": 3.0,
        "renew_deadline_seconds": 2.0,
        "renew_seconds": 0.5,
        "trainer_image": "registry.example/prism/trainer:0.1.0",
        "rollout_image": None,
        "poll_seconds": 1.5,
        "resync_seconds": 60.0,
        "concurrency": 4,
        "http_port": 9090,
        "log_format": "text",
        "log_level": "DEBUG",
    }


def test_a_flag_wins_over_its_variable() -> None:
    arguments = ["--http-port", "9091", "--namespaces=team-c"]
    settings = read_settings(arguments, POD | {"PRISM_HTTP_PORT": "9090"})
    assert (settings.http_port, settings.namespaces) == (9091, ("team-c",))


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("PRISM_HTTP_PORT", "http", "'http' is not valid; give a whole number"),
        ("PRISM_HTTP_PORT", "70000", "'70000' is not valid; give at most 65535"),
        ("PRISM_HTTP_PORT", "0", "'0' is not valid; give at least 1"),
        ("PRISM_POLL_SECONDS", "", "'' is not valid; give a number"),
        ("PRISM_POLL_SECONDS", "0", "'0' is not valid; give more than 0"),
        ("PRISM_POLL_SECONDS", "nan", "'nan' is not valid; give a finite number"),
        ("PRISM_HTTP_PORT", "9" * 99, f"'{'9' * 99}' is not valid; give at most 65535"),
        ("PRISM_CONCURRENCY", "1.5", "'1.5' is not valid; give a whole number"),
        (
            "PRISM_NAMESPACES",
            "team-a,Team_B",
            "'Team_B' is not valid; give lower-case letters, digits and dashes only, with a letter"
            " or digit at both ends",
        ),
        ("PRISM_NAMESPACES", "a" * 64, f"'{'a' * 64}' is not valid; give at most 63 characters"),
        (
            "PRISM_TRAINER_IMAGE",
            "trainer image",
            "'trainer image' is not valid; give an image as REGISTRY/NAME:TAG or"
            " REGISTRY/NAME@DIGEST",
        ),
        ("PRISM_LOG_FORMAT", "xml", "'xml' is not valid; give one of 'json' or 'text'"),
        (
            "PRISM_LEASE_NAME",
            "-x",
            "'-x' is not valid; give lower-case letters, digits, dashes and dots, with a letter or"
            " digit at both ends",
        ),
        (
            "PRISM_RENEW_DEADLINE_SECONDS",
            "14",
            "14 is more than two thirds of the 15 s after which others take the Lease over; give at"
            " most 10, or a longer lease",
        ),
        (
            "PRISM_RENEW_SECONDS",
            "8",
            "8 leaves no second try before the deadline of 10 s; give at most 5, or a later"
            " deadline",
        ),
        ("PRISM_LEASE_SECONDS", "0.5", "'0.5' is not valid; give at least 1"),
        (
            "PRISM_POLL_SECOND",
            "5",
            "is no setting of the operator; did you mean PRISM_POLL_SECONDS?",
        ),
    ],
)
def test_what_is_wrong_is_named_with_what_would_be_right(name: str, value: str, said: str) -> None:
    assert problems_of({name: value}) == [f"{name}: {said}"]


def test_a_flag_that_is_wrong_is_named_as_it_was_given() -> None:
    assert problems_of({}, "--http-port", "x") == [
        "--http-port: 'x' is not valid; give a whole number"
    ]


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(SpecError) as refusal:
        read_settings([], {"PRISM_HTTP_PORT": "x"})
    assert str(refusal.value).splitlines() == [
        "the operator's environment is not valid:",
        "POD_NAME: is missing; set it; in a pod from fieldRef metadata.name",
        "POD_NAMESPACE: is missing; set it; in a pod from fieldRef metadata.namespace",
        "PRISM_HTTP_PORT: 'x' is not valid; give a whole number",
    ]


@given(st.sampled_from(list(OperatorSettings.model_fields)), st.text(max_size=30))
def test_any_text_is_taken_or_refused_by_its_name(name: str, text: str) -> None:
    variable = variable_of(name)
    refused: set[str] = set()
    try:
        read_settings([], POD | {variable: text})
    except SpecError as refusal:
        refused = {problem.path for problem in refusal.problems}
    assert refused <= {variable, "PRISM_RENEW_SECONDS", "PRISM_RENEW_DEADLINE_SECONDS"}


def test_help_lists_every_setting_with_variable_and_default(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as end:
        read_settings(["--help"], {})
    assert end.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for name, field in OperatorSettings.model_fields.items():
        assert f"--{name.replace('_', '-')} VALUE" in text
        assert f"[{variable_of(name)};" in text
        assert " ".join(str(field.description).split())[:30] in text
    assert "[PRISM_POLL_SECONDS; default: 15]" in text
    assert "[POD_NAME; required]" in text
