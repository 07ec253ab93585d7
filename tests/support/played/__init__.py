"""The player: Training Operator, scheduler and kubelet of a cluster without nodes, through its real
API, for thousands of pods at once."""

from played.api import Api, ApiError, Credentials, from_kubeconfig
from played.player import Player
from played.record import Record
from played.script import (
    CrashLoop,
    Evicted,
    Exit,
    Obstacle,
    Part,
    Script,
    Server,
    Trainer,
    Vanished,
    all_well,
    bad_days,
)

__all__ = [
    "Api",
    "ApiError",
    "CrashLoop",
    "Credentials",
    "Evicted",
    "Exit",
    "Obstacle",
    "Part",
    "Player",
    "Record",
    "Script",
    "Server",
    "Trainer",
    "Vanished",
    "all_well",
    "bad_days",
    "from_kubeconfig",
]
