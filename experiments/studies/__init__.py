"""What is asked of many trainings, or of one step: a command each."""
