"""The rim: papers for people. Invariant: a paper says what is stored, and computes no amount of its own."""
