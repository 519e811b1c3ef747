"""The parts of a verdict: laws, evidence, intervals, judgement, result; `verify` joins them."""
