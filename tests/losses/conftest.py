"""For the tests of losses and advantages."""

from numerics import set_up

set_up()
