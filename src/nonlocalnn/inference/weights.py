"""Where the weights of a trained network lie; training asks too, so that the answer stands further down."""

from nonlocalnn.checkpoints.run_folder import weights_file

__all__ = ["weights_file"]
