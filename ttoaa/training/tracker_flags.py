"""The flag for live trackers, of the commands that train. Quick to import: no JAX."""

from absl import flags

TRACKER = flags.DEFINE_enum(
    "tracker",
    None,
    ["wandb", "trackio"],
    "where to show runs live, in addition to TensorBoard (pip install 'ttoaa[wandb]' or "
    "'ttoaa[trackio]')",
)
