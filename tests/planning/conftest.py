"""For the tests of the planner: of a broken law the values are shown, wherever it is checked."""

import pytest

pytest.register_assert_rewrite("reconcile_laws")
