"""The ways to observe a forward pass: module hooks, functions, compiled graphs."""
