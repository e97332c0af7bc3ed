"""Problems at full scale: public checkpoints and data sets, on a GPU."""
