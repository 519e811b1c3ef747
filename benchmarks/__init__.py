"""What a probe costs, beside the tools one might use instead. Start at README.md."""
