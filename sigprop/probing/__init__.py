"""The probe: the one object that joins capture, signals and records."""
