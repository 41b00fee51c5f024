"""Every base alone and under GT-DDP: losses, targets, spread over seeds."""
