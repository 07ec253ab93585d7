"""For the comparisons with other people's packages, which are imported in fixtures only: without
them the tests fail, and collecting them for another run does not."""

from numerics import set_up

set_up()
