"""Statistics of many processes: exact ones of the whole batch, on the first rank."""
