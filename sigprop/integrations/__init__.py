"""What was recorded, in the tools that people already use: one thin file for each."""
