"""Write a checkpoint into a Triton model repository, one version at a time."""
