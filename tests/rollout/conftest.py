"""For the tests of rollouts: one thread for torch."""

from numerics import set_up

set_up()
