"""What a deployment is and what decides about it: pure functions, no AWS library."""
