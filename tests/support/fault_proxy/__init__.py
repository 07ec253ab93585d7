"""A proxy between an operator and a real API server that injects faults and counts them."""

from fault_proxy.faults import ALL, Counts, Fault
from fault_proxy.proxy import FaultProxy
from fault_proxy.writes import Killed, Moment, Write

__all__ = ["ALL", "Counts", "Fault", "FaultProxy", "Killed", "Moment", "Write"]
