"""Training in torch: data augmentation, losses, loop, checkpoints, distribution."""
