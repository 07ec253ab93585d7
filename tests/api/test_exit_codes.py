"""Exit codes are a contract: distinct, and each belongs to one kind of error."""

import pytest

from prism_api import errors
from prism_api.exit_codes import NEEDS_HELP, PERMANENT, WORST_FIRST, ExitCode, meaning_of


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("DONE", 0),
        ("CRASHED", 1),
        ("BAD_CONFIG", 64),
        ("BAD_DATA", 65),
        ("NON_FINITE", 70),
        ("FOLDER_TAKEN", 73),
        ("STORE", 74),
        ("SAVED", 75),
    ],
)
def test_the_codes_are_what_scripts_rely_on(name: str, code: int) -> None:
    assert ExitCode[name] == code


def test_there_are_no_other_codes() -> None:
    assert {int(code) for code in ExitCode} == {0, 1, 64, 65, 70, 73, 74, 75}


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.SpecError, 64),
        (errors.DataError, 65),
        (errors.NonFiniteLoss, 70),
        (errors.FolderTaken, 73),
        (errors.StoreError, 74),
    ],
)
def test_each_kind_of_error_has_its_own_code(error: type[errors.PrismError], code: int) -> None:
    assert error.exit_code == code


def kinds_of_error() -> list[type[errors.PrismError]]:
    """Those of the contract; parts of the platform may have kinds of their own."""
    kinds = errors.PrismError.__subclasses__()
    return [kind for kind in kinds if kind.__module__ == errors.__name__]


def test_every_kind_of_error_is_in_the_tree_of_the_module() -> None:
    assert errors.__doc__ is not None
    kinds = kinds_of_error()

    assert [kind.__name__ for kind in kinds if kind.__name__ not in errors.__doc__] == []


def test_no_two_kinds_that_end_a_stage_share_a_code() -> None:
    kinds = kinds_of_error()
    retried = {kind.__name__ for kind in kinds if kind.exit_code == ExitCode.CRASHED}
    others = [kind.exit_code for kind in kinds if kind.exit_code != ExitCode.CRASHED]

    assert retried == {
        "RolloutError",
        "RendezvousError",
        "ProgramError",  # has the other program's code
    }
    assert len(set(others)) == len(others)


def test_only_what_would_fail_again_is_permanent() -> None:
    assert {int(code) for code in PERMANENT} == {64, 65, 70}
    assert {int(code) for code in NEEDS_HELP} == {74}


def test_of_several_codes_the_cause_comes_first() -> None:
    assert [int(code) for code in WORST_FIRST] == [64, 65, 70, 73, 74, 1, 75, 0]


@pytest.mark.parametrize("code", [None, -9, 2, 3, 66, 137, 143])
def test_whatever_is_not_in_the_contract_is_a_crash(code: int | None) -> None:
    assert meaning_of(code) is ExitCode.CRASHED


@pytest.mark.parametrize("code", list(ExitCode))
def test_what_is_in_the_contract_means_itself(code: ExitCode) -> None:
    assert meaning_of(int(code)) is code
