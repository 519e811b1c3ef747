"""The parts of a verdict: laws, evidence, intervals, judgment, result; `verify` joins them."""
