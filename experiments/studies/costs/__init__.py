"""What a step costs: in time and in memory, by batch size, beside others."""
