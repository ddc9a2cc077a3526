"""The flags of the trainer alone. Quick to import: no JAX."""

from absl import flags

COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "host:port of process 0; not needed on clusters that JAX detects"
)
PROCESSES = flags.DEFINE_integer(
    "num_processes", None, "number of processes that train together", 1
)
PROCESS = flags.DEFINE_integer("process_id", None, "index of this process, from 0", 0)
JOIN_TIMEOUT = flags.DEFINE_integer(
    "join_timeout", 300, "seconds to wait for the other processes at the start", 1
)
HEARTBEAT_TIMEOUT = flags.DEFINE_integer(
    "heartbeat_timeout", 60, "seconds without a heartbeat after which a process counts as dead", 10
)
PROFILE_STEPS = flags.DEFINE_string(
    "profile_steps",
    None,
    "steps to trace into <run>/profile, as first:stop; 10:13 traces steps 10, 11 and 12",
)
