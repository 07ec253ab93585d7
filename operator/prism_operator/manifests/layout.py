"""Where things are in our pods: folders, volumes, ports."""

SCRATCH_FOLDER = "/scratch"
"""Home, caches and work folder: as large as the node allows, gone with the pod."""
WORK_FOLDER = f"{SCRATCH_FOLDER}/work"
SERVER_FOLDER = f"{SCRATCH_FOLDER}/server"
TMP_FOLDER = "/tmp"
OWN_FOLDER = "/etc/prism"
"""What we mount for our programs lies below; templates may not."""
CONFIG_FOLDER = f"{OWN_FOLDER}/config"
TOKEN_FOLDER = f"{OWN_FOLDER}/rollout"
CA_FOLDER = f"{OWN_FOLDER}/ca"

CONFIG_KEY = "stage.json"
"""In a stage's ConfigMap."""
TOKEN_KEY = "token"
"""In a run's Secret."""
CA_KEY = "ca.crt"
"""In the ConfigMap that `storage.caBundle` names."""

SCRATCH_VOLUME, TMP_VOLUME, SHM_VOLUME = "scratch", "tmp", "shm"
"""A template may replace these, say by a larger or faster one."""
CONFIG_VOLUME, TOKEN_VOLUME, CA_VOLUME = "config", "rollout-token", "storage-ca"
CLAIM_VOLUME = "claim"
"""The first claim is `claim-0`."""

RENDEZVOUS_PORT = 23456
"""Where the pods of an attempt meet; the Training Operator's own choice too."""
USER_ID = 65532
"""Of every process of ours; images give it no more rights than any other."""
GPU_RESOURCE = "nvidia.com/gpu"
